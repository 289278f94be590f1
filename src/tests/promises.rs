//! What a store with a write-ahead log promises to threads that read and write at the same time, and that
//! nothing that anybody was told is lost by a crash; and that a store which breaks it is found out.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::disk::{Disk, Image, LOG, TABLE};
use super::{new_key, request, scope};
use crate::engine::Engine;
use crate::engine::embedded::wal::RedoLog;
use crate::engine::embedded::{EmbeddedEngine, Sabotage};
use crate::engine::redb::{TableFile, builder};
use crate::engine::scripted::Random;
use crate::txn::Rows;
use crate::{Alias, Commit, Error, KeyId, Options, Store};

const KEYS: u8 = 4;
const WRITERS: u64 = 4;
const WRITES: u64 = 60;

/// How the store is made to break its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    Engine(Sabotage),
    CredulousCache,
}

fn aliases() -> [Alias; 2] {
    ["first", "second"].map(|name| name.parse().unwrap())
}

fn key_id(number: u8) -> KeyId {
    KeyId::from_bytes([number; 16])
}

fn open(disk: &Disk) -> EmbeddedEngine {
    let table = TableFile::on(disk.file(TABLE), &builder(1 << 20)).unwrap();
    EmbeddedEngine::on(table, Box::new(disk.file(LOG)), 20_000).unwrap()
}

/// A disk with a store that has some keys, and two aliases on the first.
fn disk_with_keys() -> Disk {
    let disk = Disk::default();
    let engine = EmbeddedEngine::initialize(disk.file(TABLE), &builder(1 << 20)).unwrap();
    Options::new().begin(&engine).unwrap();
    let store = Options::new().on(Box::new(engine)).unwrap();
    let made = store.write(&request(), |txn| {
        (0..KEYS).try_for_each(|number| txn.create_key(&new_key(&format!("k{number}"), number)).map(drop))?;
        aliases().iter().try_for_each(|alias| txn.create_alias(alias, key_id(0)).map(drop))
    });
    made.unwrap();
    drop(store);
    RedoLog::create(&disk.file(LOG), [7; 16], 64 * 1024).unwrap();
    disk
}

/// What all threads saw.
#[derive(Default)]
struct Seen {
    /// Where each alias went, and in which commit.
    moves: Mutex<BTreeMap<(usize, u64), KeyId>>,
    /// What a read found: the alias, the commit that was read, the key.
    reads: Mutex<Vec<(usize, u64, KeyId)>>,
    /// The newest commit that a write was told to be durable.
    acknowledged: AtomicU64,
    /// The newest commit on which anything rests that anybody was told.
    told: AtomicU64,
    complaints: Mutex<Vec<String>>,
}

impl Seen {
    fn tell(&self, commit: Commit) {
        self.told.fetch_max(commit.number(), SeqCst);
    }

    fn complain(&self, complaint: String) {
        self.complaints.lock().unwrap().push(complaint);
    }

    /// Moves aliases, and asks for names that are taken.
    fn write(&self, store: &Store, seed: u64) {
        let (aliases, mut random) = (aliases(), Random::new(seed));
        for _ in 0..WRITES {
            let (which, target) = (random.index(2), u8::try_from(random.below(KEYS.into())).unwrap());
            let moved = store.write(&request(), |txn| txn.associate_alias(&aliases[which], key_id(target)));
            let moved = moved.unwrap();
            self.tell(moved.commit);
            if moved.changed {
                self.moves.lock().unwrap().insert((which, moved.commit.number()), key_id(target));
                self.acknowledged.fetch_max(moved.commit.number(), SeqCst);
            }
            let read = Cell::new(Commit::default());
            let refused = store.write(&request(), |txn| {
                read.set(txn.newest());
                txn.create_key(&new_key("k0", 77))
            });
            assert!(matches!(refused, Err(Error::KeyAliasExists(_))));
            self.tell(read.get());
        }
    }

    fn read(&self, store: &Store, over: &AtomicBool, seed: u64) {
        let (aliases, mut random) = (aliases(), Random::new(seed));
        while !over.load(SeqCst) {
            let which = random.index(2);
            let before = self.acknowledged.load(SeqCst);
            let (commit, key) = store
                .read(&scope(), |snap| Ok((snap.commit(), snap.resolve(&aliases[which])?.key_id)))
                .unwrap();
            self.tell(commit);
            if commit.number() < before {
                self.complain(format!("a read of {commit} began after {before} was acknowledged"));
            }
            self.reads.lock().unwrap().push((which, commit.number(), key));
        }
    }

    /// What the power cut would leave, and up to where it must reach.
    fn cuts(&self, disk: &Disk, over: &AtomicBool) -> Vec<(u64, Image)> {
        let mut cuts = Vec::new();
        while !over.load(SeqCst) {
            let told = self.told.load(SeqCst);
            cuts.push((told, disk.synced()));
            thread::sleep(Duration::from_micros(300));
        }
        cuts
    }

    /// Each read found what the last move before it had left.
    fn check_reads(&self) {
        let (moves, reads) = (self.moves.lock().unwrap(), self.reads.lock().unwrap());
        for (which, commit, found) in reads.iter() {
            let last = moves.range((*which, 0)..=(*which, *commit)).next_back();
            let expected = last.map_or(key_id(0), |(_, key_id)| *key_id);
            if *found != expected {
                self.complain(format!("at {commit} alias {which} was on {expected}, but {found} was read"));
            }
        }
    }
}

/// Runs threads on a store, maybe one that breaks its word, and returns what is wrong with what they saw.
fn complaints(seed: u64, bug: Option<Bug>) -> Vec<String> {
    let disk = disk_with_keys();
    let engine = Arc::new(open(&disk));
    if let Some(Bug::Engine(sabotage)) = bug {
        engine.sabotage(Some(sabotage));
    }
    let store = Options::new().on(Box::new(Arc::clone(&engine))).unwrap();
    let store = if bug == Some(Bug::CredulousCache) { store.credulous() } else { store };
    disk.set_sync_time(Duration::from_micros(500));
    let (seen, over) = (Seen::default(), AtomicBool::new(false));
    let cuts = thread::scope(|threads| {
        let cuts = threads.spawn(|| seen.cuts(&disk, &over));
        let readers: Vec<_> = (0..2)
            .map(|number| {
                let (seen, store, over) = (&seen, &store, &over);
                threads.spawn(move || seen.read(store, over, seed + number))
            })
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let (seen, store) = (&seen, &store);
                threads.spawn(move || seen.write(store, seed * 100 + number))
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        over.store(true, SeqCst);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        cuts.join().unwrap()
    });
    assert!(cuts.len() > 20 && seen.reads.lock().unwrap().len() > 100);
    seen.check_reads();
    let step = (cuts.len() / 60).max(1);
    for (told, image) in cuts.into_iter().step_by(step) {
        let recovered = open(&Disk::of(image)).begin_read().unwrap().commit();
        if recovered.number() < told {
            seen.complain(format!("commit {told} was told of, and after a crash {recovered} is the newest"));
        }
    }
    engine.sabotage(None);
    seen.complaints.into_inner().unwrap()
}

#[test]
fn nothing_that_was_told_is_untrue_or_lost() {
    for seed in 0..3 {
        assert_eq!(complaints(seed, None), Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn a_store_that_breaks_its_word_is_found_out() {
    for bug in [
        Bug::Engine(Sabotage::PublishBeforeSync),
        Bug::Engine(Sabotage::EndDoesNotWait),
        Bug::Engine(Sabotage::CommitDoesNotWait),
        Bug::CredulousCache,
    ] {
        let found = (0..5).find_map(|seed| complaints(seed, Some(bug)).into_iter().next());
        println!("{bug:?}: {found:?}");
        assert!(found.is_some(), "{bug:?} was not found out");
    }
}
