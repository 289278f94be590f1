//! An engine for tests around another one: before each call it asks a script how that call ends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Batch, Engine, EngineStats, Load, Log, PageRound, Reading, RowSource, Waited, WriteTransaction};
use crate::error::{Error, Result};
use crate::format::{Stored, Value};
use crate::id::Commit;

/// The calls of a writing transaction that a script decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Commit,
}

/// How a call ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As the engine below has it.
    Pass,
    Conflict,
    Unavailable,
    Denied,
    Io,
    /// Of a commit: applied or not, and nobody can tell.
    Unknown {
        applied: bool,
    },
}

pub(crate) type Script = Box<dyn FnMut(Call) -> Outcome + Send>;

/// A handle: clones share the engine, so that a test can reach below the store that is on it.
#[derive(Clone)]
pub(crate) struct Scripted {
    engine: Arc<dyn Engine>,
    script: Arc<Mutex<Script>>,
    /// Whether the number of a commit is not known before it is made.
    stand_ins: bool,
}

impl Scripted {
    /// Around this engine, with a script that lets every call pass.
    pub(crate) fn new(engine: impl Engine + 'static) -> Self {
        let script: Script = Box::new(|_| Outcome::Pass);
        Self { engine: Arc::new(engine), script: Arc::new(Mutex::new(script)), stand_ins: false }
    }

    /// Tells the number of a commit only when it is made, as engines do that can't know it before.
    pub(crate) fn with_stand_ins(mut self) -> Self {
        self.stand_ins = true;
        self
    }

    /// From now on.
    pub(crate) fn follow(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    /// The next calls of this kind end so; all others pass.
    pub(crate) fn queue(&self, call: Call, outcomes: &[Outcome]) {
        let mut outcomes: VecDeque<_> = outcomes.iter().copied().collect();
        self.follow(Box::new(move |made| {
            let outcome = if made == call { outcomes.pop_front() } else { None };
            outcome.unwrap_or(Outcome::Pass)
        }));
    }

    /// One call in `one_in` fails somehow, by this seed.
    pub(crate) fn at_random(&self, seed: u64, one_in: u64) {
        let mut random = Random::new(seed);
        self.follow(Box::new(move |call| {
            if !random.below(one_in).eq(&0) {
                return Outcome::Pass;
            }
            match (call, random.below(6)) {
                (Call::Commit, 0) => Outcome::Unknown { applied: false },
                (Call::Commit, 1) => Outcome::Unknown { applied: true },
                (_, 2) => Outcome::Unavailable,
                (_, 3) => Outcome::Io,
                _ => Outcome::Conflict,
            }
        }));
    }

    fn outcome(&self, call: Call) -> Outcome {
        (self.script.lock().unwrap())(call)
    }
}

/// Pseudo-random numbers that depend on nothing but their seed (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }
}

struct ScriptedWrite<'a> {
    script: &'a Scripted,
    transaction: Box<dyn WriteTransaction + 'a>,
}

impl Engine for Scripted {
    fn begin_read(&self) -> Result<Reading> {
        self.engine.begin_read()
    }

    fn begin_write(&self) -> Result<Box<dyn WriteTransaction + '_>> {
        Ok(Box::new(ScriptedWrite { script: self, transaction: self.engine.begin_write()? }))
    }

    fn wait(&self, after: Commit, timeout: Duration) -> Result<Waited> {
        self.engine.wait(after, timeout)
    }

    fn stop_waiting(&self) {
        self.engine.stop_waiting();
    }

    fn checkpoint(&self) -> Result<()> {
        self.engine.checkpoint()
    }

    fn knows_next_commit(&self) -> bool {
        !self.stand_ins && self.engine.knows_next_commit()
    }

    fn check_pages(&self, after: Option<Vec<u8>>, bytes: u64) -> Result<Option<PageRound>> {
        self.engine.check_pages(after, bytes)
    }

    fn stats(&self) -> EngineStats {
        self.engine.stats()
    }
}

impl RowSource for ScriptedWrite<'_> {
    fn commit_read(&self) -> Commit {
        self.transaction.commit_read()
    }

    fn get(&self, rows: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        match failure(self.script.outcome(Call::Read)) {
            Some(error) => Err(error),
            None => self.transaction.get(rows),
        }
    }

    fn with_row(&self, row: &[u8], see: &mut dyn FnMut(Value<'_>)) -> Result<()> {
        match failure(self.script.outcome(Call::Read)) {
            Some(error) => Err(error),
            None => self.transaction.with_row(row, see),
        }
    }

    fn changelog_entry(&self, commit: Commit) -> Result<Option<Vec<u8>>> {
        match failure(self.script.outcome(Call::Read)) {
            Some(error) => Err(error),
            None => self.transaction.changelog_entry(commit),
        }
    }
}

impl WriteTransaction for ScriptedWrite<'_> {
    fn end(self: Box<Self>) -> Result<()> {
        self.transaction.end()
    }

    fn commit(self: Box<Self>, batch: &Batch, log: Log<'_>) -> Result<Commit> {
        let Self { script, transaction, .. } = *self;
        ended(script.outcome(Call::Commit), || transaction.commit(batch, log))
    }

    fn load(self: Box<Self>, load: &Load) -> Result<Commit> {
        let Self { script, transaction, .. } = *self;
        ended(script.outcome(Call::Commit), || transaction.load(load))
    }
}

/// Commits or not, and tells what the script wants told.
fn ended(outcome: Outcome, commit: impl FnOnce() -> Result<Commit>) -> Result<Commit> {
    if matches!(outcome, Outcome::Pass | Outcome::Unknown { applied: true }) {
        let commit = commit()?;
        return failure(outcome).map_or(Ok(commit), Err);
    }
    Err(failure(outcome).expect("only `Pass` is none"))
}

fn failure(outcome: Outcome) -> Option<Error> {
    match outcome {
        Outcome::Pass => None,
        Outcome::Conflict => Some(Error::Conflict),
        Outcome::Unavailable => Some(Error::Unavailable("as the script has it".into())),
        Outcome::Denied => Some(Error::AccessDenied("as the script has it".into())),
        Outcome::Io => Some(std::io::Error::other("as the script has it").into()),
        Outcome::Unknown { .. } => Some(Error::CommitUnknown("as the script has it".into())),
    }
}
