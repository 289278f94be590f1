//! [`Figures`]: what a page tells, gathered by reading the store once, in bounded memory.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use keystead::{
    AliasScope, Commit, Error, Images, KeyFilter, KeyId, KeyRecord, KeySpec, KeyState, Limit, Operation,
    Origin, Position, Region, Report as Verified, Scope, Snapshot, Store, Timestamp,
};

use super::tally::{Classes, DAY, First, Happened, Timeline};
use crate::failure::Failure;
use crate::location::{Location, PageCheck};
use crate::look::all_aliases;
use crate::progress::{Bar, watched};

/// How many keys are read at once.
const KEYS_AT_ONCE: usize = 200;
/// How many commits are taken at once: each may be 1 MiB long.
const COMMITS_AT_ONCE: usize = 100;

const ALIASES_OF_A_KEY: &[(u64, &str)] = &[
    (0, "none"),
    (1, "1"),
    (2, "2"),
    (4, "3 to 4"),
    (9, "5 to 9"),
    (19, "10 to 19"),
    (u64::MAX, "20 and more"),
];
const DAYS_LEFT: &[(u64, &str)] = &[
    (0, "due now"),
    (7, "within 7 days"),
    (30, "within 30 days"),
    (90, "within 90 days"),
    (u64::MAX, "later"),
];
const DAYS_OLD: &[(u64, &str)] = &[
    (29, "less than 30 days"),
    (89, "30 to 89 days"),
    (179, "90 to 179 days"),
    (364, "180 to 364 days"),
    (729, "1 to 2 years"),
    (u64::MAX, "2 years and more"),
];

/// A key in a table, and how many aliases it has.
pub(super) type Row = (Arc<KeyRecord>, u64);
/// Before which other key one stands whose number is the same.
type Place = (Scope, KeyId);

/// What a page tells.
pub(super) struct Figures {
    pub(super) now: Timestamp,
    /// The one scope, if it is not about the whole store.
    pub(super) scope: Option<Scope>,
    pub(super) position: Position,
    pub(super) region: Region,
    pub(super) alias_scope: AliasScope,
    /// The oldest and the newest commit at which something was read; they differ where others wrote meanwhile.
    pub(super) commits: (Commit, Commit),
    pub(super) scopes: u64,
    pub(super) keys: u64,
    pub(super) aliases: u64,
    pub(super) states: BTreeMap<KeyState, u64>,
    pub(super) specs: BTreeMap<KeySpec, u64>,
    pub(super) aliases_of_a_key: Classes,
    pub(super) most_aliases: First<(Reverse<u64>, Place), Row>,
    pub(super) days_left: Classes,
    pub(super) due: First<(Timestamp, Place), Row>,
    pub(super) rotation: Rotation,
    /// Projects, by how many keys count against their quota.
    pub(super) projects: First<(Reverse<u64>, Scope), (Scope, u64)>,
    pub(super) most: Most,
    pub(super) history: Option<History>,
    /// What could not be read, because it is damaged.
    pub(super) damage: First<u64, String>,
    pub(super) verified: Option<Verified>,
    /// What a look at the pages of the file found, if there was one.
    pub(super) pages: Option<PageCheck>,
}

/// How old the material of keys is that can be rotated.
pub(super) struct Rotation {
    pub(super) days_old: Classes,
    pub(super) oldest: First<(Timestamp, Place), Row>,
    pub(super) keys: u64,
    pub(super) enabled: u64,
    pub(super) never: u64,
    pub(super) overdue: u64,
}

/// The most that anything has of what has a quota.
#[derive(Default)]
pub(super) struct Most {
    pub(super) keys: u64,
    pub(super) aliases: u64,
    pub(super) tags: u64,
}

/// What the history tells.
pub(super) struct History {
    /// The newest commit of which it tells nothing any more.
    pub(super) floor: Commit,
    pub(super) commits: u64,
    pub(super) operations: BTreeMap<Operation, u64>,
    pub(super) timeline: Timeline,
    pub(super) happened: Happened,
}

/// What is asked of the store.
pub(super) struct Asked {
    pub(super) scope: Option<Scope>,
    pub(super) rows: usize,
    pub(super) verify: bool,
}

/// Since when a key's material is what it is: since it was last rotated, or else since the key was made.
pub(super) fn material_since(key: &KeyRecord) -> Timestamp {
    key.rotation.last_rotated_at.unwrap_or(key.created_at)
}

pub(super) fn days_between(earlier: Timestamp, later: Timestamp) -> u64 {
    later.as_millis().saturating_sub(earlier.as_millis()) / DAY
}

/// How many days are left, of which one that has begun counts.
pub(super) fn days_left(now: Timestamp, due: Timestamp) -> u64 {
    due.as_millis().saturating_sub(now.as_millis()).div_ceil(DAY)
}

/// Whether it was to be rotated before now.
pub(super) fn is_overdue(key: &KeyRecord, now: Timestamp) -> bool {
    key.rotation.enabled && material_since(key).plus_days(key.rotation.interval_days.days()) < now
}

/// Whether the material of a key can be rotated, and it is not going to be deleted.
fn can_rotate(key: &KeyRecord) -> bool {
    let kind = key.spec.is_symmetric() && key.origin == Origin::Kms && !key.default;
    kind && key.state != KeyState::PendingDeletion
}

impl Figures {
    pub(super) fn gather(location: &Location, asked: &Asked, now: Timestamp) -> Result<Self, Failure> {
        let pages = if asked.verify { location.check_pages()? } else { None };
        let store = &location.read()?;
        let mut figures = Self::none(store, asked, now, store.position()?);
        figures.pages = pages;
        figures.read_scopes(store)?;
        figures.read_history(store)?;
        if asked.verify {
            figures.verified = Some(watched(|| store.verify())?);
            let newest = store.position()?.commit();
            figures.commits.1 = figures.commits.1.max(newest);
        }
        Ok(figures)
    }

    fn none(store: &Store, asked: &Asked, now: Timestamp, position: Position) -> Self {
        let rows = asked.rows;
        Self {
            now,
            scope: asked.scope.clone(),
            position,
            region: store.region().clone(),
            alias_scope: store.alias_scope(),
            commits: (position.commit(), position.commit()),
            scopes: 0,
            keys: 0,
            aliases: 0,
            states: KeyState::ALL.iter().map(|state| (*state, 0)).collect(),
            specs: BTreeMap::new(),
            aliases_of_a_key: Classes::new(ALIASES_OF_A_KEY),
            most_aliases: First::new(rows),
            days_left: Classes::new(DAYS_LEFT),
            due: First::new(rows),
            rotation: Rotation {
                days_old: Classes::new(DAYS_OLD),
                oldest: First::new(rows),
                keys: 0,
                enabled: 0,
                never: 0,
                overdue: 0,
            },
            projects: First::new(rows),
            most: Most::default(),
            history: None,
            damage: First::new(rows),
            verified: None,
            pages: None,
        }
    }

    /// How much was found that is not as it should be.
    pub(super) fn findings(&self) -> u64 {
        let of = |verified: &Verified| verified.violations.len() as u64 + verified.violations_not_kept;
        let pages = matches!(self.pages, Some(PageCheck::Damaged(_)));
        self.verified.as_ref().map_or(0, of) + self.damage.seen() + u64::from(pages)
    }

    fn read_scopes(&mut self, store: &Store) -> Result<(), Failure> {
        let bar = Bar::new("reading", 0, "keys");
        if let Some(scope) = self.scope.clone() {
            return self.read_scope(store, &scope, &bar);
        }
        let mut after = None;
        loop {
            let page = match store.scopes(after.as_ref().into(), Limit::MAX) {
                Err(Error::Corrupted(what)) => {
                    self.damaged(format!("the list of scopes: {what}"));
                    return Ok(());
                }
                page => page?,
            };
            page.items.iter().try_for_each(|scope| self.read_scope(store, scope, &bar))?;
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// A scope, in one snapshot. Of one that is damaged, what comes before the damage.
    fn read_scope(&mut self, store: &Store, scope: &Scope, bar: &Bar) -> Result<(), Failure> {
        match store.read(scope, |snap| self.read_keys(snap, bar)) {
            Err(Error::Corrupted(what)) => {
                self.damaged(format!("{}/{}: {what}", scope.domain(), scope.project()));
                Ok(())
            }
            read => Ok(read?),
        }
    }

    fn damaged(&mut self, what: String) {
        self.damage.see(self.damage.seen(), what);
    }

    fn read_keys(&mut self, snap: &Snapshot<'_>, bar: &Bar) -> Result<(), Error> {
        self.scopes += 1;
        self.commits.1 = self.commits.1.max(snap.commit());
        let in_quota = snap.count_keys_in_quota()?;
        self.most.keys = self.most.keys.max(in_quota);
        self.projects.see((Reverse(in_quota), snap.scope().clone()), (snap.scope().clone(), in_quota));
        let mut after = None;
        loop {
            let page =
                snap.keys_by_id(&KeyFilter::all(), after.as_ref().into(), Limit::new(KEYS_AT_ONCE)?)?;
            for key in &page.items {
                let aliases = all_aliases(snap, key)?.len() as u64;
                self.see_key(key, aliases, snap.scope());
            }
            bar.set(self.keys);
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    fn see_key(&mut self, key: &Arc<KeyRecord>, aliases: u64, scope: &Scope) {
        let (row, place) = ((Arc::clone(key), aliases), (scope.clone(), key.key_id));
        self.keys += 1;
        self.aliases += aliases;
        *self.states.entry(key.state).or_default() += 1;
        *self.specs.entry(key.spec).or_default() += 1;
        self.aliases_of_a_key.see(aliases);
        self.most.aliases = self.most.aliases.max(aliases);
        self.most.tags = self.most.tags.max(key.tags.len() as u64);
        if aliases > 1 {
            self.most_aliases.see((Reverse(aliases), place.clone()), row.clone());
        }
        if let Some(due) = key.scheduled_deletion_at {
            self.days_left.see(days_left(self.now, due));
            self.due.see((due, place.clone()), row.clone());
        }
        if can_rotate(key) {
            self.rotation.see(row, place, self.now);
        }
    }

    fn read_history(&mut self, store: &Store) -> Result<(), Failure> {
        let floor = match store.history_floor() {
            Err(Error::HistoryDisabled) => return Ok(()),
            floor => floor?,
        };
        let mut history = History::behind(floor);
        let read = history.read(store, self.scope.as_ref(), self.commits.1);
        self.history = Some(history);
        match read {
            Err(Error::Corrupted(what)) => {
                self.damaged(format!("history: {what}"));
                Ok(())
            }
            read => Ok(read?),
        }
    }
}

impl Rotation {
    fn see(&mut self, row: Row, place: Place, now: Timestamp) {
        let (key, _) = &row;
        let since = material_since(key);
        self.keys += 1;
        self.enabled += u64::from(key.rotation.enabled);
        self.never += u64::from(key.rotation.last_rotated_at.is_none());
        self.overdue += u64::from(is_overdue(key, now));
        self.days_old.see(days_between(since, now));
        self.oldest.see((since, place), row);
    }
}

impl History {
    fn behind(floor: Commit) -> Self {
        let (operations, timeline) = (BTreeMap::new(), Timeline::new());
        Self { floor, commits: 0, operations, timeline, happened: Happened::default() }
    }

    fn read(&mut self, store: &Store, scope: Option<&Scope>, newest: Commit) -> Result<(), Error> {
        let bar = Bar::new("reading the history", newest.number(), "commits");
        let mut position = store.position_after(self.floor);
        loop {
            let changes = store.changes(Some(&position), Limit::new(COMMITS_AT_ONCE)?)?;
            for record in &changes.commits {
                if record.info.commit > newest {
                    return Ok(());
                }
                if scope.is_some_and(|scope| *scope != record.info.scope) {
                    continue;
                }
                self.commits += 1;
                let mut happened = Happened::default();
                for change in &record.changes {
                    *self.operations.entry(change.operation).or_default() += 1;
                    *count_of(&change.images, &mut happened) += 1;
                }
                self.timeline.see(record.info.time, happened);
                self.happened.add(happened);
            }
            if changes.commits.is_empty() {
                return Ok(());
            }
            position = changes.position;
            bar.set(position.commit().number());
        }
    }
}

fn count_of<'a>(images: &Images, happened: &'a mut Happened) -> &'a mut u64 {
    match images {
        Images::Key { before: None, .. } => &mut happened.keys_made,
        Images::Key { after: None, .. } => &mut happened.keys_gone,
        Images::Alias { before: None, .. } => &mut happened.aliases_made,
        Images::Alias { after: None, .. } => &mut happened.aliases_gone,
        _ => &mut happened.changed,
    }
}
