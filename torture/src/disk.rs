//! A simulated disk with the table and the write-ahead log of a store: its calls fail when they are told to, and a
//! power cut takes any part of what was not synced. On request it keeps what a crash at some of its calls would have left,
//! while whoever uses it continues.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keystead::Storage;
use keystead::simulation::Machine;

use crate::content::{Change, Content};
use crate::random::Random;
use crate::session::Sabotage;

/// The number of the file that is the write-ahead log.
const WAL: usize = 1;

/// By how many bytes at the beginning of each file a writer says to followers what they may show: the first page of the table
/// is newer than its last sync, and so is the mark of the log.
const SAID_TO_FOLLOWERS: [usize; 2] = [4096, 8192];

/// A disk; clones are the same one.
#[derive(Clone)]
pub(crate) struct Disk(Arc<Mutex<State>>);

/// Which calls a trouble counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    All,
    Reads,
    Writes,
    Syncs,
    Lengths,
}

/// Whose a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Writer,
    Follower,
}

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The power goes: of what was not synced, any part is there afterwards.
    PowerCut,
    /// The writing process ends: the operating system has all that was written, but may not have synced it.
    Kill,
    /// The call fails.
    Fail(io::ErrorKind),
}

/// From the n-th call of a kind on, so many of them have this effect.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trouble {
    pub(crate) of: Calls,
    pub(crate) from: u64,
    pub(crate) count: u64,
    pub(crate) effect: Effect,
}

/// What a disk did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) crashes: u64,
    pub(crate) faults: u64,
}

/// What a crash at one call of a disk leaves, before anything is lost.
pub(crate) struct CrashImage {
    /// The number of the call.
    pub(crate) call: u64,
    files: [File; 2],
    boot: u64,
}

/// A call to be chosen, at which a crash image is taken: each of its kind with the same probability.
struct Moment {
    /// Any sync, or any call that changes something.
    only_syncs: bool,
    seen: u64,
    image: Option<CrashImage>,
}

struct State {
    files: [File; 2],
    /// Whether several threads use it.
    is_shared: bool,
    /// How many calls there were.
    calls: u64,
    moments: Vec<Moment>,
    /// Each with how many of its calls there were.
    troubles: Vec<(Trouble, u64)>,
    /// Since the power was cut, nothing is done any more; since the writing process ended, nothing of that.
    dead: Option<Effect>,
    /// Whether any call of the writer, or of a follower, has failed since the last start.
    failed: [bool; 2],
    /// How many calls of followers have failed.
    failures_of_followers: u64,
    /// Whether a sync of a follower has failed, so that the next one of the writer fails too: a system reports it through
    /// each handle of the file.
    sync_failed: [bool; 2],
    /// Whether a writer opened the store in a way that others can follow it.
    is_followed: bool,
    /// The number of the start of the machine, or 0 if it does not number them.
    boot: u64,
    machine: Machine,
    figures: Figures,
    random: Random,
    sabotage: Option<Sabotage>,
}

#[derive(Clone, Default)]
struct File {
    /// What is read: what was written last.
    cached: Content,
    /// What is on the disk for good.
    synced: Content,
    /// What was done since, in its order.
    unsynced: Vec<Change>,
}

struct OneFile {
    disk: Disk,
    number: usize,
    process: Process,
}

impl Disk {
    pub(crate) fn new(mut random: Random, sabotage: Option<Sabotage>) -> Self {
        let boot = boot(&mut random);
        Self(Arc::new(Mutex::new(State {
            files: Default::default(),
            is_shared: false,
            calls: 0,
            moments: Vec::new(),
            troubles: Vec::new(),
            dead: None,
            failed: [false; 2],
            failures_of_followers: 0,
            sync_failed: [false; 2],
            is_followed: false,
            boot,
            machine: Machine::new(boot),
            figures: Figures::default(),
            random,
            sabotage,
        })))
    }

    /// The disk after the crash, which is well.
    pub(crate) fn after(
        image: CrashImage,
        cut_power: bool,
        random: Random,
        sabotage: Option<Sabotage>,
    ) -> Self {
        let disk = Self::new(random, sabotage);
        let mut state = disk.state();
        (state.files, state.boot, state.machine) = (image.files, image.boot, Machine::new(image.boot));
        drop(state);
        disk.restart(cut_power);
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table(&self) -> Box<dyn Storage> {
        Box::new(OneFile { disk: self.clone(), number: 0, process: Process::Writer })
    }

    pub(crate) fn log(&self) -> Box<dyn Storage> {
        Box::new(OneFile { disk: self.clone(), number: WAL, process: Process::Writer })
    }

    /// The table and the log, for a writer that is followed.
    pub(crate) fn files(&self) -> [Arc<dyn Storage>; 2] {
        self.state().is_followed = true;
        self.files_of(Process::Writer)
    }

    /// The same for a follower.
    pub(crate) fn files_to_follow(&self) -> [Arc<dyn Storage>; 2] {
        self.files_of(Process::Follower)
    }

    fn files_of(&self, process: Process) -> [Arc<dyn Storage>; 2] {
        [0, WAL].map(|number| Arc::new(OneFile { disk: self.clone(), number, process }) as Arc<dyn Storage>)
    }

    /// The machine that has the disk, until its power is cut.
    pub(crate) fn machine(&self) -> Machine {
        self.state().machine.clone()
    }

    /// This is to happen too, counted from now.
    pub(crate) fn expect(&self, trouble: Trouble) {
        self.state().troubles.push((trouble, 0));
    }

    /// From now on several threads use it, or only one.
    pub(crate) fn share(&self, is_shared: bool) {
        self.state().is_shared = is_shared;
    }

    /// How many calls there were so far. What somebody knew before this returned, was known before the next.
    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// From now on, takes this many crash images at calls that it chooses; those of before are dropped.
    pub(crate) fn take_images(&self, count: u64) {
        let mut state = self.state();
        let State { moments, random, .. } = &mut *state;
        let moment = |_| Moment { only_syncs: random.one_in(2), seen: 0, image: None };
        *moments = (0..count).map(moment).collect();
    }

    /// The crash images that were taken, in the order of their calls. No more are taken.
    pub(crate) fn images(&self) -> Vec<CrashImage> {
        let moments = std::mem::take(&mut self.state().moments);
        let mut images: Vec<_> = moments.into_iter().filter_map(|moment| moment.image).collect();
        images.sort_by_key(|image| image.call);
        // Chosen twice, it is one moment nevertheless.
        images.dedup_by_key(|image| image.call);
        images
    }

    /// Whether a call of the writer has failed since the last start.
    pub(crate) fn has_failed(&self) -> bool {
        self.state().failed[Process::Writer as usize]
    }

    /// How many calls of followers have failed.
    pub(crate) fn failures_of_followers(&self) -> u64 {
        self.state().failures_of_followers
    }

    /// Whether the next restart is one of the machine, which ends all processes, if it is asked for this.
    pub(crate) fn cuts_power(&self, cut_power: bool) -> bool {
        cut_power || self.state().dead == Some(Effect::PowerCut)
    }

    pub(crate) fn figures(&self) -> Figures {
        self.state().figures
    }

    /// Makes the table empty, as somebody does who begins anew.
    pub(crate) fn wipe_table(&self) {
        self.state().files[0] = File::default();
    }

    /// What came is over, and the disk is well again. If the process goes and not the power, so that what was
    /// written is not on the disk but can be read, that counts as a crash too.
    pub(crate) fn restart(&self, cut_power: bool) {
        let mut state = self.state();
        if state.dead.is_none() {
            state.figures.crashes += u64::from(cut_power);
        }
        let cut_power = cut_power || state.dead == Some(Effect::PowerCut);
        let State { files, random, boot: number, machine, .. } = &mut *state;
        if cut_power {
            *number = boot(random);
            *machine = Machine::new(*number);
            // All, nothing, or one in so many.
            let (kept, torn) = *random.pick(&[(0, 0), (4, 0), (1, 1), (2, 1), (3, 1), (2, 0), (3, 0)]);
            files.iter_mut().for_each(|file| file.lose(random, kept, torn, 0));
        }
        (state.dead, state.failed, state.sync_failed) = (None, [false; 2], [false; 2]);
        state.troubles.clear();
    }
}

impl File {
    /// Of four changes, so many are kept, and of four of these, so many in part; and all of those in the first bytes.
    fn lose(&mut self, random: &mut Random, kept: u64, torn: u64, first_bytes: usize) {
        for change in self.unsynced.drain(..) {
            if change.is_before(first_bytes) {
                change.apply(&mut self.synced);
                continue;
            }
            if random.below(4) >= kept {
                continue;
            }
            if random.below(4) < torn {
                change.tear(random, &mut self.synced);
            } else {
                change.apply(&mut self.synced);
            }
        }
        self.cached = self.synced.clone();
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.cached);
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.synced);
        }
    }
}

impl State {
    /// Counts a call; returns what is to happen to it.
    fn call(&mut self, of: Calls, process: Process) -> Option<Effect> {
        if self.is_dead(process) {
            self.note_failure(process);
            return self.dead;
        }
        self.calls += 1;
        let mut happens = None;
        for (trouble, count) in &mut self.troubles {
            if trouble.of != of && trouble.of != Calls::All {
                continue;
            }
            *count += 1;
            if *count >= trouble.from && *count - trouble.from < trouble.count {
                happens = happens.or(Some(trouble.effect));
            }
        }
        match happens {
            Some(Effect::Fail(_)) => self.figures.faults += 1,
            Some(effect) => {
                self.figures.crashes += 1;
                self.dead = Some(effect);
            }
            None => {}
        }
        match happens {
            // It is the writer that ends.
            Some(Effect::Kill) if process == Process::Follower => {
                self.failed[Process::Writer as usize] = true;
                None
            }
            _ => {
                if happens.is_some() {
                    self.note_failure(process);
                }
                happens
            }
        }
    }

    fn note_failure(&mut self, process: Process) {
        self.failed[process as usize] = true;
        self.failures_of_followers += u64::from(process == Process::Follower);
    }

    /// Whether nothing is done any more for this process.
    fn is_dead(&self, process: Process) -> bool {
        match self.dead {
            Some(Effect::Kill) => process == Process::Writer,
            dead => dead.is_some(),
        }
    }

    /// Takes crash images at a call that was just counted: a sync, or a change of which some may have been done.
    fn take_images(&mut self, change: Option<(usize, &Change)>) {
        let Self { files, calls, moments, random, boot, .. } = self;
        for moment in moments.iter_mut().filter(|moment| change.is_none() || !moment.only_syncs) {
            moment.seen += 1;
            if !random.one_in(moment.seen) {
                continue;
            }
            let mut image = CrashImage { call: *calls, files: files.clone(), boot: *boot };
            if let Some((number, change)) = change
                && let Some(change) = change.at_a_crash(random)
            {
                image.files[number].change(change);
            }
            moment.image = Some(image);
        }
    }
}

impl OneFile {
    fn change(&self, of: Calls, change: Change) -> io::Result<()> {
        let mut state = self.disk.state();
        let was_dead = state.is_dead(self.process);
        let effect = state.call(of, self.process);
        if !was_dead {
            state.take_images(Some((self.number, &change)));
        }
        let State { files, random, .. } = &mut *state;
        let file = &mut files[self.number];
        let Some(effect) = effect else {
            file.change(change);
            return Ok(());
        };
        if !was_dead && let Some(change) = change.at_a_crash(random) {
            file.change(change);
        }
        Err(error_of(effect))
    }

    fn sync_fails(state: &mut State, number: usize) {
        let State { files, random, is_followed, sabotage, .. } = state;
        // What followers are to read stays in the cache of the system: see docs/durability.md.
        let stays = *is_followed && *sabotage != Some(Sabotage::DroppedMarks);
        let first_bytes = if stays { SAID_TO_FOLLOWERS[number] } else { 0 };
        // A system may keep what it could not write, or drop it and forget that it ever had it.
        if random.one_in(2) {
            let cached = files[number].cached.clone();
            let kept = random.below(5);
            files[number].lose(random, kept, 1, first_bytes);
            if *sabotage == Some(Sabotage::PhantomPages) {
                files[number].cached = cached;
            }
        }
    }
}

/// The number of a start of a machine. Some systems don't have one.
fn boot(random: &mut Random) -> u64 {
    if random.one_in(3) { 0 } else { 1 + random.below(1 << 40) }
}

fn error_of(effect: Effect) -> io::Error {
    match effect {
        Effect::Fail(kind) => io::Error::new(kind, "the simulated disk fails"),
        Effect::PowerCut | Effect::Kill => io::Error::other("the simulated machine is off"),
    }
}

impl Storage for OneFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        match state.call(Calls::Reads, self.process) {
            None => Ok(state.files[self.number].cached.length() as u64),
            Some(effect) => Err(error_of(effect)),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let effect = state.call(Calls::Reads, self.process);
        let State { files, random, .. } = &mut *state;
        let (content, offset) = (&files[self.number].cached, to_usize(offset));
        let Some(effect) = effect else { return content.read(offset, out) };
        // A short read: some of it came.
        let some = random.index(out.len() + 1);
        drop(content.read(offset, &mut out[..some]));
        Err(error_of(effect))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Calls::Writes, Change::write(to_usize(offset), data))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Calls::Lengths, Change::Length(to_usize(length)))
    }

    fn sync(&self) -> io::Result<()> {
        let is_shared = self.disk.state().is_shared;
        if is_shared {
            // Somebody else's turn, now and then: so that more than one waits for the next sync. On a busy machine it is
            // the turn of anybody, for milliseconds.
            std::thread::yield_now();
        }
        let mut state = self.disk.state();
        let was_dead = state.is_dead(self.process);
        let mut effect = state.call(Calls::Syncs, self.process);
        if !was_dead {
            state.take_images(None);
        }
        if self.process == Process::Writer && std::mem::take(&mut state.sync_failed[self.number]) {
            state.failed[Process::Writer as usize] = true;
            effect = effect.or(Some(Effect::Fail(io::ErrorKind::Other)));
        }
        let lies = matches!(state.sabotage, Some(Sabotage::UnsyncedFollower | Sabotage::BlindFollower));
        match effect {
            None if lies && self.process == Process::Follower => Ok(()),
            None if state.sabotage == Some(Sabotage::LyingSync) && state.random.one_in(3) => Ok(()),
            None => {
                state.files[self.number].sync();
                Ok(())
            }
            Some(effect) => {
                if !was_dead && matches!(effect, Effect::Fail(_)) {
                    state.sync_failed[self.number] |= self.process == Process::Follower;
                    Self::sync_fails(&mut state, self.number);
                }
                Err(error_of(effect))
            }
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("figures", &self.figures()).finish_non_exhaustive()
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("offsets and lengths of a simulated disk fit into memory")
}
