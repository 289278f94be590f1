//! [`source_files`]: the files of this crate that tests look at, and none that a build has made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders in which sources of this workspace lie.
const FOLDERS: [&str; 7] = ["src", "tests", "benches", "examples", "cli", "backend", "torture"];

/// All Rust sources below a folder of this crate: those that git tracks. Without a repository, as in a package that was
/// unpacked, those that lie there, except in folders of builds.
pub(super) fn source_files() -> Vec<PathBuf> {
    source_files_of(Path::new(env!("CARGO_MANIFEST_DIR")))
}

fn source_files_of(root: &Path) -> Vec<PathBuf> {
    let mut files = tracked(root).unwrap_or_else(|| walked(root));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// What git tracks and is there; `None` if nothing is, or there is no git.
fn tracked(root: &Path) -> Option<Vec<PathBuf>> {
    let listed =
        Command::new("git").arg("-C").arg(root).args(["ls-files", "-z", "--"]).args(FOLDERS).output();
    let listed = listed.ok().filter(|listed| listed.status.success())?;
    let names = String::from_utf8(listed.stdout).expect("sources of this crate have plain names");
    let files = names.split_terminator('\0').map(|name| root.join(name));
    let files: Vec<_> = files.filter(|file| file.is_file()).collect();
    (!files.is_empty()).then_some(files)
}

/// What lies there; some of the folders may be missing, and what a build has made is left out.
fn walked(root: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<_> = FOLDERS.map(|name| root.join(name)).into();
    folders.retain(|folder| folder.is_dir());
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if !path.is_dir() {
                files.push(path);
            } else if path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            }
        }
    }
    files
}

/// In a folder with a source, one that a build has made, and one that nobody added to the repository.
#[test]
fn only_sources_of_this_crate_are_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let (own, generated) = (root.join("src/lib.rs"), root.join("benches/compare/target/release/out.rs"));
    let stray = root.join("tests/stray.rs");
    for file in [&own, &generated, &stray] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "no comment").unwrap();
    }
    let git = |arguments: &[&str]| {
        let command = Command::new("git").arg("-C").arg(root).args(arguments).output();
        command.is_ok_and(|output| output.status.success())
    };
    let mut found = walked(root);
    found.sort();
    assert_eq!(found, [own.clone(), stray], "without a repository");
    // A test of planted bugs forbids every repository, and a machine may have no git.
    if std::env::var_os("GIT_DIR").is_none() && git(&["--version"]) {
        assert!(git(&["init"]) && git(&["add", "src"]));
        assert_eq!(source_files_of(root), [own]);
    }
}

#[test]
fn the_sources_of_this_crate_are_found() {
    let found = source_files();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(found.contains(&root.join("src/lib.rs")) && found.len() > 50, "{} files", found.len());
}
