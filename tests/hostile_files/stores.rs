//! The stores that are damaged: made by a process of their own, which closes them or is killed, with a record of what
//! each commit left ([`Image`]) and with copies of the files at earlier moments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use keystead::{
    Alias, Description, Error, KeyAlias, KeyId, NewKey, Options, Quotas, Request, Scope, Snapshot, Store,
    Timestamp,
};
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// How many keys the scopes of a store have, and those of a small one.
const KEYS: [u16; 3] = [260, 100, 40];
const KEYS_OF_SMALL: [u16; 3] = [8, 0, 0];
/// How many moments are copied, and how many commits come before each.
pub(crate) const MOMENTS: usize = 10;
const COMMITS: usize = 5;
/// The name of a store's file in its folder, of its write-ahead log, and of a backup of changes.
pub(crate) const TABLE: &str = "kms.redb";
pub(crate) const LOG: &str = "kms.redb.redo";
pub(crate) const CHANGES: &str = "changes";
const IMAGE: &str = "image.json";

/// The stores that damage is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Base {
    /// Closed; its log is still there, and not needed.
    Closed,
    /// Written by a process that was killed after its first commit, which needs no log: there is none.
    Killed,
    /// Written by a process that was killed after several commits, which are in its log.
    Logged,
    /// A small one that was closed, and has no log.
    Small,
    /// A full backup, and a backup of the changes behind it.
    Backup,
}

impl Base {
    pub(crate) const ALL: [Self; 5] = [Self::Closed, Self::Killed, Self::Logged, Self::Small, Self::Backup];

    pub(crate) fn folder(self, stores: &Path) -> PathBuf {
        stores.join(format!("{self:?}"))
    }

    pub(crate) fn moment(self, stores: &Path, number: usize) -> PathBuf {
        self.folder(stores).join(format!("moment-{number}"))
    }

    fn keys(self) -> [u16; 3] {
        if self == Self::Small { KEYS_OF_SMALL } else { KEYS }
    }

    fn is_killed(self) -> bool {
        matches!(self, Self::Killed | Self::Logged)
    }

    /// Whether each commit is the first of its process, so that it goes to the table file.
    fn is_reopened(self) -> bool {
        self != Self::Logged
    }
}

/// What is asked for, in a scope.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Name {
    Alias(usize, String),
    Key(usize, KeyId),
    KeyAlias(usize, String),
}

/// The answer that there is nothing of that name.
pub(crate) const NOTHING: u64 = 0;

/// What a store answers to each name that it ever had, after each commit.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) names: Vec<Name>,
    /// The answers after a commit, in the order of the names; names that came later have none.
    pub(crate) commits: BTreeMap<u64, Vec<u64>>,
    /// The newest commit of the full backup, where there is one.
    pub(crate) of_backup: Option<u64>,
    #[serde(skip)]
    numbers: BTreeMap<Name, usize>,
}

impl Image {
    pub(crate) fn read(base: Base, stores: &Path) -> Self {
        serde_json::from_slice(&fs::read(base.folder(stores).join(IMAGE)).unwrap()).unwrap()
    }

    /// Without what came behind the full backup.
    pub(crate) fn of_backup(mut self) -> Self {
        let newest = self.of_backup.unwrap();
        self.commits.retain(|commit, _| *commit <= newest);
        self
    }

    pub(crate) fn newest(&self) -> &[u64] {
        self.commits.last_key_value().unwrap().1
    }

    fn note(&mut self, store: &Store, touched: &BTreeSet<Name>) {
        let mut answers =
            self.commits.last_key_value().map(|(_, answers)| answers.clone()).unwrap_or_default();
        for name in touched {
            let number = *self.numbers.entry(name.clone()).or_insert(self.names.len());
            if number == self.names.len() {
                self.names.push(name.clone());
                answers.push(NOTHING);
            }
            answers[number] = store.read(&scope(name.scope()), |snap| Ok(name.ask(snap).unwrap().0)).unwrap();
        }
        let commit = store.position().unwrap().commit().number();
        self.commits.insert(commit, answers);
    }
}

impl Name {
    pub(crate) fn scope(&self) -> usize {
        let (Self::Alias(scope, _) | Self::Key(scope, _) | Self::KeyAlias(scope, _)) = self;
        *scope
    }

    /// The answer as a number, and in words.
    pub(crate) fn ask(&self, snap: &Snapshot<'_>) -> Result<(u64, String), Error> {
        let found = match self {
            Self::Alias(_, alias) => snap.resolve(&Alias::new(alias)?),
            Self::Key(_, key_id) => snap.key(*key_id),
            Self::KeyAlias(_, name) => snap.find_by_key_alias(&KeyAlias::new(name)?),
        };
        match found {
            Ok(key) => {
                let mut hasher = DefaultHasher::new();
                // All that the record says of itself.
                format!("{key:?}").hash(&mut hasher);
                Ok((hasher.finish().max(1), format!("{} {}", key.key_id, key.key_alias)))
            }
            Err(Error::KeyNotFound { .. } | Error::AliasNotFound { .. }) => {
                Ok((NOTHING, "nothing".to_owned()))
            }
            Err(error) => Err(error),
        }
    }
}

pub(crate) fn scope(number: usize) -> Scope {
    let (domain, project) = [("domain-a", "orders"), ("domain-a", "billing"), ("domain-b", "orders")][number];
    Scope::new(domain, project).unwrap()
}

pub(crate) fn request(number: usize) -> Request {
    Request::new(&scope(number)).actor("tester").at(Timestamp::from_millis(1_700_000_000_000))
}

pub(crate) fn key_id(scope: usize, number: u16) -> KeyId {
    let mut bytes = [0; 16];
    bytes[0] = u8::try_from(scope).unwrap();
    // Far from each other, so that neighbours in the list are of different commits.
    bytes[1..3].copy_from_slice(&number.wrapping_mul(40_503).to_be_bytes());
    bytes[14..].copy_from_slice(&number.to_be_bytes());
    KeyId::from_bytes(bytes)
}

pub(crate) fn alias(scope: usize, number: u16) -> String {
    format!(
        "{}/service-{scope}/environment-{number}",
        ["orders", "payments", "mail"][usize::from(number % 3)]
    )
}

/// The alias of each scope that moves most.
pub(crate) const HOT: &str = "hot";

pub(crate) fn options() -> Options {
    let quotas = Quotas { keys_per_project: u64::MAX, ..Quotas::default() };
    let options = Options::new()
        .quotas(quotas)
        .cache_bytes(4 << 20)
        .record_cache_bytes(1 << 20)
        .checkpoint_bytes(40_000);
    options.wal_bytes(Options::WAL_BYTES_MIN)
}

/// A store that is being made.
struct Making {
    base: Base,
    path: PathBuf,
    store: Store,
    image: Image,
    random: Random,
    keys: [u16; 3],
    /// Numbers for names and texts that are new.
    fresh: u64,
}

impl Making {
    /// Returns when no checkpoint runs; the next commit may begin one.
    fn wait_for_checkpoint(&self) {
        while self.store.stats().log.is_some_and(|log| log.checkpointing) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn close(&mut self) {
        drop(std::mem::replace(&mut self.store, Store::in_memory().unwrap()));
    }

    fn reopen(&mut self) {
        self.close();
        self.store = options().open(&self.path).unwrap();
    }

    /// Before a commit.
    fn begin(&mut self) {
        if self.base.is_reopened() {
            self.reopen();
        }
    }

    fn fill(&mut self) {
        for (scope, count) in self.keys.into_iter().enumerate() {
            for first in (0..count).step_by(10) {
                let mut touched = BTreeSet::new();
                let news: Vec<_> = (first..count.min(first + 10))
                    .map(|number| new_key(scope, number, &mut touched))
                    .collect();
                self.begin();
                let create = self.store.write(&request(scope), |txn| {
                    news.iter().try_for_each(|new| txn.create_key(new).map(drop))
                });
                create.unwrap();
                self.image.note(&self.store, &touched);
            }
            if count > 0 {
                let hot = Alias::new(HOT).unwrap();
                self.begin();
                self.store.write(&request(scope), |txn| txn.create_alias(&hot, key_id(scope, 0))).unwrap();
                let touched = [Name::Alias(scope, HOT.to_owned()), Name::Key(scope, key_id(scope, 0))];
                self.image.note(&self.store, &touched.into());
            }
        }
    }

    fn any_scope(&mut self) -> usize {
        let used = self.keys.iter().filter(|count| **count > 0).count();
        self.random.index(used)
    }

    fn any_key(&mut self, scope: usize) -> u16 {
        u16::try_from(self.random.below(self.keys[scope].into())).unwrap()
    }

    /// Moves, renames, describes, deletes and makes what was deleted again.
    fn change(&mut self) {
        let scope = self.any_scope();
        let (one, other) = (self.any_key(scope), self.any_key(scope));
        let (from, to) = (key_id(scope, one), key_id(scope, other));
        let mut touched = BTreeSet::from([Name::Key(scope, from), Name::Key(scope, to)]);
        self.fresh += 1;
        let (fresh, kind) = (self.fresh, self.random.below(5));
        let names = match kind {
            0 | 1 => vec![HOT.to_owned(), alias(scope, one)],
            2 => vec![HOT.to_owned()],
            _ => vec![alias(scope, one)],
        };
        for name in &names {
            touched.insert(Name::Alias(scope, name.clone()));
        }
        let result = self.store.write(&request(scope), |txn| {
            match kind {
                0..=2 => {
                    for name in &names {
                        move_alias(txn, name, to)?;
                    }
                }
                3 => {
                    let renamed =
                        txn.rename_key_alias(from, &KeyAlias::new(&format!("renamed-{scope}-{fresh}"))?)?;
                    drop(renamed);
                }
                _ => {
                    let alias = Alias::new(&names[0])?;
                    match txn.alias(&alias) {
                        Ok(record) => txn.delete_aliases(record.key_id, std::slice::from_ref(&alias))?,
                        Err(Error::AliasNotFound { .. }) => drop(txn.create_alias(&alias, from)?),
                        Err(error) => return Err(error),
                    }
                }
            }
            let text = Description::new(&format!("change {fresh}"))?;
            txn.update_description(to, &text).map(drop)
        });
        result.unwrap();
        if kind == 3 {
            touched.insert(Name::KeyAlias(scope, format!("renamed-{scope}-{fresh}")));
            touched.extend(
                self.image
                    .names
                    .iter()
                    .filter(|name| matches!(name, Name::KeyAlias(of, _) if *of == scope))
                    .cloned(),
            );
        }
        // An alias answers with its key, so with each key that changed, all names of the scope may.
        touched.extend(self.image.names.iter().filter(|name| name.scope() == scope).cloned());
        self.image.note(&self.store, &touched);
    }

    fn all_is_noted(&self) {
        for (name, noted) in self.image.names.iter().zip(self.image.newest()) {
            let (answer, text) = self.store.read(&scope(name.scope()), |snap| name.ask(snap)).unwrap();
            assert_eq!(answer, *noted, "{name:?} is {text}");
        }
        assert!(self.store.verify().unwrap().is_clean());
    }
}

fn move_alias(txn: &mut keystead::Transaction<'_>, name: &str, to: KeyId) -> Result<(), Error> {
    let alias = Alias::new(name)?;
    match txn.associate_alias(&alias, to) {
        Err(Error::AliasNotFound { .. }) => txn.create_alias(&alias, to).map(drop),
        moved => moved.map(drop),
    }
}

fn new_key(scope: usize, number: u16, touched: &mut BTreeSet<Name>) -> NewKey {
    let key_alias = format!("key-{scope}-{number}");
    let mut new = NewKey::new(&key_alias).unwrap().id(key_id(scope, number));
    new = new.alias(Alias::new(&alias(scope, number)).unwrap());
    // Long ones, so that there are many pages.
    new = new
        .description(Description::new(&format!("{key_alias} is described at length, ").repeat(6)).unwrap());
    if number.is_multiple_of(4) {
        new = new.tag("team".parse().unwrap(), format!("team-{}", number % 7).parse().unwrap());
    }
    touched.insert(Name::Alias(scope, alias(scope, number)));
    touched.insert(Name::Key(scope, key_id(scope, number)));
    touched.insert(Name::KeyAlias(scope, key_alias));
    new
}

/// Copies the files of a store that nobody writes just now.
pub(crate) fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in [TABLE, LOG, CHANGES] {
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

/// Makes a store, in a process of its own: of a killed one, this does not return.
pub(crate) fn make(base: Base, stores: &Path, seed: u64) {
    let folder = base.folder(stores);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(if base == Base::Backup { "source" } else { TABLE });
    let (store, random) = (options().open(&path).unwrap(), Random::new(seed));
    let (image, keys) = (Image::default(), base.keys());
    let mut making = Making { base, path: path.clone(), store, image, random, keys, fresh: 0 };
    making.fill();
    // The table has all of it then, however busy the machine is.
    making.store.checkpoint().unwrap();
    if base == Base::Backup {
        making.store.backup(folder.join(TABLE)).unwrap();
    }
    let position = making.store.position().unwrap();
    making.image.of_backup = (base == Base::Backup).then(|| position.commit().number());
    for moment in 0..if base == Base::Backup { 0 } else { MOMENTS } {
        // The last moments are near the end, so that most pages are what they were.
        let commits = if base == Base::Small || moment + 2 >= MOMENTS { 1 } else { COMMITS };
        for _ in 0..commits {
            making.begin();
            making.change();
        }
        // A checkpoint that runs must not come between the copies of the two files.
        making.wait_for_checkpoint();
        let copy = base.moment(stores, moment);
        // Also moments at which it was closed: their headers say so.
        let reopened = matches!(base, Base::Closed | Base::Small) && moment % 2 == 1;
        if reopened {
            making.close();
        }
        copy_files(&folder, &copy);
        if reopened {
            making.reopen();
        }
        let noted = opened_commit(&copy, &folder);
        assert_eq!(noted, making.store.position().unwrap().commit().number(), "moment {moment} is not whole");
    }
    for _ in 0..if base == Base::Logged { 2 * COMMITS } else { 2 } {
        making.begin();
        making.change();
    }
    if matches!(base, Base::Closed) {
        // The second of a process makes the log.
        making.change();
    }
    assert_eq!(folder.join(LOG).exists(), matches!(base, Base::Closed | Base::Logged));
    making.all_is_noted();
    if base == Base::Backup {
        making.store.backup_changes(&position, folder.join(CHANGES)).unwrap();
    }
    fs::write(folder.join(IMAGE), serde_json::to_vec(&making.image).unwrap()).unwrap();
    if base.is_killed() {
        // So that the file is as one of them left it, whatever else the machine does.
        making.wait_for_checkpoint();
        kill_process(getpid(), Signal::KILL).unwrap();
    }
    drop(making);
    if base == Base::Backup {
        fs::remove_file(path).unwrap();
    }
}

/// The newest commit in a copy of a moment.
fn opened_commit(copy: &Path, folder: &Path) -> u64 {
    let looked_at = folder.join("looked-at");
    copy_files(copy, &looked_at);
    let store = options().open(looked_at.join(TABLE)).unwrap();
    let commit = store.position().unwrap().commit().number();
    drop(store);
    fs::remove_dir_all(looked_at).unwrap();
    commit
}
