//! What was before: the changes of one record, and its state at an earlier moment.
//!
//! Each change names the previous change of its record, so the entries of the log form one chain for
//! each record, from its row (or its tombstone) back to its first change. No index is written.

use std::sync::Arc;

use super::trim::restore_behind;
use super::{Rows, Snapshot, Transaction, read};
use crate::alias::{Alias, AliasRecord};
use crate::change::{Change, ChangeRecord, CommitRecord, Images, Previous};
use crate::error::{Error, Result};
use crate::format::{
    Floor, RecordId, Space, corrupted, decode_floor, decode_log_entry, decode_tombstone, encode_tombstone,
    log_place,
};
use crate::id::{Commit, KeyId};
use crate::key::KeyRecord;
use crate::page::{After, Cursor, InvalidCursor, Limit, Page};
use crate::time::Timestamp;

/// A moment in the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// After this commit.
    Commit(Commit),
    /// At this time, by the times of the record's own changes: after the last one that is not later.
    Time(Timestamp),
}

/// Whose history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryOf<'a> {
    /// That of the key with this id.
    Key(KeyId),
    /// That of the alias with this URN name: `x` and `alias/x` are never there together and have one
    /// history.
    Alias(&'a Alias),
}

/// In which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The last change first. A page costs its length.
    #[default]
    NewestFirst,
    /// The first change first. A page costs the length of the record's history.
    OldestFirst,
}

impl HistoryOf<'_> {
    fn record(self) -> RecordId {
        match self {
            Self::Key(key_id) => RecordId::Key(key_id),
            Self::Alias(alias) => RecordId::Alias(alias.urn_name().to_owned()),
        }
    }

    fn not_found(self) -> Error {
        match self {
            Self::Key(key_id) => Error::key_not_found(key_id),
            Self::Alias(alias) => Error::alias_not_found(alias),
        }
    }
}

/// A record at some moment.
#[derive(Clone)]
enum Image {
    Key(Arc<KeyRecord>),
    Alias(Arc<AliasRecord>),
}

impl Image {
    fn before(images: &Images) -> Option<Self> {
        match images {
            Images::Key { before, .. } => before.clone().map(Self::Key),
            Images::Alias { before, .. } => before.clone().map(Self::Alias),
        }
    }
}

/// The newest change of a record: its place, and the record after it.
struct Head {
    change: Previous,
    image: Option<Image>,
}

pub(super) fn must_have_history(rows: &impl Rows) -> Result<()> {
    if rows.place().policy.history { Ok(()) } else { Err(Error::HistoryDisabled) }
}

pub(super) fn floor(rows: &impl Rows) -> Result<Floor> {
    let row = Space::of_store().floor();
    Ok(rows.read(&row, |stored| decode_floor(&row, stored.bytes))?.unwrap_or_default())
}

/// Whether a commit of this number was lost when the store was restored from an earlier state, if there
/// ever was one.
pub(crate) fn was_lost(snap: &Snapshot<'_>, commit: Commit) -> Result<bool> {
    let next = restore_behind(&*snap.rows, commit)?;
    Ok(next.is_some_and(|restore| commit > restore.last))
}

/// The entry of a commit that a record's chain leads to.
fn entry(rows: &impl Rows, commit: Commit, floor: Floor) -> Result<CommitRecord> {
    if commit <= floor.commit {
        return Err(Error::HistoryTrimmed { floor: floor.commit });
    }
    let bytes = rows.log_bytes(commit)?;
    let missing = || corrupted(&log_place(commit), "it is missing");
    let entry = bytes.ok_or_else(missing).and_then(|bytes| decode_log_entry(commit, &bytes));
    entry.map_err(|error| rows.met(error))
}

/// The changes that an entry made to a record, each with its index.
fn changes_of<'a>(entry: &'a CommitRecord, rows: &impl Rows, record: &RecordId) -> Vec<(usize, &'a Change)> {
    if entry.info.scope != *rows.place().scope {
        return Vec::new();
    }
    let changes = entry.changes.iter().enumerate();
    changes.filter(|(_, change)| RecordId::of(&change.images) == *record).collect()
}

/// The change of a record from which the chain goes on to earlier ones.
fn first_change<'a>(entry: &'a CommitRecord, rows: &impl Rows, record: &RecordId) -> Result<&'a Change> {
    let first = changes_of(entry, rows, record).first().map(|(_, change)| *change);
    first.ok_or_else(|| {
        corrupted(&log_place(entry.info.commit), "it does not have the change that it must have")
    })
}

fn head(rows: &impl Rows, record: &RecordId) -> Result<Option<Head>> {
    let image = match record {
        RecordId::Key(key_id) => read::find_key(rows, *key_id)?.map(|key| Image::Key(Arc::new(key))),
        RecordId::Alias(urn_name) => {
            read::alias_by_urn_name(rows, urn_name)?.map(|alias| Image::Alias(Arc::new(alias)))
        }
    };
    let change = match &image {
        Some(Image::Key(key)) => Some(Previous::from(&**key)),
        Some(Image::Alias(alias)) => Some(Previous::from(&**alias)),
        None => tombstone(rows, record)?,
    };
    Ok(change.map(|change| Head { change, image }))
}

fn tombstone(rows: &impl Rows, record: &RecordId) -> Result<Option<Previous>> {
    let row = Space::tombstone(rows.place().scope, record);
    rows.read(&row, |stored| {
        let time = decode_tombstone(&row, stored.bytes)?;
        Ok(Previous { commit: stored.commit, time })
    })
}

/// A record as it was; `None` if it was not there.
fn image_at(rows: &Snapshot<'_>, record: &RecordId, at: At) -> Result<Option<Image>> {
    must_have_history(rows)?;
    let floor = floor(rows)?;
    let trimmed = Err(Error::HistoryTrimmed { floor: floor.commit });
    match at {
        At::Commit(commit) if commit > rows.newest() => return Err(Error::CommitNotFound(commit)),
        At::Commit(commit) if commit < floor.commit => return trimmed,
        At::Commit(commit) if was_lost(rows, commit)? => return Err(Error::CommitNotFound(commit)),
        _ => {}
    }
    let mut place = head(rows, record)?;
    while let Some(Head { change, image }) = place {
        let reached = match at {
            At::Commit(commit) => change.commit <= commit,
            At::Time(time) => change.time <= time,
        };
        if reached {
            return Ok(image);
        }
        let entry = entry(rows, change.commit, floor)?;
        let first = first_change(&entry, rows, record)?;
        place = first.previous.map(|change| Head { change, image: Image::before(&first.images) });
    }
    // It was never there before, unless that was trimmed.
    match at {
        At::Time(time) if time < floor.time => trimmed,
        _ => Ok(None),
    }
}

fn alias_at(rows: &Snapshot<'_>, alias: &Alias, at: At) -> Result<Arc<AliasRecord>> {
    let record = RecordId::Alias(alias.urn_name().to_owned());
    match image_at(rows, &record, at)? {
        Some(Image::Alias(found)) if found.alias == *alias => Ok(found),
        _ => Err(Error::alias_not_found(alias)),
    }
}

fn key_at(rows: &Snapshot<'_>, key_id: KeyId, at: At) -> Result<Arc<KeyRecord>> {
    match image_at(rows, &RecordId::Key(key_id), at)? {
        Some(Image::Key(key)) => Ok(key),
        _ => Err(Error::key_not_found(key_id)),
    }
}

/// What was before. All of these fail with [`HistoryDisabled`](Error::HistoryDisabled) in a store
/// created without history.
impl Snapshot<'_> {
    /// The changes of a key or an alias, of a deleted one too, page by page. [`After::Item`] begins behind
    /// all changes of a commit: with earlier ones if the newest come first, otherwise with later ones. A
    /// page may end between two changes of one commit, where only its cursor goes on.
    ///
    /// ```
    /// use keystead::{After, Alias, HistoryOf, Limit, NewKey, Order, Request, Scope, Store};
    /// let store = Store::in_memory()?;
    /// let scope = Scope::new("domain", "project")?;
    /// let alias: Alias = "kms-1234".parse()?;
    /// let (old, new) = (NewKey::new("old")?.alias(alias.clone()), NewKey::new("new")?);
    /// let request = Request::new(&scope).actor("alice");
    /// store.write(&request, |txn| txn.create_key(&old))?;
    /// store.write(&request, |txn| txn.create_key(&new))?;
    /// store.write(&request, |txn| txn.associate_alias(&alias, new.key_id))?;
    /// let page = store.read(&scope, |snap| {
    ///     snap.history(HistoryOf::Alias(&alias), Order::NewestFirst, After::Start, Limit::default())
    /// })?;
    /// assert_eq!(page.items.len(), 2);
    /// assert_eq!(page.items[0].info.actor.as_deref(), Some("alice"));
    /// # Ok::<(), keystead::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`HistoryTrimmed`](Error::HistoryTrimmed) where the history goes on below what was trimmed: the
    /// newest first, the page behind the last that is there; the oldest first, the first page, unless
    /// `after` names the floor or a later commit. [`KeyNotFound`](Error::KeyNotFound) or
    /// [`AliasNotFound`](Error::AliasNotFound) if there never was such a record; where anything was
    /// trimmed, that can't be told, and it is [`HistoryTrimmed`](Error::HistoryTrimmed) too.
    /// [`InvalidCursor`](Error::InvalidCursor).
    pub fn history(
        &self,
        of: HistoryOf<'_>,
        order: Order,
        after: After<'_, Commit>,
        limit: Limit,
    ) -> Result<Page<ChangeRecord>> {
        must_have_history(self)?;
        let binding = self.history_binding(of, order);
        let after = match after {
            After::Start => None,
            After::Item(commit) => Some((*commit, None)),
            After::Cursor(cursor) => Some(read_place(cursor.last(&binding)?)?),
        };
        let floor = floor(self)?;
        let (record, Some(head)) = (of.record(), head(self, &of.record())?) else {
            // Where something was trimmed, this may have been there once.
            let trimmed = Error::HistoryTrimmed { floor: floor.commit };
            return Err(if floor == Floor::default() { of.not_found() } else { trimmed });
        };
        let found = match order {
            Order::NewestFirst => self.newest_first(&record, head.change.commit, after, floor, limit)?,
            Order::OldestFirst => self.oldest_first(&record, head.change.commit, after, floor, limit)?,
        };
        let (items, goes_on) = found;
        let last = items.last().map(|last: &ChangeRecord| (last.info.commit, last.index));
        let next = last.filter(|_| goes_on).map(|(commit, index)| {
            Cursor::new(&binding, &[commit.number().to_be_bytes().as_slice(), &index.to_be_bytes()].concat())
        });
        Ok(Page { items, next })
    }

    /// The record of an alias as it was, with the version that it had. The bytes of the name must be
    /// exactly those that it had then. It costs a look-up for each change of the alias since.
    ///
    /// # Errors
    ///
    /// [`AliasNotFound`](Error::AliasNotFound) if it was not there then,
    /// [`CommitNotFound`](Error::CommitNotFound) for a commit to come,
    /// [`HistoryTrimmed`](Error::HistoryTrimmed) for what can't be told any more.
    pub fn alias_at(&self, alias: &Alias, at: At) -> Result<Arc<AliasRecord>> {
        alias_at(self, alias, at)
    }

    /// A key as it was, with the version that it had.
    ///
    /// # Errors
    ///
    /// [`KeyNotFound`](Error::KeyNotFound) if it was not there then, and those of
    /// [`alias_at`](Self::alias_at).
    pub fn key_at(&self, key_id: KeyId, at: At) -> Result<Arc<KeyRecord>> {
        key_at(self, key_id, at)
    }

    /// The key that an alias named, as that key was then.
    ///
    /// # Errors
    ///
    /// Those of [`alias_at`](Self::alias_at). [`KeyNotFound`](Error::KeyNotFound) at a time when, by
    /// the times of its own changes, the key was not there: where the clocks of requests went back, key
    /// and alias may differ in that.
    pub fn resolve_at(&self, alias: &Alias, at: At) -> Result<Arc<KeyRecord>> {
        let record = alias_at(self, alias, at)?;
        match (key_at(self, record.key_id, at), at) {
            (Err(Error::KeyNotFound { .. }), At::Commit(_)) => {
                let row = self.place.space.alias(alias.urn_name());
                Err(corrupted(&row, "it named a key that was not there"))
            }
            (found, _) => found,
        }
    }

    fn history_binding(&self, of: HistoryOf<'_>, order: Order) -> Vec<u8> {
        // Behind the numbers of the lists.
        let mut binding = vec![match order {
            Order::NewestFirst => 6,
            Order::OldestFirst => 7,
        }];
        binding.extend(Space::tombstone(self.place.scope, &of.record()));
        binding
    }

    /// The changes before `after`, backwards along the chain, and whether it goes on.
    fn newest_first(
        &self,
        record: &RecordId,
        head: Commit,
        after: Option<(Commit, Option<u32>)>,
        floor: Floor,
        limit: Limit,
    ) -> Result<(Vec<ChangeRecord>, bool)> {
        let mut items = Vec::new();
        // A cursor's commit is a link of the chain, so the chain can be entered there; unless the cursor
        // is of another store.
        let start = match after {
            Some((commit, Some(_))) if commit <= head => {
                self.must_be_link(record, commit, floor)?;
                commit
            }
            _ => head,
        };
        let mut link = Some(start);
        while let Some(commit) = link {
            if commit <= floor.commit && !items.is_empty() {
                return Ok((items, true));
            }
            let entry = entry(self, commit, floor)?;
            for (index, change) in changes_of(&entry, self, record).into_iter().rev() {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                let behind = match after {
                    Some((last, Some(at))) => (commit, index) < (last, at),
                    Some((last, None)) => commit < last,
                    None => true,
                };
                if !behind {
                    continue;
                }
                if items.len() == limit.get() {
                    return Ok((items, true));
                }
                items.push(ChangeRecord { info: entry.info.clone(), index, change: change.clone() });
            }
            link = first_change(&entry, self, record)?.previous.map(|previous| previous.commit);
        }
        Ok((items, false))
    }

    fn must_be_link(&self, record: &RecordId, commit: Commit, floor: Floor) -> Result<()> {
        if commit <= floor.commit {
            return Ok(());
        }
        let bytes = self.log_bytes(commit)?;
        let entry = bytes.map(|bytes| decode_log_entry(commit, &bytes)).transpose()?;
        let is_link = entry.is_some_and(|entry| !changes_of(&entry, self, record).is_empty());
        if is_link { Ok(()) } else { Err(InvalidCursor::OfAnotherList.into()) }
    }

    /// The changes after `after`, forwards, and whether there are more.
    fn oldest_first(
        &self,
        record: &RecordId,
        head: Commit,
        after: Option<(Commit, Option<u32>)>,
        floor: Floor,
        limit: Limit,
    ) -> Result<(Vec<ChangeRecord>, bool)> {
        let mut links = Vec::new();
        let mut link = Some(head);
        while let Some(commit) = link {
            let reached = match after {
                Some((last, None)) => commit <= last,
                Some((last, Some(_))) => commit < last,
                None => false,
            };
            if reached {
                break;
            }
            let entry = entry(self, commit, floor)?;
            links.push(commit);
            link = first_change(&entry, self, record)?.previous.map(|previous| previous.commit);
        }
        let mut items = Vec::new();
        for commit in links.into_iter().rev() {
            let entry = entry(self, commit, floor)?;
            for (index, change) in changes_of(&entry, self, record) {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                if matches!(after, Some((last, Some(at))) if (commit, index) <= (last, at)) {
                    continue;
                }
                if items.len() == limit.get() {
                    return Ok((items, true));
                }
                items.push(ChangeRecord { info: entry.info.clone(), index, change: change.clone() });
            }
        }
        Ok((items, false))
    }
}

/// What a cursor of a history holds: the commit and index of the last change.
fn read_place(last: &[u8]) -> Result<(Commit, Option<u32>)> {
    let (commit, index) = last.split_first_chunk::<8>().ok_or(InvalidCursor::Malformed)?;
    let index = index.try_into().map_err(|_| InvalidCursor::Malformed)?;
    Ok((Commit::new(u64::from_be_bytes(*commit)), Some(u32::from_be_bytes(index))))
}

/// Noting what operations do.
impl Transaction<'_> {
    /// Notes what the present operation did to a record.
    pub(super) fn note(&mut self, images: Images, previous: Option<Previous>) -> Result<()> {
        if !self.place.policy.history {
            return Ok(());
        }
        let operation = self.operation.expect("only operations change records");
        let time = match &images {
            Images::Key { after: Some(key), .. } => key.updated_at,
            Images::Alias { after: Some(alias), .. } => alias.updated_at,
            _ => self.change_time(previous),
        };
        self.staging.note(Change { operation, time, previous, images })
    }

    /// Leaves a tombstone for a record that is deleted.
    pub(super) fn bury(&mut self, record: &RecordId, previous: Previous) -> Result<()> {
        if !self.place.policy.history {
            return Ok(());
        }
        let time = self.change_time(Some(previous));
        self.put_tombstone(record, time)
    }

    pub(super) fn put_tombstone(&mut self, record: &RecordId, time: Timestamp) -> Result<()> {
        self.put(Space::tombstone(self.place.scope, record), encode_tombstone(time))
    }

    /// Removes the tombstone of a record that is created. Tells of its deletion, and when it is created:
    /// not before that; and where the deletion may have been trimmed, not before anything that was.
    pub(super) fn rise(&mut self, record: &RecordId) -> Result<(Option<Previous>, Timestamp)> {
        if !self.place.policy.history {
            return Ok((None, self.now));
        }
        let previous = tombstone(self, record)?;
        if previous.is_none() {
            return Ok((None, self.now.max(floor(self)?.time)));
        }
        self.delete(Space::tombstone(self.place.scope, record))?;
        Ok((previous, self.change_time(previous)))
    }
}
