//! The process that damages files and calls the library on them, under limits; it says before each call which it is.

use std::io::Write;
use std::path::PathBuf;
use std::{env, fs, panic};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::mutations::{Case, Kind};
use crate::operations::{Operation, Said, Subject, folders};
use crate::runner;
use crate::stores::{self, Base, Image};

/// Tells the process what to do.
pub(crate) const JOB: &str = "KEYSTEAD_HOSTILE_JOB";
/// What its lines begin with.
pub(crate) const MARK: &str = "says ";

/// How much memory a call may take besides the length of the files.
const MEMORY: u64 = 64 << 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Make a store.
    Make { base: Base, stores: PathBuf, seed: u64 },
    /// Run these cases, the first from this operation on.
    Run { cases: Vec<Case>, from: usize, stores: PathBuf, work: PathBuf, seed: u64 },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Line {
    /// The case with this place in the list is damaged now, and called so.
    Case(usize, String),
    Begin(Operation),
    Said(Said),
}

pub(crate) fn run(job: Job) {
    match job {
        Job::Make { base, stores, seed } => stores::make(base, &stores, seed),
        Job::Run { cases, from, stores, work, seed } => run_cases(&cases, from, &stores, &work, seed),
    }
}

/// What a panic says.
pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or_default()
}

fn say(line: &Line) {
    let line = format!("\n{MARK}{}\n", serde_json::to_string(line).unwrap());
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

fn run_cases(cases: &[Case], mut from: usize, stores: &std::path::Path, work: &std::path::Path, seed: u64) {
    // Those that are caught are many, so each is one line; if one is not, these are what tells why.
    panic::set_hook(Box::new(|panic| {
        let place =
            panic.location().map(|place| format!("{}:{}", place.file(), place.line())).unwrap_or_default();
        eprintln!("panic at {place}: {}", panic_text(panic.payload()));
    }));
    let mut image: Option<(Base, Image, Option<Image>)> = None;
    for (number, case) in cases.iter().enumerate() {
        let (files, scratch) = folders(work);
        let _ = fs::remove_dir_all(&files);
        fs::create_dir_all(&files).unwrap();
        limit_memory(None);
        let damage = case.make(seed, stores, &files);
        if image.as_ref().is_none_or(|(base, ..)| *base != damage.base) {
            let of_backup =
                (damage.base == Base::Backup).then(|| Image::read(damage.base, stores).of_backup());
            image = Some((damage.base, Image::read(damage.base, stores), of_backup));
        }
        let (_, image, of_backup) = image.as_ref().unwrap();
        say(&Line::Case(number, format!("{:?}: {}", damage.base, damage.what)));
        limit_memory(Some(damage.bytes));
        let image_of_backup = of_backup.as_ref().filter(|_| case.kind != Kind::ChangeFiles);
        let subject = Subject { case: *case, seed, damage, files, scratch, image, image_of_backup };
        for operation in runner::operations(*case).into_iter().skip(from) {
            say(&Line::Begin(operation));
            say(&Line::Said(subject.run(operation)));
        }
        from = 0;
    }
}

/// The process as it is now may grow by 64 MiB and by the length of the files. What is limited is the space of
/// addresses: whoever asks for more is refused at once, also if it would never be touched; so a limit is met where
/// memory is asked for, and not where the machine has none left. How the process is started (`runner`) keeps what the
/// allocator holds back out of it.
fn limit_memory(files: Option<u64>) {
    let most = files.map(|bytes| size_now() + MEMORY + bytes);
    let Rlimit { maximum, .. } = getrlimit(Resource::As);
    setrlimit(Resource::As, Rlimit { current: most.or(maximum), maximum }).unwrap();
}

/// The space of addresses that this process has.
fn size_now() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').next().unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}

pub(crate) fn job() -> Option<Job> {
    env::var(JOB).ok().map(|job| serde_json::from_str(&job).unwrap())
}
