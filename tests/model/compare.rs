//! Compares everything that can be read from the store with the specification.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use keystead::{
    After, AliasRecord, At, Commit, Cursor, Error, Images, InvalidCursor, KeyFilter, KeyId, KeyRecord,
    KeySpec, KeyState, Limit, Page, Position, Scope, Snapshot, Store,
};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::ops::{self, ALIASES, KEY_IDS, KEY_NAMES, Name, PLACES, PointReads, REGION, RESERVED_NAMES, Read};
use crate::spec::{Model, Numbers, Place, Tenant, place_rank, urn_name};
use crate::values::{Alias, Key};

/// A cursor of an earlier step, and what it must still mean.
#[derive(Debug, Clone)]
pub(crate) enum Kept {
    ById(Cursor, KeyId),
    ByName(Cursor, String),
    Alias(Cursor, String),
    AliasOfKey(Cursor, KeyId, String),
}

/// A filter for the store, and the same for the specification.
struct Filter {
    asked: KeyFilter,
    means: Box<dyn Fn(&Key) -> bool>,
}

/// Reads everything in a scope in one snapshot; returns cursors to be tried again in later steps.
pub(crate) fn everything(
    store: &Store,
    model: &Model,
    place: &Place,
    step: usize,
    kept: &[Kept],
) -> Result<Vec<Kept>, TestCaseError> {
    inside(store, place, |snap| {
        let (read, known) = (snap.commit().number(), model.commit);
        prop_assert!(model.may_be_newest(read), "a snapshot of commit {read}, where {known} was the last");
        points(snap, model, place)?;
        let tenant = model.tenant(place);
        for cursor in kept {
            resume(snap, tenant, cursor)?;
        }
        let mut cursors = Vec::new();
        let limit = limit(step);
        for (number, filter) in filters().iter().enumerate() {
            // Each filter in its turn, because these are many reads; the more so where servers answer them.
            let is_its_turn = number == 0 || number % 4 == step % 4;
            if is_its_turn || model.numbers == Numbers::Counted {
                keys(snap, tenant, filter, limit, &mut cursors)?;
            }
            if is_its_turn {
                keys_behind(snap, tenant, filter)?;
            }
        }
        names(snap, tenant, limit, &mut cursors)?;
        counts(snap, tenant)?;
        Ok(cursors)
    })
}

/// The limit of the pages of a step.
fn limit(step: usize) -> usize {
    1 + step % 3
}

/// The lists of a scope that the step did not write to; cursors of the one that it did mean nothing.
pub(crate) fn untouched(store: &Store, model: &Model, place: &Place, cursors: &[Kept]) -> TestCaseResult {
    inside(store, place, |snap| {
        let tenant = model.tenant(place);
        let keys: Vec<Key> = tenant.keys.values().cloned().collect();
        let seen = snap.keys_by_id(&KeyFilter::all(), After::Start, Limit::MAX);
        same("the keys of another scope", &Ok(keys), &plain(seen).map(|(keys, _)| keys))?;
        let seen = snap.aliases(After::Start, Limit::MAX);
        same("the aliases of another scope", &Ok(tenant.sorted_aliases()), &plain(seen).map(|(all, _)| all))?;
        for cursor in cursors {
            let all = KeyFilter::all();
            match cursor {
                Kept::ById(cursor, _) => foreign(snap.keys_by_id(&all, After::Cursor(cursor), Limit::MAX))?,
                Kept::ByName(cursor, _) => {
                    foreign(snap.keys_by_key_alias(&all, After::Cursor(cursor), Limit::MAX))?;
                }
                Kept::Alias(cursor, _) => foreign(snap.aliases(After::Cursor(cursor), Limit::MAX))?,
                Kept::AliasOfKey(cursor, id, _) if tenant.keys.contains_key(id) => {
                    foreign(snap.aliases_of_key(*id, After::Cursor(cursor), Limit::MAX))?;
                }
                Kept::AliasOfKey(..) => {}
            }
        }
        Ok(())
    })
}

/// The list of scopes, and the checker's counts; it finds nothing wrong.
pub(crate) fn whole(store: &Store, model: &Model, step: usize) -> TestCaseResult {
    let mut places: Vec<Place> = model.tenants.keys().cloned().collect();
    places.sort_by_key(place_rank);
    let held: Vec<Place> = places.iter().filter(|place| model.tenants[*place].is_held()).cloned().collect();
    let get = |after: After<'_, Scope>, limit| {
        let page = store.scopes(after, limit).map_err(|error| format!("{error:?}"))?;
        let place = |scope: &Scope| (scope.domain().to_string(), scope.project().to_string());
        Ok((page.items.iter().map(place).collect(), page.next))
    };
    pages("scopes", &held, (limit(step), false), get)?;
    let all = places.iter().map(|place| (ops::scope(place), place_rank(place)));
    behind("scopes", &held, place_rank, all, get)?;

    let report = store.verify().unwrap();
    prop_assert!(report.is_clean(), "verify: {:#?}", report);
    let keys = held.iter().map(|place| model.tenants[place].keys.len() as u64).sum();
    let aliases = held.iter().map(|place| model.tenants[place].aliases.len() as u64).sum();
    let counted = (report.scopes, report.keys, report.aliases);
    same("the counts of verify", &(held.len() as u64, keys, aliases), &counted)
}

/// Compares, naming what differs.
pub(crate) fn same<T: PartialEq + Debug>(what: &str, predicted: &T, observed: &T) -> TestCaseResult {
    prop_assert!(predicted == observed, "{what}\npredicted: {predicted:#?}\n observed: {observed:#?}");
    Ok(())
}

/// A record by its place and its id or URN name, before and after.
type Changed = BTreeMap<(Place, String), (Option<Record>, Option<Record>)>;

#[derive(Debug, Clone, PartialEq)]
enum Record {
    Key(Box<Key>),
    Alias(Alias),
}

fn records(tenants: &BTreeMap<Place, Tenant>) -> BTreeMap<(Place, String), Record> {
    let mut records = BTreeMap::new();
    for (place, tenant) in tenants {
        for (id, key) in &tenant.keys {
            records.insert((place.clone(), id.to_string()), Record::Key(Box::new(key.clone())));
        }
        for alias in tenant.aliases.values() {
            let name = format!("alias {}", urn_name(&alias.name));
            records.insert((place.clone(), name), Record::Alias(alias.clone()));
        }
    }
    records
}

/// What the feed tells of a step, against the difference that it made to the specification. What a
/// record was in between is not compared.
pub(crate) fn changes(
    store: &Store,
    position: &Position,
    before: &BTreeMap<Place, Tenant>,
    after: &BTreeMap<Place, Tenant>,
) -> TestCaseResult {
    let mut told = Changed::new();
    for commit in store.changes(Some(position), Limit::MAX).unwrap().commits {
        let scope = &commit.info.scope;
        let place = (scope.domain().to_string(), scope.project().to_string());
        for change in commit.changes {
            let (name, before, after) = match change.images {
                Images::Key { before, after } => {
                    let id = before.as_ref().or(after.as_ref()).unwrap().key_id.to_string();
                    let key = |key: Arc<KeyRecord>| Record::Key(Box::new(Key::from(&*key)));
                    (id, before.map(key), after.map(key))
                }
                Images::Alias { before, after } => {
                    let name = before.as_ref().or(after.as_ref()).unwrap().alias.urn_name().to_owned();
                    let alias = |alias: Arc<AliasRecord>| Record::Alias(Alias::from(&*alias));
                    (format!("alias {name}"), before.map(alias), after.map(alias))
                }
            };
            let entry = told.entry((place.clone(), name)).or_insert((before.clone(), before.clone()));
            same("what was before a change, and after the one before", &entry.1, &before)?;
            entry.1 = after;
        }
    }
    told.retain(|_, (before, after)| before != after);
    let (before, after) = (records(before), records(after));
    let mut predicted = Changed::new();
    for name in before.keys().chain(after.keys()) {
        let images = (before.get(name).cloned(), after.get(name).cloned());
        if images.0 != images.1 {
            predicted.insert(name.clone(), images);
        }
    }
    same("the changes of a step", &predicted, &told)
}

/// Nothing is said of a moment whose history was trimmed.
pub(crate) fn trimmed(store: &Store, place: &Place, at: At, floor: u64) -> TestCaseResult {
    let predicted = format!("{:?}", Error::HistoryTrimmed { floor: Commit::new(floor) });
    inside(store, place, |snap| {
        let keys = KEY_IDS.iter().map(|id| snap.key_at(*id, at).map(drop));
        let aliases = ALIASES.iter().map(|name| snap.alias_at(&name.parse().unwrap(), at).map(drop));
        keys.chain(aliases).try_for_each(|observed| {
            let observed = observed.map_err(|error| format!("{error:?}"));
            same(&format!("a record at {at:?}"), &Err(predicted.clone()), &observed)
        })
    })
}

/// What the history says of a moment, against what the specification said then.
pub(crate) fn past(store: &Store, place: &Place, at: At, tenant: &Tenant) -> TestCaseResult {
    inside(store, place, |snap| {
        for id in KEY_IDS {
            let predicted = tenant.keys.get(&id).cloned();
            let observed = match snap.key_at(id, at) {
                Err(Error::KeyNotFound { .. }) => None,
                found => Some(Key::from(&*found.unwrap())),
            };
            same(&format!("key {id} at {at:?}"), &predicted, &observed)?;
        }
        for name in ALIASES {
            let name: keystead::Alias = name.parse().unwrap();
            let predicted = tenant.aliases.get(name.as_str());
            let (alias, key) = match snap.alias_at(&name, at) {
                Err(Error::AliasNotFound { .. }) => (None, None),
                found => {
                    let key = snap.resolve_at(&name, at).unwrap();
                    (Some(Alias::from(&*found.unwrap())), Some(Key::from(&*key)))
                }
            };
            same(&format!("alias {name} at {at:?}"), &predicted.cloned(), &alias)?;
            let named = predicted.map(|alias| tenant.keys[&alias.key_id].clone());
            same(&format!("the key of {name} at {at:?}"), &named, &key)?;
        }
        Ok(())
    })
}

/// Runs checks in one snapshot; a failed check is no error of the store.
fn inside<T>(
    store: &Store,
    place: &Place,
    checks: impl FnOnce(&Snapshot<'_>) -> Result<T, TestCaseError>,
) -> Result<T, TestCaseError> {
    store.read(&ops::scope(place), |snap| Ok(checks(snap))).unwrap()
}

fn points(snap: &Snapshot<'_>, model: &Model, place: &Place) -> TestCaseResult {
    let mut reads: Vec<Read> = KEY_IDS.iter().map(|key| Read::Key(*key)).collect();
    reads.extend(KEY_NAMES.iter().chain(&RESERVED_NAMES).map(|name| Read::KeyAlias(name)));
    reads.extend(ALIASES.iter().flat_map(|name| [Read::Alias(name), Read::Resolve(name)]));
    reads.push(Read::ResolveMany(ALIASES.to_vec()));
    reads.push(Read::ResolveMany(vec!["y", "absent", "x", "y"]));
    let urn = |region: Name, domain: Name, name: Name| Read::Urn { region, domain, name };
    for (domain, _) in PLACES {
        reads.extend(ALIASES.iter().map(|name| urn(REGION, domain, urn_name(name))));
    }
    reads.extend(ALIASES.iter().map(|name| urn("cn-north-4", PLACES[0].0, urn_name(name))));
    for read in &reads {
        let predicted = model.read(place, read).map_err(|error| format!("{error:?}"));
        let observed = snap.ask(read).map_err(|error| format!("{error:?}"));
        same(&format!("{read:?}"), &predicted, &observed)?;
    }
    Ok(())
}

fn filters() -> Vec<Filter> {
    let filter = |asked: KeyFilter, means: Box<dyn Fn(&Key) -> bool>| Filter { asked, means };
    let mut filters = vec![filter(KeyFilter::all(), Box::new(|_| true))];
    for state in KeyState::ALL {
        filters.push(filter(KeyFilter::all().state(*state), Box::new(|key| key.state == *state)));
    }
    for spec in [KeySpec::Aes256, KeySpec::Sm2] {
        filters.push(filter(KeyFilter::all().spec(spec), Box::new(move |key| key.spec == spec)));
    }
    for (tag, value) in [("env", "prod"), ("env", ""), ("owner", "test"), ("absent", "")] {
        let has = move |key: &Key| key.tags.get(tag).is_some_and(|found| found == value);
        let asked = KeyFilter::all().tag(tag.parse().unwrap(), value.parse().unwrap());
        filters.push(filter(asked.clone(), Box::new(has)));
        let both = move |key: &Key| has(key) && key.state == KeyState::Enabled;
        filters.push(filter(asked.state(KeyState::Enabled), Box::new(both)));
    }
    for tag in ["env", "Env"] {
        let asked = KeyFilter::all().tag_key(tag.parse().unwrap());
        filters.push(filter(asked.clone(), Box::new(|key| key.tags.contains_key(tag))));
        let both = |key: &Key| key.tags.contains_key(tag) && key.spec == KeySpec::Aes256;
        filters.push(filter(asked.spec(KeySpec::Aes256), Box::new(both)));
    }
    filters
}

/// Both lists of keys, and the count, for one filter.
fn keys(
    snap: &Snapshot<'_>,
    tenant: &Tenant,
    filter: &Filter,
    limit: usize,
    cursors: &mut Vec<Kept>,
) -> TestCaseResult {
    let meant: Vec<Key> = tenant.keys.values().filter(|key| (filter.means)(key)).cloned().collect();
    let what = format!("{:?}", filter.asked);
    let filtered = filter.asked != KeyFilter::all();
    let counted = snap.count_keys(&filter.asked).map_err(|error| format!("{error:?}"));
    same(&format!("count_keys {what}"), &Ok(meant.len() as u64), &counted)?;

    let by_id = |after: After<'_, KeyId>, limit| plain(snap.keys_by_id(&filter.asked, after, limit));
    let cursor = pages(&format!("keys_by_id {what}"), &meant, (limit, filtered), by_id)?;
    if !filtered {
        cursors.extend(cursor.map(|(cursor, last)| Kept::ById(cursor, last.id)));
    } else if let Some((cursor, _)) = cursor {
        foreign(snap.keys_by_id(&KeyFilter::all(), After::Cursor(&cursor), Limit::MAX))?;
    }

    let mut meant = meant;
    meant.sort_by(|a, b| a.name.cmp(&b.name));
    let by_name = |after: After<'_, _>, limit| plain(snap.keys_by_key_alias(&filter.asked, after, limit));
    let cursor = pages(&format!("keys_by_key_alias {what}"), &meant, (limit, filtered), by_name)?;
    if !filtered {
        cursors.extend(cursor.map(|(cursor, last)| Kept::ByName(cursor, last.name)));
    } else if let Some((cursor, _)) = cursor {
        foreign(snap.keys_by_id(&filter.asked, After::Cursor(&cursor), Limit::MAX))?;
    }
    Ok(())
}

/// Both lists of keys, behind each id and each name.
fn keys_behind(snap: &Snapshot<'_>, tenant: &Tenant, filter: &Filter) -> TestCaseResult {
    let mut meant: Vec<Key> = tenant.keys.values().filter(|key| (filter.means)(key)).cloned().collect();
    let what = format!("{:?}", filter.asked);
    let by_id = |after: After<'_, KeyId>, limit| plain(snap.keys_by_id(&filter.asked, after, limit));
    let all = KEY_IDS.iter().map(|id| (*id, *id));
    behind(&format!("keys_by_id {what}"), &meant, |key| key.id, all, by_id)?;

    meant.sort_by(|a, b| a.name.cmp(&b.name));
    let by_name = |after: After<'_, _>, limit| plain(snap.keys_by_key_alias(&filter.asked, after, limit));
    let names = KEY_NAMES.iter().chain(&RESERVED_NAMES);
    let all = names.map(|name| (name.parse().unwrap(), (*name).to_owned()));
    behind(&format!("keys_by_key_alias {what}"), &meant, |key| key.name.clone(), all, by_name)
}

/// The lists of aliases: of the scope, and of each key.
fn names(snap: &Snapshot<'_>, tenant: &Tenant, limit: usize, cursors: &mut Vec<Kept>) -> TestCaseResult {
    let ranked = || ALIASES.iter().map(|name| (name.parse().unwrap(), urn_name(name).to_owned()));
    // Two spellings of one URN name are at one place: a scope never has both.
    let rank = |alias: &Alias| urn_name(&alias.name).to_owned();
    let sorted = tenant.sorted_aliases();
    let of_scope = |after: After<'_, _>, limit| plain(snap.aliases(after, limit));
    let cursor = pages("aliases", &sorted, (limit, false), of_scope)?;
    behind("aliases", &sorted, rank, ranked(), of_scope)?;
    if let Some((cursor, last)) = cursor {
        foreign(snap.keys_by_key_alias(&KeyFilter::all(), After::Cursor(&cursor), Limit::MAX))?;
        cursors.push(Kept::Alias(cursor, last.name));
    }
    for id in KEY_IDS {
        let of_key = |after: After<'_, _>, limit| plain(snap.aliases_of_key(id, after, limit));
        if !tenant.keys.contains_key(&id) {
            let missing = format!("{:?}", Error::KeyNotFound { key: id.to_string().into() });
            same("aliases_of_key", &Err(missing), &of_key(After::Start, Limit::MAX).map(drop))?;
            continue;
        }
        let meant: Vec<Alias> = sorted.iter().filter(|alias| alias.key_id == id).cloned().collect();
        let cursor = pages("aliases_of_key", &meant, (limit, false), of_key)?;
        behind("aliases_of_key", &meant, rank, ranked(), of_key)?;
        if let Some((cursor, last)) = cursor {
            foreign(snap.aliases(After::Cursor(&cursor), Limit::MAX))?;
            cursors.push(Kept::AliasOfKey(cursor, id, last.name));
        }
    }
    Ok(())
}

fn counts(snap: &Snapshot<'_>, tenant: &Tenant) -> TestCaseResult {
    let counted = snap.count_keys_in_quota().map_err(|error| format!("{error:?}"));
    same("count_keys_in_quota", &Ok(tenant.in_quota()), &counted)
}

/// A cursor from before still means: behind this name, whether the name is still there or not.
fn resume(snap: &Snapshot<'_>, tenant: &Tenant, kept: &Kept) -> TestCaseResult {
    let all = KeyFilter::all();
    let what = format!("{kept:?}");
    let keys =
        |behind: &dyn Fn(&&Key) -> bool| tenant.keys.values().filter(behind).cloned().collect::<Vec<_>>();
    let aliases = |last: &String| {
        let mut aliases = tenant.sorted_aliases();
        aliases.retain(|alias| urn_name(&alias.name) > urn_name(last));
        aliases
    };
    match kept {
        Kept::ById(cursor, last) => {
            let seen = plain(snap.keys_by_id(&all, After::Cursor(cursor), Limit::MAX));
            same(&what, &Ok((keys(&|key| key.id > *last), None)), &seen)
        }
        Kept::ByName(cursor, last) => {
            let mut meant = keys(&|key| key.name > *last);
            meant.sort_by(|a, b| a.name.cmp(&b.name));
            let seen = plain(snap.keys_by_key_alias(&all, After::Cursor(cursor), Limit::MAX));
            same(&what, &Ok((meant, None)), &seen)
        }
        Kept::Alias(cursor, last) => {
            let seen = plain(snap.aliases(After::Cursor(cursor), Limit::MAX));
            same(&what, &Ok((aliases(last), None)), &seen)
        }
        Kept::AliasOfKey(cursor, id, last) => {
            let mut meant = aliases(last);
            meant.retain(|alias| alias.key_id == *id);
            let missing = || format!("{:?}", Error::KeyNotFound { key: id.to_string().into() });
            let meant = if tenant.keys.contains_key(id) { Ok((meant, None)) } else { Err(missing()) };
            same(&what, &meant, &plain(snap.aliases_of_key(*id, After::Cursor(cursor), Limit::MAX)))
        }
    }
}

type Seen<T> = Result<(Vec<T>, Option<Cursor>), String>;

fn plain<R, T: for<'a> From<&'a R>>(page: keystead::Result<Page<std::sync::Arc<R>>>) -> Seen<T> {
    let page = page.map_err(|error| format!("{error:?}"))?;
    Ok((page.items.iter().map(|record| T::from(record)).collect(), page.next))
}

/// Walks a list page by page; returns the first cursor with the entry that it stands behind.
///
/// A page is as long as its limit or ends the list, because no scope here has 10,000 keys. Behind
/// the last entry of a filtered list there may be one more page, empty: what follows was not looked
/// at. Other lists end with their last entry.
fn pages<I, T: Clone + PartialEq + Debug>(
    what: &str,
    meant: &[T],
    (limit, filtered): (usize, bool),
    get: impl Fn(After<'_, I>, Limit) -> Seen<T>,
) -> Result<Option<(Cursor, T)>, TestCaseError> {
    let mut rest = meant;
    let mut cursor: Option<Cursor> = None;
    let mut first = None;
    loop {
        let (page, further) = rest.split_at(limit.min(rest.len()));
        rest = further;
        let (seen, next) = match get(After::from(cursor.as_ref()), Limit::new(limit).unwrap()) {
            Ok((seen, next)) => (Ok(seen), next),
            Err(error) => (Err(error), None),
        };
        same(&format!("a page of {what}"), &Ok(page.to_vec()), &seen)?;
        let unsure = filtered && rest.is_empty() && page.len() == limit;
        let ends = unsure || next.is_some() != rest.is_empty();
        prop_assert!(ends, "{what}: {} entries remain, but the cursor is {next:?}", rest.len());
        let Some(next) = next else { return Ok(first) };
        let sent: Cursor = next.to_string().parse().unwrap();
        same("a cursor as text and back", &next, &sent)?;
        first = first.or_else(|| Some((sent.clone(), page.last()?.clone())));
        cursor = Some(sent);
    }
}

/// What is behind each of these names or ids, whether they are in the list or not.
fn behind<I: Debug, T: Clone + PartialEq + Debug, R: Ord>(
    what: &str,
    meant: &[T],
    rank: impl Fn(&T) -> R,
    items: impl Iterator<Item = (I, R)>,
    get: impl Fn(After<'_, I>, Limit) -> Seen<T>,
) -> TestCaseResult {
    for (item, place) in items {
        let rest: Vec<T> = meant.iter().filter(|entry| rank(entry) > place).cloned().collect();
        same(&format!("{what} behind {item:?}"), &Ok((rest, None)), &get(After::Item(&item), Limit::MAX))?;
    }
    Ok(())
}

/// A cursor of one list says nothing in another.
fn foreign<T: Debug>(answer: keystead::Result<T>) -> TestCaseResult {
    let refusal = Error::InvalidCursor(InvalidCursor::OfAnotherList);
    let observed = answer.map(|_| ()).map_err(|error| format!("{error:?}"));
    same("a cursor of another list", &Err(format!("{refusal:?}")), &observed)
}
