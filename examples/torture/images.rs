//! Crash images: what a crash at other moments would have left of a store that was used meanwhile. Each is a crash point as
//! any other: it is opened, and all of it compared. But the session that led there ran only once.

use crate::case::Case;
use crate::disk::{CrashImage, Disk};
use crate::oracle::{Found, Held, Shown};
use crate::session::Told;

/// How many crash images are taken in a session, and while the store is closed after it, by default.
pub(crate) const IMAGES_MAX: u64 = 20;
/// Of how many there is one if commits are large, which take long to compare.
const HEAVY_ONE_OF: u64 = 6;
/// How many crashes there are, one upon the other: the second while what the first left is opened, and so on.
const DEPTH_MAX: u32 = 3;

/// Of how many there is one that a follower reads before a writer opens it, after a power cut; and where the writer was
/// killed, so that there is something to be read that is not synced.
const FOLLOWED_ONE_OF: [u64; 2] = [8, 2];

/// What is known of a store when it crashes again.
#[derive(Clone, Copy)]
struct Before {
    /// The call of the disk at which the first crash was.
    call: u64,
    /// How many crashes there were.
    depth: u32,
    /// It has no commit that the one before it had not.
    at_most: u64,
    /// It has each commit that was served.
    at_least: u64,
}

impl Case {
    /// From now on, crash images are taken.
    pub(crate) fn take_images(&mut self) {
        let max = self.settings.images_max / if self.heavy { HEAVY_ONE_OF } else { 1 };
        self.disk.take_images(self.random.below(max + 1));
    }

    /// Opens the crash images that were taken since, and compares them with what had been told by then.
    pub(crate) fn compare_images(&mut self, told: &Told) -> Found<()> {
        let mut all = Vec::new();
        for image in self.disk.images() {
            let call = image.call;
            let before = Before { call, depth: 1, at_most: u64::MAX, at_least: 0 };
            self.open_image(image, told, &before, &mut all)
                .map_err(|what| format!("after a crash at call {call}: {what}"))?;
        }
        if all.is_empty() {
            return Ok(());
        }
        self.crash_points += all.len() as u64;
        self.oracle.compare_all(told, all)
    }

    /// Reads all of what a crash left; and of what another crash leaves while that is opened, or after it.
    fn open_image(
        &mut self,
        image: CrashImage,
        told: &Told,
        before: &Before,
        all: &mut Vec<Held>,
    ) -> Found<()> {
        let cut_power = !self.random.one_in(3);
        let disk = Disk::after(image, cut_power, self.random.fork(), self.settings.sabotage);
        let (mut before, mut shown) = (*before, None);
        if self.followers_wanted > 0 && self.random.one_in(FOLLOWED_ONE_OF[usize::from(!cut_power)]) {
            let follower = self.follow_image(&disk, told, &before)?;
            // Also if the power is cut then: it has synced what it showed.
            if self.random.one_in(2) {
                disk.restart(true);
            }
            before.at_least = follower.newest;
            shown = Some(follower);
        }
        // More often if what was recovered may not be on the disk.
        let times = if self.heavy { 6 } else { 2 + u64::from(cut_power) };
        let crashes_again = before.depth < DEPTH_MAX && self.random.one_in(times);
        disk.take_images(u64::from(crashes_again));
        let opened = self.open(&disk);
        let store = opened.map_err(|error| format!("the disk is well, and it can't be opened: {error:?}"))?;
        let opened_at = disk.calls();
        let held = self.oracle.held(&store, told, before.call)?;
        drop(store);
        let newest = held.newest;
        if newest < before.at_least || newest > before.at_most {
            let Before { depth, at_least, at_most, .. } = before;
            return Err(format!(
                "{newest} is the newest commit after {depth} crashes, and was between {at_least} and {at_most} before"
            ));
        }
        if let Some(shown) = shown {
            shown.must_be(&held)?;
        }
        let name = if before.depth == 1 { "crash images" } else { "crash images of openings" };
        self.met.note(name, 1);
        all.push(held);
        for again in disk.images() {
            let at_least = if again.call > opened_at { newest } else { before.at_least };
            let Before { call, depth, .. } = before;
            let before = Before { call, depth: depth + 1, at_most: newest, at_least };
            self.open_image(again, told, &before, all)?;
        }
        Ok(())
    }

    /// What a follower shows of what a crash left, while there is no writer.
    fn follow_image(&mut self, disk: &Disk, told: &Told, before: &Before) -> Found<Shown> {
        let mut opening = Told::default();
        let follower = self.opening(disk).open(&mut opening);
        self.met.add(&opening.met);
        let Some(follower) = follower else {
            return Err(format!("the disk is well, and no follower can be opened: {:?}", opening.complaints));
        };
        self.met.note("crash images that were followed", 1);
        let shown = self.oracle.shown(follower.store(), told, before.call)?;
        let Before { at_least, at_most, .. } = *before;
        if !(at_least..=at_most).contains(&shown.newest) {
            return Err(format!(
                "a follower shows {}, and the newest was between {at_least} and {at_most}",
                shown.newest
            ));
        }
        Ok(shown)
    }
}
