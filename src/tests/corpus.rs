//! What the fuzzer has kept goes through the same functions without it: a finding that was mended, or any way
//! that it found, stays tried. The corpus of `operations` is in the model test.

use std::fs;
use std::path::Path;

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

/// The stores that the fuzzer damages are sound: otherwise nothing is tried but how they are refused.
#[test]
fn what_is_not_damaged_opens() {
    for how in 1..=4 {
        fuzzing::open(&[how]);
    }
    fuzzing::changes(&[2]);
}
