//! Runs cases in processes, as many at a time as there are cores, and notes how each ended.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;
use std::{env, thread};

use crate::child::{JOB, Job, Line, MARK};
use crate::mutations::Case;
use crate::operations::{Operation, Said};
use crate::stores::Base;
use crate::tool;

/// How long one call may take, on a machine that does much else.
const TIME: Duration = Duration::from_secs(120);
/// How many cases one process runs.
const AT_ONCE: usize = 20;

/// What is called in a case.
pub(crate) fn operations(case: Case) -> Vec<Operation> {
    let all = Operation::of(case.kind).iter().copied();
    all.filter(|operation| *operation != Operation::Tool || tool::is_run(case.number)).collect()
}

/// What must not be, and where.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) case: Case,
    pub(crate) operation: Operation,
    /// What was done to which store.
    pub(crate) damage: String,
    pub(crate) what: String,
}

/// How all cases of a run ended.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) counts: BTreeMap<(Case, Operation), String>,
    pub(crate) faults: Vec<Fault>,
}

/// This program again, to do something else.
fn start(job: &Job) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["tests::child", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(JOB, serde_json::to_string(job).unwrap()).env("RUST_BACKTRACE", "0");
    // One arena for all threads: each of its own would take 64 MiB of addresses, which are what is limited. And what is
    // large goes back to the system when it is freed, so that what was taken before is no part of what a call may take.
    command
        .env("MALLOC_ARENA_MAX", "1")
        .env("MALLOC_MMAP_THRESHOLD_", "131072")
        .env("MALLOC_TRIM_THRESHOLD_", "131072");
    command.stdin(Stdio::null());
    command
}

pub(crate) fn make_stores(stores: &Path, seed: u64) {
    thread::scope(|threads| {
        for base in Base::ALL {
            threads.spawn(move || {
                let job = Job::Make { base, stores: stores.to_owned(), seed };
                let output = start(&job).output().unwrap();
                let is_killed = matches!(base, Base::Killed | Base::Logged);
                let ended =
                    if is_killed { output.status.signal() == Some(9) } else { output.status.success() };
                assert!(ended, "{base:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
            });
        }
    });
}

/// A process, which does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(cases: &[Case], stores: &Path, seed: u64) -> Tally {
    let pieces: Mutex<VecDeque<_>> = Mutex::new(cases.chunks(AT_ONCE).enumerate().collect());
    let tally = Mutex::new(Tally::default());
    let work = tempfile::tempdir().unwrap();
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get().min(4));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some((number, piece)) = pieces.lock().unwrap().pop_front() else { return };
                    let work = work.path().join(number.to_string());
                    fs::create_dir_all(&work).unwrap();
                    Piece { cases: piece, stores, work: work.clone(), seed, tally: &tally }.run();
                    fs::remove_dir_all(work).unwrap();
                }
            });
        }
    });
    tally.into_inner().unwrap()
}

struct Piece<'a> {
    cases: &'a [Case],
    stores: &'a Path,
    work: PathBuf,
    seed: u64,
    tally: &'a Mutex<Tally>,
}

/// Where a process is.
struct Place {
    case: usize,
    operation: usize,
    damage: String,
}

impl Piece<'_> {
    /// As often as a process dies, another goes on behind the call at which it did.
    fn run(&self) {
        let (mut case, mut operation) = (0, 0);
        while case < self.cases.len() {
            let Some(died) = self.run_from(case, operation) else { return };
            (case, operation) = (died.case, died.operation + 1);
            if operation >= operations(self.cases[case]).len() {
                (case, operation) = (case + 1, 0);
            }
        }
    }

    fn run_from(&self, case: usize, operation: usize) -> Option<Place> {
        let cases = self.cases[case..].to_vec();
        let (stores, work) = (self.stores.to_owned(), self.work.clone());
        let job = Job::Run { cases, from: operation, stores, work, seed: self.seed };
        let errors = self.work.join("stderr");
        let mut command = start(&job);
        command.stdout(Stdio::piped()).stderr(File::create(&errors).unwrap());
        let mut running = Running(command.spawn().unwrap());
        let output = BufReader::new(running.0.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut place = Place { case, operation, damage: "nothing was done yet".to_owned() };
        let mut began = None;
        let hangs = loop {
            match lines.recv_timeout(TIME) {
                Ok(line) => {
                    let Some(line) = line.strip_prefix(MARK) else { continue };
                    match serde_json::from_str(line).unwrap() {
                        Line::Case(number, damage) => {
                            place = Place { case: case + number, operation: 0, damage }
                        }
                        Line::Begin(operation) => {
                            let all = operations(self.cases[place.case]);
                            place.operation = all.iter().position(|one| *one == operation).unwrap();
                            began = Some(operation);
                        }
                        Line::Said(said) => {
                            self.note(&place, began.take().unwrap(), said);
                        }
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => break true,
                Err(mpsc::RecvTimeoutError::Disconnected) => break false,
            }
        };
        if hangs {
            running.0.kill().unwrap();
        }
        let status = running.0.wait().unwrap();
        if status.success() {
            return None;
        }
        let errors = String::from_utf8_lossy(&fs::read(errors).unwrap()).into_owned();
        let operation =
            began.unwrap_or_else(|| panic!("it ended on its own, {status}, at {}: {errors}", place.damage));
        let last: Vec<_> = errors.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = last[last.len().saturating_sub(4)..].join(" / ");
        let (outcome, what) = if hangs {
            ("HANGS", format!("it takes more than {TIME:?}"))
        } else if errors.contains("memory allocation of") {
            ("OUT OF MEMORY", format!("death: {status}, out of memory: {last}"))
        } else {
            ("DIED", format!("death: {status}: {last}"))
        };
        self.note(&place, operation, Said { outcome: outcome.to_owned(), faults: vec![what] });
        Some(place)
    }

    fn note(&self, place: &Place, operation: Operation, said: Said) {
        let case = self.cases[place.case];
        let mut tally = self.tally.lock().unwrap();
        tally.counts.insert((case, operation), said.outcome);
        let damage = place.damage.clone();
        tally.faults.extend(said.faults.into_iter().map(|what| Fault {
            case,
            operation,
            damage: damage.clone(),
            what,
        }));
    }
}
