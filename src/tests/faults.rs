//! A store on a backend that fails: the n-th call, for every n.

use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

use super::{new_key, request, scope};
use crate::engine::Engine;
use crate::engine::redb::{RedbEngine, builder};
use crate::engine::scripted::{Random, Scripted};
use crate::error::{Error, Result};
use crate::format::Row;
use crate::{Alias, Commit, KeyId, Options, Store};

/// Bytes that outlive the store on them, and a countdown to the call that fails.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// What a crash leaves at least: the bytes at the last sync.
    synced: Vec<u8>,
    /// What came after it, of which a crash may leave any part.
    unsynced: Vec<Change>,
    calls: u64,
    fails: Option<Fails>,
}

#[derive(Debug, Clone)]
enum Change {
    Length(usize),
    Write(usize, Vec<u8>),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Write(offset, data) => {
                if bytes.len() < offset + data.len() {
                    bytes.resize(offset + data.len(), 0);
                }
                bytes[*offset..offset + data.len()].copy_from_slice(data);
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Fails {
    /// The number of the first call that fails.
    from: u64,
    /// Whether all later calls fail too, or only this one.
    ever_after: bool,
}

impl Disk {
    /// A new disk with these bytes.
    fn of(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { synced: bytes.clone(), bytes, ..State::default() })))
    }

    /// From now on, counts calls from one and fails so.
    fn fail(&self, fails: Option<Fails>) {
        let mut state = self.0.lock().unwrap();
        (state.calls, state.fails) = (0, fails);
    }

    fn calls(&self) -> u64 {
        self.0.lock().unwrap().calls
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().bytes.clone()
    }

    /// What a crash may leave: all, only what was synced, or that and some of what was not.
    fn survivors(&self, seed: u64) -> [Vec<u8>; 3] {
        let state = self.0.lock().unwrap();
        let mut random = Random::new(seed);
        let mut some = state.synced.clone();
        for change in &state.unsynced {
            if matches!(change, Change::Length(_)) || random.below(2) == 0 {
                change.apply(&mut some);
            }
        }
        [state.bytes.clone(), state.synced.clone(), some]
    }

    fn call<T>(&self, run: impl FnOnce(&mut State) -> T) -> io::Result<T> {
        let mut state = self.0.lock().unwrap();
        state.calls += 1;
        let (calls, fails) = (state.calls, state.fails);
        match fails {
            Some(Fails { from, ever_after }) if calls == from || (ever_after && calls > from) => {
                Err(io::Error::other("the disk fails, as the test has it"))
            }
            _ => Ok(run(&mut state)),
        }
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.call(|state| {
            change.apply(&mut state.bytes);
            state.unsynced.push(change);
        })
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.call(|state| state.bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.call(|state| {
            let offset = usize::try_from(offset).unwrap();
            let read = state.bytes.get(offset..offset + out.len());
            out.copy_from_slice(read.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })?
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(usize::try_from(len).unwrap()))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call(|state| {
            for change in state.unsynced.drain(..) {
                change.apply(&mut state.synced);
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(usize::try_from(offset).unwrap(), data.to_vec()))
    }
}

/// Every row with its commit: two stores with the same dump are the same.
type Dump = Vec<(Row, Vec<u8>, Commit)>;

/// A store on a disk, with a handle on its engine.
struct Mounted {
    store: Store,
    engine: Scripted,
}

impl Mounted {
    fn on(disk: &Disk, cache_bytes: usize) -> Result<Self> {
        let engine = Scripted::new(RedbEngine::on(disk.clone(), &builder(cache_bytes))?);
        let store = Options::new().on(Box::new(engine.clone()))?;
        Ok(Self { store, engine })
    }

    fn dump(&self) -> Result<Dump> {
        let rows = self.engine.begin_read()?.scan((Bound::Unbounded, Bound::Unbounded), usize::MAX)?;
        let owned = rows.into_iter().map(|(row, stored)| {
            let stored = stored?;
            Ok((row, stored.bytes, stored.commit))
        });
        owned.collect()
    }

    /// The workload: one write for each step.
    fn step(&self, step: usize) -> Result<()> {
        let (one, two) = (KeyId::from_bytes([1; 16]), KeyId::from_bytes([2; 16]));
        let alias: Alias = "moving".parse()?;
        if step == 6 {
            // Several commits, all of them or none.
            let keys =
                (20..80).map(|n| new_key(&format!("key-{n}"), n).alias(format!("a-{n}").parse().unwrap()));
            let imported: Result<Vec<_>> = self.store.import(&request(), keys).collect();
            return imported.map(drop);
        }
        let written = self.store.write(&request(), |txn| match step {
            0 => txn.create_key(&new_key("one", 1).alias(alias.clone())).map(drop),
            1 => txn.create_key(&new_key("two", 2)).map(drop),
            2 => txn.associate_alias(&alias, two).map(drop),
            3 => txn.rename_key_alias(one, &"renamed".parse()?).map(drop),
            4 => txn.delete_aliases(two, std::slice::from_ref(&alias)),
            _ => (10..16).try_for_each(|n| txn.create_key(&new_key(&format!("key-{n}"), n)).map(drop)),
        });
        written.map(drop)
    }
}

const STEPS: usize = 7;

/// A disk with an empty store that was closed.
fn disk_with_store() -> Disk {
    let disk = Disk::default();
    let engine = RedbEngine::initialize(disk.clone(), &builder(1 << 20)).unwrap();
    Options::new().begin(&engine).unwrap();
    drop(engine);
    disk
}

/// The state before the first step and behind each, and the calls that it took.
fn reference(base: &[u8], cache_bytes: usize) -> (Vec<Dump>, u64) {
    let disk = Disk::of(base.to_vec());
    let mounted = Mounted::on(&disk, cache_bytes).unwrap();
    let mut dumps = vec![mounted.dump().unwrap()];
    for step in 0..STEPS {
        mounted.step(step).unwrap();
        dumps.push(mounted.dump().unwrap());
    }
    drop(mounted);
    (dumps, disk.calls())
}

fn must_be_of_the_disk(error: &Error, when: &str) {
    let of_the_disk =
        matches!(error, Error::Io(_) | Error::CommitUnknown(_) | Error::Poisoned | Error::Corrupted(_));
    assert!(of_the_disk, "{when}: {error:?}");
}

/// Runs the workload until a write fails for good; returns how many were acknowledged, and how many
/// may be there.
fn run(mounted: &Mounted, dumps: &[Dump], when: &str) -> (usize, usize) {
    let mut acknowledged = 0;
    let mut failures = 0;
    let mut unknown = false;
    while acknowledged < STEPS && failures < 3 {
        match mounted.step(acknowledged) {
            Ok(()) => {
                acknowledged += 1;
                match mounted.dump() {
                    Ok(dump) => assert_eq!(dump, dumps[acknowledged], "{when}"),
                    Err(error) => must_be_of_the_disk(&error, when),
                }
            }
            Err(error) => {
                must_be_of_the_disk(&error, when);
                failures += 1;
                unknown |= matches!(error, Error::CommitUnknown(_));
                if matches!(error, Error::CommitUnknown(_) | Error::Poisoned) {
                    let next = mounted.step(acknowledged);
                    assert!(matches!(next, Err(Error::Poisoned)), "{when}: {next:?}");
                    break;
                }
            }
        }
    }
    // What was acknowledged is still served, or the disk is to blame; it is never just gone.
    if acknowledged > 0 {
        let found = mounted.store.read(&scope(), |snap| snap.key(KeyId::from_bytes([1; 16])));
        if let Err(error) = found {
            must_be_of_the_disk(&error, when);
        }
    }
    (acknowledged, acknowledged + usize::from(unknown))
}

fn must_survive(disk: &Disk, (acknowledged, most): (usize, usize), dumps: &[Dump], when: &str) {
    let survivors = disk.survivors(acknowledged as u64);
    for (kind, bytes) in survivors.iter().enumerate() {
        if survivors[..kind].contains(bytes) {
            continue;
        }
        let mounted = Mounted::on(&Disk::of(bytes.clone()), 1 << 20);
        let mounted = mounted.unwrap_or_else(|error| panic!("{when}, survivor {kind}: {error:?}"));
        let dump = mounted.dump().unwrap();
        let is_prefix = dumps[acknowledged..=most].contains(&dump);
        assert!(is_prefix, "{when}, survivor {kind}: {acknowledged} to {most} writes, found {dump:?}");
        assert_eq!(mounted.store.verify().unwrap().violations, [], "{when}, survivor {kind}");
    }
}

fn every_call_fails_once(cache_bytes: usize, ever_after: bool) {
    let base = disk_with_store().bytes();
    let (dumps, calls) = reference(&base, cache_bytes);
    assert!(calls > 50, "{calls}");
    for from in 1..=calls {
        let when = format!("call {from} of {calls}, cache {cache_bytes}, ever after: {ever_after}");
        let disk = Disk::of(base.clone());
        disk.fail(Some(Fails { from, ever_after }));
        let written = match Mounted::on(&disk, cache_bytes) {
            Ok(mounted) => run(&mounted, &dumps, &when),
            Err(error) => {
                must_be_of_the_disk(&error, &when);
                (0, 0)
            }
        };
        must_survive(&disk, written, &dumps, &when);
    }
}

#[test]
fn one_call_fails() {
    every_call_fails_once(1 << 20, false);
}

#[test]
fn one_call_fails_without_a_cache() {
    every_call_fails_once(0, false);
}

#[test]
fn the_disk_fails_for_ever() {
    every_call_fails_once(1 << 20, true);
}

#[test]
fn making_a_store_fails() {
    let make = |disk: &Disk| {
        let engine = RedbEngine::initialize(disk.clone(), &builder(1 << 20))?;
        Options::new().begin(&engine)
    };
    let whole = Disk::default();
    make(&whole).unwrap();
    for ever_after in [false, true] {
        for from in 1..=whole.calls() {
            let disk = Disk::default();
            disk.fail(Some(Fails { from, ever_after }));
            // A failure of closing is nobody's business; any other is told.
            if let Err(error) = make(&disk) {
                must_be_of_the_disk(&error, &format!("call {from}"));
            } else {
                must_survive(
                    &disk,
                    (0, 0),
                    &[Mounted::on(&Disk::of(disk.bytes()), 0).unwrap().dump().unwrap()],
                    "made",
                );
            }
        }
    }
}

/// The error of a store whose disk failed before.
pub(super) fn poisoned() -> Error {
    let disk = disk_with_store();
    let mounted = Mounted::on(&disk, 1 << 20).unwrap();
    disk.fail(Some(Fails { from: 1, ever_after: true }));
    mounted.step(0).unwrap_err();
    // The disk is well again, but who knows what it lost.
    disk.fail(None);
    mounted.step(0).unwrap_err()
}
