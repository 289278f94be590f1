//! Chaos: callers on several nodes of one store, faults of the cluster under them, and a checker of what came of it.
//!
//! `callers` ask and note what they were answered, `faults` strike the cluster meanwhile, `checker` compares what was
//! noted with the history that the store has.

#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part; unwrap is fine in tests")]

pub(crate) mod callers;
pub(crate) mod checker;
pub(crate) mod faults;

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

use keystead::{ClusterStats, CommitRecord, Limit, Position, Store};

use super::cluster::Cluster;
use super::linearizability::workload::Workload;
use callers::{Called, Callers, Outcome};
use checker::{Applied, Initial};
use faults::{Fault, Faults, Struck};

/// Few aliases, so that callers meet.
const WORKLOAD: Workload = Workload { families: 2 };

pub(crate) struct Chaos<'a> {
    /// Handles of the same store, each as in a process of its own.
    pub(crate) nodes: Vec<Store>,
    pub(crate) callers: usize,
    pub(crate) time: Duration,
    pub(crate) seed: u64,
    /// In turn.
    pub(crate) faults: &'a [Fault],
    /// How long a call may take.
    pub(crate) deadline: Duration,
}

/// What came of it.
pub(crate) struct Report {
    pub(crate) violations: Vec<String>,
    pub(crate) calls: usize,
    /// How often each outcome was.
    pub(crate) outcomes: BTreeMap<&'static str, usize>,
    pub(crate) commits: usize,
    /// Of the calls whose outcome stayed unknown, those that are in the history.
    pub(crate) unknown_applied: usize,
    /// As the nodes counted them.
    pub(crate) conflicts: u64,
    pub(crate) unknown_at_first: u64,
    /// Of each fault how often it struck, and the longest time in which nobody's write came back well that overlaps
    /// with one of them.
    pub(crate) faults: BTreeMap<Fault, (usize, Duration)>,
    /// The longest time in which nobody's write came back well.
    pub(crate) longest_stall: Duration,
    pub(crate) longest_call: Duration,
    pub(crate) took: Duration,
}

impl Chaos<'_> {
    /// Lets callers call and faults strike, ends both, and checks.
    pub(crate) fn run(self, cluster: &mut Cluster) -> Report {
        let names = WORKLOAD.fill(&self.nodes[0]);
        let before = self.nodes[0].position().unwrap();
        let began = now();
        let callers = Callers::start(&self.nodes, WORKLOAD, self.callers, self.seed, before);
        let mut faults = Faults::new(cluster, self.seed, began);
        for fault in self.faults.iter().cycle() {
            if began.elapsed() > self.time {
                break;
            }
            faults.strike(*fault);
        }
        let struck = faults.end();
        let (calls, feeds) = callers.end();
        let took = began.elapsed();
        let commits = changes(&self.nodes[0], before);
        let initial = Initial { names, commit: before.commit().number() };
        let applied: Vec<_> = commits.iter().map(Applied::of).collect();
        let mut violations = checker::check(&initial, &calls, &applied);
        for (node, store) in self.nodes.iter().enumerate() {
            if changes(store, before) != commits {
                violations.push(format!("node {node} shows another history"));
            }
            if feeds[node] != commits {
                let told = feeds[node].len();
                violations.push(format!("of {} commits the feed of node {node} told {told}", commits.len()));
            }
        }
        let found = self.nodes[0].verify().unwrap();
        violations.extend(found.violations.iter().map(|found| format!("verify: {found:?}")));
        let late = |call: &&Called| call.took > self.deadline + checker::LATE;
        violations
            .extend(calls.iter().filter(late).map(|late| format!("longer than the deadline: {late:?}")));
        self.report(violations, &calls, &applied, struck, took)
    }

    fn report(
        &self,
        violations: Vec<String>,
        calls: &[Called],
        applied: &[Applied],
        struck: Vec<Struck>,
        took: Duration,
    ) -> Report {
        let mut outcomes = BTreeMap::new();
        for call in calls {
            *outcomes.entry(call.outcome.name()).or_default() += 1;
        }
        let mut written: Vec<_> =
            calls.iter().filter(|call| matches!(call.outcome, Outcome::Written { .. })).collect();
        written.sort_by_key(|call| call.ended);
        let gaps: Vec<_> = written.windows(2).map(|two| (two[0].ended, two[1].ended)).collect();
        let longest = |of: &dyn Fn(&(Duration, Duration)) -> bool| {
            gaps.iter().filter(|gap| of(gap)).map(|(from, to)| *to - *from).max().unwrap_or_default()
        };
        let mut faults = BTreeMap::<_, (usize, Duration)>::new();
        for Struck { fault, from, to } in struck {
            let (count, stall) = faults.entry(fault).or_default();
            *count += 1;
            *stall = longest(&|gap| gap.0 < to && from < gap.1).max(*stall);
        }
        let unknown = calls.iter().filter(|call| call.outcome == Outcome::Unknown).map(|call| &call.marker);
        let unknown: std::collections::HashSet<_> = unknown.collect();
        let count = |of: fn(&ClusterStats) -> u64| {
            self.nodes.iter().filter_map(|store| store.stats().cluster).map(|stats| of(&stats)).sum()
        };
        Report {
            violations,
            calls: calls.len(),
            outcomes,
            commits: applied.len(),
            unknown_applied: applied.iter().filter(|applied| unknown.contains(&applied.marker)).count(),
            conflicts: count(|stats| stats.conflicts),
            unknown_at_first: count(|stats| stats.unknown),
            faults,
            longest_stall: longest(&|_| true),
            longest_call: calls.iter().map(|call| call.took).max().unwrap_or_default(),
            took,
        }
    }
}

/// All commits behind a position, as a store tells them.
pub(crate) fn changes(store: &Store, from: Position) -> Vec<CommitRecord> {
    let (mut commits, mut position) = (Vec::new(), from);
    loop {
        let changes = store.changes(Some(&position), Limit::MAX).unwrap();
        if changes.commits.is_empty() {
            return commits;
        }
        position = changes.position;
        commits.extend(changes.commits);
    }
}

#[expect(clippy::disallowed_methods, reason = "it measures")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:.0} s, {} calls: {:?}", self.took.as_secs_f64(), self.calls, self.outcomes)?;
        for (fault, (count, stall)) in &self.faults {
            writeln!(f, "  {fault:?}: {count}, longest time without a commit {:.1} s", stall.as_secs_f64())?;
        }
        writeln!(
            f,
            "{} commits; conflicts {}; unknown at first {}, in the end {}, of them applied {}",
            self.commits,
            self.conflicts,
            self.unknown_at_first,
            self.outcomes.get("unknown").unwrap_or(&0),
            self.unknown_applied
        )?;
        writeln!(
            f,
            "longest time without a commit {:.1} s; longest call {:.1} s",
            self.longest_stall.as_secs_f64(),
            self.longest_call.as_secs_f64()
        )?;
        write!(f, "violations {}", self.violations.len())?;
        self.violations.iter().take(20).try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}
