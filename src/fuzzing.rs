//! What the fuzzer calls; there only when the crate is compiled for it, or for its tests, which run what the
//! fuzzer has kept.
//!
//! Each function takes arbitrary bytes and panics if a promise is broken: whatever is decoded comes back when
//! it is encoded, what was not damaged can be opened, nothing panics. docs/testing.md says how to run it.

#![expect(clippy::unwrap_used, reason = "a panic is how a finding is told")]

use std::fs;
use std::io;
use std::ops::Bound;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use crate::alias::{Alias, AliasUrn, KeyAlias};
use crate::engine::disk::StorageBackend;
use crate::engine::embedded::wal::{LOCKED_BYTE, RedoLog};
use crate::engine::embedded::{EmbeddedEngine, Follower};
use crate::engine::redb::{LogState, Pages, TableFile, WRITER_BYTE, seal, unseal};
use crate::engine::simulated::{Machine, SimulatedFiles, TABLE, WAL};
use crate::format;
use crate::format::changes::{ChangesReader, ChangesWriter};
use crate::id::{Commit, DomainId, KeyId, RequestId, Scope};
use crate::key::NewKey;
use crate::page::Cursor;
use crate::request::Request;
use crate::store::{Options, Restore, Store};
use crate::time::Timestamp;

/// The page cache of the stores here: what hostile bytes may take comes on top.
const PAGES: Pages =
    Pages { cache_bytes: 1 << 20, check_integrity: false, lock_wait: Options::LOCK_WAIT_DEFAULT };
/// How many keys the stores have of each of three kinds: few, for how often a store is opened in a second.
const KEYS: u8 = 5;
/// So small that part of these keys are in the table file, and part in the log only.
const CHECKPOINT_BYTES: usize = 8 << 10;
/// The cache of records.
const RECORD_CACHE_BYTES: usize = 1 << 16;

/// Every decoder of values, addresses and texts. The first byte says which; the second, how long the address
/// is.
pub fn decoders(data: &[u8]) {
    let [which, length, rest @ ..] = data else { return };
    let (row, bytes) = rest.split_at(rest.len().min(usize::from(*length)));
    let commit = Commit::new(7);
    let value = format::Value { bytes, commit };
    let scope = Scope::new("0123456789abcdef0123456789abcdef", "project").unwrap();
    let key_id = KeyId::from_bytes([7; 16]);
    match which % 18 {
        0 => comes_back(format::decode_key(row, &scope, key_id, value), format::encode_key, |bytes| {
            format::decode_key(row, &scope, key_id, format::Value { bytes, commit })
        }),
        1 => drop(format::decode_key_unchecked(row, &scope, key_id, value)),
        2 => {
            let name = String::from_utf8_lossy(row).into_owned();
            comes_back(format::decode_alias(row, &scope, &name, value), format::encode_alias, |bytes| {
                format::decode_alias(row, &scope, &name, format::Value { bytes, commit })
            });
        }
        3 => comes_back(
            format::decode_alias_names(row, bytes),
            |names| format::encode_alias_names(names),
            |bytes| format::decode_alias_names(row, bytes),
        ),
        4 => comes_back(format::decode_claim(row, bytes), format::encode_claim, |bytes| {
            format::decode_claim(row, bytes)
        }),
        5 => comes_back(
            format::decode_counts(row, bytes),
            |counts| format::encode_counts(*counts),
            |bytes| format::decode_counts(row, bytes),
        ),
        6 => comes_back(format::decode_fixed(row, bytes), format::encode_fixed, |bytes| {
            format::decode_fixed(row, bytes)
        }),
        7 => comes_back(
            format::decode_floor(row, bytes),
            |floor| format::encode_floor(*floor),
            |bytes| format::decode_floor(row, bytes),
        ),
        8 => comes_back(
            format::decode_key_id(row, bytes),
            |key_id| format::encode_key_id(*key_id),
            |bytes| format::decode_key_id(row, bytes),
        ),
        9 => comes_back(format::decode_log_entry(commit, bytes), format::encode_log_entry, |bytes| {
            format::decode_log_entry(commit, bytes)
        }),
        10 => comes_back(format::decode_outcome(row, bytes), format::encode_outcome, |bytes| {
            format::decode_outcome(row, bytes)
        }),
        11 => comes_back(format::decode_tag_value(row, bytes), format::encode_tag_value, |bytes| {
            format::decode_tag_value(row, bytes)
        }),
        12 => comes_back(
            format::decode_tombstone(row, bytes),
            |time| format::encode_tombstone(*time),
            |bytes| format::decode_tombstone(row, bytes),
        ),
        13 => drop(format::decode_nothing(row, bytes)),
        14 => addresses(rest),
        15 => log_state(rest),
        16 => {
            if let Ok(found) = unseal(row, bytes) {
                assert_eq!(seal(row, found.commit, found.bytes), bytes);
            }
        }
        _ => texts(rest),
    }
}

/// What is decoded is the same after it was encoded.
fn comes_back<T: std::fmt::Debug + PartialEq>(
    decoded: crate::Result<T>,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> crate::Result<T>,
) {
    if let Ok(decoded) = decoded {
        assert_eq!(decode(&encode(&decoded)).unwrap(), decoded);
    }
}

fn log_state(bytes: &[u8]) {
    if let Ok(state) = LogState::decode(bytes) {
        assert_eq!(state.encode(), bytes);
    }
}

fn addresses(row: &[u8]) {
    let _ = (format::table_of(row), format::trailing_key_id(row));
    let scope = format::scope_of(row);
    if let Some(after) = format::after_space_of(row) {
        assert!(*after > *row, "what lies behind a space is behind all of its rows");
    }
    if let Some(format::Address::Scoped { scope: of_address, .. }) = format::read_address(row) {
        assert!(row.starts_with(&format::Space::of_scope(&of_address).start()));
        assert_eq!(scope, Some(of_address));
    }
}

fn texts(bytes: &[u8]) {
    fn comes_back<T: FromStr + ToString>(text: &str) {
        if let Ok(parsed) = T::from_str(text) {
            assert_eq!(parsed.to_string(), text);
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    comes_back::<Alias>(text);
    comes_back::<KeyAlias>(text);
    comes_back::<AliasUrn>(text);
    comes_back::<DomainId>(text);
    comes_back::<RequestId>(text);
    comes_back::<KeyId>(text);
    if let Ok(cursor) = Cursor::from_str(text) {
        assert_eq!(Cursor::from_str(&cursor.to_string()), Ok(cursor));
    }
}

/// Bytes instead of a file.
#[derive(Debug, Clone, Default)]
struct Bytes(Arc<Mutex<Vec<u8>>>);

impl Bytes {
    fn of(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(bytes)))
    }

    fn all(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl StorageBackend for Bytes {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        // A damaged page must not make a file of any length.
        let length = usize::try_from(length).ok().filter(|length| *length <= FILE_BYTES_MAX);
        self.0.lock().unwrap().resize(length.ok_or(io::ErrorKind::StorageFull)?, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(data.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.get_mut(start..end).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        Ok(())
    }
}

/// More than the log has.
const SEGMENT_BYTES: u64 = 96 << 10;
const FILE_BYTES_MAX: usize = 9 << 20;
/// The log that belongs to [`STORE`].
const LOG_ID: [u8; 16] = [7; 16];

/// A small store that was not closed cleanly: its table file, its log, and the newest commit in the table file.
static STORE: LazyLock<(Vec<u8>, Vec<u8>, Commit)> = LazyLock::new(|| {
    let (table, log) = (Bytes::default(), Bytes::default());
    let engine = EmbeddedEngine::initialize(table.clone(), &PAGES.builder()).unwrap();
    Options::new().begin(&engine).unwrap();
    drop(engine);
    let of_table = TableFile::on(table.clone(), &PAGES.builder()).unwrap();
    of_table.mark(LogState::Closed { id: LOG_ID, next: 0 }).unwrap();
    drop(of_table);
    RedoLog::create(&log, LOG_ID, SEGMENT_BYTES).unwrap();
    let of_table = TableFile::on(table.clone(), &PAGES.builder()).unwrap();
    let (frames, marks) = (Box::new(log.clone()), Box::new(log.clone()));
    let engine = EmbeddedEngine::followed(of_table, frames, Some(marks), CHECKPOINT_BYTES).unwrap();
    let store = options().on(Box::new(engine)).unwrap();
    fill(&store);
    let durable = loop {
        let stats = store.stats().log.unwrap();
        if !stats.checkpointing {
            let newest = store.engine().begin_read().unwrap().commit();
            assert!(stats.checkpoints > 0 && stats.commits_behind > 0, "{stats:?}");
            break Commit::new(newest.number() - stats.commits_behind);
        }
        std::thread::yield_now();
    };
    // As a crash leaves them.
    (table.all(), log.all(), durable)
});

/// The same without a log, closed.
static DIRECT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let table = Bytes::default();
    let engine = EmbeddedEngine::initialize(table.clone(), &PAGES.builder()).unwrap();
    Options::new().begin(&engine).unwrap();
    drop(engine);
    fill(&open_direct(&table, PAGES).unwrap());
    table.all()
});

fn fill(store: &Store) {
    for (domain, number) in [("0123456789abcdef0123456789abcdef", 0_u8), ("domain", 1), ("domain", 2)] {
        let scope = Scope::new(domain, "project").unwrap();
        let request = Request::new(&scope).at(Timestamp::from_millis(1_700_000_000_000));
        for key in 0..KEYS {
            let new = NewKey::new(&format!("key-{number}-{key}")).unwrap();
            let new = new.id(KeyId::from_bytes([number * KEYS + key; 16]));
            let new = new.alias(format!("alias-{number}-{key}").parse().unwrap());
            let _ = store.write(&request, |txn| txn.create_key(&new));
        }
    }
}

/// Overwrites bytes where the data says, or cuts the rest off: place (4 bytes), length (1 byte), and what is
/// written. Returns the rest of the data.
fn damage_once<'a>(bytes: &mut Vec<u8>, data: &'a [u8]) -> Option<&'a [u8]> {
    let [a, b, c, d, length, rest @ ..] = data else { return None };
    let (piece, left) = rest.split_at(rest.len().min(usize::from(*length)));
    let place = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
    if piece.is_empty() {
        bytes.truncate(place.max(1));
    } else if !bytes.is_empty() {
        let place = place % bytes.len();
        let end = bytes.len().min(place + piece.len());
        bytes[place..end].copy_from_slice(&piece[..end - place]);
    }
    Some(left)
}

fn damage(bytes: &mut Vec<u8>, mut data: &[u8]) {
    while let Some(left) = damage_once(bytes, data) {
        data = left;
    }
}

/// Opens a file: arbitrary bytes, or a store that was damaged as the data says, with a log or without. What
/// can be opened is verified and listed. It is also written; where the table file may be damaged, after it was
/// checked.
pub fn open(data: &[u8]) {
    let [how, data @ ..] = data else { return };
    let (mut table, mut log) = match how % 5 {
        0 => (data.to_vec(), None),
        1 => (DIRECT.clone(), None),
        2 | 3 => (STORE.0.clone(), Some(STORE.1.clone())),
        _ => return open_with_log_state(data),
    };
    match (how % 5, &mut log) {
        (1 | 2, _) => damage(&mut table, data),
        (3, Some(log)) => damage(log, data),
        _ => {}
    }
    for open in [open_to_read, open_checked] {
        // On bytes of its own, and closed before the next is opened: nobody locks them.
        let opened = open(&Bytes::of(table.clone()), log.clone().map(Bytes::of).as_ref());
        assert!(
            opened.is_ok() || how % 5 == 0 || !data.is_empty(),
            "what was not damaged: {:?}",
            opened.err()
        );
        opened.iter().for_each(use_store);
    }
}

fn use_store(store: &Store) {
    let _ = store.verify();
    let scope = Scope::new("domain", "project").unwrap();
    let _ = store.read(&scope, |snap| snap.aliases(crate::After::Start, crate::Limit::MAX));
    let _ = store.read(&scope, |snap| snap.resolve(&"alias-1-3".parse().unwrap()));
    let new = NewKey::new("new").unwrap();
    let _ = store.write(&Request::new(&scope), |txn| txn.create_key(&new));
    let _ = store.changes(None, crate::Limit::MAX);
}

/// Opens the store whose table file says of its log what the data says, and whose log is damaged.
fn open_with_log_state(data: &[u8]) {
    let (table, mut log, _) = STORE.clone();
    let table = Bytes::of(table);
    let mut damages = data;
    if let [length, rest @ ..] = data {
        let (state, left) = rest.split_at(rest.len().min(usize::from(*length)));
        let Ok(state) = LogState::decode(state) else { return };
        TableFile::on(table.clone(), &PAGES.builder()).unwrap().mark(state).unwrap();
        damages = left;
    }
    damage(&mut log, damages);
    let opened = open_logged(&table, &Bytes::of(log), PAGES);
    assert!(opened.is_ok() || !data.is_empty(), "what was not damaged: {:?}", opened.err());
    opened.iter().for_each(use_store);
}

fn options() -> Options {
    Options::new().record_cache_bytes(RECORD_CACHE_BYTES)
}

fn open_direct(table: &Bytes, pages: Pages) -> crate::Result<Store> {
    options().on(Box::new(EmbeddedEngine::on_table(table.clone(), &pages.builder())?))
}

fn open_logged(table: &Bytes, log: &Bytes, pages: Pages) -> crate::Result<Store> {
    let table = TableFile::on(table.clone(), &pages.builder())?;
    options().on(Box::new(EmbeddedEngine::on(table, Box::new(log.clone()), CHECKPOINT_BYTES)?))
}

/// Opens it to write, as [`Options::check_integrity`] does.
fn open_checked(table: &Bytes, log: Option<&Bytes>) -> crate::Result<Store> {
    let pages = Pages { check_integrity: true, ..PAGES };
    log.map_or_else(|| open_direct(table, pages), |log| open_logged(table, log, pages))
}

/// Opens it as [`Options::open_read_only`] opens files that were not closed. (What it does with those that were takes
/// locks, which only files have; tests/damaged_file.rs does it.)
fn open_to_read(table: &Bytes, log: Option<&Bytes>) -> crate::Result<Store> {
    follow_files(table, log.unwrap_or(&Bytes::default()), false)
}

/// Opens it as it is read beside a writer, or, as after a crash, without one.
fn follow_files(table: &Bytes, log: &Bytes, is_written: bool) -> crate::Result<Store> {
    let files = [table.clone(), log.clone()];
    let machine = Machine::default();
    // What a writer has locked all the time.
    let locks = [(TABLE, WRITER_BYTE), (WAL, LOCKED_BYTE)].map(|(number, byte)| {
        let handle = machine.handle(number, files[number].clone());
        let byte = Bound::Included(byte);
        let is_locked = is_written && handle.try_lock_range(byte, byte).unwrap();
        assert_eq!(is_locked, is_written);
        handle
    });
    let file = move |number: usize| {
        // They are held as long as the files are followed.
        let _ = &locks;
        files[number].clone()
    };
    let files = SimulatedFiles { machine, file, pages: PAGES };
    let identity = format::Space::of_store().fixed();
    options().on(Box::new(Follower::open(files, identity, Duration::from_millis(1))?))
}

/// What a follower reads beside a writer: the mark, and the frames up to it, damaged before it opens the store, and again
/// while it has it open. How many bytes of the data come before is its first number.
pub fn follow(data: &[u8]) {
    let [before, data @ ..] = data else { return };
    let (before, after) = data.split_at(data.len().min(usize::from(*before)));
    let (table, mut log, _) = STORE.clone();
    damage(&mut log, before);
    let (table, log) = (Bytes::of(table), Bytes::of(log));
    let opened = follow_files(&table, &log, true);
    assert!(opened.is_ok() || !before.is_empty(), "what was not damaged: {:?}", opened.err());
    let Ok(store) = opened else { return };
    use_store(&store);
    damage(&mut log.0.lock().unwrap(), after);
    use_store(&store);
}

/// The replay of a log: frames that are whole, but hold arbitrary bytes instead of commits, or commits that
/// do not follow each other.
pub fn replay(data: &[u8]) {
    let (table, mut bytes, durable) = STORE.clone();
    RedoLog::fill(&mut bytes, data, durable);
    let Ok(store) = open_logged(&Bytes::of(table), &Bytes::of(bytes), PAGES) else { return };
    let _ = store.verify();
    let rows = store.engine().begin_read().unwrap();
    let _ = rows.scan((Bound::Unbounded, Bound::Unbounded), usize::MAX);
}

/// The bytes of a copy of a store, and the bodies of what it changed after that. No folder: nobody would delete it,
/// because a static is never dropped.
static BACKUP: LazyLock<(Vec<u8>, Vec<Vec<u8>>)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let (base, changes) = (folder.path().join("base"), folder.path().join("changes"));
    let table = Bytes::default();
    let engine = EmbeddedEngine::initialize(table.clone(), &PAGES.builder()).unwrap();
    Options::new().begin(&engine).unwrap();
    drop(engine);
    let store = open_direct(&table, PAGES).unwrap();
    let scope = Scope::new("domain", "project").unwrap();
    let at = |millis: u64| Request::new(&scope).at(Timestamp::from_millis(1_700_000_000_000 + millis));
    let create = |number: u8| {
        let new = NewKey::new(&format!("key-{number}")).unwrap().id(KeyId::from_bytes([number; 16]));
        let new = new.alias(format!("alias-{number}").parse().unwrap());
        let id: RequestId = format!("{number:036}").parse().unwrap();
        store.write_once(&at(0), &id, b"", |txn| txn.create_key(&new)).unwrap();
    };
    (1..4).for_each(create);
    let since = store.backup(&base).unwrap().position;
    (4..6).for_each(create);
    let alias: Alias = "alias-1".parse().unwrap();
    let [first, second] = [1, 2].map(|number| KeyId::from_bytes([number; 16]));
    store.write(&at(1), |txn| txn.associate_alias(&alias, second)).unwrap();
    let name: KeyAlias = "key-9".parse().unwrap();
    store.write(&at(2), |txn| txn.rename_key_alias(first, &name)).unwrap();
    store.write(&at(3), |txn| txn.delete_aliases(second, std::slice::from_ref(&alias))).unwrap();
    store.backup_changes(&since, &changes).unwrap();
    let bodies = ChangesWriter::bodies(&fs::read(&changes).unwrap());
    (fs::read(&base).unwrap(), bodies)
});

/// A file of changes: arbitrary bytes; or whole frames that hold arbitrary bytes; or one of a store whose
/// frames are whole, but damaged as the data says, from which the store is restored.
pub fn changes(data: &[u8]) {
    let [how, data @ ..] = data else { return };
    match how % 3 {
        0 => read_changes(data),
        1 => read_changes(&ChangesWriter::framed(pieces(data))),
        _ => {
            let (base, sound) = &*BACKUP;
            let (mut bodies, mut data) = (sound.clone(), data);
            while let [which, rest @ ..] = data {
                let which = usize::from(*which) % bodies.len();
                let Some(left) = damage_once(&mut bodies[which], rest) else { break };
                data = left;
            }
            let file = ChangesWriter::framed(bodies.iter().map(Vec::as_slice));
            read_changes(&file);
            // Its own: tests run at the same time.
            let folder = tempfile::tempdir().unwrap();
            let place = |name| folder.path().join(name);
            fs::write(place("base"), base).unwrap();
            fs::write(place("damaged"), file).unwrap();
            let restore = Restore::of(place("base")).changes(place("damaged"));
            let outcome = restore.into_file(place("restored"));
            assert!(outcome.is_ok() || bodies != *sound, "what was not damaged: {:?}", outcome.err());
        }
    }
}

/// Each has as many bytes of the data as the two before it say.
fn pieces(mut data: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let [low, high, rest @ ..] = data {
        let length = rest.len().min(usize::from(u16::from_le_bytes([*low, *high])));
        let (piece, left) = rest.split_at(length);
        pieces.push(piece);
        data = left;
    }
    pieces
}

/// What is read to its end is, written again, the same file.
fn read_changes(file: &[u8]) {
    let Ok(mut reader) = ChangesReader::new(file) else { return };
    let mut writer = ChangesWriter::new(Vec::new(), &reader.begin()).unwrap();
    loop {
        match reader.next() {
            Ok(Some(piece)) => writer.write(&piece).unwrap(),
            Ok(None) => break,
            Err(_) => return,
        }
    }
    assert_eq!(writer.finish().unwrap().0, file);
}
