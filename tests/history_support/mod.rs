//! What the tests of the history share: random runs, and the memory of every state that they left.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part; unwrap is fine in tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use keystead::{
    After, Alias, AliasRecord, Commit, Description, Error, KeyAlias, KeyFilter, KeyId, KeyRecord, Limit,
    NewKey, Origin, PendingDays, Request, RequestId, Result, RotationInterval, Scope, Store, TagKey,
    TagValue, Tags, Timestamp, Transaction,
};
use proptest::prelude::*;

pub(crate) const DAY: u64 = 24 * 60 * 60 * 1000;
pub(crate) const START: u64 = 1_700_000_000_000;
pub(crate) const KEYS: u8 = 4;
const KEY_ALIASES: u8 = 5;
/// The first two pairs share a URN name each, and so a history.
const ALIASES: [&str; 6] = ["x", "alias/x", "y", "alias/y", "z", "alias/alias/z"];

pub(crate) fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

pub(crate) fn limit(items: usize) -> Limit {
    Limit::new(items).unwrap()
}

pub(crate) fn alias(name: &str) -> Alias {
    name.parse().unwrap()
}

pub(crate) fn key_alias(name: &str) -> KeyAlias {
    name.parse().unwrap()
}

pub(crate) fn request_id(number: u64) -> RequestId {
    format!("00000000-0000-0000-0000-{number:012}").parse().unwrap()
}

pub(crate) fn key_id(key: u8) -> KeyId {
    KeyId::from_bytes([key + 1; 16])
}

/// Two projects of one domain, and one of another that is named alike.
pub(crate) fn scopes() -> Vec<Scope> {
    let scope = |domain, project| Scope::new(domain, project).unwrap();
    vec![scope("one", "first"), scope("one", "second"), scope("3bab8e245e854f68af5967c00dd43127", "first")]
}

pub(crate) fn all_aliases() -> Vec<Alias> {
    ALIASES.iter().map(|name| alias(name)).collect()
}

/// The default key of a scope has the last.
pub(crate) fn all_key_ids() -> Vec<KeyId> {
    (0..=KEYS).map(key_id).collect()
}

/// Asserts that a store keeps every invariant.
pub(crate) fn assert_clean(store: &Store) {
    let report = store.verify().unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    CreateKey { key: u8, name: u8, aliases: Vec<u8>, external: bool },
    EnsureDefault,
    Rename { key: u8, name: u8 },
    SwapNames { one: u8, other: u8 },
    CreateAlias { alias: u8, key: u8 },
    Associate { alias: u8, key: u8 },
    SwapAliases { one: u8, other: u8 },
    DeleteAliases { key: u8, aliases: Vec<u8> },
    Describe { key: u8, text: u8 },
    SetTag { key: u8, tag: u8, value: u8 },
    RemoveTag { key: u8, tag: u8 },
    State { key: u8, to: u8 },
    Rotation { key: u8, what: u8 },
    Material { key: u8, imported: bool, days: u8 },
    Schedule { key: u8 },
    Purge { key: u8 },
    Revert { back: u64 },
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Some operations in one commit.
    Write { scope: usize, ops: Vec<Op> },
    /// One operation in a repeatable request: if it is refused, the commit changes no record.
    Once { scope: usize, op: Op },
    /// A key is scheduled for deletion and purged when it is due.
    Erase { scope: usize, key: u8 },
    /// What a timer does.
    Sweep,
    /// A tenant goes.
    RemoveScope { scope: usize },
}

/// How the clock goes before a step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tick {
    Forward(u64),
    Back(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..KEYS;
    let name = || 0..KEY_ALIASES;
    let alias = || 0..u8::try_from(ALIASES.len()).unwrap();
    prop_oneof![
        8 => (key(), name(), prop::collection::vec(alias(), 0..3), any::<bool>())
            .prop_map(|(key, name, aliases, external)| Op::CreateKey { key, name, aliases, external }),
        1 => Just(Op::EnsureDefault),
        3 => (key(), name()).prop_map(|(key, name)| Op::Rename { key, name }),
        4 => (key(), key()).prop_map(|(one, other)| Op::SwapNames { one, other }),
        5 => (alias(), key()).prop_map(|(alias, key)| Op::CreateAlias { alias, key }),
        8 => (alias(), key()).prop_map(|(alias, key)| Op::Associate { alias, key }),
        6 => (alias(), alias()).prop_map(|(one, other)| Op::SwapAliases { one, other }),
        3 => (key(), prop::collection::vec(alias(), 1..2))
            .prop_map(|(key, aliases)| Op::DeleteAliases { key, aliases }),
        2 => (key(), 0..3_u8).prop_map(|(key, text)| Op::Describe { key, text }),
        2 => (key(), 0..2_u8, 0..2_u8).prop_map(|(key, tag, value)| Op::SetTag { key, tag, value }),
        1 => (key(), 0..2_u8).prop_map(|(key, tag)| Op::RemoveTag { key, tag }),
        3 => (key(), 0..6_u8).prop_map(|(key, to)| Op::State { key, to }),
        1 => (key(), 0..3_u8).prop_map(|(key, what)| Op::Rotation { key, what }),
        1 => (key(), any::<bool>(), 0..3_u8)
            .prop_map(|(key, imported, days)| Op::Material { key, imported, days }),
        1 => key().prop_map(|key| Op::Schedule { key }),
        1 => key().prop_map(|key| Op::Purge { key }),
        6 => (0..2_u64).prop_map(|back| Op::Revert { back }),
    ]
}

fn step() -> impl Strategy<Value = (Step, Tick)> {
    let scope = || prop_oneof![4 => Just(0_usize), 2 => Just(1), 1 => Just(2)];
    let step = prop_oneof![
        60 => (scope(), prop::collection::vec(op(), 1..7))
            .prop_map(|(scope, ops)| Step::Write { scope, ops }),
        6 => (scope(), op()).prop_map(|(scope, op)| Step::Once { scope, op }),
        4 => (scope(), 0..KEYS).prop_map(|(scope, key)| Step::Erase { scope, key }),
        2 => Just(Step::Sweep),
        1 => scope().prop_map(|scope| Step::RemoveScope { scope }),
    ];
    let tick = prop_oneof![
        6 => (0..1000_u64).prop_map(Tick::Forward),
        1 => (0..10 * DAY).prop_map(Tick::Forward),
        2 => (0..10 * DAY).prop_map(Tick::Back),
    ];
    (step, tick)
}

/// A random run.
pub(crate) fn steps(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<(Step, Tick)>> {
    prop::collection::vec(step(), length)
}

/// Every record of one scope, by plain reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Records {
    pub(crate) keys: BTreeMap<KeyId, Arc<KeyRecord>>,
    pub(crate) aliases: BTreeMap<Alias, Arc<AliasRecord>>,
}

/// Every record of every scope, after a commit.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    pub(crate) commit: Commit,
    /// The time of its request.
    pub(crate) time: u64,
    pub(crate) records: Vec<Records>,
}

pub(crate) fn records(store: &Store, scope: &Scope) -> Records {
    store
        .read(scope, |snap| {
            let keys = snap.keys_by_id(&KeyFilter::all(), After::Start, Limit::MAX)?.items;
            let aliases = snap.aliases(After::Start, Limit::MAX)?.items;
            Ok(Records {
                keys: keys.into_iter().map(|key| (key.key_id, key)).collect(),
                aliases: aliases.into_iter().map(|record| (record.alias.clone(), record)).collect(),
            })
        })
        .unwrap()
}

/// A store on which a random run is carried out, and what it was after each commit.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) now: u64,
    pub(crate) moments: Vec<Moment>,
    /// Told of each commit, when it is remembered.
    pub(crate) witness: Option<Box<dyn FnMut(Commit)>>,
    requests: u64,
}

impl World {
    pub(crate) fn new(store: Store) -> Self {
        let mut world = Self::empty(store);
        world.remember();
        world.fill();
        world
    }

    /// A world in which nothing is done or remembered yet.
    pub(crate) fn empty(store: Store) -> Self {
        Self { store, scopes: scopes(), now: START, moments: Vec::new(), witness: None, requests: 0 }
    }

    /// What is there from the beginning.
    pub(crate) fn fill(&mut self) {
        let create = |key: u8| Op::CreateKey { key, name: key, aliases: vec![2 * key], external: key == 0 };
        self.write(0, &[create(0), create(1), create(2)]);
    }

    pub(crate) fn newest(&self) -> Commit {
        self.moments.last().unwrap().commit
    }

    fn request(&self, scope: usize) -> Request {
        Request::new(&self.scopes[scope]).at(at(self.now)).actor("runner")
    }

    /// Remembers the present state, if there is a new commit. Nothing may have been missed.
    pub(crate) fn remember(&mut self) {
        let commit = self.store.position().unwrap().commit();
        if let Some(last) = self.moments.last() {
            assert!(commit <= Commit::new(last.commit.number() + 1), "a commit was missed");
            if last.commit == commit {
                return;
            }
        }
        let records = self.scopes.iter().map(|scope| records(&self.store, scope)).collect();
        self.moments.push(Moment { commit, time: self.now, records });
        if let Some(witness) = &mut self.witness {
            witness(commit);
        }
    }

    pub(crate) fn run(&mut self, steps: &[(Step, Tick)]) {
        for (step, tick) in steps {
            match tick {
                Tick::Forward(millis) => self.now += millis,
                Tick::Back(millis) => self.now -= millis,
            }
            self.step(step);
        }
    }

    pub(crate) fn step(&mut self, step: &Step) {
        match step {
            Step::Write { scope, ops } => self.write(*scope, ops),
            Step::Once { scope, op } => {
                self.requests += 1;
                let (id, newest) = (request_id(self.requests), self.newest());
                let request = self.request(*scope);
                let once = self.store.write_once(&request, &id, b"body", |txn| tolerant(txn, op, newest));
                assert!(!once.unwrap().replayed);
                self.remember();
            }
            Step::Erase { scope, key } => {
                self.write(*scope, &[Op::Schedule { key: *key }]);
                // Seven days later, or more where the clock is behind the key's last change.
                let scheduled = self.store.read(&self.scopes[*scope], |snap| snap.key(key_id(*key)));
                let due = scheduled.ok().and_then(|key| key.scheduled_deletion_at);
                self.now = due.map_or(self.now + 7 * DAY, |due| self.now.max(due.as_millis()));
                self.write(*scope, &[Op::Purge { key: *key }]);
            }
            Step::Sweep => {
                let mut after = None;
                loop {
                    let swept = self.store.sweep(at(self.now), 1, after.as_ref()).unwrap();
                    self.remember();
                    if swept.done {
                        break;
                    }
                    after = swept.after;
                }
            }
            Step::RemoveScope { scope } => {
                let request = self.request(*scope);
                while !self.store.remove_scope(&request, 1).unwrap().done {
                    self.remember();
                }
                self.remember();
            }
        }
    }

    fn write(&mut self, scope: usize, ops: &[Op]) {
        let newest = self.newest();
        let write = |txn: &mut Transaction<'_>| ops.iter().try_for_each(|op| tolerant(txn, op, newest));
        let request = self.request(scope);
        let dry = self.store.dry_run(&request, write).unwrap();
        let written = self.store.write(&request, write).unwrap();
        self.remember();
        assert_eq!(written.commit, self.newest());
        if self.store.history_floor().is_ok() {
            let position = self.store.position_after(newest);
            let commits = self.store.changes(Some(&position), Limit::MAX).unwrap().commits;
            let changes: Vec<_> = commits.into_iter().flat_map(|commit| commit.changes).collect();
            assert_eq!(changes, dry.changes, "a dry run told something else");
        }
    }
}

/// Carries out an operation; a refusal is no failure of the transaction.
fn tolerant(txn: &mut Transaction<'_>, op: &Op, newest: Commit) -> Result<()> {
    match apply(txn, op, newest) {
        Err(
            Error::NotRevertible(_)
            | Error::CommitNotFound(_)
            | Error::HistoryTrimmed { .. }
            | Error::HistoryDisabled,
        ) => Ok(()),
        Err(error) if error.api().is_some() => Ok(()),
        outcome => outcome,
    }
}

fn apply(txn: &mut Transaction<'_>, op: &Op, newest: Commit) -> Result<()> {
    let named = |number: &u8| alias(ALIASES[usize::from(*number)]);
    let key_named = |number: &u8| key_alias(&format!("name-{number}"));
    let tag = |number: &u8| TagKey::new(&format!("tag-{number}")).unwrap();
    match op {
        Op::CreateKey { key, name, aliases, external } => {
            let mut new = NewKey::new(key_named(name).as_str())?.id(key_id(*key));
            // The others are symmetric and can be rotated.
            if *external && *key == 0 {
                new = new.origin(Origin::External);
            }
            new.aliases = aliases.iter().map(named).collect();
            txn.create_key(&new).map(drop)
        }
        Op::EnsureDefault => txn.ensure_default_key(&NewKey::default_of("obs")?.id(key_id(KEYS))).map(drop),
        Op::Rename { key, name } => txn.rename_key_alias(key_id(*key), &key_named(name)).map(drop),
        Op::SwapNames { one, other } => txn.swap_key_aliases(key_id(*one), key_id(*other)).map(drop),
        Op::CreateAlias { alias, key } => txn.create_alias(&named(alias), key_id(*key)).map(drop),
        Op::Associate { alias, key } => txn.associate_alias(&named(alias), key_id(*key)).map(drop),
        Op::SwapAliases { one, other } => txn.swap_aliases(&named(one), &named(other)).map(drop),
        Op::DeleteAliases { key, aliases } => {
            txn.delete_aliases(key_id(*key), &aliases.iter().map(named).collect::<Vec<_>>())
        }
        Op::Describe { key, text } => {
            let text = Description::new(&format!("text {text}")).unwrap();
            txn.update_description(key_id(*key), &text).map(drop)
        }
        Op::SetTag { key, tag: of, value } => {
            let tags = Tags::from([(tag(of), TagValue::new(&format!("value-{value}")).unwrap())]);
            txn.set_tags(key_id(*key), &tags).map(drop)
        }
        Op::RemoveTag { key, tag: of } => txn.remove_tags(key_id(*key), &[tag(of)]).map(drop),
        Op::State { key, to } => change_state(txn, key_id(*key), *to),
        Op::Rotation { key, what: 0 } => {
            txn.enable_rotation(key_id(*key), RotationInterval::default()).map(drop)
        }
        Op::Rotation { key, what: 1 } => txn.record_rotation(key_id(*key)).map(drop),
        Op::Rotation { key, .. } => txn.disable_rotation(key_id(*key)).map(drop),
        Op::Material { key, imported: true, days } => {
            let expiry = (*days > 0).then(|| txn.time().plus_days(u16::from(*days)));
            txn.material_imported(key_id(*key), expiry).map(drop)
        }
        Op::Material { key, .. } => txn.material_deleted(key_id(*key)).map(drop),
        Op::Schedule { key } => txn.schedule_deletion(key_id(*key), PendingDays::new(7)?).map(drop),
        Op::Purge { key } => txn.purge(key_id(*key)).map(drop),
        Op::Revert { back } => txn.revert(Commit::new(newest.number().saturating_sub(*back))),
    }
}

fn change_state(txn: &mut Transaction<'_>, key: KeyId, to: u8) -> Result<()> {
    match to {
        0 => txn.enable(key).map(drop),
        1 => txn.disable(key).map(drop),
        2 => txn.freeze(key).map(drop),
        _ => txn.unfreeze(key).and(txn.cancel_deletion(key)).map(drop),
    }
}
