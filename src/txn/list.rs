//! Lists: one ordered scan each, a page at a time.

use std::ops::Bound;
use std::sync::Arc;

use super::{Snapshot, read};
use crate::alias::{Alias, AliasRecord, KeyAlias};
use crate::engine::ReadTransaction;
use crate::error::Result;
use crate::format::{
    Row, Space, Table, Value, after_all, after_space_of, corrupted, decode_alias, decode_key, decode_key_id,
    decode_tag_value, name_in, scope_of, trailing_key_id,
};
use crate::id::{KeyId, Scope};
use crate::key::KeyRecord;
use crate::page::{After, Cursor, InvalidCursor, KeyFilter, Limit, Page};

/// The most rows that one page examines.
const EXAMINED_MAX: usize = 10_000;
/// How many rows a filtered list examines at once.
const CHUNK: usize = 250;

/// The lists there are. The number is part of their cursors.
#[derive(Clone, Copy)]
#[repr(u8)]
enum List {
    KeysById = 1,
    KeysByKeyAlias = 2,
    Aliases = 3,
    AliasesOfKey = 4,
    Scopes = 5,
}

/// Where a page lies: the rows that begin with `prefix`, from `from` on.
struct Stretch {
    prefix: Row,
    from: Row,
    binding: Vec<u8>,
}

impl Stretch {
    fn new<T>(
        prefix: Row,
        binding: Vec<u8>,
        after: After<'_, T>,
        name: impl FnOnce(&T) -> Vec<u8>,
    ) -> Result<Self> {
        // At the start, the row whose name is empty is among them: the URN name of `alias/`.
        let from = match after {
            After::Start => prefix.clone(),
            After::Item(item) => behind(&[&prefix[..], &name(item)].concat()),
            After::Cursor(cursor) => behind(&[&prefix[..], cursor.last(&binding)?].concat()),
        };
        Ok(Self { prefix, from, binding })
    }

    fn cursor_behind(&self, row: &[u8]) -> Cursor {
        Cursor::new(&self.binding, &row[self.prefix.len()..])
    }
}

/// The first address behind this one.
fn behind(row: &[u8]) -> Row {
    [row, &[0]].concat()
}

/// Lists. A page costs what it examines, whatever the scope holds.
impl Snapshot<'_> {
    /// The keys of the scope that the filter means, in the order of their ids. (list-keys)
    ///
    /// A filter by tag and value finds them through an index. Otherwise each key in turn is examined;
    /// a page examines at most 10,000.
    ///
    /// ```
    /// use keystead::{After, KeyFilter, KeyState, Limit, NewKey, Request, Scope, Store};
    /// let store = Store::in_memory()?;
    /// let scope = Scope::new("domain", "project")?;
    /// let new = NewKey::new("orders")?;
    /// store.write(&Request::new(&scope), |txn| txn.create_key(&new))?;
    /// let enabled = KeyFilter::all().state(KeyState::Enabled);
    /// let page = store.read(&scope, |snap| snap.keys_by_id(&enabled, After::Start, Limit::new(10)?))?;
    /// assert_eq!(page.items.len(), 1);
    /// assert_eq!(page.next, None);
    /// # Ok::<(), keystead::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidCursor`](crate::Error::InvalidCursor) for a cursor of another list, scope or filter.
    pub fn keys_by_id(
        &self,
        filter: &KeyFilter,
        after: After<'_, KeyId>,
        limit: Limit,
    ) -> Result<Page<Arc<KeyRecord>>> {
        let stretch = self.stretch_by_id(filter, after)?;
        self.page(&stretch, limit, *filter != KeyFilter::all(), |row, value| self.key_of(filter, row, value))
    }

    /// The keys of the scope that the filter means, in the order of their key aliases. Each key in
    /// turn is examined; a page examines at most 10,000.
    ///
    /// # Errors
    ///
    /// [`InvalidCursor`](crate::Error::InvalidCursor) for a cursor of another list, scope or filter.
    pub fn keys_by_key_alias(
        &self,
        filter: &KeyFilter,
        after: After<'_, KeyAlias>,
        limit: Limit,
    ) -> Result<Page<Arc<KeyRecord>>> {
        let binding = self.binding(List::KeysByKeyAlias, &filter.fingerprint());
        let prefix = self.place.space.table(Table::KeyAlias);
        let name = |key_alias: &KeyAlias| key_alias.as_str().as_bytes().to_vec();
        let stretch = Stretch::new(prefix, binding, after, name)?;
        self.page(&stretch, limit, *filter != KeyFilter::all(), |row, value| {
            self.matching(filter, row, decode_key_id(row, value.bytes)?)
        })
    }

    /// The aliases of the scope, in their [order](Alias).
    ///
    /// # Errors
    ///
    /// [`InvalidCursor`](crate::Error::InvalidCursor) for a cursor of another list or scope.
    pub fn aliases(&self, after: After<'_, Alias>, limit: Limit) -> Result<Page<Arc<AliasRecord>>> {
        let prefix = self.place.space.table(Table::Alias);
        let name = |alias: &Alias| alias.urn_name().as_bytes().to_vec();
        let stretch = Stretch::new(prefix, self.binding(List::Aliases, &[]), after, name)?;
        self.page(&stretch, limit, false, |row, value| {
            let urn_name = name_in(row, &stretch.prefix)?;
            Ok(Some(Arc::new(decode_alias(row, self.place.scope, urn_name, value)?)))
        })
    }

    /// The aliases of a key, in their [order](Alias). (list-aliases)
    ///
    /// # Errors
    ///
    /// [`KeyNotFound`](crate::Error::KeyNotFound) if there is no such key,
    /// [`InvalidCursor`](crate::Error::InvalidCursor) for a cursor of another list, scope or key.
    pub fn aliases_of_key(
        &self,
        key_id: KeyId,
        after: After<'_, Alias>,
        limit: Limit,
    ) -> Result<Page<Arc<AliasRecord>>> {
        let binding = self.binding(List::AliasesOfKey, key_id.as_bytes());
        let after = match after {
            After::Start => None,
            After::Item(alias) => Some(alias.urn_name().to_owned()),
            After::Cursor(cursor) => {
                let name = String::from_utf8(cursor.last(&binding)?.to_vec());
                Some(name.map_err(|_| InvalidCursor::OfAnotherList)?)
            }
        };
        read::key(self, key_id)?;
        let names = read::alias_names(self, key_id)?;
        let mut rest = names.iter().skip_while(|name| after.as_deref() >= Some(name.urn_name()));
        let named: Vec<_> = rest.by_ref().take(limit.get()).collect();
        let next = match (rest.next(), named.last()) {
            (Some(_), Some(last)) => Some(Cursor::new(&binding, last.urn_name().as_bytes())),
            _ => None,
        };
        let items = named.into_iter().map(|name| {
            let row = self.place.space.alias(name.urn_name());
            let record = read::find_alias(self, name)?;
            record.map(Arc::new).ok_or_else(|| corrupted(&row, "the key has this alias, which is not there"))
        });
        Ok(Page { items: items.collect::<Result<_>>()?, next })
    }

    /// How many keys of the scope the filter means. All of them are counted in one row; for any other
    /// filter each key in turn is examined, or each with the tag.
    pub fn count_keys(&self, filter: &KeyFilter) -> Result<u64> {
        if *filter == KeyFilter::all() {
            let counts = read::counts(self)?;
            return Ok(counts.keys + counts.default_keys);
        }
        let stretch = self.stretch_by_id(filter, After::Start)?;
        let (mut from, to) = (stretch.prefix.clone(), after_all(stretch.prefix));
        let mut count = 0;
        loop {
            let mut last = None;
            self.each_row(&from, &to, EXAMINED_MAX, |row, value| {
                last = Some(behind(row));
                count += u64::from(self.key_of(filter, row, value?)?.is_some());
                Ok(())
            })?;
            let Some(last) = last else { return Ok(count) };
            from = last;
        }
    }

    /// How many keys of the scope count against the quota: all but the platform's own.
    pub fn count_keys_in_quota(&self) -> Result<u64> {
        Ok(read::counts(self)?.keys)
    }

    fn binding(&self, list: List, what: &[u8]) -> Vec<u8> {
        let mut binding = vec![list as u8];
        binding.extend(self.place.space.table(Table::Key));
        binding.extend(what);
        binding
    }

    fn stretch_by_id(&self, filter: &KeyFilter, after: After<'_, KeyId>) -> Result<Stretch> {
        let binding = self.binding(List::KeysById, &filter.fingerprint());
        let prefix = match &filter.tag {
            Some((tag, Some(value))) => self.place.space.tagged(tag, value),
            _ => self.place.space.table(Table::Key),
        };
        Stretch::new(prefix, binding, after, |key_id: &KeyId| key_id.as_bytes().to_vec())
    }

    /// The key behind a row of the table of keys or of the index of tags, if the filter means it.
    fn key_of(&self, filter: &KeyFilter, row: &[u8], value: Value<'_>) -> Result<Option<Arc<KeyRecord>>> {
        let key_id = trailing_key_id(row).ok_or_else(|| corrupted(row, "it names no key"))?;
        if let Some((_, Some(wanted))) = &filter.tag {
            // Another value could only have the same digest.
            let is_wanted = decode_tag_value(row, value.bytes)? == *wanted;
            return if is_wanted { self.matching(filter, row, key_id) } else { Ok(None) };
        }
        let key = decode_key(row, self.place.scope, key_id, value)?;
        Ok(filter.matches(&key).then(|| Arc::new(key)))
    }

    /// The key that a row of an index names, if the filter means it.
    fn matching(&self, filter: &KeyFilter, row: &[u8], key_id: KeyId) -> Result<Option<Arc<KeyRecord>>> {
        let key = read::named_key(self, key_id, row)?;
        Ok(filter.matches(&key).then_some(key))
    }

    /// Shows the rows from `from` on and before `to`, at most `limit`, until one can't be read.
    fn each_row(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        mut see: impl FnMut(&[u8], Result<Value<'_>>) -> Result<()>,
    ) -> Result<()> {
        let mut outcome = Ok(());
        self.rows.with_rows((Bound::Included(from), Bound::Excluded(to)), limit, &mut |row, value| {
            if outcome.is_ok() {
                outcome = see(row, value);
            }
        })?;
        outcome
    }

    /// One page of a list: `read` tells what each examined row stands for, if it is meant at all.
    fn page<T>(
        &self,
        stretch: &Stretch,
        limit: Limit,
        filtered: bool,
        read: impl Fn(&[u8], Value<'_>) -> Result<Option<T>>,
    ) -> Result<Page<T>> {
        let mut from = stretch.from.clone();
        let to = after_all(stretch.prefix.clone());
        let mut items = Vec::with_capacity(limit.get());
        let mut examined = 0;
        loop {
            let wanted = if filtered { CHUNK.min(EXAMINED_MAX - examined) } else { limit.get() };
            let mut last = Row::new();
            let (mut seen, mut goes_on) = (0, false);
            // One row more than wanted tells whether the list goes on.
            self.each_row(&from, &to, wanted + 1, |row, value| {
                goes_on |= seen == wanted || items.len() == limit.get();
                if !goes_on {
                    seen += 1;
                    last.clear();
                    last.extend_from_slice(row);
                    items.extend(read(row, value?)?);
                }
                Ok(())
            })?;
            examined += seen;
            let full = items.len() == limit.get() || examined == EXAMINED_MAX;
            if full || !goes_on {
                return Ok(Page { items, next: goes_on.then(|| stretch.cursor_behind(&last)) });
            }
            from = behind(&last);
        }
    }
}

/// The scopes that hold anything, in their order.
pub(crate) fn scopes(
    rows: &dyn ReadTransaction,
    after: After<'_, Scope>,
    limit: Limit,
) -> Result<Page<Scope>> {
    let binding = [List::Scopes as u8];
    let mut from = match after {
        After::Start => Space::of_store().start(),
        After::Item(scope) => after_all(Space::of_scope(scope).start()),
        After::Cursor(cursor) => {
            let name = std::str::from_utf8(cursor.last(&binding)?).ok();
            let (domain, project) =
                name.and_then(|name| name.split_once('/')).ok_or(InvalidCursor::Malformed)?;
            let scope = Scope::new(domain, project).map_err(|_| InvalidCursor::Malformed)?;
            after_all(Space::of_scope(&scope).start())
        }
    };
    let mut page: Page<Scope> = Page { items: Vec::new(), next: None };
    loop {
        let found = rows.scan((Bound::Included(&from), Bound::Unbounded), 1)?;
        let Some((row, _)) = found.first() else { return Ok(page) };
        if let Some(scope) = scope_of(row) {
            if page.items.len() == limit.get() {
                page.next = page.items.last().map(|last| Cursor::new(&binding, last.to_string().as_bytes()));
                return Ok(page);
            }
            page.items.push(scope);
        }
        from = after_space_of(row).ok_or_else(|| corrupted(row, "it lies in no space"))?;
    }
}
