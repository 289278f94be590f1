//! The operations on any engine that keeps ordered bytes: redb, LMDB, fjall and RocksDB differ only in how
//! they read a row, commit some, and load many.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use keystead::{Alias, KeyId, NewKey};

use crate::peer::{
    ALIASES_PER_KEY, Answer, Move, Moved, Outcome, Peer, Place, Refusal, Resolved, Session, Settings,
};
use crate::record::{self, AliasValue, IMPORTED_AT_ONCE, Listed, PENDING_DELETION, Record};

/// The tables, in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// Key id to key record.
    Key = 0,
    /// Key alias to key id.
    KeyAlias = 1,
    /// Alias to alias record.
    Alias = 2,
    /// Key id to the names of its aliases.
    Names = 3,
    /// Commit to what it changed.
    History = 4,
    /// The newest commit, in a store without history.
    Newest = 5,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Key, Self::KeyAlias, Self::Alias, Self::Names, Self::History, Self::Newest];

    /// What it is called where tables have names.
    pub fn name(self) -> &'static str {
        ["key", "key_alias", "alias", "names", "history", "newest"][self as usize]
    }

    /// The table whose number begins this address.
    pub fn of(address: &[u8]) -> Self {
        Self::ALL[usize::from(address[0])]
    }
}

const ADDRESS_MAX: usize = 1 + 4 + 255;

/// Where a row is: the table's number, the scope's number, and a name or an id. On the stack.
pub struct Address {
    bytes: [u8; ADDRESS_MAX],
    length: usize,
}

impl Address {
    /// The row of a table of a scope.
    pub fn new(table: Table, place: Place, rest: &[u8]) -> Self {
        let mut bytes = [0; ADDRESS_MAX];
        bytes[0] = table as u8;
        bytes[1..5].copy_from_slice(&place.number().to_be_bytes());
        bytes[5..5 + rest.len()].copy_from_slice(rest);
        Self { bytes, length: 5 + rest.len() }
    }

    fn of_store(table: Table, rest: &[u8]) -> Self {
        let mut bytes = [0; ADDRESS_MAX];
        bytes[0] = table as u8;
        bytes[1..1 + rest.len()].copy_from_slice(rest);
        Self { bytes, length: 1 + rest.len() }
    }

    /// The row of a commit in the history.
    pub fn of_commit(commit: u64) -> Self {
        Self::of_store(Table::History, &commit.to_be_bytes())
    }

    /// The row of the newest commit.
    fn of_newest() -> Self {
        // LMDB has no rows without a name.
        Self::of_store(Table::Newest, &[0])
    }

    /// With the table's number before it.
    pub fn tagged(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Without it, for engines that have tables.
    pub fn bare(&self) -> &[u8] {
        &self.bytes[1..self.length]
    }

    /// The table.
    pub fn table(&self) -> Table {
        Table::of(&self.bytes)
    }
}

/// What a commit changes: tagged addresses, and values or `None` for rows that go.
pub type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Rows of one moment.
pub trait Rows {
    /// What the row holds, if it is there.
    fn with<T>(&self, address: &Address, read: impl FnOnce(&[u8]) -> T) -> Answer<Option<T>>;

    /// The rows of the table behind this address, without the table's number, until `each` says that it is
    /// enough.
    fn behind(&self, address: &Address, each: impl FnMut(&[u8], &[u8]) -> Answer<bool>) -> Answer<()>;

    /// The last row of the history.
    fn newest(&self) -> Answer<Option<u64>>;
}

/// Takes a row of a load.
pub type Put<'a> = &'a mut dyn FnMut(&Address, &[u8]) -> Answer<()>;

/// The rows of one table of a load, in order.
pub struct Stretch<'a> {
    /// No row of the load is before this one.
    pub first: Address,
    /// Gives them all.
    pub fill: &'a dyn Fn(Put<'_>) -> Answer<()>,
}

/// An engine that keeps ordered bytes.
pub trait Ordered: Send + Sync {
    /// The rows of one moment.
    type Rows<'a>: Rows
    where
        Self: 'a;

    /// Whether several threads may commit at once, and the engine groups them.
    const CONCURRENT: bool = false;

    /// The newest moment.
    fn rows(&self) -> Answer<Self::Rows<'_>>;

    /// Commits, durably.
    fn commit(&self, changes: &Changes) -> Answer<()>;

    /// Loads sorted rows where there are none.
    fn load(&self, stretches: &[Stretch<'_>]) -> Answer<()>;
}

/// How many locks concurrent writers share.
const STRIPES: usize = 1024;

/// The operations on such an engine.
pub struct OrderedPeer<E> {
    engine: E,
    history: bool,
    next_commit: AtomicU64,
    writer: Mutex<()>,
    alias_locks: Vec<Mutex<()>>,
    key_locks: Vec<Mutex<()>>,
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stripe(bytes: &[u8]) -> usize {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    usize::try_from(hash % STRIPES as u64).unwrap_or(0)
}

impl<E: Ordered> OrderedPeer<E> {
    /// On an engine that is open.
    pub fn new(engine: E, settings: Settings) -> Answer<Self> {
        let rows = engine.rows()?;
        let newest = if settings.history {
            rows.newest()?
        } else {
            let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes);
            rows.with(&Address::of_newest(), number)?.transpose()?
        };
        drop(rows);
        let locks = |count| (0..count).map(|_| Mutex::new(())).collect::<Vec<_>>();
        let stripes = if E::CONCURRENT { STRIPES } else { 0 };
        Ok(Self {
            engine,
            history: settings.history,
            next_commit: AtomicU64::new(newest.unwrap_or(0) + 1),
            writer: Mutex::new(()),
            alias_locks: locks(stripes),
            key_locks: locks(stripes),
        })
    }

    /// Stages what the commit leaves behind it.
    fn close(&self, staged: &mut Changes, commit: u64, entry: Vec<u8>) {
        let (address, value) = if self.history {
            (Address::of_commit(commit), entry)
        } else {
            (Address::of_newest(), commit.to_be_bytes().to_vec())
        };
        staged.insert(address.tagged().to_vec(), Some(value));
    }

    /// One move, staged upon what is staged already.
    fn stage(&self, rows: &E::Rows<'_>, staged: &mut Changes, wanted: &Move) -> Answer<Outcome> {
        let place = wanted.place;
        let mut staging = Staging { rows, staged };
        let name = wanted.alias.as_str();
        let alias_row = Address::new(Table::Alias, place, name.as_bytes());
        let before = staging.read(&alias_row, AliasValue::decode)?;
        let names_it = before.map(|before| KeyId::from_bytes(before.key_id));
        if wanted.expected.is_some_and(|expected| names_it != Some(expected)) {
            return Ok(Err(Refusal::Unexpected));
        }
        let (Some(before), Some(former)) = (before, names_it) else {
            return Ok(Err(Refusal::AliasNotFound));
        };
        let Some(target) = staging.key(place, *wanted.target.as_bytes())? else {
            return Ok(Err(Refusal::KeyNotFound));
        };
        if target.state == PENDING_DELETION {
            return Ok(Err(Refusal::PendingDeletion));
        }
        staging.key(place, before.key_id)?.ok_or("an alias names a key that is not there")?;
        if former == wanted.target {
            return Ok(Ok(Moved { former, changed: false }));
        }
        if !staging.link(place, wanted.target.as_bytes(), name)? {
            return Ok(Err(Refusal::Quota));
        }
        staging.unlink(place, &before.key_id, name)?;
        let commit = self.next_commit.fetch_add(1, Ordering::Relaxed);
        let after = AliasValue {
            key_id: target.key_id,
            updated_at: record::now().max(before.updated_at),
            version: commit,
            ..before
        };
        staging.staged.insert(alias_row.tagged().to_vec(), Some(after.encode()?));
        let entry =
            if self.history { record::entry_of_move(place, name, &before, &after)? } else { Vec::new() };
        self.close(staging.staged, commit, entry);
        Ok(Ok(Moved { former, changed: true }))
    }

    /// Under locks of what it reads, so that others commit meanwhile.
    fn associate_beside_others(&self, wanted: &Move) -> Answer<Outcome> {
        let _alias = lock(&self.alias_locks[stripe(wanted.alias.as_str().as_bytes())]);
        let alias_row = Address::new(Table::Alias, wanted.place, wanted.alias.as_str().as_bytes());
        let before = self.engine.rows()?.with(&alias_row, AliasValue::decode)?.transpose()?;
        let mut stripes: Vec<_> = before.iter().map(|before| stripe(&before.key_id)).collect();
        stripes.push(stripe(wanted.target.as_bytes()));
        stripes.sort_unstable();
        stripes.dedup();
        let _keys: Vec<_> = stripes.into_iter().map(|stripe| lock(&self.key_locks[stripe])).collect();
        let mut staged = Changes::new();
        let outcome = self.stage(&self.engine.rows()?, &mut staged, wanted)?;
        if !staged.is_empty() {
            self.engine.commit(&staged)?;
        }
        Ok(outcome)
    }
}

/// What a transaction reads: what it staged before, or else the engine's rows.
struct Staging<'a, R> {
    rows: &'a R,
    staged: &'a mut Changes,
}

impl<R: Rows> Staging<'_, R> {
    fn read<T>(&self, address: &Address, decode: impl FnOnce(&[u8]) -> Answer<T>) -> Answer<Option<T>> {
        if !self.staged.is_empty()
            && let Some(value) = self.staged.get(address.tagged())
        {
            return value.as_deref().map(decode).transpose();
        }
        self.rows.with(address, decode)?.transpose()
    }

    fn key(&self, place: Place, key_id: [u8; 16]) -> Answer<Option<Record>> {
        self.read(&Address::new(Table::Key, place, &key_id), |bytes| Record::decode(place, key_id, bytes))
    }

    /// Gives a key one more alias, unless it has all that it may have.
    fn link(&mut self, place: Place, key_id: &[u8; 16], name: &str) -> Answer<bool> {
        let row = Address::new(Table::Names, place, key_id);
        let stored = self.read(&row, |bytes| Ok(bytes.to_vec()))?;
        let mut names = stored.as_deref().map(record::decode_names).transpose()?.unwrap_or_default();
        if names.len() >= ALIASES_PER_KEY {
            return Ok(false);
        }
        let at = names.binary_search(&name).err().ok_or("the key has the alias already")?;
        names.insert(at, name);
        let value = record::encode_names(&names)?;
        self.staged.insert(row.tagged().to_vec(), Some(value));
        Ok(true)
    }

    /// Takes an alias from a key.
    fn unlink(&mut self, place: Place, key_id: &[u8; 16], name: &str) -> Answer<()> {
        let row = Address::new(Table::Names, place, key_id);
        let stored = self.read(&row, |bytes| Ok(bytes.to_vec()))?.ok_or("the key has no aliases")?;
        let mut names = record::decode_names(&stored)?;
        names.retain(|other| *other != name);
        let value = if names.is_empty() { None } else { Some(record::encode_names(&names)?) };
        self.staged.insert(row.tagged().to_vec(), value);
        Ok(())
    }
}

impl<E: Ordered> Peer for OrderedPeer<E> {
    fn import(&self, place: Place, keys: &[NewKey]) -> Answer<()> {
        let _writer = lock(&self.writer);
        let mut is_empty = true;
        self.engine.rows()?.behind(&Address::new(Table::Key, place, &[]), |address, _| {
            is_empty = !address.starts_with(&place.number().to_be_bytes());
            Ok(false)
        })?;
        if !is_empty {
            return Err("a scope that holds something can't be loaded".into());
        }
        let load = Load::new(keys, place, self.next_commit.load(Ordering::Relaxed))?;
        let last = load.first_commit + keys.len().div_ceil(IMPORTED_AT_ONCE).max(1) as u64 - 1;
        let stretch = |table, fill| Stretch { first: Address::new(table, place, &[]), fill };
        let key = |put: Put<'_>| load.keys(put);
        let key_alias = |put: Put<'_>| load.key_aliases(put);
        let alias = |put: Put<'_>| load.aliases(put);
        let names = |put: Put<'_>| load.names(put);
        let history = |put: Put<'_>| load.history(put);
        let newest = |put: Put<'_>| put(&Address::of_newest(), &last.to_be_bytes());
        let mut stretches = vec![
            stretch(Table::Key, &key as &dyn Fn(Put<'_>) -> Answer<()>),
            stretch(Table::KeyAlias, &key_alias),
            stretch(Table::Alias, &alias),
            stretch(Table::Names, &names),
        ];
        if self.history {
            stretches.push(Stretch { first: Address::of_commit(load.first_commit), fill: &history });
        } else {
            stretches.push(Stretch { first: Address::of_newest(), fill: &newest });
        }
        self.engine.load(&stretches)?;
        self.next_commit.store(last + 1, Ordering::Relaxed);
        Ok(())
    }

    fn session(&self, work: &mut dyn FnMut(&mut dyn Session) -> Answer<()>) -> Answer<()> {
        work(&mut OrderedSession { peer: self })
    }
}

/// The rows of an import, table by table.
struct Load<'a> {
    new: &'a [NewKey],
    place: Place,
    now: u64,
    first_commit: u64,
    by_id: Vec<&'a NewKey>,
    by_key_alias: Vec<&'a NewKey>,
    by_alias: Vec<(&'a str, &'a NewKey)>,
}

impl<'a> Load<'a> {
    /// Sorts, and refuses what is there twice.
    fn new(new: &'a [NewKey], place: Place, first_commit: u64) -> Answer<Self> {
        let mut by_id: Vec<_> = new.iter().collect();
        by_id.sort_unstable_by_key(|new| new.key_id);
        let mut by_key_alias: Vec<_> = new.iter().collect();
        by_key_alias.sort_by(|one, other| one.key_alias.as_str().cmp(other.key_alias.as_str()));
        let mut by_alias: Vec<_> =
            new.iter().flat_map(|new| new.aliases.iter().map(move |alias| (alias.as_str(), new))).collect();
        by_alias.sort_by(|one, other| one.0.cmp(other.0));
        if by_id.windows(2).any(|pair| pair[0].key_id == pair[1].key_id)
            || by_key_alias.windows(2).any(|pair| pair[0].key_alias == pair[1].key_alias)
            || by_alias.windows(2).any(|pair| pair[0].0 == pair[1].0)
        {
            return Err("an id or a name is there twice".into());
        }
        Ok(Self { new, place, now: record::now(), first_commit, by_id, by_key_alias, by_alias })
    }

    fn keys(&self, put: Put<'_>) -> Answer<()> {
        self.by_id.iter().try_for_each(|new| {
            let record = Record::new(new, self.place, self.now, self.first_commit);
            put(&Address::new(Table::Key, self.place, new.key_id.as_bytes()), &record.encode()?)
        })
    }

    fn key_aliases(&self, put: Put<'_>) -> Answer<()> {
        self.by_key_alias.iter().try_for_each(|new| {
            let row = Address::new(Table::KeyAlias, self.place, new.key_alias.as_str().as_bytes());
            put(&row, new.key_id.as_bytes())
        })
    }

    fn aliases(&self, put: Put<'_>) -> Answer<()> {
        self.by_alias.iter().try_for_each(|(name, new)| {
            let (created_at, updated_at) = (self.now, self.now);
            let key_id = *new.key_id.as_bytes();
            let value = AliasValue { key_id, created_at, updated_at, version: self.first_commit };
            put(&Address::new(Table::Alias, self.place, name.as_bytes()), &value.encode()?)
        })
    }

    fn names(&self, put: Put<'_>) -> Answer<()> {
        self.by_id.iter().filter(|new| !new.aliases.is_empty()).try_for_each(|new| {
            let mut names: Vec<_> = new.aliases.iter().map(Alias::as_str).collect();
            names.sort_unstable();
            let row = Address::new(Table::Names, self.place, new.key_id.as_bytes());
            put(&row, &record::encode_names(&names)?)
        })
    }

    fn history(&self, put: Put<'_>) -> Answer<()> {
        (self.first_commit..).zip(self.new.chunks(IMPORTED_AT_ONCE)).try_for_each(|(commit, keys)| {
            let entry = record::entry_of_import(self.place, keys, self.now, self.first_commit)?;
            put(&Address::of_commit(commit), &entry)
        })
    }
}

struct OrderedSession<'a, E> {
    peer: &'a OrderedPeer<E>,
}

impl<E: Ordered> Session for OrderedSession<'_, E> {
    fn resolve(&mut self, place: Place, alias: &Alias) -> Answer<Option<Resolved>> {
        let rows = self.peer.engine.rows()?;
        let alias_row = Address::new(Table::Alias, place, alias.as_str().as_bytes());
        let Some(alias) = rows.with(&alias_row, AliasValue::decode)?.transpose()? else {
            return Ok(None);
        };
        let row = Address::new(Table::Key, place, &alias.key_id);
        let record = rows.with(&row, |bytes| Record::decode(place, alias.key_id, bytes))?;
        let record = record.ok_or("an alias names a key that is not there")??;
        Ok(Some(Resolved::Decoded(record).used()))
    }

    fn list(
        &mut self,
        place: Place,
        after: &Alias,
        limit: usize,
        each: &mut dyn FnMut(&str, KeyId),
    ) -> Answer<()> {
        let mut page = Vec::with_capacity(limit);
        let scope = place.number().to_be_bytes();
        let from = Address::new(Table::Alias, place, after.as_str().as_bytes());
        self.peer.engine.rows()?.behind(&from, |address, value| {
            let Some(name) = address.strip_prefix(&scope) else { return Ok(false) };
            let name = std::str::from_utf8(name)?.to_owned();
            page.push(Listed { name, value: AliasValue::decode(value)? });
            Ok(page.len() < limit)
        })?;
        page.iter().for_each(|listed| each(&listed.name, KeyId::from_bytes(listed.value.key_id)));
        Ok(())
    }

    fn associate(&mut self, wanted: &Move) -> Answer<Outcome> {
        if E::CONCURRENT {
            return self.peer.associate_beside_others(wanted);
        }
        let group = self.associate_group(std::slice::from_ref(wanted))?;
        Ok(group[0])
    }

    fn associate_group(&mut self, wanted: &[Move]) -> Answer<Vec<Outcome>> {
        let _writer = lock(&self.peer.writer);
        let rows = self.peer.engine.rows()?;
        let mut staged = Changes::new();
        let stage = |wanted| self.peer.stage(&rows, &mut staged, wanted);
        let outcomes = wanted.iter().map(stage).collect::<Answer<Vec<_>>>()?;
        drop(rows);
        if !staged.is_empty() {
            self.peer.engine.commit(&staged)?;
        }
        Ok(outcomes)
    }

    fn schedule_deletion(&mut self, place: Place, key_id: KeyId) -> Answer<()> {
        let _writer = lock(&self.peer.writer);
        let rows = self.peer.engine.rows()?;
        let mut staged = Changes::new();
        let staging = Staging { rows: &rows, staged: &mut staged };
        let before = staging.key(place, *key_id.as_bytes())?.ok_or("there is no such key")?;
        drop(rows);
        let commit = self.peer.next_commit.fetch_add(1, Ordering::Relaxed);
        let after = before.pending_deletion(record::now(), commit);
        let row = Address::new(Table::Key, place, key_id.as_bytes());
        staged.insert(row.tagged().to_vec(), Some(after.encode()?));
        let entry = record::entry_of_deletion(place, &before, &after)?;
        self.peer.close(&mut staged, commit, entry);
        self.peer.engine.commit(&staged)
    }
}
