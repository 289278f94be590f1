//! The operations: what they are, how they are made at random, and how the store is asked for them.
//!
//! The universes of names are small, so that operations meet each other, and hold what is easily
//! confused: a name with `alias/` and without, upper and lower case, a key and an alias named alike.

use std::collections::BTreeMap;

use keystead::{
    AliasUrn, Commit, Description, Error, Expect, KeyId, KeySpec, KeyUsage, NewKey, Origin, PendingDays,
    Request, Result, RotationInterval, Scope, Snapshot, TagKey, TagValue, Tags, Timestamp, Transaction,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;

use crate::spec::{self, DAY, Model, Place};
use crate::values::{Alias, Answer, Key, Move, Renaming};

pub(crate) type Name = &'static str;

pub(crate) const REGION: Name = "cn-north-7";
const HEX_DOMAIN: Name = "f0ab8e245e854f68af5967c00dd43127";
const PLAIN_DOMAIN: Name = "0-acme";

/// Two projects of one domain and one of another; neither ids nor domains are in the order of bytes.
pub(crate) const PLACES: [(Name, Name); 3] = [
    (HEX_DOMAIN, "0-project"),
    (HEX_DOMAIN, "d466b0e7274d9cb35df84bb474a37f00"),
    (PLAIN_DOMAIN, "0-project"),
];

pub(crate) const KEY_NAMES: [Name; 7] = ["orders", "Orders", "a", "x", "alias/x", "default", "a/Default"];
pub(crate) const RESERVED_NAMES: [Name; 3] = ["obs/default", "evs/default", "/default"];
/// Beyond those with one URN name in two spellings: an empty URN name, and names that
/// begin with another, before and behind it where `/` and `:` meet the end.
pub(crate) const ALIASES: [Name; 9] =
    ["x", "alias/x", "alias/alias/x", "y", "alias/y", "X", "alias/", "x:1", "x/1"];
pub(crate) const TAGS: [Name; 3] = ["env", "owner", "Env"];
pub(crate) const TAG_VALUES: [Name; 3] = ["", "prod", "test"];
const TEXTS: [Name; 3] = ["", "signs orders", "caf\u{e9}"];
pub(crate) const REQUEST_IDS: [Name; 2] =
    ["919c82d4-8046-4722-9094-35c3c6524cff", "019c82d4-8046-4722-9094-35c3c6524cff"];
pub(crate) const BODIES: [Name; 2] = ["a body", "another"];
const IDS: [Name; 2] = ["0", "0aad99f3-f9dc-4f79-ad36-9e6ef3b4ba7b"];

/// The ids of keys that may be created; behind them one that never is.
pub(crate) const KEY_IDS: [KeyId; 6] = [
    KeyId::from_bytes([0x11; 16]),
    KeyId::from_bytes([0xf2; 16]),
    KeyId::from_bytes([0x33; 16]),
    KeyId::from_bytes([0x04; 16]),
    KeyId::from_bytes([0x45; 16]),
    KeyId::from_bytes([0x40; 16]),
];

#[derive(Debug, Clone)]
pub(crate) struct New {
    pub(crate) key: KeyId,
    pub(crate) name: Name,
    pub(crate) description: Name,
    pub(crate) spec: KeySpec,
    usage: Option<KeyUsage>,
    pub(crate) external: bool,
    tags: Vec<(Name, Name)>,
    pub(crate) aliases: Vec<Name>,
    pub(crate) enterprise: Name,
    pub(crate) keystore: Name,
}

impl New {
    pub(crate) fn usage(&self) -> KeyUsage {
        self.usage.unwrap_or(spec::usages(self.spec)[0])
    }

    pub(crate) fn tags(&self) -> BTreeMap<String, String> {
        self.tags.iter().map(|(tag, value)| ((*tag).to_owned(), (*value).to_owned())).collect()
    }

    fn to_new_key(&self, default: bool) -> Result<NewKey> {
        let service = self.name.strip_suffix("/default").filter(|_| default);
        let named = service.map_or_else(|| NewKey::new(self.name), NewKey::default_of)?;
        let mut new = named.id(self.key).description(self.description.parse()?).spec(self.spec);
        if let Some(usage) = self.usage {
            new = new.usage(usage);
        }
        if self.external {
            new = new.origin(Origin::External);
        }
        for (tag, value) in &self.tags {
            new = new.tag(tag.parse()?, value.parse()?);
        }
        for alias in &self.aliases {
            new = new.alias(alias.parse()?);
        }
        Ok(new.enterprise_project(self.enterprise.parse()?).keystore(self.keystore.parse()?))
    }
}

/// What a precondition wants; a version is first one to be looked up, then a number.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    Absent,
    Target(KeyId),
    /// The version that the record has before the step.
    Present,
    /// So many commits back from the one that comes.
    Back(usize),
    Version(u64),
}

impl Wanted {
    pub(crate) fn to_expect(self) -> Expect {
        match self {
            Self::Absent => Expect::Absent,
            Self::Target(key) => Expect::Target(key),
            Self::Version(version) => Expect::Version(Commit::new(version)),
            Self::Present | Self::Back(_) => unreachable!("settled before the step"),
        }
    }

    fn settle(self, model: &Model, version: Option<u64>) -> Self {
        match self {
            Self::Present => Self::Version(version.unwrap_or_default()),
            Self::Back(commits) => Self::Version(model.number(commits)),
            settled => settled,
        }
    }
}

/// A read of one thing, in a transaction or a snapshot.
#[derive(Debug, Clone)]
pub(crate) enum Read {
    Key(KeyId),
    KeyAlias(Name),
    Alias(Name),
    Resolve(Name),
    ResolveMany(Vec<Name>),
    Urn { region: Name, domain: Name, name: Name },
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Create(New),
    EnsureDefault(New),
    Describe(KeyId, Name),
    SetTags(KeyId, Vec<(Name, Name)>),
    RemoveTags(KeyId, Vec<Name>),
    EnableRotation(KeyId, u16),
    DisableRotation(KeyId),
    SetInterval(KeyId, u16),
    RecordRotation(KeyId),
    Enable(KeyId),
    Disable(KeyId),
    Schedule(KeyId, u16),
    Cancel(KeyId),
    Purge(KeyId),
    Freeze(KeyId),
    Unfreeze(KeyId),
    /// With the days from the request to the expiry.
    Imported(KeyId, Option<i64>),
    MaterialDeleted(KeyId),
    MaterialExpired(KeyId),
    Rename(KeyId, Name),
    SwapKeyAliases(KeyId, KeyId),
    CreateAlias(Name, KeyId),
    Associate(Name, KeyId),
    SwapAliases(Name, Name),
    DeleteAliases(KeyId, Vec<String>),
    ExpectKey(KeyId, Wanted),
    ExpectAlias(Name, Wanted),
    ExpectKeyAlias(Name, Wanted),
    Read(Read),
}

/// Where and when a step is made.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    pub(crate) place: Place,
    pub(crate) now: u64,
}

impl Moment {
    pub(crate) fn request(&self) -> Request {
        Request::new(&scope(&self.place)).at(Timestamp::from_millis(self.now)).actor("model")
    }
}

pub(crate) fn scope(place: &Place) -> Scope {
    Scope::new(&place.0, &place.1).unwrap()
}

pub(crate) fn places() -> Vec<Place> {
    PLACES.iter().map(|(domain, project)| ((*domain).to_owned(), (*project).to_owned())).collect()
}

pub(crate) fn urn_text(region: &str, domain: &str, name: &str) -> String {
    format!("kms:{region}:{domain}:alias:{name}")
}

pub(crate) fn expiry(now: u64, days: i64) -> u64 {
    now.saturating_add_signed(days * DAY.cast_signed())
}

impl Op {
    /// The key that a change of one key is about.
    pub(crate) fn key(&self) -> KeyId {
        match self {
            Self::EnableRotation(key, _)
            | Self::DisableRotation(key)
            | Self::SetInterval(key, _)
            | Self::RecordRotation(key)
            | Self::Schedule(key, _)
            | Self::Cancel(key)
            | Self::Purge(key)
            | Self::Imported(key, _)
            | Self::MaterialDeleted(key)
            | Self::MaterialExpired(key) => *key,
            other => unreachable!("{other:?} is of another family"),
        }
    }

    /// With numbers for the versions that preconditions want.
    pub(crate) fn settle(self, model: &Model, place: &Place) -> Self {
        let tenant = model.tenant(place);
        match self {
            Self::ExpectKey(key, wanted) => {
                let version = tenant.keys.get(&key).map(|key| key.version);
                Self::ExpectKey(key, wanted.settle(model, version))
            }
            Self::ExpectAlias(name, wanted) => {
                let version = tenant.aliases.get(name).map(|alias| alias.version);
                Self::ExpectAlias(name, wanted.settle(model, version))
            }
            Self::ExpectKeyAlias(name, wanted) => {
                let key = tenant.keys.values().find(|key| key.name == name);
                Self::ExpectKeyAlias(name, wanted.settle(model, key.map(|key| key.version)))
            }
            other => other,
        }
    }

    /// Asks the store.
    pub(crate) fn apply(&self, txn: &mut Transaction<'_>, now: u64) -> Result<Answer> {
        let key = |record: std::sync::Arc<_>| Answer::Key(Key::from(&*record));
        let moved = |moves: &[_]| Answer::Moved(moves.iter().map(Move::from).collect());
        let renamed = |renamings: &[_]| Answer::Renamed(renamings.iter().map(Renaming::from).collect());
        let unit = |()| Answer::Unit;
        match self {
            Self::Create(new) => txn.create_key(&new.to_new_key(false)?).map(key),
            Self::EnsureDefault(new) => txn.ensure_default_key(&new.to_new_key(true)?).map(key),
            Self::Describe(id, text) => txn.update_description(*id, &Description::new(text)?).map(key),
            Self::SetTags(id, tags) => txn.set_tags(*id, &to_tags(tags)?).map(key),
            Self::RemoveTags(id, tags) => {
                let tags: Vec<TagKey> =
                    tags.iter().map(|tag| Ok(TagKey::new(tag)?)).collect::<Result<_>>()?;
                txn.remove_tags(*id, &tags).map(key)
            }
            Self::EnableRotation(id, days) => {
                txn.enable_rotation(*id, RotationInterval::new(*days)?).map(key)
            }
            Self::DisableRotation(id) => txn.disable_rotation(*id).map(key),
            Self::SetInterval(id, days) => {
                txn.set_rotation_interval(*id, RotationInterval::new(*days)?).map(key)
            }
            Self::RecordRotation(id) => txn.record_rotation(*id).map(key),
            Self::Enable(id) => txn.enable(*id).map(key),
            Self::Disable(id) => txn.disable(*id).map(key),
            Self::Schedule(id, days) => txn.schedule_deletion(*id, PendingDays::new(*days)?).map(key),
            Self::Cancel(id) => txn.cancel_deletion(*id).map(key),
            Self::Purge(id) => txn.purge(*id).map(Answer::Purged),
            Self::Freeze(id) => txn.freeze(*id).map(key),
            Self::Unfreeze(id) => txn.unfreeze(*id).map(key),
            Self::Imported(id, days) => {
                let expires_at = days.map(|days| Timestamp::from_millis(expiry(now, days)));
                txn.material_imported(*id, expires_at).map(key)
            }
            Self::MaterialDeleted(id) => txn.material_deleted(*id).map(key),
            Self::MaterialExpired(id) => txn.material_expired(*id).map(key),
            Self::Rename(id, name) => txn.rename_key_alias(*id, &name.parse()?).map(|one| renamed(&[one])),
            Self::SwapKeyAliases(one, other) => txn.swap_key_aliases(*one, *other).map(|two| renamed(&two)),
            Self::CreateAlias(name, id) => {
                txn.create_alias(&name.parse()?, *id).map(|alias| Answer::Alias(Alias::from(&*alias)))
            }
            Self::Associate(name, id) => txn.associate_alias(&name.parse()?, *id).map(|one| moved(&[one])),
            Self::SwapAliases(one, other) => {
                txn.swap_aliases(&one.parse()?, &other.parse()?).map(|two| moved(&two))
            }
            Self::DeleteAliases(id, names) => txn.delete_aliases(*id, &to_aliases(names)?).map(unit),
            Self::ExpectKey(id, wanted) => txn.expect_key(*id, wanted.to_expect()).map(unit),
            Self::ExpectAlias(name, wanted) => txn.expect_alias(&name.parse()?, wanted.to_expect()).map(unit),
            Self::ExpectKeyAlias(name, wanted) => {
                txn.expect_key_alias(&name.parse()?, wanted.to_expect()).map(unit)
            }
            Self::Read(read) => txn.ask(read),
        }
    }
}

fn to_aliases<T: AsRef<str>>(names: &[T]) -> Result<Vec<keystead::Alias>> {
    names.iter().map(|name| Ok(name.as_ref().parse()?)).collect()
}

fn to_tags(tags: &[(Name, Name)]) -> Result<Tags> {
    tags.iter().map(|(tag, value)| Ok((TagKey::new(tag)?, TagValue::new(value)?))).collect()
}

/// The point reads, which a transaction and a snapshot both have.
pub(crate) trait PointReads {
    fn ask(&self, read: &Read) -> Result<Answer>;
}

macro_rules! point_reads {
    ($($reader:ident)+) => {$(
        impl PointReads for $reader<'_> {
            fn ask(&self, read: &Read) -> Result<Answer> {
                let key = |record: std::sync::Arc<_>| Key::from(&*record);
                match read {
                    Read::Key(id) => self.key(*id).map(key).map(Answer::Key),
                    Read::KeyAlias(name) => self.find_by_key_alias(&name.parse()?).map(key).map(Answer::Key),
                    Read::Alias(name) => Ok(Answer::Alias(Alias::from(&*self.alias(&name.parse()?)?))),
                    Read::Resolve(name) => self.resolve(&name.parse()?).map(key).map(Answer::Key),
                    Read::ResolveMany(names) => {
                        let records = self.resolve_many(&to_aliases(names)?)?;
                        Ok(Answer::Keys(records.into_iter().map(|record| record.map(key)).collect()))
                    }
                    Read::Urn { region, domain, name } => {
                        let urn: AliasUrn = urn_text(region, domain, name).parse()?;
                        self.resolve_urn(&urn).map(key).map(Answer::Key)
                    }
                }
            }
        }
    )+};
}

point_reads!(Snapshot Transaction);

/// How a closure ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum End {
    /// With the first refusal, or well.
    Propagate,
    /// Well, whatever was refused.
    Swallow,
    /// With the user's own failure.
    Abort,
}

/// What the operations of a closure answered, each refusal in words.
pub(crate) type Answers = Vec<std::result::Result<Answer, String>>;

/// The closure of a write, for the store and for the specification.
pub(crate) fn script(ops: &[Op], end: End, mut one: impl FnMut(&Op) -> Result<Answer>) -> Result<Answers> {
    let mut answers = Vec::new();
    for op in ops {
        match one(op) {
            Err(refusal) if end == End::Propagate => return Err(refusal),
            answer => answers.push(answer.map_err(|refusal| format!("{refusal:?}"))),
        }
    }
    if end == End::Abort { Err(Error::abort("enough")) } else { Ok(answers) }
}

fn key_id() -> impl Strategy<Value = KeyId> + Clone {
    prop_oneof![19 => select(&KEY_IDS[..5]), 1 => Just(KEY_IDS[5])]
}

fn alias() -> impl Strategy<Value = Name> + Clone {
    prop_oneof![4 => select(&ALIASES[..5]), 1 => select(&ALIASES[5..])]
}

fn key_name() -> impl Strategy<Value = Name> + Clone {
    prop_oneof![16 => select(&KEY_NAMES[..]), 1 => select(&RESERVED_NAMES[..])]
}

fn tags() -> impl Strategy<Value = Vec<(Name, Name)>> + Clone {
    vec((select(&TAGS[..]), select(&TAG_VALUES[..])), 0..=2)
}

fn wanted() -> impl Strategy<Value = Wanted> + Clone {
    prop_oneof![
        2 => Just(Wanted::Absent),
        2 => key_id().prop_map(Wanted::Target),
        2 => Just(Wanted::Present),
        2 => (0..4_usize).prop_map(Wanted::Back),
    ]
}

fn new(default: bool) -> BoxedStrategy<New> {
    let name = if default {
        prop_oneof![16 => select(&RESERVED_NAMES[..]), 1 => select(&KEY_NAMES[..])].boxed()
    } else {
        key_name().boxed()
    };
    let seldom = if default { 0.05 } else { 0.3 };
    // Specs with two usages more often than others, each usage as often as the other.
    let twofold = select(vec![KeySpec::Rsa2048, KeySpec::Rsa4096]);
    let usages = select(vec![KeyUsage::SignVerify, KeyUsage::EncryptDecrypt]);
    let kind = prop_oneof![
        4 => Just((KeySpec::Aes256, None)),
        4 => (twofold, usages.prop_map(Some)),
        2 => (select(KeySpec::ALL), proptest::option::weighted(0.3, select(KeyUsage::ALL))),
    ];
    let aliases = prop_oneof![3 => Just(0..=0_usize), 2 => Just(1..=3)];
    let aliases = if default { Just(0..=0).boxed() } else { aliases.boxed() };
    let aliases = (aliases, proptest::bool::weighted(0.04))
        .prop_flat_map(|(size, more)| vec(alias(), if more { 1..=2 } else { size }));
    let tags = prop_oneof![8 => tags(), 1 => vec((select(&TAGS[..]), Just("prod")), 3..=5)];
    let kind = (kind, proptest::bool::weighted(seldom));
    let texts = (select(&TEXTS[..]), select(&IDS[..]), select(&IDS[..]));
    (select(&KEY_IDS[..5]), name, kind, tags, aliases, texts)
        .prop_map(
            |(key, name, ((spec, usage), external), tags, aliases, (description, enterprise, keystore))| {
                New { key, name, description, spec, usage, external, tags, aliases, enterprise, keystore }
            },
        )
        .boxed()
}

pub(crate) fn create() -> BoxedStrategy<Op> {
    new(false).prop_map(Op::Create).boxed()
}

pub(crate) fn purge() -> BoxedStrategy<Op> {
    key_id().prop_map(Op::Purge).boxed()
}

pub(crate) fn material_expired() -> BoxedStrategy<Op> {
    key_id().prop_map(Op::MaterialExpired).boxed()
}

fn on_keys() -> Vec<(u32, BoxedStrategy<Op>)> {
    let days = || select(&[7_u16, 7, 8, 1096][..]);
    let interval = || select(&[30_u16, 365][..]);
    let expires_in = proptest::option::weighted(0.8, select(&[-1_i64, 0, 1, 3, 8][..]));
    vec![
        (2, (key_id(), select(&TEXTS[..])).prop_map(|(key, text)| Op::Describe(key, text)).boxed()),
        (4, (key_id(), tags()).prop_map(|(key, tags)| Op::SetTags(key, tags)).boxed()),
        (
            3,
            (key_id(), vec(select(&TAGS[..]), 0..=2))
                .prop_map(|(key, tags)| Op::RemoveTags(key, tags))
                .boxed(),
        ),
        (4, (key_id(), interval()).prop_map(|(key, days)| Op::EnableRotation(key, days)).boxed()),
        (3, key_id().prop_map(Op::DisableRotation).boxed()),
        (4, (key_id(), interval()).prop_map(|(key, days)| Op::SetInterval(key, days)).boxed()),
        (3, key_id().prop_map(Op::RecordRotation).boxed()),
        (5, key_id().prop_map(Op::Enable).boxed()),
        (3, key_id().prop_map(Op::Disable).boxed()),
        (4, (key_id(), days()).prop_map(|(key, days)| Op::Schedule(key, days)).boxed()),
        (2, key_id().prop_map(Op::Cancel).boxed()),
        (4, purge()),
        (4, key_id().prop_map(Op::Freeze).boxed()),
        (4, key_id().prop_map(Op::Unfreeze).boxed()),
        (6, (key_id(), expires_in).prop_map(|(key, days)| Op::Imported(key, days)).boxed()),
        (2, key_id().prop_map(Op::MaterialDeleted).boxed()),
        (3, material_expired()),
    ]
}

fn on_names() -> Vec<(u32, BoxedStrategy<Op>)> {
    let deleted = prop_oneof![
        12 => vec(alias().prop_map(str::to_owned), 1..=2),
        1 => Just(Vec::new()),
        1 => Just((0..51).map(|i| format!("n{i}")).collect()),
        1 => Just((0..50).map(|i| format!("n{i}")).collect()),
    ];
    vec![
        (5, (key_id(), key_name()).prop_map(|(key, name)| Op::Rename(key, name)).boxed()),
        (5, (key_id(), key_id()).prop_map(|(one, other)| Op::SwapKeyAliases(one, other)).boxed()),
        (6, (alias(), key_id()).prop_map(|(name, key)| Op::CreateAlias(name, key)).boxed()),
        (7, (alias(), key_id()).prop_map(|(name, key)| Op::Associate(name, key)).boxed()),
        (4, (alias(), alias()).prop_map(|(one, other)| Op::SwapAliases(one, other)).boxed()),
        (4, (key_id(), deleted).prop_map(|(key, names)| Op::DeleteAliases(key, names)).boxed()),
    ]
}

fn reads() -> BoxedStrategy<Read> {
    let urn_names: Vec<Name> = ALIASES.iter().map(|name| spec::urn_name(name)).collect();
    prop_oneof![
        key_id().prop_map(Read::Key),
        key_name().prop_map(Read::KeyAlias),
        alias().prop_map(Read::Alias),
        alias().prop_map(Read::Resolve),
        vec(alias(), 0..4).prop_map(Read::ResolveMany),
        (select(&PLACES[..]), select(urn_names)).prop_map(|((domain, _), name)| Read::Urn {
            region: REGION,
            domain,
            name
        }),
    ]
    .boxed()
}

/// An operation, or several of one kind from which that is taken whose outcome is the rarest: else
/// most operations would be refused for a key that is not there.
#[derive(Debug, Clone)]
pub(crate) struct Wish(pub(crate) Vec<Op>);

pub(crate) fn wish() -> BoxedStrategy<Wish> {
    let expect = prop_oneof![
        (key_id(), wanted()).prop_map(|(key, wanted)| Op::ExpectKey(key, wanted)),
        (alias(), wanted()).prop_map(|(name, wanted)| Op::ExpectAlias(name, wanted)),
        (key_name(), wanted()).prop_map(|(name, wanted)| Op::ExpectKeyAlias(name, wanted)),
    ];
    let mut kinds = vec![
        (13, create()),
        (3, new(true).prop_map(Op::EnsureDefault).boxed()),
        (4, expect.boxed()),
        (3, reads().prop_map(Op::Read).boxed()),
    ];
    kinds.extend(on_keys());
    kinds.extend(on_names());
    let several = |kind: BoxedStrategy<Op>| {
        prop_oneof![1 => vec(kind.clone(), 1), 2 => vec(kind, 1..=24)].prop_map(Wish)
    };
    let wishes = kinds.into_iter().map(|(weight, kind)| (weight, several(kind).boxed()));
    Union::new_weighted(wishes.collect()).boxed()
}
