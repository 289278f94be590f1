//! Tests of a file that is only read.

use super::disk::StorageBackend;
use super::scratch::Scratch;
use crate::engine::scripted::Random;
use crate::tests::disk::{Disk, TABLE};

/// It is as a file to which the same was done, and the file below stays as it was.
#[test]
fn it_is_as_a_file() {
    let mut random = Random::new(5);
    let content: Vec<u8> = (0..20_000_u32).map(|number| number.to_le_bytes()[0] ^ 0x5a).collect();
    let disk = Disk::default();
    let file = disk.file(TABLE);
    file.set_len(content.len() as u64).unwrap();
    file.write(0, &content).unwrap();
    let scratch = Scratch::new(disk.file(TABLE)).unwrap();
    let mut expected = content.clone();
    for turn in 0..3000_u64 {
        let place = random.index(expected.len());
        let length = random.index((expected.len() - place).min(9000) + 1);
        match random.below(8) {
            0 => {
                let length = random.index(40_000);
                scratch.set_len(length as u64).unwrap();
                expected.resize(length.max(1), 0);
                scratch.set_len(expected.len() as u64).unwrap();
            }
            1..=3 => {
                let bytes = vec![turn.to_le_bytes()[0]; length];
                scratch.write(place as u64, &bytes).unwrap();
                expected[place..place + length].copy_from_slice(&bytes);
            }
            _ => {
                let mut out = vec![0; length];
                scratch.read(place as u64, &mut out).unwrap();
                assert_eq!(out, expected[place..place + length], "turn {turn}");
            }
        }
        assert_eq!(scratch.len().unwrap(), expected.len() as u64);
    }
    assert!(scratch.read(expected.len() as u64, &mut [0]).is_err());
    let mut below = vec![0; content.len()];
    file.read(0, &mut below).unwrap();
    assert_eq!(below, content);
}
