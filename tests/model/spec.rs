//! The sequential specification: what the store means, in plain collections.
//!
//! Everything that a store keeps as rows and indexes is searched for here, so that nothing can be out
//! of step with anything. A change is made on a copy that is thrown away if it is refused.

use std::collections::{BTreeMap, HashMap};
use std::mem::{Discriminant, discriminant};

use keystead::{
    Actual, AliasScope, Commit, Compatibility, Error, Expect, InvalidAlias, InvalidKeySpec, KeyId, KeySpec,
    KeyState, KeyUsage, Origin, Quota, Quotas, Timestamp,
};

use crate::ops::{self, Moment, Name, New, Op, Read, Wish};
use crate::values::{Alias, Answer, Key, Move, Renaming};

pub(crate) const DAY: u64 = 24 * 60 * 60 * 1000;

/// Domain and project.
pub(crate) type Place = (String, String);
type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) alias_scope: AliasScope,
    pub(crate) compatibility: Compatibility,
    pub(crate) quotas: Quotas,
    pub(crate) region: &'static str,
}

/// How a store numbers its commits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Numbers {
    /// One by one: each is predicted.
    Counted,
    /// They grow, and there are gaps: each is taken from what the store answered.
    Told,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Tenant {
    pub(crate) keys: BTreeMap<KeyId, Key>,
    pub(crate) aliases: BTreeMap<String, Alias>,
    /// When the last key of this id was deleted, and the last alias of this URN name: whatever is
    /// created again is created no earlier, because a record never goes back in time.
    deleted_keys: BTreeMap<KeyId, Deleted>,
    deleted_aliases: BTreeMap<String, Deleted>,
    /// What came of requests that may come again.
    outcomes: BTreeMap<Name, Kept>,
}

#[derive(Debug, Clone)]
struct Deleted {
    time: u64,
    commit: u64,
}

/// What came of a repeatable request.
#[derive(Debug, Clone)]
struct Kept {
    body: Name,
    once: Once,
    time: u64,
}

/// What a repeatable request answers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Once {
    pub(crate) value: String,
    pub(crate) commit: u64,
    pub(crate) changed: bool,
    pub(crate) replayed: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) policy: Policy,
    pub(crate) numbers: Numbers,
    /// The newest commit that is known; the first was the creation of the store.
    pub(crate) commit: u64,
    /// The number of the commit that comes.
    pub(crate) next: u64,
    /// All that are known, in their order.
    commits: Vec<u64>,
    pub(crate) tenants: BTreeMap<Place, Tenant>,
    /// Up to which commit the history was trimmed, and the time of the latest change that was.
    pub(crate) floor: u64,
    floor_time: u64,
}

/// What a write of the model came to.
pub(crate) struct Outcome<T> {
    pub(crate) value: Result<T>,
    pub(crate) changed: bool,
}

impl Model {
    pub(crate) fn new(policy: Policy, places: &[Place]) -> Self {
        let tenants = places.iter().map(|place| (place.clone(), Tenant::default())).collect();
        Self {
            policy,
            numbers: Numbers::Counted,
            commit: 1,
            next: 2,
            commits: vec![1],
            tenants,
            floor: 0,
            floor_time: 0,
        }
    }

    /// Of a store that was created by this commit, and tells the numbers of those that come.
    pub(crate) fn told_from(mut self, commit: u64) -> Self {
        (self.numbers, self.commits) = (Numbers::Told, Vec::new());
        self.advance([commit]);
        self
    }

    /// These commits were made.
    pub(crate) fn advance(&mut self, numbers: impl IntoIterator<Item = u64>) {
        self.commits.extend(numbers);
        self.commit = self.commits.last().copied().unwrap_or_default();
        self.next = self.commit + 1;
    }

    /// The number of a commit: the one that comes, the newest, and so on backwards.
    pub(crate) fn number(&self, back: usize) -> u64 {
        match (back.checked_sub(1), self.numbers) {
            (Some(back), _) => self.commits.iter().nth_back(back).copied().unwrap_or_default(),
            (None, Numbers::Counted) => self.next,
            // Nobody can know it, so this one never comes.
            (None, Numbers::Told) => i64::MAX.unsigned_abs(),
        }
    }

    /// Whether a read of the newest commit may say that it read this one.
    pub(crate) fn may_be_newest(&self, commit: u64) -> bool {
        match self.numbers {
            Numbers::Counted => commit == self.commit,
            Numbers::Told => commit >= self.commit,
        }
    }

    /// All of it or nothing; one commit if anything was changed.
    pub(crate) fn write<T>(
        &mut self,
        moment: &Moment,
        closure: impl FnOnce(&mut Session) -> Result<T>,
    ) -> Outcome<T> {
        let mut session = Session { model: self.clone(), moment: moment.clone(), changed: false };
        let value = closure(&mut session);
        let changed = value.is_ok() && session.changed;
        if changed {
            *self = session.model;
            self.advance([self.next]);
        }
        Outcome { value, changed }
    }

    /// As [`Self::write`], and what comes of it is kept, also if that changes nothing.
    pub(crate) fn write_once(
        &mut self,
        moment: &Moment,
        (id, body): (Name, Name),
        closure: impl FnOnce(&mut Session) -> Result<String>,
    ) -> Result<Once> {
        if let Some(kept) = self.tenant(&moment.place).outcomes.get(id) {
            let reused = Error::RequestIdReused(id.parse()?);
            return if kept.body == body {
                Ok(Once { replayed: true, ..kept.once.clone() })
            } else {
                Err(reused)
            };
        }
        let Outcome { value, changed } = self.write(moment, closure);
        let value = value?;
        if !changed {
            self.advance([self.next]);
        }
        let once = Once { value, commit: self.commit, changed, replayed: false };
        let kept = Kept { body, once: once.clone(), time: moment.now };
        self.tenants.get_mut(&moment.place).unwrap().outcomes.insert(id, kept);
        Ok(once)
    }

    /// What the write would return; nothing is changed.
    pub(crate) fn dry_run<T>(
        &self,
        moment: &Moment,
        closure: impl FnOnce(&mut Session) -> Result<T>,
    ) -> Result<T> {
        self.clone().write(moment, closure).value
    }

    pub(crate) fn tenant(&self, place: &Place) -> &Tenant {
        &self.tenants[place]
    }

    pub(crate) fn read(&self, place: &Place, read: &Read) -> Result<Answer> {
        let tenant = self.tenant(place);
        match read {
            Read::Key(key) => Ok(Answer::Key(tenant.key(*key)?.clone())),
            Read::KeyAlias(name) => {
                let found = tenant.keys.values().find(|key| key.name == *name);
                let missing = || Error::KeyNotFound { key: (*name).into() };
                found.cloned().map(Answer::Key).ok_or_else(missing)
            }
            Read::Alias(name) => Ok(Answer::Alias(tenant.alias(name)?.clone())),
            Read::Resolve(name) => Ok(Answer::Key(tenant.keys[&tenant.alias(name)?.key_id].clone())),
            Read::ResolveMany(names) => {
                let resolve = |name: &&str| tenant.aliases.get(*name).map(|a| tenant.keys[&a.key_id].clone());
                Ok(Answer::Keys(names.iter().map(resolve).collect()))
            }
            Read::Urn { region, domain, name } => {
                let here = *region == self.policy.region && *domain == place.0;
                let named = |alias: &&Alias| here && urn_name(&alias.name) == *name;
                match tenant.aliases.values().find(named) {
                    Some(alias) => Ok(Answer::Key(tenant.keys[&alias.key_id].clone())),
                    None => Err(Error::AliasNotFound { alias: ops::urn_text(region, domain, name).into() }),
                }
            }
        }
    }
}

impl Tenant {
    fn key(&self, id: KeyId) -> Result<&Key> {
        self.keys.get(&id).ok_or_else(|| Error::KeyNotFound { key: id.to_string().into() })
    }

    fn alias(&self, name: &str) -> Result<&Alias> {
        self.aliases.get(name).ok_or_else(|| Error::AliasNotFound { alias: name.into() })
    }

    pub(crate) fn in_quota(&self) -> u64 {
        self.keys.values().filter(|key| !key.default).count() as u64
    }

    fn aliases_of(&self, id: KeyId) -> usize {
        self.aliases.values().filter(|alias| alias.key_id == id).count()
    }

    /// The aliases in the order of lists.
    pub(crate) fn sorted_aliases(&self) -> Vec<Alias> {
        let mut aliases: Vec<Alias> = self.aliases.values().cloned().collect();
        aliases.sort_by(|a, b| urn_name(&a.name).cmp(urn_name(&b.name)));
        aliases
    }

    /// Whether anything is in it.
    pub(crate) fn is_held(&self) -> bool {
        !self.keys.is_empty() || !self.outcomes.is_empty()
    }

    fn erase(&mut self, id: KeyId, now: u64, commit: u64) {
        if let Some(key) = self.keys.remove(&id) {
            self.deleted_keys.insert(id, Deleted { time: now.max(key.updated), commit });
        }
        self.erase_aliases(now, commit, |alias| alias.key_id == id);
    }

    fn erase_aliases(&mut self, now: u64, commit: u64, erased: impl Fn(&Alias) -> bool) {
        for alias in self.aliases.values().filter(|alias| erased(alias)) {
            let deleted = Deleted { time: now.max(alias.updated), commit };
            self.deleted_aliases.insert(urn_name(&alias.name).to_owned(), deleted);
        }
        self.aliases.retain(|_, alias| !erased(alias));
    }

    /// Forgets the oldest outcomes of requests, at most so many, from up to that time; tells how many.
    pub(crate) fn prune(&mut self, most: usize, to: u64) -> usize {
        let mut old: Vec<(u64, Name)> = self.outcomes.iter().map(|(id, kept)| (kept.time, *id)).collect();
        old.retain(|(time, _)| *time <= to);
        old.sort_unstable();
        old.truncate(most);
        old.iter().for_each(|(_, id)| drop(self.outcomes.remove(id)));
        old.len()
    }

    pub(crate) fn outcomes(&self) -> usize {
        self.outcomes.len()
    }
}

/// An operation and its outcome: whether it changed anything, or how it was refused.
pub(crate) type Tried = (Discriminant<Op>, std::result::Result<bool, Discriminant<Error>>);
/// How often each outcome was seen.
pub(crate) type Seen = HashMap<Tried, u32>;

/// A transaction of the model: a copy of everything, and whether it was changed.
pub(crate) struct Session {
    model: Model,
    moment: Moment,
    changed: bool,
}

impl Session {
    /// One operation; refused, it leaves no trace.
    pub(crate) fn run(&mut self, op: &Op) -> Result<Answer> {
        let before = (self.model.clone(), self.changed);
        let answer = self.operate(op);
        if answer.is_err() {
            (self.model, self.changed) = before;
        }
        answer
    }

    /// Makes that of these operations whose outcome was seen least in this run, and returns it, with
    /// numbers for the versions that preconditions want.
    pub(crate) fn choose(&mut self, wish: Wish, seen: &mut Seen) -> Op {
        let place = self.moment.place.clone();
        let mut ops: Vec<Op> = wish.0.into_iter().map(|op| op.settle(&self.model, &place)).collect();
        let rarity = |op: &Op| {
            let outcome = self.trial(op);
            let times = seen.get(&outcome).copied().unwrap_or_default();
            // What changes something makes the rest possible.
            if outcome.1 == Ok(true) { times } else { times * 8 + 2 }
        };
        let rarest = (0..ops.len()).min_by_key(|index| rarity(&ops[*index])).unwrap_or_default();
        let op = ops.swap_remove(rarest);
        *seen.entry(self.trial(&op)).or_default() += 1;
        // A refused operation leaves no trace here either.
        let _ = self.run(&op);
        op
    }

    /// What the operation would come to, if it were made now.
    pub(crate) fn trial(&self, op: &Op) -> Tried {
        let mut trial = Self { model: self.model.clone(), moment: self.moment.clone(), changed: false };
        let answer = trial.run(op);
        (discriminant(op), answer.map(|_| trial.changed).map_err(|refusal| discriminant(&refusal)))
    }

    fn operate(&mut self, op: &Op) -> Result<Answer> {
        use KeyState::{Disabled, Enabled};
        match op {
            Op::Create(new) => self.create_key(new).map(Answer::Key),
            Op::EnsureDefault(new) => self.ensure_default_key(new).map(Answer::Key),
            Op::Describe(id, text) => self.change(*id, |key| {
                key.description = (*text).to_owned();
                Ok(())
            }),
            Op::SetTags(id, tags) => self.set_tags(*id, tags),
            Op::RemoveTags(id, tags) => self.change(*id, |key| {
                for (number, tag) in tags.iter().enumerate() {
                    if tags[..number].contains(tag) {
                        return Err(Error::DuplicateTag { tag: tag.parse()? });
                    }
                }
                for tag in tags {
                    if key.tags.remove(*tag).is_none() {
                        return Err(Error::TagNotFound { tag: tag.parse()?, key_id: key.id });
                    }
                }
                Ok(())
            }),
            Op::EnableRotation(..) | Op::DisableRotation(_) | Op::SetInterval(..) | Op::RecordRotation(_) => {
                self.rotation(op)
            }
            Op::Enable(id) => {
                self.change(*id, |key| key.step(Disabled, Enabled, Error::KeyNotDisabled(key.id)))
            }
            Op::Disable(id) => {
                self.change(*id, |key| key.step(Enabled, Disabled, Error::KeyNotEnabled(key.id)))
            }
            Op::Schedule(..) | Op::Cancel(_) | Op::Purge(_) => self.deletion(op),
            Op::Freeze(id) => self.change(*id, |key| {
                key.frozen_from = Some(key.state);
                key.state = KeyState::Frozen;
                Ok(())
            }),
            Op::Unfreeze(id) => self.unfreeze(*id),
            Op::Imported(..) | Op::MaterialDeleted(_) | Op::MaterialExpired(_) => self.material(op),
            Op::Rename(id, name) => self.rename(*id, name),
            Op::SwapKeyAliases(one, other) => self.swap_key_aliases(*one, *other),
            Op::CreateAlias(name, id) => self.create_alias(name, *id).map(Answer::Alias),
            Op::Associate(name, id) => self.associate(name, *id),
            Op::SwapAliases(one, other) => self.swap_aliases(one, other),
            Op::DeleteAliases(id, names) => self.delete_aliases(*id, names),
            Op::ExpectKey(..) | Op::ExpectAlias(..) | Op::ExpectKeyAlias(..) => self.expect(op),
            Op::Read(read) => self.model.read(&self.moment.place, read),
        }
    }

    fn tenant(&self) -> &Tenant {
        self.model.tenant(&self.moment.place)
    }

    fn tenant_mut(&mut self) -> &mut Tenant {
        self.changed = true;
        self.model.tenants.get_mut(&self.moment.place).unwrap()
    }

    fn next_commit(&self) -> u64 {
        self.model.next
    }

    /// A record is created no earlier than the last of its name was deleted; or, where that was forgotten, than
    /// anything that was.
    fn created_after(&self, deleted: Option<&Deleted>) -> u64 {
        deleted.map_or(self.model.floor_time, |deleted| deleted.time)
    }

    /// A key that exists and may change, unless its state forbids it.
    fn changeable(&self, id: KeyId) -> Result<&Key> {
        let key = self.tenant().key(id)?;
        if key.default { Err(Error::DefaultKeyImmutable(id)) } else { Ok(key) }
    }

    /// As [`Self::changeable`], and neither pending deletion nor frozen.
    fn live(&self, id: KeyId) -> Result<&Key> {
        let key = self.changeable(id)?;
        match key.state {
            KeyState::PendingDeletion => Err(Error::PendingDeletion(id)),
            KeyState::Frozen => Err(Error::KeyFrozen(id)),
            _ => Ok(key),
        }
    }

    /// A change of a live key's record.
    fn change(&mut self, id: KeyId, change: impl FnOnce(&mut Key) -> Result<()>) -> Result<Answer> {
        let mut key = self.live(id)?.clone();
        change(&mut key)?;
        Ok(Answer::Key(self.put(key)))
    }

    /// Stores a record that differs from what it was, with its new version and change time.
    fn put(&mut self, mut key: Key) -> Key {
        let former = self.tenant().keys.get(&key.id);
        if former == Some(&key) {
            return key;
        }
        let deleted = self.created_after(self.tenant().deleted_keys.get(&key.id));
        let previous = former.map_or(deleted, |former| former.updated);
        key.updated = self.moment.now.max(previous);
        if former.is_none() {
            key.created = key.updated;
        }
        key.version = self.next_commit();
        self.tenant_mut().keys.insert(key.id, key.clone());
        key
    }
}

/// Keys: creation, tags, states.
impl Session {
    fn validate(&self, new: &New) -> Result<()> {
        let max = self.model.policy.quotas.tags_per_key;
        if new.tags().len() > max {
            return Err(Error::TooManyTags { max });
        }
        let usage = new.usage();
        if usages(new.spec).contains(&usage) {
            Ok(())
        } else {
            Err(InvalidKeySpec::UsageNotAllowed(new.spec, usage).into())
        }
    }

    fn create_key(&mut self, new: &New) -> Result<Key> {
        if new.name.ends_with("/default") {
            return Err(InvalidAlias::Reserved.into());
        }
        self.validate(new)?;
        if self.tenant().keys.contains_key(&new.key) {
            return Err(Error::KeyIdExists(new.key));
        }
        if self.tenant().keys.values().any(|key| key.name == new.name) {
            return Err(Error::KeyAliasExists(new.name.parse()?));
        }
        let max = self.model.policy.quotas.keys_per_project;
        if self.tenant().in_quota() >= max {
            return Err(Error::QuotaExceeded { quota: Quota::KeysPerProject, max });
        }
        let key = self.put(self.blank(new, false));
        for alias in &new.aliases {
            self.create_alias(alias, new.key)?;
        }
        Ok(key)
    }

    fn ensure_default_key(&mut self, new: &New) -> Result<Key> {
        if !new.name.ends_with("/default") {
            return Err(InvalidAlias::NotReserved.into());
        }
        self.validate(new)?;
        if new.external || !new.aliases.is_empty() {
            return Err(Error::DefaultKeyImmutable(new.key));
        }
        if let Some(key) = self.tenant().keys.values().find(|key| key.name == new.name) {
            return Ok(key.clone());
        }
        if self.tenant().keys.contains_key(&new.key) {
            return Err(Error::KeyIdExists(new.key));
        }
        Ok(self.put(self.blank(new, true)))
    }

    fn blank(&self, new: &New, default: bool) -> Key {
        let (domain, project) = self.moment.place.clone();
        Key {
            id: new.key,
            domain,
            project,
            name: new.name.to_owned(),
            description: new.description.to_owned(),
            spec: new.spec,
            usage: new.usage(),
            origin: if new.external { Origin::External } else { Origin::Kms },
            state: if new.external { KeyState::PendingImport } else { KeyState::Enabled },
            frozen_from: None,
            default,
            created: self.moment.now,
            updated: self.moment.now,
            due: None,
            present: !new.external,
            expires: None,
            rotates: false,
            interval: 365,
            last_rotated: None,
            rotations: 0,
            enterprise: new.enterprise.to_owned(),
            keystore: new.keystore.to_owned(),
            tags: new.tags(),
            version: 0,
        }
    }

    fn set_tags(&mut self, id: KeyId, tags: &[(&'static str, &'static str)]) -> Result<Answer> {
        let max = self.model.policy.quotas.tags_per_key;
        self.change(id, |key| {
            let had = key.tags.len();
            key.tags.extend(tags.iter().map(|(tag, value)| ((*tag).to_owned(), (*value).to_owned())));
            if key.tags.len() > max && key.tags.len() > had {
                return Err(Error::TooManyTags { max });
            }
            Ok(())
        })
    }

    fn rotation(&mut self, op: &Op) -> Result<Answer> {
        let id = op.key();
        let now = self.moment.now;
        self.change(id, |key| {
            if key.state == KeyState::Disabled {
                return Err(Error::KeyDisabled(id));
            }
            if key.origin == Origin::External {
                return Err(Error::ExternalKeyNotRotatable(id));
            }
            if !matches!(key.spec, KeySpec::Aes256 | KeySpec::Sm4) {
                return Err(Error::AsymmetricNotRotatable(id));
            }
            match op {
                Op::EnableRotation(..) if key.rotates => return Err(Error::RotationNotDisabled(id)),
                Op::EnableRotation(_, days) => (key.rotates, key.interval) = (true, *days),
                _ if !key.rotates => return Err(Error::RotationNotEnabled(id)),
                Op::DisableRotation(_) => key.rotates = false,
                Op::SetInterval(_, days) => key.interval = *days,
                // Never before the record's own last change.
                _ => (key.last_rotated, key.rotations) = (Some(now.max(key.updated)), key.rotations + 1),
            }
            Ok(())
        })
    }

    fn deletion(&mut self, op: &Op) -> Result<Answer> {
        let id = op.key();
        let mut key = self.changeable(id)?.clone();
        if key.state == KeyState::Frozen {
            return Err(Error::KeyFrozen(id));
        }
        let pending = key.state == KeyState::PendingDeletion;
        match op {
            Op::Schedule(..) if pending => return Err(Error::AlreadyPendingDeletion(id)),
            Op::Schedule(_, days) => {
                key.state = KeyState::PendingDeletion;
                key.due = Some(self.moment.now.max(key.updated) + u64::from(*days) * DAY);
            }
            _ if !pending => return Err(Error::NotPendingDeletion(id)),
            Op::Purge(_) => {
                let due = key.due.is_some_and(|due| due <= self.moment.now);
                if due {
                    let (now, commit) = (self.moment.now, self.next_commit());
                    self.tenant_mut().erase(id, now, commit);
                }
                return Ok(Answer::Purged(due));
            }
            _ => {
                key.due = None;
                match key.present && !key.has_expired(self.moment.now) {
                    true => key.state = KeyState::Disabled,
                    false => key.lose_material(),
                }
            }
        }
        Ok(Answer::Key(self.put(key)))
    }

    fn unfreeze(&mut self, id: KeyId) -> Result<Answer> {
        let mut key = self.changeable(id)?.clone();
        if key.state == KeyState::PendingDeletion {
            return Err(Error::PendingDeletion(id));
        }
        key.state = key.frozen_from.take().unwrap_or(key.state);
        Ok(Answer::Key(self.put(key)))
    }

    fn material(&mut self, op: &Op) -> Result<Answer> {
        let (id, now) = (op.key(), self.moment.now);
        self.change(id, |key| {
            if key.origin == Origin::Kms {
                return Err(Error::ExternalKeyRequired(id));
            }
            let waits = key.state == KeyState::PendingImport;
            match op {
                Op::Imported(..) if !waits => return Err(Error::NotPendingImport(id)),
                Op::Imported(_, Some(days)) if *days <= 0 => {
                    let expires_at = Timestamp::from_millis(ops::expiry(now, *days));
                    return Err(Error::InvalidExpiry { expires_at });
                }
                Op::Imported(_, days) => {
                    key.state = KeyState::Enabled;
                    key.present = true;
                    key.expires = days.map(|days| ops::expiry(now, days));
                }
                _ if waits => return Err(Error::MaterialNotDeletable(id, key.state)),
                Op::MaterialExpired(_) if !key.has_expired(now) => {}
                _ => key.lose_material(),
            }
            Ok(())
        })
    }
}

/// Names.
impl Session {
    fn rename(&mut self, id: KeyId, name: &str) -> Result<Answer> {
        if name.ends_with("/default") {
            return Err(InvalidAlias::Reserved.into());
        }
        let former = self.live(id)?.clone();
        if self.tenant().keys.values().any(|key| key.name == name && key.id != id) {
            return Err(Error::KeyAliasExists(name.parse()?));
        }
        Ok(Answer::Renamed(vec![self.named(former, name)]))
    }

    fn named(&mut self, former: Key, name: &str) -> Renaming {
        let key = self.put(Key { name: name.to_owned(), ..former.clone() });
        let changed = former.name != name;
        Renaming { key, former_name: former.name, former_version: former.version, changed }
    }

    fn swap_key_aliases(&mut self, one: KeyId, other: KeyId) -> Result<Answer> {
        let (a, b) = self.both_live(one, other)?;
        let (name_of_a, name_of_b) = (a.name.clone(), b.name.clone());
        Ok(Answer::Renamed(vec![self.named(a, &name_of_b), self.named(b, &name_of_a)]))
    }

    /// Two keys that may both change, each check made on both before the next.
    fn both_live(&self, one: KeyId, other: KeyId) -> Result<(Key, Key)> {
        let keys = [self.tenant().key(one)?, self.tenant().key(other)?];
        if let Some(key) = keys.iter().find(|key| key.default) {
            return Err(Error::DefaultKeyImmutable(key.id));
        }
        if let Some(key) = keys.iter().find(|key| key.state == KeyState::PendingDeletion) {
            return Err(Error::PendingDeletion(key.id));
        }
        if let Some(key) = keys.iter().find(|key| key.state == KeyState::Frozen) {
            return Err(Error::KeyFrozen(key.id));
        }
        Ok((keys[0].clone(), keys[1].clone()))
    }

    /// Whether the URN of this name is taken in the alias scope.
    fn is_claimed(&self, name: &str) -> bool {
        let (domain, project) = &self.moment.place;
        let competes = |place: &Place| {
            let wide = self.model.policy.alias_scope == AliasScope::Domain;
            place.0 == *domain && (wide || place.1 == *project)
        };
        let rivals = self.model.tenants.iter().filter(|(place, _)| competes(place));
        rivals.flat_map(|(_, tenant)| tenant.aliases.keys()).any(|other| urn_name(other) == urn_name(name))
    }

    fn create_alias(&mut self, name: &str, id: KeyId) -> Result<Alias> {
        self.live(id)?;
        if self.is_claimed(name) {
            return Err(Error::AliasExists(name.parse()?));
        }
        self.room_for_alias(id)?;
        let (domain, project) = self.moment.place.clone();
        let deleted = self.created_after(self.tenant().deleted_aliases.get(urn_name(name)));
        let (now, version) = (self.moment.now.max(deleted), self.next_commit());
        let name = name.to_owned();
        let alias = Alias { name, key_id: id, domain, project, created: now, updated: now, version };
        self.tenant_mut().aliases.insert(alias.name.clone(), alias.clone());
        Ok(alias)
    }

    fn room_for_alias(&self, id: KeyId) -> Result<()> {
        let max = self.model.policy.quotas.aliases_per_key;
        if self.tenant().aliases_of(id) < max {
            return Ok(());
        }
        Err(Error::QuotaExceeded { quota: Quota::AliasesPerKey, max: max as u64 })
    }

    fn associate(&mut self, name: &str, target: KeyId) -> Result<Answer> {
        let former = self.tenant().alias(name)?.clone();
        self.live(target)?;
        self.compatible(former.key_id, target)?;
        if former.key_id != target {
            self.room_for_alias(target)?;
        }
        Ok(Answer::Moved(vec![self.moved(former, target)]))
    }

    fn compatible(&self, from: KeyId, to: KeyId) -> Result<()> {
        let kind = |id: KeyId| {
            let key = &self.tenant().keys[&id];
            (family(key.spec), key.usage)
        };
        match self.model.policy.compatibility {
            Compatibility::SameUsage if kind(from) != kind(to) => Err(Error::IncompatibleKey { from, to }),
            _ => Ok(()),
        }
    }

    fn moved(&mut self, former: Alias, target: KeyId) -> Move {
        let mut alias = former.clone();
        let changed = former.key_id != target;
        if changed {
            alias.key_id = target;
            alias.updated = former.updated.max(self.moment.now);
            alias.version = self.next_commit();
            self.tenant_mut().aliases.insert(alias.name.clone(), alias.clone());
        }
        Move { alias, former_key_id: former.key_id, former_version: former.version, changed }
    }

    fn swap_aliases(&mut self, one: &str, other: &str) -> Result<Answer> {
        let (a, b) = (self.tenant().alias(one)?.clone(), self.tenant().alias(other)?.clone());
        self.both_live(a.key_id, b.key_id)?;
        self.compatible(a.key_id, b.key_id)?;
        let (key_of_a, key_of_b) = (a.key_id, b.key_id);
        Ok(Answer::Moved(vec![self.moved(a, key_of_b), self.moved(b, key_of_a)]))
    }

    fn delete_aliases(&mut self, id: KeyId, names: &[String]) -> Result<Answer> {
        let distinct = names.iter().enumerate().all(|(i, name)| !names[..i].contains(name));
        if names.is_empty() || names.len() > 50 || !distinct {
            return Err(Error::InvalidAliasList);
        }
        self.changeable(id)?;
        let on_key = |name: &String| self.tenant().aliases.get(name).is_some_and(|alias| alias.key_id == id);
        if let Some(name) = names.iter().find(|name| !on_key(name)) {
            return Err(Error::AliasNotOnKey { alias: name.parse()?, key_id: id });
        }
        let (now, commit) = (self.moment.now, self.next_commit());
        self.tenant_mut().erase_aliases(now, commit, |alias| names.contains(&alias.name));
        Ok(Answer::Unit)
    }

    fn expect(&self, op: &Op) -> Result<Answer> {
        let tenant = self.tenant();
        let of_key = |key: &Key| (key.id, key.version);
        let (wanted, actual) = match op {
            Op::ExpectKey(id, wanted) => (wanted, tenant.keys.get(id).map(of_key)),
            Op::ExpectAlias(name, wanted) => {
                (wanted, tenant.aliases.get(*name).map(|alias| (alias.key_id, alias.version)))
            }
            Op::ExpectKeyAlias(name, wanted) => {
                (wanted, tenant.keys.values().find(|key| key.name == *name).map(of_key))
            }
            _ => unreachable!("only preconditions come here"),
        };
        let holds = match wanted.to_expect() {
            Expect::Absent => actual.is_none(),
            Expect::Target(key) => actual.is_some_and(|(target, _)| target == key),
            Expect::Version(commit) => actual.is_some_and(|(_, version)| version == commit.number()),
        };
        if holds {
            return Ok(Answer::Unit);
        }
        let actual = actual.map(|(target, version)| Actual { target, version: Commit::new(version) });
        Err(Error::PreconditionFailed { actual })
    }
}

/// The platform's own: no session, because these make many commits.
impl Model {
    /// The keys that a sweep of this scope purges, and those whose material it takes.
    pub(crate) fn sweep_finds(&self, place: &Place, now: u64) -> (Vec<KeyId>, Vec<KeyId>) {
        let keys = || self.tenant(place).keys.values();
        let due = keys().filter(|key| key.due.is_some_and(|due| due <= now)).map(|key| key.id);
        let usable = |key: &&Key| matches!(key.state, KeyState::Enabled | KeyState::Disabled);
        let expired = keys().filter(usable).filter(|key| key.has_expired(now)).map(|key| key.id);
        (due.collect(), expired.collect())
    }

    /// The next time at which anything becomes due or expires anywhere.
    pub(crate) fn next_event(&self, now: u64) -> Option<u64> {
        let keys = self.tenants.values().flat_map(|tenant| tenant.keys.values());
        let outcomes = self.tenants.values().flat_map(|tenant| tenant.outcomes.values());
        let forgotten = outcomes.map(|kept| Some(kept.time + DAY));
        keys.flat_map(|key| [key.due, key.expires]).chain(forgotten).flatten().filter(|at| *at > now).min()
    }

    /// Deletes a key, in one of the commits that come; which is left open.
    pub(crate) fn purge(&mut self, place: &Place, id: KeyId, now: u64) {
        let commit = self.next;
        self.tenants.get_mut(place).unwrap().erase(id, now, commit);
    }

    /// Takes the expired material of a key, in a commit whose number the specification leaves open.
    pub(crate) fn expire(&mut self, place: &Place, id: KeyId, now: u64, version: u64) {
        let key = self.tenants.get_mut(place).unwrap().keys.get_mut(&id).unwrap();
        key.lose_material();
        key.updated = key.updated.max(now);
        key.version = version;
    }

    pub(crate) fn prune(&mut self, place: &Place, most: usize, to: u64) -> usize {
        self.tenants.get_mut(place).unwrap().prune(most, to)
    }

    /// Forgets all changes up to a commit, whose times these are, and with them which records were deleted.
    pub(crate) fn trim(&mut self, to: u64, times: impl Iterator<Item = u64>) {
        self.floor = self.floor.max(to);
        self.floor_time = times.fold(self.floor_time, u64::max);
        for tenant in self.tenants.values_mut() {
            tenant.deleted_keys.retain(|_, deleted| deleted.commit > to);
            tenant.deleted_aliases.retain(|_, deleted| deleted.commit > to);
        }
    }
}

impl Key {
    fn step(&mut self, from: KeyState, to: KeyState, refusal: Error) -> Result<()> {
        if self.state != from {
            return Err(refusal);
        }
        self.state = to;
        Ok(())
    }

    fn has_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    fn lose_material(&mut self) {
        self.state = KeyState::PendingImport;
        self.present = false;
        self.expires = None;
    }
}

/// The name of an alias in its URN.
pub(crate) fn urn_name(name: &str) -> &str {
    name.strip_prefix("alias/").unwrap_or(name)
}

/// The place of a scope in the list of scopes: ids of 32 lower-case hexadecimal digits first.
pub(crate) fn place_rank(place: &Place) -> [(bool, String); 2] {
    let rank = |id: &String| {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (!(id.len() == 32 && id.bytes().all(digit)), id.clone())
    };
    [rank(&place.0), rank(&place.1)]
}

/// The usages of a spec, the default first.
pub(crate) fn usages(spec: KeySpec) -> &'static [KeyUsage] {
    match family(spec) {
        "AES" | "SM4" => &[KeyUsage::EncryptDecrypt],
        "RSA" | "SM2" => &[KeyUsage::SignVerify, KeyUsage::EncryptDecrypt],
        "HMAC" => &[KeyUsage::GenerateVerifyMac],
        _ => &[KeyUsage::SignVerify],
    }
}

fn family(spec: KeySpec) -> &'static str {
    match spec {
        KeySpec::Aes256 => "AES",
        KeySpec::Sm4 => "SM4",
        KeySpec::Rsa2048 | KeySpec::Rsa3072 | KeySpec::Rsa4096 => "RSA",
        KeySpec::EcP256 | KeySpec::EcP384 | KeySpec::Secp256k1 => "EC",
        KeySpec::Sm2 => "SM2",
        KeySpec::Ed25519 => "ED25519",
        KeySpec::Hmac256 | KeySpec::Hmac384 | KeySpec::Hmac512 | KeySpec::HmacSm3 => "HMAC",
    }
}
