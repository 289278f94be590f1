//! What the fuzzer calls; there only when the crate is compiled for it.
//!
//! Each function takes arbitrary bytes and panics if a promise is broken: whatever is decoded comes back when
//! it is encoded, nothing that is damaged is served, nothing panics. docs/testing.md says how to run it.

#![expect(clippy::unwrap_used, reason = "a panic is how a finding is told")]

use std::io;
use std::ops::Bound;
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex};

use crate::alias::{Alias, AliasUrn, KeyAlias};
use crate::engine::disk::StorageBackend;
use crate::engine::logged::LoggedEngine;
use crate::engine::redb::{LogState, RedbEngine, TableFile, builder, seal, unseal};
use crate::engine::redo::{LOG_BYTES_MIN, RedoLog};
use crate::format;
use crate::id::{Commit, DomainId, KeyId, RequestId, Scope};
use crate::key::NewKey;
use crate::page::Cursor;
use crate::request::Request;
use crate::store::{Options, Store};
use crate::time::Timestamp;

/// The page cache of the stores here: what hostile bytes may take comes on top.
const CACHE_BYTES: usize = 1 << 20;

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
        15 => {
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
    fn of(bytes: &[u8]) -> Self {
        Self(Arc::new(Mutex::new(bytes.to_vec())))
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

const FILE_BYTES_MAX: usize = 64 << 20;

/// A small store that was not closed cleanly: its table file, its log, and the newest commit in the table file.
static STORE: LazyLock<(Vec<u8>, Vec<u8>, Commit)> = LazyLock::new(|| {
    let (table, log) = (Bytes::default(), Bytes::default());
    let engine = RedbEngine::initialize(table.clone(), &builder(CACHE_BYTES)).unwrap();
    Options::new().begin(&engine).unwrap();
    drop(engine);
    let of_table = TableFile::on(table.clone(), &builder(CACHE_BYTES)).unwrap();
    of_table.mark(LogState::Closed { id: [7; 16] }).unwrap();
    RedoLog::create(&log, [7; 16], LOG_BYTES_MIN).unwrap();
    let engine = LoggedEngine::on(of_table, Box::new(log.clone()), 16 << 10).unwrap();
    let store = Options::new().on(Box::new(engine)).unwrap();
    fill(&store);
    let durable = loop {
        let stats = store.stats().log.unwrap();
        if !stats.checkpointing {
            let newest = store.engine().begin_read().unwrap().commit();
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
    let engine = RedbEngine::initialize(table.clone(), &builder(CACHE_BYTES)).unwrap();
    Options::new().begin(&engine).unwrap();
    fill(&Options::new().on(Box::new(engine)).unwrap());
    table.all()
});

fn fill(store: &Store) {
    for (domain, number) in [("0123456789abcdef0123456789abcdef", 0_u8), ("domain", 1), ("domain", 2)] {
        let scope = Scope::new(domain, "project").unwrap();
        let request = Request::new(&scope).at(Timestamp::from_millis(1_700_000_000_000));
        for key in 0..20_u8 {
            let new = NewKey::new(&format!("key-{number}-{key}")).unwrap();
            let new = new.id(KeyId::from_bytes([number.wrapping_mul(20) + key; 16]));
            let new = new.alias(format!("alias-{number}-{key}").parse().unwrap());
            let _ = store.write(&request, |txn| txn.create_key(&new));
        }
    }
}

/// Overwrites bytes where the data says: place (4 bytes), length (1 byte), and what is written.
fn damage(bytes: &mut Vec<u8>, mut data: &[u8]) {
    while let [a, b, c, d, length, rest @ ..] = data {
        let (piece, left) = rest.split_at(rest.len().min(usize::from(*length)));
        let place = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        if piece.is_empty() {
            bytes.truncate(place.max(1));
        } else if !bytes.is_empty() {
            let place = place % bytes.len();
            let end = bytes.len().min(place + piece.len());
            bytes[place..end].copy_from_slice(&piece[..end - place]);
        }
        data = left;
    }
}

/// Opens a file: arbitrary bytes, or a store that was damaged as the data says, with a log or without. What
/// can be opened is verified, listed and written.
pub fn open(data: &[u8]) {
    let [how, data @ ..] = data else { return };
    let opened = match how % 4 {
        0 => open_direct(&Bytes::of(data)),
        1 => {
            let mut bytes = DIRECT.clone();
            damage(&mut bytes, data);
            open_direct(&Bytes::of(&bytes))
        }
        which => {
            let (mut table, mut log, _) = STORE.clone();
            damage(if which == 2 { &mut table } else { &mut log }, data);
            open_logged(&Bytes::of(&table), &Bytes::of(&log))
        }
    };
    let Ok(store) = opened else { return };
    let _ = store.verify();
    let scope = Scope::new("domain", "project").unwrap();
    let _ = store.read(&scope, |snap| snap.aliases(crate::After::Start, crate::Limit::MAX));
    let _ = store.read(&scope, |snap| snap.resolve(&"alias-1-3".parse().unwrap()));
    let new = NewKey::new("new").unwrap();
    let _ = store.write(&Request::new(&scope), |txn| txn.create_key(&new));
    let _ = store.changes(None, crate::Limit::MAX);
}

fn open_direct(table: &Bytes) -> crate::Result<Store> {
    Options::new().on(Box::new(RedbEngine::on(table.clone(), &builder(CACHE_BYTES))?))
}

fn open_logged(table: &Bytes, log: &Bytes) -> crate::Result<Store> {
    let table = TableFile::on(table.clone(), &builder(CACHE_BYTES))?;
    Options::new().on(Box::new(LoggedEngine::on(table, Box::new(log.clone()), 16 << 10)?))
}

/// The replay of a log: frames that are whole, but hold arbitrary bytes instead of commits, or commits that
/// do not follow each other.
pub fn replay(data: &[u8]) {
    let (table, mut bytes, durable) = STORE.clone();
    RedoLog::fill(&mut bytes, data, durable);
    let Ok(store) = open_logged(&Bytes::of(&table), &Bytes::of(&bytes)) else { return };
    let _ = store.verify();
    let rows = store.engine().begin_read().unwrap();
    let _ = rows.scan((Bound::Unbounded, Bound::Unbounded), usize::MAX);
}
