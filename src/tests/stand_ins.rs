//! A store on an engine that can't know the number of a commit before it is made, as the engines of clusters: what
//! it says and writes is the same.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound;

use super::{new_key, request, scope};
use crate::engine::embedded::EmbeddedEngine;
use crate::engine::scripted::{Call, Outcome, Random, Scripted};
use crate::engine::{Engine, ReadTransaction};
use crate::error::{Error, Result};
use crate::format::{decode_outcome, is_stand_in};
use crate::*;

const ONE: KeyId = KeyId::from_bytes([1; 16]);

/// Two stores that are given the same to do: one on an engine that counts, and one on an engine with stand-ins.
struct Twins {
    counted: Store,
    store: Store,
    engines: [Scripted; 2],
}

impl Twins {
    fn new(options: &Options) -> Self {
        let scripted = || Scripted::new(EmbeddedEngine::in_memory());
        let engines = [scripted(), scripted().with_stand_ins()];
        let open = |engine: &Scripted| {
            options.begin(engine).unwrap();
            options.on(Box::new(engine.clone())).unwrap()
        };
        Self { counted: open(&engines[0]), store: open(&engines[1]), engines }
    }

    /// What both answer, which must be the same. What is random in it is made before.
    fn both<T: PartialEq + std::fmt::Debug>(&self, run: impl Fn(&Store) -> Result<T>) -> Result<T> {
        let (counted, observed) = (run(&self.counted), run(&self.store));
        assert_eq!(said(&counted), said(&observed));
        observed
    }

    fn write<T: PartialEq + std::fmt::Debug>(
        &self,
        run: impl Fn(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<Committed<T>> {
        self.both(|store| store.write(&request(), &run))
    }

    /// That both hold the same bytes, but for who they are, and for what is kept of repeatable requests: there they
    /// mean the same.
    fn hold_the_same(&self) {
        let [counted, observed] = self.engines.each_ref().map(|engine| engine.begin_read().unwrap());
        let entries = |read: &dyn ReadTransaction| {
            let entries = read.log(Commit::default(), usize::MAX).unwrap();
            entries.into_iter().map(|(commit, entry)| (commit, entry.unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(entries(&*counted), entries(&*observed));
        let rows = |read: &dyn ReadTransaction| {
            let rows = read.scan((Bound::Unbounded, Bound::Unbounded), usize::MAX).unwrap();
            let rows = rows.into_iter().map(|(row, stored)| (row, stored.unwrap()));
            rows.filter(|(row, _)| *row != crate::format::Space::of_store().fixed())
                .collect::<BTreeMap<_, _>>()
        };
        let (counted, observed) = (rows(&*counted), rows(&*observed));
        assert!(counted.keys().eq(observed.keys()));
        for ((row, one), other) in counted.iter().zip(observed.values()) {
            assert_eq!(one.commit, other.commit);
            if one.bytes != other.bytes {
                let outcomes = [one, other].map(|stored| decode_outcome(row, &stored.bytes).unwrap());
                let [one, other] = outcomes.map(|outcome| outcome.with_number(one.commit));
                assert_eq!(one, other);
            }
        }
        assert_eq!(self.store.verify().unwrap().violations, []);
    }
}

fn said<T: std::fmt::Debug>(outcome: &Result<T>) -> String {
    let said = format!("{outcome:?}");
    // No number that a stand-in may have is told.
    let numbers = said.split(|other: char| !other.is_ascii_digit()).filter_map(|word| word.parse().ok());
    let told: Vec<Commit> = numbers.map(Commit::new).filter(|number| is_stand_in(*number)).collect();
    assert!(told.is_empty(), "{said}");
    said
}

fn alias(name: &str) -> Alias {
    name.parse().unwrap()
}

fn request_id(number: u64) -> RequestId {
    format!("919c82d4-8046-4722-9094-{number:012}").parse().unwrap()
}

#[test]
fn what_is_told_has_the_number_of_the_commit() {
    let twins = Twins::new(&Options::new());
    let new = new_key("one", 1).alias(alias("first"));
    let created = twins.write(|txn| Ok((txn.create_key(&new)?, txn.alias(&alias("first"))?))).unwrap();
    assert_eq!((created.value.0.version, created.value.1.version), (created.commit, created.commit));
    // In a text, and found through another record.
    let text = twins.write(|txn| {
        txn.disable(ONE)?;
        Ok(format!("{:?}", txn.resolve(&alias("first"))?.version))
    });
    let text = text.unwrap();
    assert_eq!(text.value, format!("{:?}", text.commit));
    twins.hold_the_same();
}

#[test]
fn a_transaction_meets_its_own_version_before_it_has_a_number() {
    let twins = Twins::new(&Options::new());
    let written = twins.write(|txn| {
        let key = txn.create_key(&new_key("one", 1))?;
        txn.expect_key(ONE, Expect::Version(key.version))?;
        txn.disable(ONE)
    });
    assert_eq!(written.unwrap().value.state, KeyState::Disabled);
    // A refusal tells of it too, where nothing is written.
    let refused = twins.write(|txn| {
        txn.enable(ONE)?;
        txn.expect_key(ONE, Expect::Absent)
    });
    assert!(matches!(refused, Err(Error::PreconditionFailed { actual: Some(_) })), "{refused:?}");
    // One that is passed over, and its text is told.
    let told = twins.write(|txn| {
        txn.enable(ONE)?;
        Ok(txn.expect_key(ONE, Expect::Absent).unwrap_err().to_string())
    });
    let told = told.unwrap();
    assert!(told.value.contains(&format!("version {}", told.commit)), "{}", told.value);
    twins.hold_the_same();
}

#[test]
fn two_changes_of_a_record_in_one_commit_are_a_chain() {
    let twins = Twins::new(&Options::new());
    twins.write(|txn| txn.create_key(&new_key("one", 1).alias(alias("first")))).unwrap();
    twins.write(|txn| txn.create_key(&new_key("two", 2))).unwrap();
    twins
        .write(|txn| {
            txn.associate_alias(&alias("first"), KeyId::from_bytes([2; 16]))?;
            txn.rename_key_alias(ONE, &"other".parse()?)?;
            txn.associate_alias(&alias("first"), ONE)?;
            txn.delete_aliases(ONE, &[alias("first")])?;
            txn.create_alias(&alias("first"), ONE)?;
            txn.disable(ONE)
        })
        .unwrap();
    let of = alias("first");
    for order in [Order::NewestFirst, Order::OldestFirst] {
        let history = twins.both(|store| {
            store.read(&scope(), |snap| {
                snap.history(HistoryOf::Alias(&of), order, After::Start, Limit::default())
            })
        });
        assert_eq!(history.unwrap().items.len(), 5);
    }
    twins.hold_the_same();
}

#[test]
fn an_outcome_is_repeated_with_the_number_of_its_commit() {
    let twins = Twins::new(&Options::new());
    let once = |store: &Store| {
        store.write_once(&request(), &request_id(1), b"create", |txn| {
            let key = txn.create_key(&new_key("one", 1))?;
            let by_version = BTreeMap::from([(key.version, "as a name".to_owned())]);
            Ok((key.version, format!("{0}{0} {0}", key.version), by_version))
        })
    };
    let (first, again) = (twins.both(once).unwrap(), twins.both(once).unwrap());
    assert!(!first.replayed && again.replayed);
    assert_eq!((&first.value, first.commit), (&again.value, again.commit));
    assert_eq!(first.value.0, first.commit);
    let reused = twins.both(|store| store.write_once(&request(), &request_id(1), b"other", |_| Ok(())));
    assert!(matches!(reused, Err(Error::RequestIdReused(_))));
    // Nothing changed, but what came of it is kept.
    let nothing =
        |store: &Store| store.write_once(&request(), &request_id(2), b"", |txn| Ok(txn.key(ONE)?.version));
    assert_eq!(twins.both(nothing).unwrap().value, first.commit);
    assert!(twins.both(nothing).unwrap().replayed);
    twins.hold_the_same();
}

/// What is kept has the number in its decimal digits, or not at all.
#[test]
fn an_outcome_that_could_not_be_repeated_is_not_committed() {
    type Value = fn(Commit) -> String;
    let values: [Value; 3] = [
        |version| format!("{:x}", version.number()),
        |version| format!("{:020}", version.number()),
        |version| format!("{}", version.number() / 2),
    ];
    for (number, value) in values.into_iter().enumerate() {
        let twins = Twins::new(&Options::new());
        let refused = twins.store.write_once(&request(), &request_id(number as u64), b"", |txn| {
            Ok(value(txn.create_key(&new_key("one", 1))?.version))
        });
        assert!(matches!(refused, Err(Error::InvalidOutcome(_))), "{refused:?}");
        let engine = &twins.engines[1];
        assert_eq!(engine.begin_read().unwrap().commit(), Commit::new(1), "nothing was written");
        // A plain write may tell what it likes.
        twins.write(|txn| Ok(value(txn.create_key(&new_key("one", 1))?.version))).unwrap();
        twins.hold_the_same();
    }
}

#[test]
fn a_dry_run_tells_of_the_next_commit() {
    let twins = Twins::new(&Options::new());
    let dry =
        twins.both(|store| store.dry_run(&request(), |txn| Ok(txn.create_key(&new_key("one", 1))?.version)));
    let (dry, made) =
        (dry.unwrap(), twins.write(|txn| Ok(txn.create_key(&new_key("one", 1))?.version)).unwrap());
    assert_eq!((dry.value, dry.changes.len()), (made.commit, 1));
    let refused = twins.both(|store| {
        store.dry_run(&request(), |txn| {
            txn.disable(ONE)?;
            txn.expect_key(ONE, Expect::Absent)
        })
    });
    assert!(matches!(refused, Err(Error::PreconditionFailed { .. })));
    twins.hold_the_same();
}

/// A closure that is not the same each time is found out: what is told is never of something else than what was
/// written.
#[test]
fn a_closure_that_does_something_else_is_told_so() {
    type Does = fn(&mut Transaction<'_>) -> Result<()>;
    let others: [Does; 5] = [
        |_| Ok(()),
        |txn| txn.key(KeyId::from_bytes([9; 16])).map(drop),
        |txn| txn.create_key(&new_key("other", 1)).map(drop),
        |txn| {
            txn.create_key(&new_key("one", 1))?;
            txn.disable(ONE).map(drop)
        },
        |_| Err(Error::abort("not again")),
    ];
    for (number, other) in others.into_iter().enumerate() {
        for history in [true, false] {
            let twins = Twins::new(&Options::new().history(history));
            let runs = Cell::new(0);
            let closure = |txn: &mut Transaction<'_>| {
                runs.set(runs.get() + 1);
                if runs.get() > 1 { other(txn) } else { txn.create_key(&new_key("one", 1)).map(drop) }
            };
            let outcome = twins.store.write(&request(), closure);
            let told =
                matches!(&outcome, Err(Error::CommitUnknown(what)) if what.contains("commit 2 is durable"));
            assert!(told, "{number}: {outcome:?}");
            assert_eq!(runs.get(), 2);
            let key = twins.store.read(&scope(), |snap| snap.key(ONE)).unwrap();
            assert_eq!((key.key_alias.as_str(), key.state), ("one", KeyState::Enabled));
            runs.set(0);
            let dry = twins.store.dry_run(&request(), |txn| {
                runs.set(runs.get() + 1);
                if runs.get() > 1 { other(txn) } else { txn.freeze(ONE).map(drop) }
            });
            assert!(dry.is_err(), "{number}: {dry:?}");
            // What is kept for a repeat is looked at before it is written.
            runs.set(0);
            let once = twins.store.write_once(&request(), &request_id(3), b"", |txn| {
                runs.set(runs.get() + 1);
                if runs.get() > 1 { other(txn) } else { txn.freeze(ONE).map(drop) }
            });
            assert!(matches!(once, Err(Error::Aborted(_) | Error::KeyIdExists(_))), "{number}: {once:?}");
            assert!(twins.store.verify().unwrap().is_clean());
            assert_eq!(twins.engines[1].begin_read().unwrap().commit(), Commit::new(2));
        }
    }
}

/// The same rows by other operations are told otherwise by the history.
#[test]
fn a_closure_that_gets_there_in_another_way_is_told_so() {
    let twins = Twins::new(&Options::new());
    let runs = Cell::new(0);
    let outcome = twins.store.write(&request(), |txn| {
        runs.set(runs.get() + 1);
        if runs.get() > 1 {
            txn.create_key(&new_key("one", 1))?;
            return txn.create_alias(&alias("first"), ONE).map(drop);
        }
        txn.create_key(&new_key("one", 1).alias(alias("first"))).map(drop)
    });
    assert!(matches!(outcome, Err(Error::CommitUnknown(_))), "{outcome:?}");
    assert!(twins.store.verify().unwrap().is_clean());
}

/// The same random operations on both come to the same answers and the same bytes.
#[test]
fn everything_is_as_on_an_engine_that_counts() {
    for seed in 0..30 {
        let options = Options::new().history(seed % 4 != 0).run_closures_twice(seed % 3 == 0);
        let (twins, mut random) = (Twins::new(&options), Random::new(seed));
        for _ in 0..40 {
            let ops: Vec<_> = (0..random.below(4) + 1).map(|_| Op::at_random(&mut random)).collect();
            let run = |txn: &mut Transaction<'_>| {
                let answers = ops.iter().map(|op| op.run(txn).map_err(|refusal| refusal.to_string()));
                Ok(answers.collect::<Vec<_>>())
            };
            let _ = match random.below(6) {
                0 => twins.both(|store| store.dry_run(&request(), run)).map(drop),
                1 | 2 => {
                    let id = request_id(random.below(8));
                    twins.both(|store| store.write_once(&request(), &id, b"", run)).map(drop)
                }
                3 => twins.write(|txn| ops.iter().try_for_each(|op| op.run(txn).map(drop))).map(drop),
                _ => twins.write(run).map(drop),
            };
        }
        twins.hold_the_same();
    }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Create(u8, u8),
    Toggle(u8),
    Rename(u8, u8),
    CreateAlias(u8, u8),
    Move(u8, u8),
    DeleteAlias(u8, u8),
    Expect(u8),
    Describe(u8),
}

impl Op {
    fn at_random(random: &mut Random) -> Self {
        let [one, other] = [(); 2].map(|()| u8::try_from(random.below(4)).unwrap());
        match random.below(8) {
            0 => Self::Create(one, other),
            1 => Self::Toggle(one),
            2 => Self::Rename(one, other),
            3 => Self::CreateAlias(one, other),
            4 => Self::Move(one, other),
            5 => Self::DeleteAlias(one, other),
            6 => Self::Expect(one),
            _ => Self::Describe(one),
        }
    }

    /// In words, with all numbers.
    fn run(self, txn: &mut Transaction<'_>) -> Result<String> {
        let key = |number: u8| KeyId::from_bytes([number; 16]);
        let name = |number: u8| alias(&format!("alias-{number}"));
        let names = |number: u8| format!("key-{number}");
        match self {
            Self::Create(one, other) => {
                txn.create_key(&new_key(&names(one), one).alias(name(other))).map(|key| format!("{key:?}"))
            }
            Self::Toggle(one) => {
                txn.enable(key(one)).or_else(|_| txn.disable(key(one))).map(|key| format!("{key:?}"))
            }
            Self::Rename(one, other) => {
                txn.rename_key_alias(key(one), &names(other).parse()?).map(|renamed| format!("{renamed:?}"))
            }
            Self::CreateAlias(one, other) => {
                txn.create_alias(&name(one), key(other)).map(|alias| format!("{alias:?}"))
            }
            Self::Move(one, other) => {
                txn.associate_alias(&name(one), key(other)).map(|moved| format!("{moved:?}"))
            }
            Self::DeleteAlias(one, other) => {
                txn.delete_aliases(key(other), &[name(one)]).map(|()| String::new())
            }
            Self::Expect(one) => txn.expect_alias(&name(one), Expect::Absent).map(|()| String::new()),
            Self::Describe(one) => {
                let text = Description::new("changed")?;
                txn.update_description(key(one), &text).map(|key| format!("{key:?}"))
            }
        }
    }
}

/// Under random failures each write happens once, or not, or its outcome is unknown; and the answer says which, with
/// the number of the commit that is there.
#[test]
fn every_answer_is_true_under_random_failures() {
    for seed in 0..20 {
        let twins = Twins::new(&Options::new());
        let (store, engine, mut random) = (&twins.store, &twins.engines[1], Random::new(seed));
        engine.at_random(seed, 5);
        let (mut made, mut unknown) = (0_u64, 0_u64);
        for number in 0..60_u8 {
            let id = KeyId::from_bytes([number; 16]);
            let create = |txn: &mut Transaction<'_>| {
                txn.create_key(&new_key(&format!("key-{number}"), number))?;
                Ok(txn.disable(id)?.version)
            };
            let once = random.below(2) == 0;
            let outcome = if once {
                store.write_once(&request(), &request_id(number.into()), b"", create)
            } else {
                store.write(&request(), create)
            };
            let there = store.read(&scope(), |snap| snap.key(id)).ok();
            match &outcome {
                Ok(done) => {
                    assert_eq!((done.value, done.commit), (done.commit, there.as_ref().unwrap().version));
                }
                Err(Error::CommitUnknown(_)) => unknown += 1,
                Err(Error::Conflict | Error::Unavailable(_) | Error::Io(_)) => assert!(there.is_none()),
                Err(other) => panic!("seed {seed}: {other}"),
            }
            if once && matches!(outcome, Err(Error::CommitUnknown(_))) {
                // Asked again, it is settled.
                let again = loop {
                    let again = store.write_once(&request(), &request_id(number.into()), b"", create);
                    if let Ok(again) = again {
                        break again;
                    }
                };
                assert!(again.replayed || there.is_none(), "seed {seed}: applied twice");
                let key = store.read(&scope(), |snap| snap.key(id)).unwrap();
                assert_eq!((again.value, again.commit), (key.version, key.version));
            }
            made += u64::from(store.read(&scope(), |snap| snap.key(id)).is_ok());
        }
        assert!(made > 0 && unknown > 0, "seed {seed}");
        engine.queue(Call::Commit, &[]);
        let report = store.verify().unwrap();
        assert!(report.is_clean() && report.keys == made, "seed {seed}: {report:?}");
    }
}

#[test]
fn a_conflict_runs_the_closure_again_with_another_stand_in() {
    let twins = Twins::new(&Options::new());
    twins.engines[1].queue(Call::Commit, &[Outcome::Conflict; 3]);
    let met = std::cell::RefCell::new(Vec::new());
    let made = twins.store.write(&request(), |txn| {
        let version = txn.create_key(&new_key("one", 1))?.version;
        met.borrow_mut().push(version);
        Ok(version)
    });
    let (made, mut met) = (made.unwrap(), met.into_inner());
    assert_eq!((made.value, met.pop()), (made.commit, Some(made.commit)));
    assert!(met.iter().all(|version| is_stand_in(*version)));
    met.sort_unstable();
    met.dedup();
    assert_eq!(met.len(), 4, "each run has its own");
}
