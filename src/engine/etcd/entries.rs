//! The log in etcd: entries lie in chapters, because a key can't hold the revision that makes it.
//!
//! A commit that was begun in chapter `n` is refused when chapter `n + 2` has begun. So the entry of a commit at
//! revision `r` lies in the last chapter that began before `r`, or in the one before that; and where `r` is known,
//! two chapters are looked through, by the revision that changed each key. Beginning a chapter refuses nobody who
//! began in the one before.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use etcd_client::{GetOptions, SortOrder, SortTarget};

use super::Shared;
use super::client::{At, Found, Until};
use super::layout::{Key, MAGIC, VERSION};
use super::seen::Chapter;
use crate::engine::seal::unseal;
use crate::error::{Error, Result};
use crate::format::corrupted;
use crate::id::Commit;

/// After so many revisions a chapter is to end.
pub(super) const CHAPTER_REVISIONS: u64 = 128;

/// How many entries are asked for at once: each has a mebibyte at most.
const ENTRIES_AT_ONCE: usize = 32;

/// How many chapters are asked for at once.
const CHAPTERS_AT_ONCE: i64 = 1000;

/// Of so many chapters it is remembered where they begin.
const REMEMBERED_MAX: usize = 1 << 16;

/// Where chapters begin, as far as that was asked for.
#[derive(Default)]
pub(super) struct Chapters(Mutex<BTreeMap<u64, u64>>);

impl Chapters {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, chapter: Chapter) {
        let mut starts = self.lock();
        if starts.len() >= REMEMBERED_MAX {
            starts.clear();
        }
        starts.insert(chapter.number, chapter.start);
    }
}

/// What is read: the store as of a revision, for so long.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) at: i64,
    pub(super) until: Until,
}

/// Where the entry of a commit may lie.
struct Stretch {
    /// The last chapter that began before it.
    last: u64,
    /// Where the next chapter begins, if there is one that is known.
    next_start: Option<u64>,
}

impl Shared {
    /// The chapter that is the newest at a revision.
    pub(super) fn newest_chapter(&self, view: View) -> Result<Chapter> {
        let newest = [(self.layout.chapter(0), self.newest_in_chapters())];
        let (_, mut found) = self.client.ranges(&newest, At::Revision(view.at), view.until)?;
        let newest = found.pop().unwrap_or_default().pop();
        let newest = newest.and_then(|found| self.chapter_of(&found));
        newest.ok_or_else(no_chapter)
    }

    /// How the newest chapter is asked for, from the first on.
    pub(super) fn newest_in_chapters(&self) -> GetOptions {
        GetOptions::new()
            .with_range(self.layout.after_chapters())
            .with_sort(SortTarget::Key, SortOrder::Descend)
            .with_limit(1)
    }

    pub(super) fn chapter_of(&self, found: &Found) -> Option<Chapter> {
        match self.layout.read(&found.key) {
            super::layout::Of::Chapter(number) => Some(Chapter { number, start: revision(found.created) }),
            _ => None,
        }
    }

    /// Where a chapter begins; `None` for one that was trimmed away, before all that is there.
    fn start_of(&self, number: u64, view: View) -> Result<Option<u64>> {
        if let Some(start) = self.chapters.lock().get(&number) {
            return Ok(Some(*start));
        }
        let (_, mut found) =
            self.client.get(&[self.layout.chapter(number)], At::Revision(view.at), view.until)?;
        let start = found.pop().flatten().map(|found| revision(found.created));
        if let Some(start) = start {
            self.chapters.remember(Chapter { number, start });
        }
        Ok(start)
    }

    /// Where the entry of a commit at this revision may lie.
    fn stretch_of(&self, commit: u64, view: View) -> Result<Stretch> {
        let mut newest = self.seen.chapter();
        if newest.start > revision(view.at) {
            // One that began later is not there at that revision, as one that was trimmed away.
            newest = self.newest_chapter(view)?;
        }
        if commit > newest.start {
            return Ok(Stretch { last: newest.number, next_start: None });
        }
        // The last that began before it is from the first to the last of these.
        let (mut first, mut last, mut next_start) = (0, newest.number, newest.start);
        while first + 1 < last {
            let middle = first + (last - first) / 2;
            match self.start_of(middle, view)? {
                Some(start) if start >= commit => (last, next_start) = (middle, start),
                _ => first = middle,
            }
        }
        Ok(Stretch { last: first, next_start: Some(next_start) })
    }

    /// The keys at which entries of two chapters lie: that one, and the one before.
    fn range_of(&self, stretch: &Stretch) -> (Key, Key) {
        let from = self.layout.entries_of(stretch.last.saturating_sub(1));
        let to = match stretch.next_start {
            Some(_) => self.layout.entries_of(stretch.last + 1),
            None => self.layout.after_entries(),
        };
        (from, to)
    }

    /// The first keys in whose chapters no entry behind this commit lies: all of the log before it may be deleted.
    pub(super) fn first_kept(&self, commit: u64, view: View) -> Result<u64> {
        Ok(self.stretch_of(commit + 1, view)?.last.saturating_sub(1))
    }

    /// The entry of a commit, as of a revision.
    pub(super) fn entry_at(&self, commit: Commit, view: View) -> Result<Option<Vec<u8>>> {
        let number = commit.number();
        if number == 0 || number > revision(view.at) {
            return Ok(None);
        }
        let (from, to) = self.range_of(&self.stretch_of(number, view)?);
        let exactly = etcd_revision(number);
        let options =
            GetOptions::new().with_range(to).with_min_mod_revision(exactly).with_max_mod_revision(exactly);
        let ranges = [(from, options), (self.layout.trimmed(), GetOptions::new())];
        let (_, mut found) = self.client.ranges(&ranges, At::Revision(view.at), view.until)?;
        let trimmed = found.pop().unwrap_or_default().pop();
        if number <= self.trimmed_to(trimmed)? {
            return Ok(None);
        }
        let entry = found.pop().unwrap_or_default().pop();
        entry.map(|entry| self.read_entry(&entry)).transpose()
    }

    /// The first entries behind a commit, as of a revision, in the order of their commits.
    pub(super) fn entries_at(
        &self,
        after: Commit,
        limit: usize,
        view: View,
    ) -> Result<Vec<(Commit, Result<Vec<u8>>)>> {
        let mut entries = Vec::new();
        let (_, mut trimmed) =
            self.client.get(&[self.layout.trimmed()], At::Revision(view.at), view.until)?;
        let mut after = after.number().max(self.trimmed_to(trimmed.pop().flatten())?);
        while entries.len() < limit && after < revision(view.at) {
            let stretch = self.stretch_of(after + 1, view)?;
            let (from, to) = self.range_of(&stretch);
            let wanted = ENTRIES_AT_ONCE.min(limit - entries.len());
            let mut options = GetOptions::new()
                .with_range(to)
                .with_min_mod_revision(etcd_revision(after + 1))
                .with_sort(SortTarget::Mod, SortOrder::Ascend)
                .with_limit(i64::try_from(wanted).unwrap_or(i64::MAX));
            if let Some(next_start) = stretch.next_start {
                options = options.with_max_mod_revision(etcd_revision(next_start));
            }
            let (_, mut found) = self.client.ranges(&[(from, options)], At::Revision(view.at), view.until)?;
            let found = found.pop().unwrap_or_default();
            let exhausted = found.len() < wanted;
            for entry in found {
                after = revision(entry.modified);
                entries.push((Commit::new(after), self.read_entry(&entry)));
            }
            match stretch.next_start {
                // Behind it lies what is in the next chapters.
                Some(next_start) if exhausted => after = after.max(next_start),
                None if exhausted => break,
                _ => {}
            }
        }
        Ok(entries)
    }

    /// That the key of the format is there, and every chapter from the first that was not trimmed: entries are looked
    /// for between the revisions at which chapters begin.
    pub(super) fn audit_at(&self, view: View) -> Result<()> {
        let keys = [self.layout.format(), self.layout.trimmed()];
        let (_, mut found) = self.client.get(&keys, At::Revision(view.at), view.until)?;
        let trimmed = self.trimmed_to(found.pop().flatten())?;
        let format = found.pop().flatten().map(|format| format.value);
        if format != Some([MAGIC, &[VERSION]].concat()) {
            return Err(corrupted(&keys[0], "it does not hold the format"));
        }
        let mut last: Option<Chapter> = None;
        loop {
            let from = self.layout.chapter(last.map_or(0, |last| last.number + 1));
            let options = GetOptions::new()
                .with_range(self.layout.after_chapters())
                .with_limit(CHAPTERS_AT_ONCE)
                .with_keys_only();
            let (_, mut found) = self.client.ranges(&[(from, options)], At::Revision(view.at), view.until)?;
            let found = found.pop().unwrap_or_default();
            for found in &found {
                let chapter =
                    self.chapter_of(found).ok_or_else(|| corrupted(&found.key, "it is no chapter"))?;
                let follows = match last {
                    Some(last) => chapter.number == last.number + 1 && chapter.start > last.start,
                    None => chapter.number == 0 || trimmed > 0,
                };
                if !follows {
                    return Err(corrupted(&found.key, "the chapter before it is missing"));
                }
                last = Some(chapter);
            }
            if found.is_empty() {
                return last.map(drop).ok_or_else(no_chapter);
            }
        }
    }

    fn read_entry(&self, entry: &Found) -> Result<Vec<u8>> {
        Ok(unseal(&entry.key, &entry.value)?.bytes.to_vec())
    }

    /// Up to which commit the log was trimmed, by what is at its key.
    fn trimmed_to(&self, found: Option<Found>) -> Result<u64> {
        let Some(Found { key, value, .. }) = found else { return Ok(0) };
        let bytes = unseal(&key, &value)?.bytes.try_into();
        let number = bytes.map(u64::from_be_bytes);
        number.map_err(|_| corrupted(&key, "up to where the log was trimmed has 8 bytes"))
    }
}

/// A revision as a number; etcd has none below 0.
pub(super) fn revision(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or_default()
}

/// A number as a revision; one that is larger than all is never reached.
pub(super) fn etcd_revision(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn no_chapter() -> Error {
    Error::Corrupted("the log in etcd has no chapter".into())
}
