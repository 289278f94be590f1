//! Temporary files: what a killed command leaves is removed by the next one, and what is in use stays.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use keystead::{NewKey, Options, Quotas, Request};

use crate::tool::{Tool, scope};

/// What lies in a folder that is named as our temporary files are.
fn temporary_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".keystead-")).collect()
}

/// Looks again and again, for a minute.
fn wait_until(is_so: impl Fn() -> bool) {
    for _ in 0..30_000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
    panic!("what was waited for has not come");
}

/// A dry run that waits for its input, with a copy of the store among the temporary files.
fn trying(tool: &Tool, folder: &Path) -> Child {
    let before = temporary_in(folder).len();
    let mut command = tool.command("import --dry-run");
    command.env("TMPDIR", folder).stdin(Stdio::piped()).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_until(|| {
        let there = temporary_in(folder);
        there.len() > before && there.iter().all(|path| path.join("copy").exists())
    });
    child
}

#[test]
fn what_a_killed_dry_run_left_is_removed_by_the_next() {
    let tool = Tool::with_store();
    let folder = tool.path("temporary");
    fs::create_dir(&folder).unwrap();
    let mut killed = trying(&tool, &folder);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let [left] = &temporary_in(&folder)[..] else { panic!("a killed process removes nothing") };

    // The next one is using its own while a third one comes.
    let mut alive = trying_beside(&tool, &folder, left);
    let third =
        tool.command("import --dry-run").env("TMPDIR", &folder).stdin(Stdio::null()).output().unwrap();
    assert!(third.status.success(), "{third:?}");
    assert_eq!(temporary_in(&folder).len(), 1, "that of the one that lives");
    alive.stdin.take().unwrap().write_all(b"{\"type\":\"key\",\"key_alias\":\"orders\"}\n").unwrap();
    let done = alive.wait_with_output().unwrap();
    assert!(
        done.status.success() && String::from_utf8_lossy(&done.stdout).contains("1 keys created"),
        "{done:?}"
    );
    assert!(temporary_in(&folder).is_empty());
}

/// The same, when that of a killed one is there, which it removes.
fn trying_beside(tool: &Tool, folder: &Path, left: &Path) -> Child {
    let mut command = tool.command("import --dry-run");
    command.env("TMPDIR", folder).stdin(Stdio::piped()).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    let made = |path: &PathBuf| path != left && path.join("copy").exists();
    wait_until(|| !left.exists() && temporary_in(folder).iter().any(made));
    child
}

/// Kills a command as soon as it has a temporary file beside the store.
fn kill_in_the_middle(tool: &Tool, line: &str) -> PathBuf {
    for _ in 0..50 {
        let mut child = tool.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while temporary_in(tool.folder()).is_empty() && child.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if let [left] = &temporary_in(tool.folder())[..] {
            return left.clone();
        }
        let _ = fs::remove_file(tool.path("copy"));
    }
    panic!("{line} was never killed in the middle");
}

#[test]
fn what_a_killed_command_left_beside_a_store_is_removed_by_the_next_opening() {
    let tool = Tool::with_store();
    let quotas = Quotas { keys_per_project: 5000, ..Quotas::default() };
    let store = Options::new().quotas(quotas).open(tool.store()).unwrap();
    let keys = (0..4000).map(|number| NewKey::new(&format!("key-{number:04}")).unwrap());
    store.import(&Request::new(&scope()), keys).for_each(|batch| drop(batch.unwrap()));
    drop(store);
    // What is no temporary file of ours stays.
    tool.write(".keystead-notes", "");
    fs::rename(tool.path(".keystead-notes"), tool.path("keystead-notes")).unwrap();

    for line in ["backup copy", "compact --yes", "copy --to copy --yes"] {
        let left = kill_in_the_middle(&tool, line);
        tool.ok("keys --limit 1");
        assert!(left.exists(), "{line}: who only reads removes nothing");
        drop(Options::new().open(tool.store()).unwrap());
        assert!(!left.exists(), "{line}");
        let _ = fs::remove_file(tool.path("copy"));
    }
    let left = kill_in_the_middle(&tool, "backup copy");
    let _ = fs::remove_file(tool.path("copy"));
    tool.ok("backup copy");
    assert!(!left.exists(), "another one is made");
    assert!(tool.path("keystead-notes").exists());
}
