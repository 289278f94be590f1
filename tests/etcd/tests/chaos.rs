//! A store on an etcd cluster while its members are killed, paused and cut off: nothing acknowledged is lost, nothing
//! is done twice, and no call waits longer than it may. `src/tests/chaos_controls.rs` breaks the engine, and shows that
//! this would be found out.
//!
//! ```text
//! KEYSTEAD_CHAOS_SECONDS=600 KEYSTEAD_CHAOS_SEED=1 \
//!     cargo test --release -p keystead-etcd-tests --features etcd --test chaos -- --nocapture
//! ```

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the test functions")]

#[path = "../chaos/mod.rs"]
mod chaos;
#[path = "../cluster.rs"]
mod cluster;
#[path = "../../linearizability/mod.rs"]
mod linearizability;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use chaos::Chaos;
use chaos::faults::Fault;
use cluster::Cluster;
use keystead::{Commit, Committed, Error, Etcd, NewKey, Request, Result, Scope, Store, TagKey, TagValue};

const NODES: usize = 3;
const CALLERS: usize = 64;

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |number| number.parse().expect("a number"))
}

#[test]
fn nothing_is_lost_and_nothing_done_twice() {
    let (seconds, seed) = (number("KEYSTEAD_CHAOS_SECONDS", 40), number("KEYSTEAD_CHAOS_SEED", 1));
    // Little space, so that it is soon used up.
    let arguments = ["--max-txn-ops=512", "--pre-vote=true", "--quota-backend-bytes=67108864"];
    let mut cluster = Cluster::with(&arguments);
    // All of them, or those that are named.
    let named = std::env::var("KEYSTEAD_CHAOS_FAULTS").unwrap_or_default();
    let faults: Vec<_> = Fault::ALL
        .into_iter()
        .filter(|fault| named.is_empty() || named.contains(&format!("{fault:?}")))
        .collect();
    let open = || Store::open_etcd(&Etcd::new(cluster.endpoints())).unwrap();
    let chaos = Chaos {
        nodes: (0..NODES).map(|_| open()).collect(),
        callers: CALLERS,
        time: Duration::from_secs(seconds),
        seed,
        faults: &faults,
        deadline: Etcd::DEADLINE_DEFAULT,
    };
    let report = chaos.run(&mut cluster);
    println!("seed {seed}: {report}");
    assert!(report.violations.is_empty(), "seed {seed}: {report}");
    assert!(report.commits > 100 && report.unknown_at_first > 0, "seed {seed}: {report}");
}

/// etcd carries some of the commits out that are under way when the space is used up, and refuses them nevertheless.
#[test]
fn what_is_refused_for_want_of_space_was_not_written() {
    let cluster = Cluster::with(&["--max-txn-ops=512", "--quota-backend-bytes=50331648"]);
    let settings = Etcd::new(cluster.endpoints());
    let nodes: Vec<_> = (0..2).map(|_| Store::open_etcd(&settings).unwrap()).collect();
    let refused: Mutex<Vec<String>> = Mutex::default();
    thread::scope(|threads| {
        for writer in 0..16 {
            let (store, refused) = (&nodes[writer % 2], &refused);
            threads.spawn(move || {
                for number in 0.. {
                    let marker = format!("writer {writer} number {number}");
                    let written = write_much(store, &marker, &format!("{writer}-{number}"));
                    match written {
                        Ok(_) => {}
                        Err(Error::Io(error)) if error.kind() == ErrorKind::StorageFull => {
                            refused.lock().unwrap().push(marker);
                            return;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    let refused = refused.into_inner().unwrap();
    let position = nodes[0].position_after(Commit::default());
    let applied = chaos::changes(&nodes[0], position);
    let actors: HashSet<_> = applied.iter().filter_map(|commit| commit.info.actor.as_deref()).collect();
    let wrong: Vec<_> = refused.iter().filter(|marker| actors.contains(marker.as_str())).collect();
    println!("{} commits, settled {}", applied.len(), nodes.iter().map(unknown_at_first).sum::<u64>());
    assert!(wrong.is_empty(), "refused, and yet written: {wrong:?}");
}

fn unknown_at_first(store: &Store) -> u64 {
    store.stats().cluster.map_or(0, |stats| stats.unknown)
}

/// Four keys with many tags, in a project of their own.
fn write_much(store: &Store, marker: &str, project: &str) -> Result<Committed<()>> {
    let request = Request::new(&Scope::new("domain", project)?).actor(marker);
    let value = TagValue::new(&"v".repeat(255))?;
    let tagged = |number: usize| {
        let tag = |tag: usize| TagKey::new(&format!("{tag:0>100}"));
        let new = NewKey::new(&format!("key-{number}"))?;
        (0..20).try_fold(new, |new, number| Ok(new.tag(tag(number)?, value.clone())))
    };
    let keys: Vec<_> = (0..4).map(tagged).collect::<Result<_>>()?;
    store.write(&request, |txn| keys.iter().try_for_each(|new| txn.create_key(new).map(drop)))
}
