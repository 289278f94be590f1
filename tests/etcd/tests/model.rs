//! The model test on a real etcd cluster: the same random operations and the same specification as in `tests/model.rs`, on
//! one and on two processes' stores, with memory for rows and without.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the test functions")]
#![allow(dead_code, reason = "the rest of it is for stores that are on no servers")]

#[path = "../cluster.rs"]
mod cluster;
#[path = "../../model/compare.rs"]
mod compare;
#[path = "../../model/ops.rs"]
mod ops;
#[path = "../../model/spec.rs"]
mod spec;
#[path = "../../model/steps.rs"]
mod steps;
#[path = "../../model/values.rs"]
mod values;

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestRunner};

use cluster::Cluster;
use keystead::Etcd;
use steps::Pair;

/// How a store on a cluster is opened.
#[derive(Debug, Clone, Copy)]
struct Nodes {
    count: usize,
    /// For rows, in each.
    cache_bytes: usize,
    /// For records, in each.
    record_cache_bytes: usize,
}

fn nodes() -> impl Strategy<Value = Nodes> {
    let bytes = || prop_oneof![Just(0_usize), Just(1 << 20)];
    (1..=2_usize, bytes(), bytes()).prop_map(|(count, cache_bytes, record_cache_bytes)| Nodes {
        count,
        cache_bytes,
        record_cache_bytes,
    })
}

#[test]
fn a_store_on_etcd_does_what_the_specification_says() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = ProptestConfig {
        cases: cases.unwrap_or(8),
        max_shrink_iters: 40,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        source_file: Some(file!()),
        ..ProptestConfig::default()
    };
    let (cluster, made) = (Cluster::start(), Cell::new(0));
    let all = (steps::policy(), steps::steps(true), nodes());
    let run = TestRunner::new(config).run(&all, |(policy, steps, nodes)| {
        made.set(made.get() + 1);
        let etcd = Etcd::new(cluster.endpoints()).prefix(format!("case-{}", made.get()));
        let open = Box::new(move |options: &keystead::Options| {
            let options = options.clone().cache_bytes(nodes.cache_bytes);
            options.record_cache_bytes(nodes.record_cache_bytes).open_etcd(&etcd)
        });
        Pair::on_servers(policy, nodes.count, open).run(steps)
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
}
