//! The file of changes: its bytes, and that nothing else is taken for one.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::format::Space;
use crate::id::{RequestId, Scope};

fn begin() -> Begin {
    let floor = Floor { commit: Commit::new(3), time: Timestamp::from_millis(1_000) };
    Begin {
        incarnation: [7; 16],
        since: Commit::new(5),
        to: Commit::new(300),
        last: Some(LastEntry::of(Commit::new(4), b"entry")),
        floor: Some((Commit::new(4), floor)),
    }
}

fn outcome_row(id: u8) -> Row {
    let id: RequestId = format!("{id:036}").parse().unwrap();
    Space::of_scope(&Scope::new("d", "p").unwrap()).outcome(&id)
}

fn pieces() -> Vec<Piece> {
    vec![
        Piece::Entry { commit: Commit::new(6), bytes: b"one".to_vec() },
        Piece::Entry { commit: Commit::new(300), bytes: vec![1; 1000] },
        Piece::Outcome { row: outcome_row(1), commit: Commit::new(2), bytes: None },
        Piece::Outcome { row: outcome_row(2), commit: Commit::new(6), bytes: Some(b"two".to_vec()) },
    ]
}

fn written(begin: &Begin, pieces: &[Piece]) -> Vec<u8> {
    let mut writer = ChangesWriter::new(Vec::new(), begin).unwrap();
    pieces.iter().for_each(|piece| writer.write(piece).unwrap());
    let (file, bytes) = writer.finish().unwrap();
    assert_eq!(file.len() as u64, bytes);
    file
}

fn read(bytes: &[u8]) -> Result<(Begin, Vec<Piece>)> {
    let mut reader = ChangesReader::new(bytes)?;
    let mut pieces = Vec::new();
    while let Some(piece) = reader.next()? {
        pieces.push(piece);
    }
    assert!(reader.next()?.is_none(), "it goes on behind its end");
    Ok((reader.begin(), pieces))
}

/// A file with these bodies, whose checksums are right.
fn framed(bodies: &[Vec<u8>]) -> Vec<u8> {
    ChangesWriter::framed(bodies.iter().map(Vec::as_slice))
}

fn bodies(file: &[u8]) -> Vec<Vec<u8>> {
    ChangesWriter::bodies(file)
}

fn is_corrupted<T: std::fmt::Debug>(read: Result<T>) -> bool {
    matches!(read, Err(Error::Corrupted(_)))
}

#[test]
fn what_was_written_is_read() {
    let (without_floor, first) = (Begin { floor: None, ..begin() }, Begin { last: None, ..begin() });
    let cases = [(begin(), pieces()), (begin(), Vec::new()), (without_floor, pieces()), (first, pieces())];
    for (begin, pieces) in cases {
        let file = written(&begin, &pieces);
        assert_eq!(framed(&bodies(&file)), file);
        assert_eq!(read(&file).unwrap(), (begin, pieces));
    }
}

#[test]
fn the_bytes_are_pinned() {
    let one = [Piece::Entry { commit: Commit::new(6), bytes: b"one".to_vec() }];
    let file = written(&Begin { floor: None, ..begin() }, &one);
    let hex = data_encoding::HEXLOWER.encode(&file);
    let expected = [
        "6b6579737465616420 6368616e676573 01000000",
        "3b000000 01 07070707070707070707070707070707 0500000000000000 2c01000000000000",
        "01 0400000000000000 923fe53966c6cd9343e11af776cd4b05 00",
        FIRST_CHECKSUM,
        "0c000000 02 0600000000000000 6f6e65",
        SECOND_CHECKSUM,
        "11000000 04 0100000000000000 0000000000000000",
        LAST_CHECKSUM,
    ];
    assert_eq!(hex, expected.concat().replace(' ', ""));
}

const FIRST_CHECKSUM: &str = "61cc5bdff4586d2e";
const SECOND_CHECKSUM: &str = "be12eaa6f140e683";
const LAST_CHECKSUM: &str = "5341730e36e39baf";

#[test]
fn what_is_not_whole_is_refused() {
    let file = written(&begin(), &pieces());
    let header = header().len();
    for length in 0..file.len() {
        let refused = read(&file[..length]);
        let named = match length < header {
            true => matches!(refused, Err(Error::BackupMismatch(_))),
            false => is_corrupted(refused),
        };
        assert!(named, "the first {length} bytes");
    }
    assert!(is_corrupted(read(&[&file[..], &[0]].concat())), "one more byte");
    for place in 0..file.len() {
        let mut flipped = file.clone();
        flipped[place] ^= 0x10;
        let refused = read(&flipped).unwrap_err();
        let format = header - 4..header;
        let named = match &refused {
            Error::Unsupported { supported: 1, .. } => format.contains(&place),
            Error::BackupMismatch(_) => place < header,
            Error::Corrupted(_) => place >= header,
            _ => false,
        };
        assert!(named, "byte {place}: {refused}");
    }
}

#[test]
fn frames_are_a_chain() {
    let file = written(&begin(), &pieces());
    let mut places = vec![header().len()];
    for body in bodies(&file) {
        places.push(places.last().unwrap() + 4 + body.len() + 8);
    }
    for frame in 0..places.len() - 1 {
        let (start, end) = (places[frame], places[frame + 1]);
        assert!(is_corrupted(read(&[&file[..start], &file[end..]].concat())), "without frame {frame}");
        assert!(is_corrupted(read(&[&file[..end], &file[start..]].concat())), "frame {frame} twice");
    }
}

/// Each of these is whole, and says what can't be.
#[test]
fn what_contradicts_itself_is_refused() {
    let frames = bodies(&written(&begin(), &pieces()));
    let changed = |frame: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let mut frames = frames.clone();
        change(&mut frames[frame]);
        framed(&frames)
    };
    let with = |begin: Begin, pieces: &[Piece]| written(&begin, pieces);
    let entry = |commit| Piece::Entry { commit: Commit::new(commit), bytes: vec![1] };
    let outcome = |id, commit, new: bool| Piece::Outcome {
        row: outcome_row(id),
        commit: Commit::new(commit),
        bytes: new.then(|| vec![1]),
    };
    let floor = |trimmed_by, commit| {
        let floor = Floor { commit: Commit::new(commit), time: Timestamp::default() };
        with(Begin { floor: Some((Commit::new(trimmed_by), floor)), ..begin() }, &[])
    };
    let last_entry =
        |commit| with(Begin { last: Some(LastEntry::of(Commit::new(commit), b"")), ..begin() }, &[]);
    let cases = [
        ("no frames", framed(&[])),
        ("no beginning", framed(&frames[1..])),
        ("two beginnings", framed(&[frames[0].clone(), frames[0].clone()])),
        ("it ends before it begins", with(Begin { to: Commit::new(4), ..begin() }, &[])),
        ("it was trimmed by what is to come", floor(301, 3)),
        ("more was trimmed", floor(301, 6)),
        ("an end that no commit has", with(Begin { to: Commit::new(1 << 63), ..begin() }, &[])),
        ("a last entry that was trimmed", last_entry(3)),
        ("a last entry behind the beginning", last_entry(6)),
        ("a last entry of no kind", changed(0, &|body| body[33] = 2)),
        ("a floor of no kind", changed(0, &|body| body[58] = 2)),
        ("a longer beginning", changed(0, &|body| body.push(0))),
        ("an unknown kind", changed(1, &|body| body[0] = 9)),
        ("an empty body", changed(1, &|body| body.clear())),
        ("an entry without a commit", changed(1, &|body| body.truncate(8))),
        ("an entry of before", with(begin(), &[entry(5)])),
        ("an entry of after", with(begin(), &[entry(301)])),
        ("entries in another order", with(begin(), &[entry(7), entry(6)])),
        ("an entry twice", with(begin(), &[entry(7), entry(7)])),
        ("an entry behind the outcomes", with(begin(), &[outcome(1, 2, false), entry(7)])),
        ("outcomes in another order", with(begin(), &[outcome(2, 2, false), outcome(1, 2, false)])),
        ("an old outcome with its bytes", with(begin(), &[outcome(1, 5, true)])),
        ("a new outcome without", with(begin(), &[outcome(1, 6, false)])),
        ("an outcome of after", with(begin(), &[outcome(1, 301, true)])),
        ("another row", changed(3, &|body| *body.last_mut().unwrap() = b'?')),
        ("a row that ends too late", changed(3, &|body| body[9] = 255)),
        ("other numbers", changed(5, &|body| body[1] = 3)),
        ("a longer end", changed(5, &|body| body.push(0))),
        ("no end", framed(&frames[..5])),
        ("more behind the end", framed(&[&frames[..], &frames[5..]].concat())),
    ];
    for (what, file) in cases {
        assert!(is_corrupted(read(&file)), "{what}: {:?}", read(&file));
    }
    let large = vec![ENTRY; BODY_MAX + 1];
    assert!(is_corrupted(read(&framed(&[frames[0].clone(), large]))), "a body that is too long");
}

/// A length is not believed: no memory is taken for what is not there.
#[test]
fn a_claim_of_length_is_not_believed() {
    let mut file = framed(&[]);
    file.extend(u32::MAX.to_le_bytes());
    assert!(is_corrupted(read(&file)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_refused(bytes in vec(any::<u8>(), 0..300), with_header: bool) {
        let file = if with_header { [header(), bytes].concat() } else { bytes };
        prop_assert!(read(&file).is_err());
    }

    #[test]
    fn arbitrary_bodies_are_judged(kinds in vec((0..6_u8, vec(any::<u8>(), 0..60)), 0..6), begins: bool) {
        let bodies = kinds.into_iter().map(|(kind, rest)| [&[kind][..], &rest].concat());
        let first = begins.then(|| self::bodies(&written(&begin(), &[])).remove(0));
        let file = framed(&first.into_iter().chain(bodies).collect::<Vec<_>>());
        if let Ok((begin, pieces)) = read(&file) {
            prop_assert_eq!(written(&begin, &pieces), file);
        }
    }
}
