//! Callers: threads that read and write on the nodes of a store, and note what they were answered.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use keystead::{
    CommitRecord, Committed, Error, Limit, Position, Request, RequestId, Result, Store, Timestamp, Waited,
};

use super::super::linearizability::recorder::{read, refusal, scope, write};
use super::super::linearizability::specification::{Answer, Call};
use super::super::linearizability::workload::{Random, Workload};
use super::now;

/// The longest pause between two calls of a caller, in milliseconds.
const PAUSE_MAX: u8 = 40;

/// How long callers have to end when they are told to.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// How often a request is repeated whose outcome is unknown.
const REPEATS: usize = 5;

/// A call, and what came of it.
#[derive(Debug, Clone)]
pub(crate) struct Called {
    pub(crate) caller: usize,
    /// The actor of its commit: of no other call.
    pub(crate) marker: String,
    pub(crate) call: Call,
    /// Its places among all beginnings and returns.
    pub(crate) began: u64,
    pub(crate) returned: u64,
    /// When it returned, since the callers began.
    pub(crate) ended: Duration,
    /// How long the longest of its attempts took: there is more than one where a request was repeated.
    pub(crate) took: Duration,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// As of this commit.
    Read {
        answer: Answer,
        commit: u64,
    },
    Written {
        answer: Answer,
        commit: u64,
    },
    /// Nothing changed: it was refused, or was so already.
    Unchanged {
        answer: Answer,
    },
    Unknown,
    /// Nothing was written, as the store says.
    Conflict,
    Unavailable,
    OutOfSpace,
    /// An error that no fault of the cluster explains.
    Unexpected(String),
}

impl Outcome {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Written { .. } => "written",
            Self::Unchanged { .. } => "unchanged",
            Self::Unknown => "unknown",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::OutOfSpace => "out of space",
            Self::Unexpected(_) => "unexpected",
        }
    }

    fn of(error: Error) -> Self {
        match error {
            Error::CommitUnknown(_) => Self::Unknown,
            Error::Conflict => Self::Conflict,
            Error::Unavailable(_) => Self::Unavailable,
            Error::Io(error) if error.kind() == ErrorKind::StorageFull => Self::OutOfSpace,
            other => Self::Unexpected(other.to_string()),
        }
    }
}

/// Threads that call until they are ended.
pub(crate) struct Callers {
    ending: Arc<AtomicBool>,
    calls: mpsc::Receiver<Vec<Called>>,
    count: usize,
    followers: Vec<JoinHandle<Vec<CommitRecord>>>,
}

impl Callers {
    pub(crate) fn start(
        nodes: &[Store],
        workload: Workload,
        count: usize,
        seed: u64,
        from: Position,
    ) -> Self {
        let (ending, clock) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (sender, calls) = mpsc::channel();
        let began = now();
        for number in 0..count {
            let mut caller = Caller {
                number,
                store: nodes[number % nodes.len()].clone(),
                random: Random::new(seed * 1000 + number as u64),
                clock: clock.clone(),
                calls: Vec::new(),
            };
            let (ending, sender) = (ending.clone(), sender.clone());
            thread::spawn(move || {
                while !ending.load(SeqCst) {
                    let call = workload.call(&mut caller.random);
                    caller.call(call);
                    let call = caller.calls.last_mut().unwrap();
                    call.ended = began.elapsed();
                    thread::sleep(Duration::from_millis(caller.random.below(PAUSE_MAX).into()));
                }
                sender.send(caller.calls).unwrap();
            });
        }
        let follower = |store: &Store| {
            let (store, ending) = (store.clone(), ending.clone());
            thread::spawn(move || follow(&store, from, &ending))
        };
        let followers = nodes.iter().map(follower).collect();
        Self { ending, calls, count, followers }
    }

    /// Ends them, and returns what they did and what the feed of each node told.
    pub(crate) fn end(self) -> (Vec<Called>, Vec<Vec<CommitRecord>>) {
        self.ending.store(true, SeqCst);
        let calls = (0..self.count).flat_map(|ended| {
            let calls = self.calls.recv_timeout(ENDS_WITHIN);
            calls.unwrap_or_else(|_| panic!("only {ended} of {} callers ended", self.count))
        });
        let calls = calls.collect();
        (calls, self.followers.into_iter().map(|follower| follower.join().unwrap()).collect())
    }
}

/// Follows the feed until nothing comes any more after the end.
fn follow(store: &Store, mut position: Position, ending: &AtomicBool) -> Vec<CommitRecord> {
    let mut commits = Vec::new();
    loop {
        let last = ending.load(SeqCst);
        // An error of the cluster passes.
        let waited = store.wait(&position, Duration::from_millis(300));
        let Ok(changes) = store.changes(Some(&position), Limit::MAX) else { continue };
        if last && changes.commits.is_empty() && matches!(waited, Ok(Waited::TimedOut)) {
            return commits;
        }
        position = changes.position;
        commits.extend(changes.commits);
    }
}

struct Caller {
    number: usize,
    store: Store,
    random: Random,
    clock: Arc<AtomicU64>,
    calls: Vec<Called>,
}

impl Caller {
    fn call(&mut self, call: Call) {
        let marker = format!("caller {} call {}", self.number, self.calls.len());
        let repeatable = !call.is_read() && self.random.below(4) == 0;
        let began = self.clock.fetch_add(1, SeqCst);
        let (mut took, mut outcome) = (Duration::ZERO, Outcome::Unknown);
        for _ in 0..REPEATS {
            let attempt = now();
            outcome = match (call.is_read(), repeatable) {
                (true, _) => self.read(&call),
                (false, false) => self.write(&call, &marker),
                (false, true) => self.write_once(&call, &marker),
            };
            took = took.max(attempt.elapsed());
            if !repeatable || outcome != Outcome::Unknown {
                break;
            }
        }
        let returned = self.clock.fetch_add(1, SeqCst);
        let ended = Duration::ZERO;
        self.calls.push(Called { caller: self.number, marker, call, began, returned, ended, took, outcome });
    }

    fn read(&self, call: &Call) -> Outcome {
        let found = self.store.read(&scope(), |snap| {
            let answer = read(snap, call).or_else(|error| refusal(error).map(Answer::Refused));
            Ok((answer?, snap.commit().number()))
        });
        found.map_or_else(Outcome::of, |(answer, commit)| Outcome::Read { answer, commit })
    }

    fn write(&self, call: &Call, marker: &str) -> Outcome {
        written(self.store.write(&request(marker), |txn| write(txn, call)))
    }

    /// The same, by a request that may be repeated.
    fn write_once(&self, call: &Call, marker: &str) -> Outcome {
        let id = format!("00000000-0000-0000-{:04}-{:012}", self.number, self.calls.len());
        let id: RequestId = id.parse().unwrap();
        let body = format!("{call:?}");
        written(self.store.write_once(&request(marker), &id, body.as_bytes(), |txn| write(txn, call)))
    }
}

fn written(outcome: Result<Committed<Answer>>) -> Outcome {
    match outcome {
        Ok(done) if done.changed => Outcome::Written { answer: done.value, commit: done.commit.number() },
        Ok(done) => Outcome::Unchanged { answer: done.value },
        Err(error) => match refusal(error) {
            Ok(refusal) => Outcome::Unchanged { answer: Answer::Refused(refusal) },
            Err(error) => Outcome::of(error),
        },
    }
}

fn request(marker: &str) -> Request {
    Request::new(&scope()).at(Timestamp::from_millis(1_700_000_000_000)).actor(marker)
}
