//! The steps of a run, made at random, and the run itself: each step on the store and on the
//! specification, and then a comparison of everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use keystead::{
    AliasScope, At, Change, Commit, Compatibility, Error, Images, KeyId, Limit, Options, Position, Quotas,
    Store, Timestamp,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner};

use crate::compare::{self, Kept, same};
use crate::ops::{self, BODIES, End, KEY_IDS, Moment, Name, Op, PLACES, REGION, REQUEST_IDS, Wish};
use crate::spec::{DAY, Model, Numbers, Once, Place, Policy, Seen, Tenant, place_rank};
use crate::values::Key;

/// When the first step is made.
const START: u64 = 1_700_000_000_000;
/// How many steps bytes may stand for.
const BYTES_STEPS_MAX: usize = 60;
/// Checkpoints after a few commits, so that rows are found in every place where they may be.
pub(crate) const CHECKPOINT_BYTES: usize = 5000;
/// How many cursors of earlier steps are tried again.
const KEPT: usize = 8;

#[derive(Debug, Clone)]
pub(crate) struct Step {
    later: Later,
    place: usize,
    act: Act,
}

/// When a step is made, after the one before.
#[derive(Debug, Clone, Copy)]
enum Later {
    /// So many milliseconds later; negative if the clock was set back.
    By(i64),
    /// At the next time at which anything becomes due or expires, or a millisecond before or after.
    AtNextEvent(i64),
}

impl Later {
    fn than(self, now: u64, model: &Model) -> u64 {
        let (event, millis) = match self {
            Self::By(millis) => (now, millis),
            Self::AtNextEvent(millis) => (model.next_event(now).unwrap_or(now), millis),
        };
        event.saturating_add_signed(millis).max(START)
    }
}

#[derive(Debug, Clone)]
enum Act {
    Write {
        wishes: Vec<Wish>,
        end: End,
    },
    DryRun {
        wishes: Vec<Wish>,
        end: End,
    },
    /// A request with one of the request ids and one of the bodies.
    WriteOnce {
        wishes: Vec<Wish>,
        end: End,
        request: (usize, usize),
    },
    Sweep {
        budget: usize,
        after: Option<usize>,
    },
    RemoveScope {
        budget: usize,
    },
    /// Trims the history up to what was so many steps ago.
    Trim {
        back: usize,
    },
    /// Closes the store and opens it with these options.
    Reopen {
        quotas: Quotas,
        compatibility: Compatibility,
    },
}

/// Where a store is, and how it is opened again.
enum Home {
    /// When it is closed, it is gone.
    Memory,
    File {
        folder: tempfile::TempDir,
        checkpoint_bytes: usize,
    },
    Servers(Open),
}

/// Opens the store on servers with these options.
type Open = Box<dyn Fn(&Options) -> Result<Store, Error>>;

/// A store and the specification of what it must hold.
pub(crate) struct Pair {
    /// The store, on servers as several processes have it open. They are used in turn.
    stores: Vec<Store>,
    turn: usize,
    model: Model,
    home: Home,
    now: u64,
    kept: BTreeMap<Place, Vec<Kept>>,
    /// What the specification said after each commit.
    past: BTreeMap<u64, BTreeMap<Place, Tenant>>,
    /// What was done so far, in words: shorter than the random values that it came from.
    said: String,
    seen: Seen,
}

impl Pair {
    pub(crate) fn in_memory(policy: Policy) -> Self {
        let store = options(&policy, CHECKPOINT_BYTES).in_memory().unwrap();
        Self::new(Model::new(policy, &ops::places()), vec![store], Home::Memory)
    }

    pub(crate) fn in_file(policy: Policy, checkpoint_bytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = options(&policy, checkpoint_bytes).open(folder.path().join("store")).unwrap();
        let home = Home::File { folder, checkpoint_bytes };
        Self::new(Model::new(policy, &ops::places()), vec![store], home)
    }

    /// So many times open at once.
    #[allow(dead_code, reason = "where there are no servers")]
    pub(crate) fn on_servers(policy: Policy, nodes: usize, open: Open) -> Self {
        let stores: Vec<Store> =
            (0..nodes).map(|_| open(&options(&policy, CHECKPOINT_BYTES)).unwrap()).collect();
        let created = stores[0].read(&ops::scope(&ops::places()[0]), |snap| Ok(snap.commit())).unwrap();
        let model = Model::new(policy, &ops::places()).told_from(created.number());
        Self::new(model, stores, Home::Servers(open))
    }

    fn new(model: Model, stores: Vec<Store>, home: Home) -> Self {
        Self {
            stores,
            turn: 0,
            model,
            home,
            now: START,
            kept: BTreeMap::new(),
            past: BTreeMap::new(),
            said: String::new(),
            seen: Seen::new(),
        }
    }

    pub(crate) fn run(mut self, steps: Vec<Step>) -> TestCaseResult {
        let places = ops::places();
        for (number, step) in steps.into_iter().enumerate() {
            let place = places[step.place].clone();
            self.now = step.later.than(self.now, &self.model);
            let moment = Moment { place: place.clone(), now: self.now };
            self.said += &format!("\n{number}. at {} ms in {}/{}: ", self.now, place.0, place.1);
            let (before, position) = (self.model.tenants.clone(), self.store().position().unwrap());
            let outcome = self.act(step.act, &moment).and_then(|()| {
                // What one did, the next sees.
                self.turn += 1;
                self.compare(&place, number)
            });
            let outcome = outcome
                .and_then(|()| compare::changes(self.store(), &position, &before, &self.model.tenants));
            outcome.map_err(|error| TestCaseError::fail(format!("{}\n{error}", self.said)))?;
            self.past.insert(self.model.commit, self.model.tenants.clone());
        }
        let outcome = self.past.iter().try_for_each(|(commit, tenants)| {
            let (at, floor) = (At::Commit(Commit::new(*commit)), self.model.floor);
            tenants.iter().try_for_each(|(place, tenant)| match *commit < floor {
                true => compare::trimmed(self.store(), place, at, floor),
                false => compare::past(self.store(), place, at, tenant),
            })
        });
        outcome.map_err(|error| TestCaseError::fail(format!("{}\n{error}", self.said)))
    }

    fn store(&self) -> &Store {
        &self.stores[self.turn % self.stores.len()]
    }

    fn act(&mut self, act: Act, moment: &Moment) -> TestCaseResult {
        if !matches!(act, Act::Write { .. } | Act::DryRun { .. } | Act::WriteOnce { .. }) {
            self.said += &format!("{act:?}");
        }
        match act {
            Act::Write { wishes, end } => self.write(wishes, end, moment),
            Act::DryRun { wishes, end } => self.dry_run(wishes, end, moment),
            Act::WriteOnce { wishes, end, request: (id, body) } => {
                self.write_once(wishes, end, (REQUEST_IDS[id], BODIES[body]), moment)
            }
            Act::Sweep { budget, after } => self.sweep(budget, after),
            Act::RemoveScope { budget } => self.remove_scope(budget, moment),
            Act::Trim { back } => self.trim(back),
            Act::Reopen { quotas, compatibility } => self.reopen(quotas, compatibility),
        }
    }

    fn write(&mut self, wishes: Vec<Wish>, end: End, moment: &Moment) -> TestCaseResult {
        let ops = chosen(wishes, &self.model, moment, &mut self.seen);
        self.said += &format!("{end:?} {ops:?}");
        let observed = self
            .store()
            .write(&moment.request(), |txn| ops::script(&ops, end, |op| op.apply(txn, moment.now)));
        let observed = observed.map(|done| (done.value, done.commit.number(), done.changed));
        let made = observed.as_ref().map(|(_, commit, changed)| Some(*commit).filter(|_| *changed));
        self.be_told(made)?;
        let predicted = self.model.write(moment, |session| ops::script(&ops, end, |op| session.run(op)));
        let read = |done: &(_, u64, bool)| !done.2 && self.model.may_be_newest(done.1);
        let commit =
            observed.as_ref().ok().filter(|done| read(done)).map_or(self.model.commit, |done| done.1);
        let expected = predicted.value.map(|answers| (answers, commit, predicted.changed));
        same("(answers, commit, changed) of a write", &in_words(expected), &in_words(observed))
    }

    /// Takes the number of the commit that was made from what the store said, where the specification can't know it;
    /// or, if none was made, the number that it would have had.
    fn be_told(&mut self, made: Result<Option<u64>, &Error>) -> TestCaseResult {
        let number = match made {
            Ok(made) => made,
            // A version that was not there before is that of the transaction's own commit.
            Err(Error::PreconditionFailed { actual: Some(actual) }) => {
                Some(actual.version.number()).filter(|version| *version > self.model.commit)
            }
            Err(_) => None,
        };
        let Some(number) = number.filter(|_| self.model.numbers == Numbers::Told) else { return Ok(()) };
        let newest = self.model.commit;
        prop_assert!(newest < number && i64::try_from(number).is_ok(), "{number} comes after {newest}");
        self.model.next = number;
        Ok(())
    }

    fn dry_run(&mut self, wishes: Vec<Wish>, end: End, moment: &Moment) -> TestCaseResult {
        let ops = chosen(wishes, &self.model, moment, &mut self.seen);
        self.said += &format!("dry run, {end:?} {ops:?}");
        let observed = self
            .store()
            .dry_run(&moment.request(), |txn| ops::script(&ops, end, |op| op.apply(txn, moment.now)));
        let would_be = observed.as_ref().map(|told| told.changes.iter().find_map(version));
        self.be_told(would_be)?;
        let predicted = self.model.dry_run(moment, |session| ops::script(&ops, end, |op| session.run(op)));
        let observed = observed.map(|told| told.value);
        same("the answers of a dry run", &in_words(predicted), &in_words(observed))
    }

    fn write_once(
        &mut self,
        wishes: Vec<Wish>,
        end: End,
        (id, body): (Name, Name),
        moment: &Moment,
    ) -> TestCaseResult {
        let ops = chosen(wishes, &self.model, moment, &mut self.seen);
        self.said += &format!("once, {id}, {body}, {end:?} {ops:?}");
        let request_id = id.parse().unwrap();
        let observed = self.store().write_once(&moment.request(), &request_id, body.as_bytes(), |txn| {
            let answers = ops::script(&ops, end, |op| op.apply(txn, moment.now))?;
            Ok(format!("{answers:?}"))
        });
        let observed = observed.map(|done| Once {
            value: done.value,
            commit: done.commit.number(),
            changed: done.changed,
            replayed: done.replayed,
        });
        let made = observed.as_ref().map(|once| Some(once.commit).filter(|_| !once.replayed));
        self.be_told(made)?;
        let predicted = self.model.write_once(moment, (id, body), |session| {
            let answers = ops::script(&ops, end, |op| session.run(op))?;
            Ok(format!("{answers:?}"))
        });
        same("what a repeatable request answers", &in_words(predicted), &in_words(observed))
    }

    /// The numbers of the commits behind a position that changed records.
    fn changed_since(&self, position: &Position) -> Vec<u64> {
        let changes = self.store().changes(Some(position), Limit::MAX).unwrap();
        changes.commits.iter().map(|commit| commit.info.commit.number()).collect()
    }

    /// So many commits were made behind a position, and some of them changed a record.
    fn advance(&mut self, position: &Position, made: u64, changed: u64) -> Result<Vec<u64>, TestCaseError> {
        let numbers = self.changed_since(position);
        same("the number of commits that changed records", &changed, &(numbers.len() as u64))?;
        let former = self.model.commit;
        let grows = numbers.first().is_none_or(|first| *first > former) && numbers.is_sorted_by(|a, b| a < b);
        prop_assert!(grows, "{numbers:?} come after {former}");
        match self.model.numbers {
            Numbers::Counted => {
                self.model.advance(former + 1..=former + made);
                let newest = self.model.commit;
                prop_assert!(numbers.last().is_none_or(|last| *last <= newest), "{numbers:?} up to {newest}");
            }
            Numbers::Told => self.model.advance(numbers.iter().copied()),
        }
        Ok(numbers)
    }

    /// Sweeps to the end in calls of a small budget. In which order the keys of a scope come is left
    /// open, and so which of them has which version.
    fn sweep(&mut self, budget: usize, after: Option<usize>) -> TestCaseResult {
        let mut places = ops::places();
        places.sort_by_key(place_rank);
        let first = after.map_or(0, |index| index + 1);
        let position = self.store().position().unwrap();
        let swept = self.sweep_to_the_end(budget, after.map(|index| places[index].clone()))?;

        let mut predicted = (0, 0, 0);
        let mut versions = BTreeSet::new();
        for place in &places[first..] {
            let (due, expired) = self.model.sweep_finds(place, self.now);
            predicted.0 += due.len() as u64;
            predicted.1 += expired.len() as u64;
            predicted.2 += self.model.prune(place, usize::MAX, self.now.saturating_sub(DAY)) as u64;
            due.iter().for_each(|id| self.model.purge(place, *id, self.now));
            for id in expired {
                let version = self.key(place, id).map_or(0, |key| key.version);
                versions.insert(version);
                self.model.expire(place, id, self.now, version);
            }
        }
        same("the numbers of keys purged, materials expired and outcomes pruned", &predicted, &swept)?;
        same("one version for each expired material", &predicted.1, &(versions.len() as u64))?;
        let changed = predicted.0 + predicted.1;
        let numbers = self.advance(&position, changed + predicted.2, changed)?;
        let new = versions.iter().all(|version| numbers.contains(version));
        prop_assert!(new, "{versions:?} are not all among {numbers:?}");
        Ok(())
    }

    fn sweep_to_the_end(
        &self,
        budget: usize,
        after: Option<Place>,
    ) -> Result<(u64, u64, u64), TestCaseError> {
        let now = Timestamp::from_millis(self.now);
        let mut total = (0, 0, 0);
        let mut after = after;
        // Each call of the smallest budget comes one key, one outcome or one scope further.
        for _ in 0..(KEY_IDS.len() + REQUEST_IDS.len() + 1) * PLACES.len() + 2 {
            let scope = after.as_ref().map(ops::scope);
            let swept = self.store().sweep(now, budget, scope.as_ref()).unwrap();
            let steps = swept.keys_purged + swept.materials_expired + swept.outcomes_pruned;
            prop_assert!(steps <= budget as u64, "{swept:?} is more than the budget of {budget}");
            total.0 += swept.keys_purged;
            total.1 += swept.materials_expired;
            total.2 += swept.outcomes_pruned;
            if swept.done {
                return Ok(total);
            }
            let further = swept.after.map(|scope| (scope.domain().to_string(), scope.project().to_string()));
            let (from, to) = (after.as_ref().map(place_rank), further.as_ref().map(place_rank));
            prop_assert!(to >= from, "the sweep went back from {after:?} to {further:?}");
            after = further;
        }
        Err(TestCaseError::fail("the sweep comes to no end"))
    }

    /// Which keys go first is left open: only how many.
    fn remove_scope(&mut self, budget: usize, moment: &Moment) -> TestCaseResult {
        let tenant = self.model.tenant(&moment.place);
        let ids: Vec<KeyId> = tenant.keys.keys().copied().collect();
        let predicted = (ids.len().min(budget) as u64, ids.len() + tenant.outcomes() <= budget);
        let position = self.store().position().unwrap();
        let removed = self.store().remove_scope(&moment.request(), budget).unwrap();
        same("(keys, done) of remove_scope", &predicted, &(removed.keys, removed.done))?;
        let steps_left = budget.saturating_sub(ids.len());
        let gone: Vec<KeyId> = ids.into_iter().filter(|id| self.key(&moment.place, *id).is_none()).collect();
        same("the number of keys that are gone", &predicted.0, &(gone.len() as u64))?;
        gone.iter().for_each(|id| self.model.purge(&moment.place, *id, moment.now));
        let pruned = self.model.prune(&moment.place, steps_left, u64::MAX) as u64;
        self.advance(&position, predicted.0 + pruned, predicted.0).map(drop)
    }

    /// Up to the end of a step, or rather the newest commit at or below it that changed a record; in how many
    /// commits is left open, but for none where there is nothing to trim.
    fn trim(&mut self, back: usize) -> TestCaseResult {
        let Some(to) = self.past.keys().copied().nth_back(back) else { return Ok(()) };
        let (floor, position) =
            (self.store().position_after(Commit::new(self.model.floor)), self.store().position().unwrap());
        let known = self.store().changes(Some(&floor), Limit::MAX).unwrap().commits;
        let gone: Vec<_> = known.iter().filter(|commit| commit.info.commit.number() <= to).collect();
        let times =
            gone.iter().flat_map(|commit| commit.changes.iter().map(|change| change.time.as_millis()));
        if let Some(last) = gone.last() {
            self.model.trim(last.info.commit.number(), times);
        }
        let trimmed = self.store().trim_history(Commit::new(to)).unwrap();
        same("the floor", &self.model.floor, &trimmed.number())?;
        let made = self.store().position().unwrap() != position;
        same("whether trimming made a commit", &!gone.is_empty(), &made)?;
        let before = self.store().changes(Some(&floor), Limit::MAX).map(drop);
        let is_behind = gone.is_empty();
        prop_assert!(is_behind || matches!(before, Err(Error::HistoryTrimmed { .. })), "{before:?}");
        let former = self.model.commit;
        if self.model.numbers == Numbers::Counted {
            let newest = self.store().read(&ops::scope(&ops::places()[0]), |snap| Ok(snap.commit())).unwrap();
            self.model.advance(former + 1..=newest.number());
        }
        Ok(())
    }

    /// A store in memory goes on; another one is closed and opened with other quotas.
    fn reopen(&mut self, quotas: Quotas, compatibility: Compatibility) -> TestCaseResult {
        if matches!(self.home, Home::Memory) {
            return Ok(());
        }
        if let Home::File { folder, .. } = &self.home {
            // It would wait for a second, in each of these many steps.
            let hasty = options(&self.model.policy, CHECKPOINT_BYTES).lock_wait(Duration::from_millis(10));
            let held = hasty.open(folder.path().join("store"));
            prop_assert!(
                matches!(held, Err(Error::AlreadyOpen(_))),
                "a store that is open: {:?}",
                held.err()
            );
        }
        let nodes = self.stores.len();
        self.stores.clear();
        self.model.policy.quotas = quotas;
        self.model.policy.compatibility = compatibility;
        let other = match self.model.policy.alias_scope {
            AliasScope::Project => AliasScope::Domain,
            AliasScope::Domain => AliasScope::Project,
        };
        let checkpoint_bytes = match self.home {
            Home::File { checkpoint_bytes, .. } => checkpoint_bytes,
            Home::Memory | Home::Servers(_) => CHECKPOINT_BYTES,
        };
        let right = options(&self.model.policy, checkpoint_bytes);
        let open = |options: &Options| match &self.home {
            Home::File { folder, .. } => options.open(folder.path().join("store")),
            Home::Servers(open) => open(options),
            Home::Memory => unreachable!("it is not closed"),
        };
        for wrong in [right.clone().alias_scope(other), right.clone().region("elsewhere".parse().unwrap())] {
            let refused = open(&wrong);
            prop_assert!(matches!(refused, Err(Error::OptionsMismatch { .. })), "{:?}", refused.err());
        }
        self.stores = (0..nodes).map(|_| open(&right).unwrap()).collect();
        Ok(())
    }

    fn key(&self, place: &Place, id: KeyId) -> Option<Key> {
        let key = self.store().read(&ops::scope(place), |snap| snap.key(id));
        key.ok().map(|key| Key::from(&*key))
    }

    fn compare(&mut self, place: &Place, step: usize) -> TestCaseResult {
        let store = &self.stores[self.turn % self.stores.len()];
        let kept = self.kept.entry(place.clone()).or_default();
        kept.extend(compare::everything(store, &self.model, place, step, kept)?);
        let too_many = kept.len().saturating_sub(KEPT);
        kept.drain(..too_many);
        for other in self.model.tenants.keys().filter(|other| *other != place) {
            compare::untouched(store, &self.model, other, &self.kept[place])?;
        }
        compare::whole(store, &self.model, step)
    }
}

/// The version of a record that a change left.
fn version(change: &Change) -> Option<u64> {
    match &change.images {
        Images::Key { after, .. } => after.as_ref().map(|key| key.version.number()),
        Images::Alias { after, .. } => after.as_ref().map(|alias| alias.version.number()),
    }
}

fn options(policy: &Policy, checkpoint_bytes: usize) -> Options {
    Options::new()
        .wal_bytes(Options::WAL_BYTES_MIN)
        .checkpoint_bytes(checkpoint_bytes)
        .alias_scope(policy.alias_scope)
        .compatibility(policy.compatibility)
        .quotas(policy.quotas)
        .region(policy.region.parse().unwrap())
        .run_closures_twice(true)
}

fn chosen(wishes: Vec<Wish>, model: &Model, moment: &Moment, seen: &mut Seen) -> Vec<Op> {
    let chosen = model
        .dry_run(moment, |session| Ok(wishes.into_iter().map(|wish| session.choose(wish, seen)).collect()));
    chosen.unwrap()
}

fn in_words<T>(result: Result<T, Error>) -> Result<T, String> {
    result.map_err(|error| format!("{error:?}"))
}

/// What the specification alone answers to these steps: for each operation its name and the
/// refusal, or whether it changed anything.
pub(crate) fn outcomes(policy: Policy, steps: Vec<Step>) -> BTreeSet<(String, String)> {
    let places = ops::places();
    let mut model = Model::new(policy, &places);
    let mut now = START;
    let mut seen = Seen::new();
    let mut met = BTreeSet::new();
    for step in steps {
        now = step.later.than(now, &model);
        let moment = Moment { place: places[step.place].clone(), now };
        let Act::Write { wishes, .. } = step.act else { continue };
        for op in chosen(wishes, &model, &moment, &mut seen) {
            let done = model.write(&moment, |session| session.run(&op));
            let end = match done.value {
                Ok(_) if done.changed => "changed".to_owned(),
                Ok(_) => "unchanged".to_owned(),
                Err(refusal) => first_word(&refusal),
            };
            met.insert((first_word(&op), end));
        }
    }
    met
}

fn first_word(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    text.chars().take_while(char::is_ascii_alphanumeric).collect()
}

fn quotas() -> impl Strategy<Value = Quotas> {
    let quotas = (3..=5_u64, 2..=3_usize, 1..=2_usize);
    quotas.prop_map(|(keys_per_project, aliases_per_key, tags_per_key)| Quotas {
        keys_per_project,
        aliases_per_key,
        tags_per_key,
    })
}

fn compatibility() -> impl Strategy<Value = Compatibility> {
    prop_oneof![Just(Compatibility::Any), Just(Compatibility::SameUsage)]
}

pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let alias_scope = prop_oneof![Just(AliasScope::Project), Just(AliasScope::Domain)];
    (alias_scope, compatibility(), quotas()).prop_map(|(alias_scope, compatibility, quotas)| Policy {
        alias_scope,
        compatibility,
        quotas,
        region: REGION,
    })
}

/// Days, so that what is due is due exactly then, and sometimes a millisecond more or less.
fn later() -> impl Strategy<Value = Later> {
    let days = prop_oneof![8 => Just(0), 6 => 1..=3_i64, 4 => 7..=8_i64, 1 => Just(1096), 3 => -3..=-1_i64];
    let more = prop_oneof![6 => Just(0), 1 => Just(1), 1 => Just(-1)];
    (days, more).prop_map(|(days, more)| Later::By(days * DAY.cast_signed() + more))
}

fn closure() -> BoxedStrategy<(Vec<Wish>, End)> {
    let end = prop_oneof![5 => Just(End::Propagate), 4 => Just(End::Swallow), 1 => Just(End::Abort)];
    prop_oneof![
        2 => ops::wish().prop_map(|wish| (vec![wish], End::Propagate)),
        1 => (vec(ops::wish(), 0..=6), end),
    ]
    .boxed()
}

pub(crate) fn steps(reopens: bool) -> impl Strategy<Value = Vec<Step>> {
    let rest = vec(step(reopens), 1..60);
    (first_keys(), rest).prop_map(|(first, rest)| std::iter::once(first).chain(rest).collect())
}

/// Any step but the first.
fn step(reopens: bool) -> BoxedStrategy<Step> {
    let after = proptest::option::weighted(0.3, 0..PLACES.len());
    let reopen = (quotas(), compatibility());
    let request = (0..REQUEST_IDS.len(), prop_oneof![4 => Just(0_usize), 1 => Just(1)]);
    let act = prop_oneof![
        90 => closure().prop_map(|(wishes, end)| Act::Write { wishes, end }),
        3 => closure().prop_map(|(wishes, end)| Act::DryRun { wishes, end }),
        6 => (closure(), request).prop_map(|((wishes, end), request)| Act::WriteOnce { wishes, end, request }),
        1 => (0..6_usize).prop_map(|back| Act::Trim { back }),
        4 => (1..=4_usize, after).prop_map(|(budget, after)| Act::Sweep { budget, after }),
        1 => (1..=4_usize).prop_map(|budget| Act::RemoveScope { budget }),
        if reopens { 8 } else { 0 } => reopen.prop_map(|(quotas, compatibility)| Act::Reopen { quotas, compatibility }),
    ]
    .boxed();
    let place = || prop_oneof![12 => Just(0_usize), 3 => Just(1), 1 => Just(2)];
    let step = (later(), place(), act).prop_map(|(later, place, act)| Step { later, place, act });

    let looks = |kind: BoxedStrategy<Op>| {
        let wish = vec(kind, 1..=16).prop_map(Wish);
        wish.prop_map(|wish| Act::Write { wishes: vec![wish], end: End::Propagate }).boxed()
    };
    let act = prop_oneof![
        looks(ops::purge()),
        looks(ops::material_expired()),
        (1..=4_usize).prop_map(|budget| Act::Sweep { budget, after: None }),
    ];
    let event = (prop_oneof![3 => Just(0_i64), 1 => Just(-1), 1 => Just(1)], place(), act.boxed());
    let event = event.prop_map(|(millis, place, act)| Step { later: Later::AtNextEvent(millis), place, act });
    prop_oneof![9 => step.boxed(), 1 => event.boxed()].boxed()
}

/// Keys to begin with: most operations need one, and many need two that differ.
fn first_keys() -> BoxedStrategy<Step> {
    let wishes = vec(vec(ops::create(), 1..=16).prop_map(Wish), 0..=4);
    let act = wishes.prop_map(|wishes| Act::Write { wishes, end: End::Swallow });
    act.prop_map(|act| Step { later: Later::By(0), place: 0, act }).boxed()
}

/// The run that bytes stand for: each two are the seed of the policy, of the first keys, or of a step. So whoever
/// changes, repeats or leaves out some of them does that to steps.
pub(crate) fn run_bytes(data: &[u8]) -> TestCaseResult {
    fn from_seed<T>(seed: [u8; 2], strategy: &impl Strategy<Value = T>) -> T {
        let seed: Vec<u8> = seed.into_iter().cycle().take(32).collect();
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(Config::default(), random);
        strategy.new_tree(&mut runner).expect("no strategy here refuses a value").current()
    }
    let mut seeds = data.as_chunks().0.iter().copied();
    let (Some(of_policy), Some(of_keys)) = (seeds.next(), seeds.next()) else { return Ok(()) };
    let step = step(false);
    let first = from_seed(of_keys, &first_keys());
    let rest = seeds.take(BYTES_STEPS_MAX).map(|seed| from_seed(seed, &step));
    Pair::in_memory(from_seed(of_policy, &policy())).run(std::iter::once(first).chain(rest).collect())
}
