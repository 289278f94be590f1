//! A real process on a real disk: it writes and reads with several threads, says what it was told over a pipe,
//! and is killed at a random moment, again and again. Everything that it was told must be true of what it left.
//! Another process follows the store all the time: each of its reads shows no less than the writer had said before, and
//! what it was told must be true of what the writer left, too.
//!
//! What is asked of the store, and what must come of it, is that of the torture (`examples/torture`). So many
//! kills as `KEYSTEAD_KILLS` says; `KEYSTEAD_KILL_SEED` repeats what a failure names.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the test functions")]
#![allow(dead_code, reason = "the torture uses all of its files, this test a part")]

#[path = "../examples/torture/call.rs"]
mod call;
#[path = "../examples/torture/content.rs"]
mod content;
#[path = "../examples/torture/disk.rs"]
mod disk;
#[path = "../examples/torture/follower.rs"]
mod follower;
#[path = "../examples/torture/names.rs"]
mod names;
#[path = "../examples/torture/oracle.rs"]
mod oracle;
#[path = "../examples/torture/random.rs"]
mod random;
#[path = "../examples/torture/session.rs"]
mod session;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::{env, hint, thread};

use keystead::{Options, Store};
use serde::{Deserialize, Serialize};

use call::{Call, Query, SCOPES, is_refusal, kind, options, scope};
use oracle::Oracle;
use random::Random;
use session::{Claim, Fact, Made, Outcome, Told};

const THREADS: u64 = 4;
const KILLS: u64 = 40;
/// After how many answers the process is killed, at most.
const ANSWERS_MAX: u64 = 60;
const ROLE: &str = "KEYSTEAD_KILL_ROLE";
const FOLLOWER_ROLE: &str = "KEYSTEAD_KILL_FOLLOWER_ROLE";
const MARK: &str = "says ";

/// What the process that is killed is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Role {
    path: String,
    seed: u64,
    turn: u64,
    /// With one byte, the table file is written all the time, beside the log.
    checkpoint_bytes: usize,
}

/// What one of its threads was told.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    thread: u64,
    step: u64,
    /// The newest commit before and after.
    from: u64,
    to: u64,
    answer: Answer,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Made { commit: u64, answer: String },
    Replayed { commit: u64, answer: String },
    Unchanged(String),
    Refused(String),
    Read { commit: u64, answer: String },
}

enum Step {
    Call(Box<Call>),
    Ask(usize, Query),
}

impl Role {
    fn options(&self) -> Options {
        let options = options().cache_bytes(1_000_000).checkpoint_bytes(self.checkpoint_bytes);
        options.wal_bytes(Options::WAL_BYTES_MIN)
    }

    /// What a thread does, step by step: the same in both processes.
    fn steps(&self, thread: u64) -> impl Iterator<Item = Step> {
        let mut random = Random::new(Random::new(self.seed ^ self.turn << 8 ^ thread).next());
        let first = self.turn * 10_000;
        (0..).map(move |step| {
            if random.one_in(4) {
                return Step::Ask(random.index(SCOPES), names::query(&mut random));
            }
            let number = (first + step) * THREADS + thread;
            Step::Call(Box::new(names::call(&mut random, number, false)))
        })
    }
}

/// The process that is killed: this program again, with a role. Without one it has nothing to do.
#[test]
fn killed_process() {
    let Ok(role) = env::var(ROLE) else { return };
    let role: Role = serde_json::from_str(&role).unwrap();
    let store = role.options().open(&role.path).unwrap();
    thread::scope(|threads| {
        for number in 0..THREADS {
            let (store, role) = (&store, &role);
            threads.spawn(move || {
                for (step, what) in (0..).zip(role.steps(number)) {
                    let newest = || store.position().unwrap().commit().number();
                    let from = newest();
                    let answer = take(store, &what);
                    let said = Said { thread: number, step, from, to: newest(), answer };
                    let line = format!("\n{MARK}{}\n", serde_json::to_string(&said).unwrap());
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            });
        }
    });
}

/// The process that follows: it answers what it is asked, each question by its number.
#[test]
fn following_process() {
    let Ok(role) = env::var(FOLLOWER_ROLE) else { return };
    let role: Role = serde_json::from_str(&role).unwrap();
    let store = role.options().open_read_only(&role.path).unwrap();
    for line in std::io::stdin().lines() {
        let (scope, query) = question(role.seed, line.unwrap().parse().unwrap());
        let answer = take(&store, &Step::Ask(scope, query));
        let line = format!("\n{MARK}{}\n", serde_json::to_string(&answer).unwrap());
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    }
}

/// What a follower is asked: the same in both processes.
fn question(seed: u64, number: u64) -> (usize, Query) {
    let mut random = Random::new(Random::new(seed ^ number << 32).next());
    (random.index(SCOPES), names::query(&mut random))
}

fn take(store: &Store, step: &Step) -> Answer {
    match step {
        Step::Ask(number, query) => {
            let read = store.read(&scope(*number), |snap| Ok((snap.commit().number(), query.ask(snap)?)));
            let (commit, answer) = read.unwrap();
            Answer::Read { commit, answer }
        }
        Step::Call(call) => match call.make(store) {
            Ok(done) if done.made_commit => Answer::Made { commit: done.commit, answer: done.answer },
            Ok(done) if done.replayed => Answer::Replayed { commit: done.commit, answer: done.answer },
            Ok(done) => Answer::Unchanged(done.answer),
            Err(error) if is_refusal(&error) => Answer::Refused(kind(&error)),
            Err(error) => panic!("{call:?}: {error:?}"),
        },
    }
}

/// Ends the process also if a test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(test: &str, (name, role): (&str, &Role), input: Stdio) -> Killed {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(name, serde_json::to_string(role).unwrap());
    command.stdin(input).stdout(Stdio::piped());
    Killed(command.spawn().unwrap())
}

/// Another process that follows the store, and what it has shown.
struct Follower {
    _process: Killed,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    seed: u64,
    asked: u64,
    newest: u64,
    claims: Vec<Claim>,
}

impl Follower {
    fn start(role: &Role) -> Self {
        let mut process = start("following_process", (FOLLOWER_ROLE, role), Stdio::piped());
        let input = process.0.stdin.take().unwrap();
        let output = BufReader::new(process.0.stdout.take().unwrap());
        Self { _process: process, input, output, seed: role.seed, asked: 0, newest: 0, claims: Vec::new() }
    }

    /// It must show this much.
    fn ask(&mut self, least: u64) {
        let number = self.asked;
        self.asked += 1;
        self.input.write_all(format!("{number}\n").as_bytes()).unwrap();
        let mut line = String::new();
        while !line.starts_with(MARK) {
            line.clear();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the follower ended");
        }
        let answer = serde_json::from_str(line.trim_start_matches(MARK)).unwrap();
        let Answer::Read { commit, answer } = answer else { panic!("{answer:?}") };
        assert!(
            commit >= least,
            "seed {}: a follower shows {commit}, and {least} was told before",
            self.seed
        );
        assert!(commit >= self.newest, "seed {}: it shows {commit} after {}", self.seed, self.newest);
        self.newest = commit;
        let (scope, query) = question(self.seed, number);
        self.claims.push(Claim { from: commit, to: commit, fact: Fact::Query(scope, query, answer) });
    }
}

fn said_in(line: &str) -> Option<Said> {
    line.strip_prefix(MARK).map(|said| serde_json::from_str(said).unwrap())
}

/// Lets a process run until it has said so much, kills it a little later, and returns all that it said.
fn run_and_kill(role: &Role, random: &mut Random, follower: &mut Option<Follower>) -> Vec<Said> {
    let mut killed = start("killed_process", (ROLE, role), Stdio::null());
    let mut output = BufReader::new(killed.0.stdout.take().unwrap());
    let (mut said, mut newest) = (Vec::new(), 0);
    let wanted = 1 + random.below(ANSWERS_MAX);
    while (said.len() as u64) < wanted {
        let mut line = String::new();
        assert!(output.read_line(&mut line).unwrap() > 0, "it ended by itself: {said:?}");
        let Some(heard) = said_in(line.trim_end()) else { continue };
        newest = newest.max(heard.to);
        said.push(heard);
        if random.one_in(3) {
            follower.get_or_insert_with(|| Follower::start(role)).ask(newest);
        }
    }
    (0..random.below(300_000)).for_each(|_| hint::spin_loop());
    killed.0.kill().unwrap();
    // What it said before it died counts too, but half a line doesn't.
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).unwrap();
    drop(killed);
    let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    said.extend(std::str::from_utf8(&rest[..whole]).unwrap().lines().filter_map(said_in));
    newest = said.iter().map(|said| said.to).fold(newest, u64::max);
    // Nobody writes.
    follower.iter_mut().for_each(|follower| follower.ask(newest));
    said
}

/// What the threads were told; of each, the step after the last may have been taken.
fn told(role: &Role, said: Vec<Said>) -> Told {
    let mut told = Told::default();
    let mut of_threads: Vec<_> =
        (0..THREADS).map(|thread| role.steps(thread).enumerate().peekable()).collect();
    for Said { thread, step, from, to, answer } in said {
        let (number, what) = of_threads[usize::try_from(thread).unwrap()].next().unwrap();
        assert_eq!(number as u64, step, "thread {thread}");
        told.newest = told.newest.max(to);
        let mut claim = |from, to, fact| told.claims.push(Claim { from, to, fact });
        let call = match what {
            Step::Call(call) => *call,
            Step::Ask(number, query) => {
                let Answer::Read { commit, answer } = answer else { panic!("{query:?}: {answer:?}") };
                told.newest = told.newest.max(commit);
                claim(commit, commit, Fact::Query(number, query, answer));
                continue;
            }
        };
        let mut outcome = Outcome::Nothing;
        match answer {
            Answer::Made { commit, answer } => {
                told.newest = told.newest.max(commit);
                outcome = Outcome::Made(Some((commit, answer)));
            }
            Answer::Replayed { commit, answer } => {
                claim(from, to, Fact::Replay(call.clone(), answer, commit))
            }
            Answer::Unchanged(answer) => claim(from, to, Fact::Call(call.clone(), Ok(answer))),
            Answer::Refused(kind) => claim(from, to, Fact::Call(call.clone(), Err(kind))),
            Answer::Read { .. } => panic!("{call:?}: {answer:?}"),
        }
        told.calls.push(Made { call, outcome, known_at: 0 });
    }
    for mut steps in of_threads {
        if let Some((_, Step::Call(call))) = steps.next() {
            told.calls.push(Made { call: *call, outcome: Outcome::Unknown, known_at: 0 });
        }
    }
    told
}

#[test]
fn what_a_killed_process_was_told_is_true() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let kills = number("KEYSTEAD_KILLS").unwrap_or(KILLS);
    let seed = number("KEYSTEAD_KILL_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kms.redb");
    let (mut random, mut oracle) = (Random::new(seed), Oracle::new().unwrap());
    let (mut answers, mut commits, mut follower) = (0, 0, None);
    for turn in 0..kills {
        let when = format!("KEYSTEAD_KILL_SEED={seed}, kill {turn} of {kills}");
        let checkpoint_bytes = if random.one_in(3) { 1 } else { 20_000 };
        let role = Role { path: path.to_str().unwrap().to_owned(), seed, turn, checkpoint_bytes };
        let said = run_and_kill(&role, &mut random, &mut follower);
        answers += said.len();
        let mut told = told(&role, said);
        if let Some(follower) = &mut follower {
            told.newest = told.newest.max(follower.newest);
            told.claims.append(&mut follower.claims);
        }
        commits += told.calls.iter().filter(|made| matches!(made.outcome, Outcome::Made(_))).count();
        let store = role.options().open(&path).unwrap_or_else(|error| panic!("{when}: {error:?}"));
        oracle.settle(&store, told).unwrap_or_else(|violation| panic!("{when}: {violation}"));
    }
    only_the_store_is_left(folder.path());
    let followed = follower.map_or(0, |follower| follower.asked);
    println!("{kills} kills, {answers} answers, {commits} acknowledged commits, all of them there");
    println!("{followed} answers of one that followed");
    assert!(followed > 2 * kills, "{followed} in {kills} kills");
    assert!(commits as u64 > kills, "{commits} commits in {kills} kills");
}

fn only_the_store_is_left(folder: &Path) {
    let names: Vec<_> = folder.read_dir().unwrap().map(|file| file.unwrap().file_name()).collect();
    let is_own = |name: &&std::ffi::OsString| *name == "kms.redb" || *name == "kms.redb.redo";
    assert_eq!(names.iter().filter(is_own).count(), names.len(), "{names:?}");
}
