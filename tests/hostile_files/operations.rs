//! [`Operation`]: what is called on damaged files, and what must not come of it.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use keystead::{
    After, Alias, Error, HistoryOf, Limit, NewKey, Options, Order, PendingDays, Position, Restore, Result,
    Store, compact, repair,
};
use serde::{Deserialize, Serialize};

use crate::child::panic_text;
use crate::mutations::{Case, Damage, Kind};
use crate::random::Random;
use crate::stores::{Base, CHANGES, Image, NOTHING, Name, TABLE, copy_files, options, request, scope};
use crate::tool;
use crate::verdict::{Judged, Rules, is_answer, word};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Operation {
    /// Opens to read, and asks for all names, lists, the history.
    Read,
    /// The same after all pages were compared with their checksums.
    CheckedRead,
    /// Opens to write; creates, moves, deletes, trims, closes.
    Write,
    /// The same with a checkpoint behind every commit, so that the table file is written all the time.
    WriteCheckpointed,
    /// The same after all pages were compared with their checksums.
    CheckedWrite,
    Verify,
    VerifyBackup,
    Backup,
    Restore,
    Repair,
    Compact,
    /// The tool's commands.
    Tool,
}

impl Operation {
    pub(crate) fn of(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::ChangeFiles => &[Self::VerifyBackup, Self::Restore],
            _ => &[
                Self::Read,
                Self::CheckedRead,
                Self::Write,
                Self::WriteCheckpointed,
                Self::CheckedWrite,
                Self::Verify,
                Self::VerifyBackup,
                Self::Backup,
                Self::Restore,
                Self::Repair,
                Self::Compact,
                Self::Tool,
            ],
        }
    }
}

/// What came of an operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Said {
    /// In a word or two, to be counted.
    pub(crate) outcome: String,
    /// What must not be.
    pub(crate) faults: Vec<String>,
}

/// Damaged files, and what is known of them.
pub(crate) struct Subject<'a> {
    pub(crate) case: Case,
    pub(crate) seed: u64,
    pub(crate) damage: Damage,
    /// Where they lie.
    pub(crate) files: PathBuf,
    /// Where copies and new files go.
    pub(crate) scratch: PathBuf,
    pub(crate) image: &'a Image,
    pub(crate) image_of_backup: Option<&'a Image>,
}

impl Subject<'_> {
    /// Runs an operation; also a panic that gets out of the library is a fault.
    pub(crate) fn run(&self, operation: Operation) -> Said {
        // What was left behind by the operation before.
        let _ = fs::remove_dir_all(&self.scratch);
        fs::create_dir_all(&self.scratch).unwrap();
        let said = catch_unwind(AssertUnwindSafe(|| self.operate(operation)));
        said.unwrap_or_else(|panic| {
            let text = panic_text(&*panic);
            Said { outcome: "panic".to_owned(), faults: vec![format!("panic: {text}")] }
        })
    }

    fn operate(&self, operation: Operation) -> Said {
        let said = match operation {
            Operation::Read => self.options().open_read_only(self.table()).map(|store| self.read(&store)),
            Operation::CheckedRead => self.checked().map(|store| self.read(&store)),
            Operation::Write => self.write(&self.options()),
            Operation::WriteCheckpointed => self.write(&self.options().checkpoint_bytes(1)),
            Operation::CheckedWrite => self.write(&self.options().check_integrity(true)),
            Operation::Verify => self.verify(),
            Operation::VerifyBackup => self.verify_backup(),
            Operation::Backup => self.backup(),
            Operation::Restore => self.restore(),
            Operation::Repair => self.repair(),
            Operation::Compact => self.compact(),
            Operation::Tool => tool::run(self),
        };
        said.unwrap_or_else(|error| self.refused(&error))
    }

    fn refused(&self, error: &Error) -> Said {
        let faults = match is_answer(error) {
            true => vec![format!("no error of damage: {error:?}")],
            false => Vec::new(),
        };
        Said { outcome: format!("detected: {}", word(error)), faults }
    }

    fn options(&self) -> Options {
        options().create(false)
    }

    fn table(&self) -> PathBuf {
        self.files.join(TABLE)
    }

    pub(crate) fn image(&self) -> &Image {
        self.image_of_backup.unwrap_or(self.image)
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules::of(self.case.kind, &self.damage, self.image())
    }

    fn checked(&self) -> Result<Store> {
        self.options().check_integrity(true).open_read_only(self.table())
    }

    /// Whether all pages fit their checksums, and the log fits the table.
    fn fits(&self) -> bool {
        self.checked().is_ok()
    }

    pub(crate) fn judge(&self, store: &Store) -> Judged {
        Judged::of(store, self.image(), &BTreeSet::new())
    }

    fn said(&self, judged: &Judged) -> Said {
        Said { outcome: judged.outcome(), faults: judged.faults(self.rules()) }
    }

    fn read(&self, store: &Store) -> Said {
        let judged = self.judge(store);
        // Whatever these say, they come to an end.
        let _ = store.scopes(After::Start, Limit::MAX);
        let mut position: Option<Position> = None;
        let mut stuck = None;
        while let Ok(changes) = store.changes(position.as_ref(), Limit::MAX) {
            if changes.commits.is_empty() {
                break;
            }
            let (before, now) = (
                position.map_or(0, |position| position.commit().number()),
                changes.position.commit().number(),
            );
            position = Some(changes.position);
            if now <= before {
                // Whoever follows the feed would never come to its end.
                stuck = Some(format!(
                    "endless: the feed behind commit {before} has changes, and goes on behind {now}"
                ));
                break;
            }
        }
        for name in self.image().names.iter().step_by(50) {
            if let Name::Alias(number, alias) = name {
                let alias = Alias::new(alias).unwrap();
                let history = HistoryOf::Alias(&alias);
                let _ = store.read(&scope(*number), |snap| {
                    snap.history(history, Order::NewestFirst, After::Start, Limit::MAX)
                });
            }
        }
        let mut said = self.said(&judged);
        said.faults.extend(stuck);
        said
    }

    /// A copy that may be written.
    fn copy(&self) -> PathBuf {
        let copy = self.scratch.join("copy");
        copy_files(&self.files, &copy);
        copy.join(TABLE)
    }

    fn write(&self, options: &Options) -> Result<Said> {
        let path = self.copy();
        let mut random = self.case.random(self.seed ^ 1);
        let store = options.open(&path)?;
        let mut writes = Writes {
            image: self.image(),
            names: BTreeSet::new(),
            moved: None,
            errors: Vec::new(),
            answers: Vec::new(),
        };
        let hot = usize::from(self.damage.base != Base::Small) * random.index(3);
        writes.all(&store, hot, &mut random);
        drop(store);
        let Writes { names, moved, errors, answers, .. } = writes;
        let mut faults = Vec::new();
        let rules = self.rules();
        if rules.earlier.is_none() && !rules.hostile {
            faults.extend(answers.first().map(|answer| format!("hidden: a write was refused by {answer}")));
        }
        let again = match options.open(&path) {
            Ok(store) => store,
            Err(error) => {
                let mut said = self.refused(&error);
                said.outcome = format!("written, then {}", said.outcome);
                said.faults.extend(faults);
                return Ok(said);
            }
        };
        let judged = Judged::of(&again, self.image(), &names.iter().collect());
        faults.extend(judged.faults(rules));
        if let Some((number, alias, target)) = moved {
            match again.read(&scope(number), |snap| snap.resolve(&alias)) {
                Ok(key) if key.key_id == target => {}
                Err(error) if !is_answer(&error) => {}
                other => {
                    faults.push(format!("wrong answer: the alias that was moved to {target}: {other:?}"))
                }
            }
        }
        let outcome = match (judged.outcome(), errors.first()) {
            (outcome, Some(error)) if outcome == "harmless" => format!("detected: {error}"),
            (outcome, _) => outcome,
        };
        Ok(Said { outcome, faults })
    }

    fn verify(&self) -> Result<Said> {
        let store = self.options().open_read_only(self.table())?;
        let report = match store.verify() {
            Ok(report) => report,
            Err(error) => return Ok(self.refused(&error)),
        };
        if !report.is_clean() {
            return Ok(Said { outcome: "detected: violations".to_owned(), faults: Vec::new() });
        }
        if !store.check_pages(u64::MAX)?.is_clean() {
            return Ok(Said { outcome: "detected: damaged pages".to_owned(), faults: Vec::new() });
        }
        let judged = self.judge(&store);
        drop(store);
        let mut said = self.said(&judged);
        if !judged.errors.is_empty() {
            said.faults.push(format!("not seen: verify is clean, but reading says {}", judged.errors[0]));
        }
        if said.faults.is_empty() && !self.fits() {
            said.faults.push("not seen: verify is clean, but a check of all pages is not".to_owned());
        }
        Ok(said)
    }

    fn verify_backup(&self) -> Result<Said> {
        if self.case.kind == Kind::ChangeFiles {
            Store::verify_backup(self.files.join(CHANGES))?;
            return Ok(Said { outcome: "harmless".to_owned(), faults: Vec::new() });
        }
        Store::verify_backup(self.table())?;
        self.whole(self.options().open_read_only(self.table())?)
    }

    fn backup(&self) -> Result<Said> {
        let new = self.scratch.join("backup");
        self.options().open_read_only(self.table())?.backup(&new)?;
        self.whole(self.options().open_read_only(new)?)
    }

    fn restore(&self) -> Result<Said> {
        let new = self.scratch.join("restored");
        let mut restore = Restore::of(self.table());
        if self.damage.base == Base::Backup {
            restore = restore.changes(self.files.join(CHANGES));
        }
        restore.into_file(&new)?;
        let store = Options::new().open_read_only(new)?;
        let image = if self.damage.base == Base::Backup { self.image } else { self.image() };
        let judged = Judged::of(&store, image, &BTreeSet::new());
        self.must_be_whole(judged)
    }

    fn compact(&self) -> Result<Said> {
        let path = self.copy();
        compact(&path)?;
        self.whole(Options::new().open_read_only(path)?)
    }

    /// What is made or found sound has all, and serves all.
    fn whole(&self, store: Store) -> Result<Said> {
        self.must_be_whole(self.judge(&store))
    }

    fn must_be_whole(&self, judged: Judged) -> Result<Said> {
        let mut said = self.said(&judged);
        if !judged.errors.is_empty() {
            said.faults.push(format!("not seen: it was called sound, but reading says {}", judged.errors[0]));
        }
        if let Some(commit) = judged.earlier.filter(|_| said.faults.is_empty() && !self.fits()) {
            said.faults.push(format!(
                "not seen: it was called sound, but is as after commit {commit}, and pages don't fit"
            ));
        }
        Ok(said)
    }

    fn repair(&self) -> Result<Said> {
        let new = self.scratch.join("repaired");
        let report = match repair(self.table(), &new) {
            // The table itself is whole.
            Err(error) if self.case.kind.is_of_log() => {
                let mut said = self.refused(&error);
                said.faults.push(format!("not salvaged: the table is whole, but repair says {error:?}"));
                return Ok(said);
            }
            repaired => repaired?,
        };
        let says_lost = !report.complete();
        let judged = self.judge(&Options::new().open_read_only(new)?);
        let mut faults = Vec::new();
        if let Some(error) = judged.errors.first() {
            faults.push(format!("repaired, but reading says {error}"));
        }
        // Where the newest commit is left out as a whole, a record that it changed may be as of the change before:
        // docs/backup.md says so, and the report is not complete then.
        if let Some(wrong) = judged.wrong.first().filter(|_| !says_lost) {
            faults.push(format!("stale in silence: {wrong} ({} such)", judged.wrong.len()));
        }
        // Where the checksums fit, or flags of the first page are others, no page that has rows is damaged. A page that
        // was healed is as good as a sound one.
        let rows_may_be_complete =
            matches!(self.case.kind, Kind::OrdersThatFit | Kind::FlipsThatFit | Kind::Headers)
                || report.healed_pages > 0;
        if !says_lost && !self.fits() && !rows_may_be_complete {
            faults.push("lost 0 said, though not all pages fit".to_owned());
        }
        if let Some(hidden) = judged.hidden.first().filter(|_| !says_lost) {
            faults.push(format!("lost in silence: {hidden} ({} such)", judged.hidden.len()));
        }
        // A complete earlier state is the best there is if the newest can't be read; the report must say so.
        // Of a log that is an earlier one, or whose last frames are gone to the last byte, nothing tells that it was longer.
        let without_a_trace = match self.case.kind {
            Kind::LogEarlier => true,
            Kind::LogDamaged => self.damage.what.starts_with("zeros"),
            _ => false,
        };
        if judged.earlier.is_some() && !says_lost && !without_a_trace {
            faults.push("lost in silence: all names are as after an earlier commit".to_owned());
        }
        if self.case.kind == Kind::LogMissing && !says_lost {
            faults.push("lost in silence: the log is missing, and lost is 0".to_owned());
        }
        let outcome = match (judged.outcome(), says_lost) {
            (_, true) if !judged.wrong.is_empty() => "repaired, lost told (stale)".to_owned(),
            (outcome, true) => format!("repaired, lost told ({outcome})"),
            (outcome, false) if report.healed_pages > 0 => format!("repaired, healed ({outcome})"),
            (outcome, false) => format!("repaired, lost 0 ({outcome})"),
        };
        Ok(Said { outcome, faults })
    }
}

/// What is written into a damaged store.
struct Writes<'a> {
    image: &'a Image,
    /// All names whose answer may be another now.
    names: BTreeSet<Name>,
    moved: Option<(usize, Alias, keystead::KeyId)>,
    errors: Vec<String>,
    /// Refusals that say that something is not there.
    answers: Vec<String>,
}

impl Writes<'_> {
    fn any(&self, of: usize, random: &mut Random, is_kind: fn(&Name) -> bool) -> Name {
        let there = self.image.names.iter().zip(self.image.newest());
        let there: Vec<_> = there
            .filter(|(name, answer)| name.scope() == of && **answer != NOTHING && is_kind(name))
            .collect();
        random.pick(&there).0.clone()
    }

    /// A name, and all that answered with the same key after any commit: the store may be as of an earlier one.
    fn touch(&mut self, touched: &Name) {
        let Some(number) = self.image.names.iter().position(|known| known == touched) else { return };
        for answers in self.image.commits.values() {
            let Some(of_touched) = answers.get(number).filter(|answer| **answer != NOTHING) else { continue };
            let same = self.image.names.iter().zip(answers).filter(|(_, answer)| *answer == of_touched);
            self.names.extend(same.map(|(name, _)| name.clone()));
        }
        self.names.insert(touched.clone());
    }

    fn note<T>(&mut self, result: Result<T>) -> bool {
        if let Err(error) = &result {
            let list = if is_answer(error) { &mut self.answers } else { &mut self.errors };
            list.push(word(error));
        }
        result.is_ok()
    }

    fn all(&mut self, store: &Store, of: usize, random: &mut Random) {
        let is_key = |name: &Name| matches!(name, Name::Key(..));
        let is_alias = |name: &Name| matches!(name, Name::Alias(..));
        let [target, going] = [(); 2].map(|()| self.any(of, random, is_key));
        let [moving, deleted] = [(); 2].map(|()| self.any(of, random, is_alias));
        [&target, &going, &moving, &deleted].iter().for_each(|name| self.touch(name));
        let (Name::Key(_, target), Name::Key(_, going)) = (target, going) else {
            unreachable!("keys were asked for")
        };
        let [moving, deleted] = [moving, deleted].map(|name| match name {
            Name::Alias(_, alias) => Alias::new(&alias).unwrap(),
            other => panic!("{other:?} is no alias"),
        });
        for number in 0..10 {
            let new = NewKey::new(&format!("new-{number}")).unwrap().id(random_id(random));
            let new = new.alias(format!("new/{number}").parse().unwrap());
            let created = store.write(&request(of), |txn| txn.create_key(&new));
            if !self.note(created) {
                break;
            }
        }
        let associated = store.write(&request(of), |txn| txn.associate_alias(&moving, target));
        if self.note(associated) {
            self.moved = Some((of, moving.clone(), target));
        }
        if deleted != moving {
            let gone = store.write(&request(of), |txn| {
                let key_id = txn.alias(&deleted)?.key_id;
                txn.delete_aliases(key_id, std::slice::from_ref(&deleted))
            });
            self.note(gone);
        }
        let scheduled = store.write(&request(of), |txn| txn.schedule_deletion(going, PendingDays::new(7)?));
        self.note(scheduled);
        if let Ok(position) = store.position() {
            let half = keystead::Commit::new(position.commit().number() / 2);
            let trimmed = store.trim_history(half);
            self.note(trimmed);
        }
    }
}

fn random_id(random: &mut Random) -> keystead::KeyId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random.next().to_be_bytes());
    bytes[8..].copy_from_slice(&random.next().to_be_bytes());
    // None that the store has.
    bytes[0] |= 0x80;
    keystead::KeyId::from_bytes(bytes)
}

/// Where a case has its files and its copies.
pub(crate) fn folders(work: &Path) -> (PathBuf, PathBuf) {
    (work.join("case"), work.join("scratch"))
}
