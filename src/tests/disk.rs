//! A simulated disk with the files of a store: its calls can fail, and a crash loses what was not synced.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::engine::disk::{OnStorage, Storage};
use crate::engine::scripted::Random;

/// The number of the table file.
pub(crate) const TABLE: usize = 0;
/// The number of the write-ahead log.
pub(crate) const LOG: usize = 1;

/// What is in each file.
pub(crate) type Image = [Vec<u8>; 2];

const SECTOR: usize = 512;

/// Bytes that outlive the store on them, and a countdown to the call that fails.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

/// A call on a file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call<'a> {
    Len,
    Read,
    SetLen,
    Sync,
    Write(u64, &'a [u8]),
}

/// Tells before each call through one handle whether it succeeds.
pub(crate) type Decide = Arc<dyn Fn(Call<'_>) -> bool + Send + Sync>;

/// One file of a disk.
#[derive(Clone)]
struct DiskFile {
    disk: Disk,
    number: usize,
    /// Without it, the disk counts the call.
    decide: Option<Decide>,
}

impl fmt::Debug for DiskFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "file {}", self.number)
    }
}

#[derive(Debug, Default)]
struct State {
    files: [FileState; 2],
    calls: u64,
    fails: Option<Fails>,
    /// How long each sync takes.
    sync_time: Duration,
}

#[derive(Debug, Clone, Default)]
struct FileState {
    bytes: Vec<u8>,
    /// What a crash leaves at least: the bytes at the last sync.
    synced: Vec<u8>,
    /// What came after it, of which a crash may leave any part.
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Length(usize),
    Write(usize, Vec<u8>),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Write(offset, data) => {
                if bytes.len() < offset + data.len() {
                    bytes.resize(offset + data.len(), 0);
                }
                bytes[*offset..offset + data.len()].copy_from_slice(data);
            }
        }
    }

    /// Some of its sectors, or it stops at some byte in the middle of a sector.
    fn tear(&self, random: &mut Random, bytes: &mut Vec<u8>) {
        let Self::Write(offset, data) = self else { return self.apply(bytes) };
        let cut = random.index(data.len() + 1);
        let in_order = random.below(2) == 0;
        if in_order {
            return Self::Write(*offset, data[..cut].to_vec()).apply(bytes);
        }
        for (number, sector) in data.chunks(SECTOR).enumerate() {
            if random.below(2) == 0 {
                Self::Write(offset + number * SECTOR, sector.to_vec()).apply(bytes);
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Fails {
    /// The number of the first call that fails.
    pub(crate) from: u64,
    /// Whether all later calls fail too, or only this one.
    pub(crate) ever_after: bool,
}

impl Disk {
    /// A new disk with these bytes.
    pub(crate) fn of(image: Image) -> Self {
        let files = image.map(|bytes| FileState { synced: bytes.clone(), bytes, ..FileState::default() });
        Self(Arc::new(Mutex::new(State { files, ..State::default() })))
    }

    pub(crate) fn file(&self, number: usize) -> OnStorage {
        OnStorage(self.storage(number))
    }

    pub(crate) fn storage(&self, number: usize) -> Box<dyn Storage> {
        Box::new(DiskFile { disk: self.clone(), number, decide: None })
    }

    /// A handle whose calls are not counted here: it is asked of each whether it succeeds.
    pub(crate) fn decided(&self, number: usize, decide: Decide) -> OnStorage {
        OnStorage(Box::new(DiskFile { disk: self.clone(), number, decide: Some(decide) }))
    }

    /// The same disk, as if every process that has it open were killed now: what was not synced is not lost yet.
    pub(crate) fn copy(&self) -> Self {
        let files = self.0.lock().unwrap().files.clone();
        Self(Arc::new(Mutex::new(State { files, ..State::default() })))
    }

    /// From now on, counts calls from one and fails so.
    pub(crate) fn fail(&self, fails: Option<Fails>) {
        let mut state = self.0.lock().unwrap();
        (state.calls, state.fails) = (0, fails);
    }

    pub(crate) fn set_sync_time(&self, sync_time: Duration) {
        self.0.lock().unwrap().sync_time = sync_time;
    }

    /// What a crash leaves at least.
    pub(crate) fn synced(&self) -> Image {
        self.0.lock().unwrap().files.each_ref().map(|file| file.synced.clone())
    }

    pub(crate) fn calls(&self) -> u64 {
        self.0.lock().unwrap().calls
    }

    pub(crate) fn bytes(&self) -> Image {
        self.0.lock().unwrap().files.each_ref().map(|file| file.bytes.clone())
    }

    /// Images that a crash may leave now: all, only what was synced, that and some of what was not, that
    /// and some of it torn. Each once.
    pub(crate) fn survivors(&self, seed: u64) -> Vec<Image> {
        let state = self.0.lock().unwrap();
        let mut random = Random::new(seed);
        let mut images = vec![
            state.files.each_ref().map(|file| file.bytes.clone()),
            state.files.each_ref().map(|file| file.synced.clone()),
        ];
        for torn in [false, true] {
            images.push(state.files.each_ref().map(|file| {
                let mut some = file.synced.clone();
                for change in &file.unsynced {
                    match (torn, random.below(3)) {
                        // The length of a file is in its journal, and comes first.
                        _ if matches!(change, Change::Length(_)) => change.apply(&mut some),
                        (_, 0) => {}
                        (true, 1) => change.tear(&mut random, &mut some),
                        _ => change.apply(&mut some),
                    }
                }
                some
            }));
        }
        for image in (1..images.len()).rev() {
            if images[..image].contains(&images[image]) {
                images.remove(image);
            }
        }
        images
    }
}

impl DiskFile {
    fn call<T>(&self, call: Call<'_>, run: impl FnOnce(&mut FileState) -> T) -> io::Result<T> {
        let decided = self.decide.as_ref().map(|decide| decide(call));
        let mut state = self.disk.0.lock().unwrap();
        let succeeds = decided.unwrap_or_else(|| {
            state.calls += 1;
            let (calls, fails) = (state.calls, state.fails);
            !fails.is_some_and(|fails| calls == fails.from || (fails.ever_after && calls > fails.from))
        });
        if !succeeds {
            return Err(io::Error::other("the disk fails, as the test has it"));
        }
        Ok(run(&mut state.files[self.number]))
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let call = match &change {
            Change::Length(_) => Call::SetLen,
            Change::Write(offset, data) => Call::Write(*offset as u64, data),
        };
        let made = self.call(call, |file| {
            change.apply(&mut file.bytes);
            file.unsynced.push(change.clone());
        });
        if made.is_err() && matches!(change, Change::Write(..)) {
            // Some of it may have come to the disk.
            self.disk.0.lock().unwrap().files[self.number].unsynced.push(change);
        }
        made
    }
}

impl Storage for DiskFile {
    fn len(&self) -> io::Result<u64> {
        self.call(Call::Len, |file| file.bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.call(Call::Read, |file| {
            let offset = usize::try_from(offset).unwrap();
            let read = file.bytes.get(offset..offset + out.len());
            out.copy_from_slice(read.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })?
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(usize::try_from(len).unwrap()))
    }

    fn sync(&self) -> io::Result<()> {
        let takes = self.disk.0.lock().unwrap().sync_time;
        if !takes.is_zero() {
            thread::sleep(takes);
        }
        self.call(Call::Sync, |file| {
            for change in file.unsynced.drain(..) {
                change.apply(&mut file.synced);
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(usize::try_from(offset).unwrap(), data.to_vec()))
    }
}
