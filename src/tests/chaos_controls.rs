//! What makes a commit on etcd right is left out, and the checker of `tests/etcd/tests/chaos.rs` must find that out.

use std::time::Duration;

use super::chaos::faults::Fault;
use super::chaos::{Chaos, Report};
use super::cluster::Cluster;
use crate::engine::LeftOut;
use crate::{Etcd, Store};

/// Callers on two nodes for some seconds. An attempt is given up soon, so that many have no answer.
fn run(
    cluster: &mut Cluster,
    prefix: String,
    left_out: Option<LeftOut>,
    faults: &[Fault],
    seed: u64,
) -> Report {
    let settings = Etcd::new(cluster.endpoints()).prefix(prefix).attempt_time(Duration::from_millis(150));
    let settings = left_out.into_iter().fold(settings, Etcd::leave_out);
    let chaos = Chaos {
        nodes: (0..2).map(|_| Store::open_etcd(&settings).unwrap()).collect(),
        callers: 24,
        time: Duration::from_secs(6),
        seed,
        faults,
        deadline: Etcd::DEADLINE_DEFAULT,
    };
    chaos.run(cluster)
}

#[test]
fn what_a_commit_needs_is_missed_by_the_checker() {
    let mut cluster = Cluster::start();
    let faults = [Fault::HoldLeader];
    let sound = run(&mut cluster, "sound".to_owned(), None, &faults, 1);
    println!("{sound}");
    assert_eq!(sound.violations, Vec::<String>::new());
    let applied_twice =
        |report: &Report| report.violations.iter().any(|found| found.starts_with("applied twice"));
    for (left_out, shows) in [
        (LeftOut::Comparison, (|report| !report.violations.is_empty()) as fn(&Report) -> bool),
        (LeftOut::Slot, applied_twice),
    ] {
        let found = (0..5).any(|seed| {
            let report = run(&mut cluster, format!("{left_out:?}-{seed}"), Some(left_out), &faults, seed);
            println!("without {left_out:?}, seed {seed}: {report}");
            shows(&report)
        });
        assert!(found, "{left_out:?} was left out, and nobody missed it");
    }
}
