//! Torture: stores on a simulated disk whose power is cut, whose process is killed, and whose calls fail, at
//! random moments and while they are being opened again. After each time they must hold what they promised.
//! `docs/durability.md` says more.
//!
//! `cargo run --release -p keystead-torture -- --minutes 1 [--seed 7]`
//!
//! The seed says which cases there are, and everything that one of them draws. A case with one thread and
//! without a write-ahead log, such as all with `--threads 1 --wal false`, does exactly the same each time. In any
//! other the threads, and the checkpoint, take turns as the system has it: the same seed then tries the same
//! calls with the same troubles, but they may meet elsewhere.

mod call;
mod case;
mod content;
mod disk;
mod follower;
mod images;
mod names;
mod oracle;
mod random;
mod session;
#[cfg(test)]
mod tests;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::iter::Enumerate;
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Deserialize;
use serde::de::IntoDeserializer;

use crate::case::{Settings, Verdict};
use crate::images::IMAGES_MAX;
use crate::random::Random;
use crate::session::{Met, Sabotage};

/// Strikes stores on a simulated disk, and looks whether they keep their promises.
#[derive(Debug, Parser)]
#[command(name = "torture")]
struct Arguments {
    /// How long; a case that has begun is finished.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// How many cases instead.
    #[arg(long)]
    cases: Option<usize>,
    /// How many crash points instead; cases that have begun are finished.
    #[arg(long, conflicts_with = "cases")]
    crash_points: Option<u64>,
    /// Where the random numbers begin; another each time, if it is not said.
    #[arg(long)]
    seed: Option<u64>,
    /// Only the case with this number.
    #[arg(long)]
    only: Option<usize>,
    /// How many cases run at the same time; one for each core by default.
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
    /// How many threads use a store; different in each case, if it is not said.
    #[arg(long)]
    threads: Option<usize>,
    /// How many followers read a store that always has a write-ahead log; different in each case by default.
    #[arg(long)]
    followers: Option<usize>,
    /// How many crashes at other moments are tried of each session, at most; each of them may crash again.
    #[arg(long, default_value_t = IMAGES_MAX)]
    images: u64,
    /// Only stores with a write-ahead log, or only stores without; both by default.
    #[arg(long)]
    wal: Option<bool>,
    /// Has something lie, which must be found out: to see that this program can fail.
    #[arg(long, hide = true, value_parser = parse_sabotage)]
    sabotage: Option<Sabotage>,
}

/// By serde, because tests of the library have that file too, and do without clap.
fn parse_sabotage(name: &str) -> Result<Sabotage, serde::de::value::Error> {
    Sabotage::deserialize(name.into_deserializer())
}

/// What all cases came to.
#[derive(Debug, Default)]
struct Totals {
    crash_points: u64,
    faults: u64,
    met: Met,
    violations: u64,
}

/// After so many crash points there is a line, so that a long run is seen to go on.
const LINE_EVERY: u64 = 100_000;

#[expect(clippy::disallowed_methods, reason = "the time is the caller's budget, not the store's")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("seed {seed}");
    // A panic inside redb on what a failed read left is caught by the store, and no news.
    std::panic::set_hook(Box::new(|_| {}));
    let settings = Settings {
        logged: arguments.wal,
        threads: arguments.threads,
        followers: arguments.followers,
        images_max: arguments.images,
        sabotage: arguments.sabotage,
    };
    let began = Instant::now();
    let end = began + Duration::from_secs_f64(arguments.minutes * 60.0);
    let seeds = Mutex::new(Seeds(Random::new(seed)).enumerate());
    let (is_stopped, crash_points) = (AtomicBool::new(false), AtomicU64::new(0));
    let cases = Cases { arguments: &arguments, end, seeds, is_stopped, crash_points };
    let jobs =
        arguments.jobs.map_or_else(|| thread::available_parallelism().map_or(1, usize::from), usize::from);
    let totals = Mutex::new(Totals::default());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((number, seed_of_case)) = cases.take() {
                    let verdict = case::run(seed_of_case, settings);
                    if let Some(violation) = &verdict.violation {
                        println!("seed {seed}, case {number}: {violation}");
                        println!("once more: cargo run --release -p keystead-torture -- --seed {seed} --only {number}, with the same options otherwise");
                        cases.is_stopped.store(true, Ordering::Relaxed);
                    }
                    cases.count(&verdict);
                    lock(&totals).add(&verdict);
                }
            });
        }
    });
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Totals { crash_points, faults, met, violations } = totals;
    println!("{met}");
    let seconds = began.elapsed().as_secs_f64();
    println!("{:.0} crash points a second: {seconds:.0} s, {jobs} at a time", crash_points as f64 / seconds);
    let commits = met.times(Met::COMMITS);
    println!("crash points {crash_points}, faults {faults}, commits {commits}, violations {violations}");
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The seeds of the cases.
struct Seeds(Random);

impl Iterator for Seeds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        Some(self.0.next())
    }
}

/// The cases that are still to be run, each by one thread. Which they are does not depend on how many threads there are.
struct Cases<'a> {
    arguments: &'a Arguments,
    end: Instant,
    seeds: Mutex<Enumerate<Seeds>>,
    is_stopped: AtomicBool,
    /// How many there were so far.
    crash_points: AtomicU64,
}

impl Cases<'_> {
    /// The next case: its number and its seed.
    #[expect(clippy::disallowed_methods, reason = "the time is the caller's budget, not the store's")]
    fn take(&self) -> Option<(usize, u64)> {
        let mut seeds = lock(&self.seeds);
        if let Some(only) = self.arguments.only {
            // It is behind the next only once.
            return seeds.find(|(number, _)| *number >= only).filter(|(number, _)| *number == only);
        }
        let (number, seed) = seeds.next()?;
        let is_over = match *self.arguments {
            Arguments { cases: Some(cases), .. } => number >= cases,
            Arguments { crash_points: Some(wanted), .. } => {
                self.crash_points.load(Ordering::Relaxed) >= wanted
            }
            _ => number > 0 && Instant::now() >= self.end,
        };
        (!is_over && !self.is_stopped.load(Ordering::Relaxed)).then_some((number, seed))
    }

    fn count(&self, verdict: &Verdict) {
        let before = self.crash_points.fetch_add(verdict.crash_points, Ordering::Relaxed);
        let now = before + verdict.crash_points;
        if before / LINE_EVERY < now / LINE_EVERY {
            println!("{now} crash points so far");
        }
    }
}

fn lock<T>(locked: &Mutex<T>) -> MutexGuard<'_, T> {
    locked.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Totals {
    fn add(&mut self, verdict: &Verdict) {
        self.crash_points += verdict.crash_points;
        self.faults += verdict.disk.faults;
        self.met.add(&verdict.met);
        self.violations += u64::from(verdict.violation.is_some());
    }
}
