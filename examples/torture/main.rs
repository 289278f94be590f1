//! Torture: stores on a simulated disk whose power is cut, whose process is killed, and whose calls fail, at
//! random moments and while they are being opened again. After each time they must hold what they promised.
//! `docs/durability.md` says more.
//!
//! `cargo run --release --example torture -- --minutes 1 [--seed 7]`
//!
//! The seed says which cases there are, and everything that one of them draws. A case with one thread and
//! without a redo log, such as all with `--threads 1 --mode direct`, does exactly the same each time. In any
//! other the threads, and the checkpoint, take turns as the system has it: the same seed then tries the same
//! calls with the same troubles, but they may meet elsewhere.

mod call;
mod case;
mod content;
mod disk;
mod names;
mod oracle;
mod random;
mod session;
#[cfg(test)]
mod tests;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

use crate::case::{Settings, Verdict};
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
    cases: Option<u64>,
    /// Where the random numbers begin; another each time, if it is not said.
    #[arg(long)]
    seed: Option<u64>,
    /// Only the case with this number.
    #[arg(long)]
    only: Option<u64>,
    /// How many threads use a store; different in each case, if it is not said.
    #[arg(long)]
    threads: Option<usize>,
    /// With a redo log or without; both, if it is not said.
    #[arg(long)]
    mode: Option<Mode>,
    /// Has something lie, which must be found out: to see that this program can fail.
    #[arg(long, hide = true)]
    sabotage: Option<Sabotage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Direct,
    Log,
}

/// What all cases came to.
#[derive(Debug, Default)]
struct Totals {
    crash_points: u64,
    faults: u64,
    met: Met,
    violations: u64,
}

#[expect(clippy::disallowed_methods, reason = "the time is the caller's budget, not the store's")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("seed {seed}");
    // A panic inside redb on what a failed read left is caught by the store, and no news.
    std::panic::set_hook(Box::new(|_| {}));
    let settings = Settings {
        logged: arguments.mode.map(|mode| mode == Mode::Log),
        threads: arguments.threads,
        sabotage: arguments.sabotage,
    };
    let end = Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0);
    let mut totals = Totals::default();
    for (number, seed_of_case) in Seeds(Random::new(seed)).enumerate() {
        let number = number as u64;
        let over = match (arguments.only, arguments.cases) {
            (Some(only), _) => number > only,
            (None, Some(cases)) => number >= cases,
            (None, None) => number > 0 && Instant::now() >= end,
        };
        if over {
            break;
        }
        if arguments.only.is_some_and(|only| number < only) {
            continue;
        }
        let verdict = case::run(seed_of_case, settings);
        totals.add(&verdict);
        if let Some(violation) = verdict.violation {
            println!("seed {seed}, case {number}: {violation}");
            println!("once more: torture --seed {seed} --only {number}, with the same options otherwise");
            break;
        }
    }
    let Totals { crash_points, faults, met, violations } = totals;
    println!("{met}");
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

impl Totals {
    fn add(&mut self, verdict: &Verdict) {
        self.crash_points += verdict.disk.crashes;
        self.faults += verdict.disk.faults;
        self.met.add(&verdict.met);
        self.violations += u64::from(verdict.violation.is_some());
    }
}
