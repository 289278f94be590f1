//! What the fuzzer has kept goes through the same functions without it: a finding that was mended, or any way
//! that it found, stays tried. The corpus of `operations` is in the model test.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fuzzing;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        eprintln!("{}", path.display());
        run(&fs::read(&path).unwrap());
        inputs += 1;
    }
    assert!(inputs > 0, "{target} has no corpus");
}

#[test]
fn changes() {
    replay("changes", fuzzing::changes);
}

#[test]
fn decoders() {
    replay("decoders", fuzzing::decoders);
}

#[test]
fn open() {
    replay("open", fuzzing::open);
}

#[test]
fn replay_of_the_log() {
    replay("replay", fuzzing::replay);
}

#[test]
fn follow() {
    replay("follow", fuzzing::follow);
}

/// The stores that the fuzzer damages are sound: otherwise nothing is tried but how they are refused.
#[test]
fn what_is_not_damaged_opens() {
    for how in 1..=4 {
        fuzzing::open(&[how]);
    }
    fuzzing::changes(&[2]);
    fuzzing::follow(&[0]);
}

/// Another process, whose temporary folder is one that is looked into when it has ended.
#[test]
fn nothing_is_left_among_temporary_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap());
    other.args(["tests::corpus::changes", "--exact"]).env("TMPDIR", folder.path());
    let output = other.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}
