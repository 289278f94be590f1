//! What a store on etcd costs beside a bare transaction of etcd of the same size, on three members that are started
//! here. Prints tables; `docs/distributed.md` has what came of it.
//!
//! ```text
//! cargo bench -p keystead-benches --features etcd --bench etcd [-- --seconds 3 --rounds 5]     --test: once, for a moment
//! ```

#![allow(clippy::unwrap_used, reason = "a benchmark that fails says so")]
#![allow(clippy::disallowed_methods, reason = "a benchmark takes the time")]
#![allow(clippy::cast_possible_truncation, reason = "what is measured is small")]

#[path = "../tests/etcd/cluster.rs"]
mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cluster::Cluster;
use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};
use keystead::{Alias, Etcd, NewKey, Options, Quotas, Request, Result, Scope, Store};
use tokio::runtime::Runtime;

/// How many callers at once.
const CALLERS: [usize; 3] = [1, 16, 64];

/// What the commit of an associate compares and writes, with history: five rows that it read, a slot and two places of
/// the log; three rows, an entry of the log and the slot. With the bytes of their keys and values.
const COMPARED: [usize; 8] = [56, 60, 60, 60, 60, 30, 18, 18];
const WRITTEN: [(usize, usize); 5] = [(56, 40), (60, 20), (60, 32), (34, 180), (30, 16)];

struct Settings {
    seconds: f64,
    rounds: usize,
}

/// What one round came to.
struct Round {
    per_second: f64,
    /// In microseconds.
    median: f64,
    ninety_nine: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: f64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)).map_or(default, |number| number.parse().expect("a number"))
    };
    let once = arguments.iter().any(|argument| argument == "--test");
    let settings = Settings {
        seconds: number("--seconds", if once { 0.1 } else { 3.0 }),
        rounds: number("--rounds", if once { 1.0 } else { 5.0 }) as usize,
    };
    let cluster = Cluster::start();
    println!(
        "etcd: {}",
        cluster.control(0, &["version"]).unwrap_or_default().lines().next().unwrap_or_default()
    );
    changes(&cluster, &settings);
    one_alias(&cluster, &settings);
    reads(&cluster, &settings);
    staleness(&cluster, &settings);
    size(&cluster, if once { 100 } else { 20_000 });
}

fn scope() -> Scope {
    Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f").unwrap()
}

fn open(cluster: &Cluster, prefix: &str, staleness: Option<Duration>) -> Store {
    let mut etcd = Etcd::new(cluster.endpoints()).prefix(prefix).deadline(Duration::from_secs(20));
    if let Some(staleness) = staleness {
        etcd = etcd.staleness(staleness);
    }
    let quotas = Quotas { keys_per_project: 10_000, ..Quotas::default() };
    Options::new().quotas(quotas).open_etcd(&etcd).unwrap()
}

fn alias(number: usize) -> Alias {
    format!("alias-{number:04}").parse().unwrap()
}

/// Two keys for each caller, and an alias on the first.
fn keys(store: &Store, callers: usize) -> Vec<[NewKey; 2]> {
    let make = |number: usize| {
        let first = NewKey::new(&format!("first-{number:04}"))?.alias(alias(number));
        Ok([first, NewKey::new(&format!("second-{number:04}"))?])
    };
    let keys: Result<Vec<_>> = (0..callers).map(make).collect();
    let keys = keys.unwrap();
    for batch in store.import(&Request::new(&scope()), keys.iter().flatten().cloned()) {
        assert_eq!(batch.unwrap().refused.len(), 0);
    }
    keys
}

/// Lets each caller do its work again and again, and times each.
fn run(callers: usize, settings: &Settings, work: impl Fn(usize, u64) + Sync) -> Round {
    let (ends, began) = (AtomicBool::new(false), Instant::now());
    let mut times: Vec<u64> = thread::scope(|threads| {
        let callers: Vec<_> = (0..callers)
            .map(|caller| {
                let (ends, work) = (&ends, &work);
                threads.spawn(move || {
                    let mut times = Vec::new();
                    while !ends.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        work(caller, times.len() as u64);
                        times.push(began.elapsed().as_nanos() as u64);
                    }
                    times
                })
            })
            .collect();
        thread::sleep(Duration::from_secs_f64(settings.seconds));
        ends.store(true, Ordering::Relaxed);
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    let seconds = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize] as f64 / 1000.0;
    Round { per_second: times.len() as f64 / seconds, median: at(0.5), ninety_nine: at(0.99) }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all[all.len() / 2]
}

fn row(name: &str, callers: usize, rounds: &[Round]) {
    let of = |get: fn(&Round) -> f64| median(rounds.iter().map(get).collect());
    let (low, high) = rounds.iter().fold((f64::MAX, 0.0_f64), |(low, high), round| {
        (low.min(round.per_second), high.max(round.per_second))
    });
    println!(
        "| {name} | {callers} | {:.0} ({low:.0} to {high:.0}) | {:.2} | {:.2} |",
        of(|round| round.per_second),
        of(|round| round.median) / 1000.0,
        of(|round| round.ninety_nine) / 1000.0,
    );
}

fn head(what: &str) {
    println!(
        "\n{what}\n\n| what | callers | a second, median (least to most) | median ms | 99 % ms |\n|---|---|---|---|---|"
    );
}

/// Moving aliases, each caller its own, beside bare transactions of the same size, in turn.
fn changes(cluster: &Cluster, settings: &Settings) {
    head("Durable changes, each caller another alias");
    let runtime = Runtime::new().unwrap();
    let mut ratios = Vec::new();
    for callers in CALLERS {
        let store = open(cluster, &format!("changes-{callers}"), None);
        let (keys, request) = (keys(&store, callers), Request::new(&scope()));
        let bare: Vec<_> = (0..callers)
            .map(|caller| Bare::new(cluster, &runtime, &format!("bare-{callers}-{caller:04}-")))
            .collect();
        let (mut moves, mut transactions) = (Vec::new(), Vec::new());
        for round in 0..settings.rounds {
            let turn = round as u64;
            moves.push(run(callers, settings, |caller, number| {
                let target = keys[caller][((number + turn) % 2) as usize].key_id;
                store.write(&request, |txn| txn.associate_alias(&alias(caller), target)).unwrap();
            }));
            transactions.push(run(callers, settings, |caller, _| bare[caller].commit(&runtime)));
        }
        row("associate", callers, &moves);
        row("bare transaction", callers, &transactions);
        let ratio = |get: fn(&Round) -> f64| {
            median(moves.iter().zip(&transactions).map(|(one, other)| get(one) / get(other)).collect())
        };
        ratios.push((callers, ratio(|round| round.median), ratio(|round| round.per_second)));
        assert!(store.verify().unwrap().is_clean());
    }
    println!("\nThe store beside bare transactions, medians of the rounds' ratios:");
    for (callers, latency, throughput) in ratios {
        println!("{callers} callers: latency {latency:.2}, throughput {throughput:.2}");
    }
}

/// One key of etcd after the other, as a caller without a store would change them.
struct Bare {
    client: Client,
    keys: Vec<Vec<u8>>,
    revision: AtomicU64,
    lease: i64,
}

impl Bare {
    fn new(cluster: &Cluster, runtime: &Runtime, name: &str) -> Self {
        let (client, lease) = runtime.block_on(async {
            let mut client = Client::connect(cluster.endpoints(), None).await.unwrap();
            let lease = client.lease_grant(3600, None).await.unwrap().id();
            (client, lease)
        });
        let key = |(number, length): (usize, usize)| {
            let mut key = format!("{name}{number:02}").into_bytes();
            key.resize(length.max(key.len()), b'.');
            key
        };
        let keys = COMPARED.into_iter().chain(WRITTEN.map(|(key, _)| key)).enumerate().map(key).collect();
        Self { client, keys, revision: AtomicU64::new(0), lease }
    }

    /// Compares keys that stay as they are, and one that it changed last, and writes.
    fn commit(&self, runtime: &Runtime) {
        let (compared, written) = self.keys.split_at(COMPARED.len());
        let mut compares: Vec<_> =
            compared[1..].iter().map(|key| Compare::mod_revision(key.clone(), CompareOp::Equal, 0)).collect();
        let last = self.revision.load(Ordering::Relaxed);
        compares.push(Compare::mod_revision(written[0].clone(), CompareOp::Equal, last as i64));
        let put = |(key, (_, length)): (&Vec<u8>, (usize, usize))| {
            let tied = (length == 16).then(|| PutOptions::new().with_lease(self.lease));
            TxnOp::put(key.clone(), vec![7; length], tied)
        };
        let puts: Vec<_> = written.iter().zip(WRITTEN).map(put).collect();
        let mut client = self.client.clone();
        let txn = Txn::new().when(compares).and_then(puts);
        let answer = runtime.block_on(async { client.txn(txn).await }).unwrap();
        assert!(answer.succeeded());
        self.revision.store(answer.header().unwrap().revision() as u64, Ordering::Relaxed);
    }
}

/// All callers move the same alias.
fn one_alias(cluster: &Cluster, settings: &Settings) {
    head("Durable changes, all callers the same alias");
    for callers in CALLERS {
        let store = open(cluster, &format!("one-{callers}"), None);
        let (keys, request) = (keys(&store, 1), Request::new(&scope()));
        let rounds: Vec<_> = (0..settings.rounds)
            .map(|_| {
                run(callers, settings, |caller, number| {
                    let target = keys[0][(number as usize + caller) % 2].key_id;
                    store.write(&request, |txn| txn.associate_alias(&alias(0), target)).unwrap();
                })
            })
            .collect();
        row("associate", callers, &rounds);
        println!("(conflicts since the store was opened: {})", store.stats().cluster.unwrap().conflicts);
    }
}

/// Resolving aliases: those of the newest commit, and those that may be a little old.
fn reads(cluster: &Cluster, settings: &Settings) {
    head("Resolving one of 1,000 aliases");
    let store = open(cluster, "reads", None);
    let keys = keys(&store, 1000);
    let old = open(cluster, "reads", Some(Duration::from_secs(1)));
    for (name, store) in [("resolve, of the newest commit", &store), ("resolve, at most 1 s old", &old)] {
        for callers in CALLERS {
            let rounds: Vec<_> = (0..settings.rounds)
                .map(|_| {
                    run(callers, settings, |caller, number| {
                        let which = (number as usize * 7 + caller * 131) % keys.len();
                        let found = store.read(&scope(), |snap| snap.resolve(&alias(which))).unwrap();
                        assert_eq!(found.key_id, keys[which][0].key_id);
                    })
                })
                .collect();
            row(name, callers, &rounds);
        }
    }
}

/// How long it takes until another node, which answers from memory, shows a change; and how old it says it may be.
fn staleness(cluster: &Cluster, settings: &Settings) {
    let bound = Duration::from_millis(500);
    let (writer, reader) = (open(cluster, "stale", None), Arc::new(open(cluster, "stale", Some(bound))));
    let (keys, request) = (keys(&writer, 1), Request::new(&scope()));
    let (mut lags, mut ages) = (Vec::new(), Vec::new());
    let until = Instant::now() + Duration::from_secs_f64(settings.seconds * settings.rounds as f64);
    let mut turn = 0;
    while Instant::now() < until {
        turn += 1;
        let target = keys[0][turn % 2].key_id;
        writer.write(&request, |txn| txn.associate_alias(&alias(0), target)).unwrap();
        let returned = Instant::now();
        while reader.read(&scope(), |snap| snap.resolve(&alias(0))).unwrap().key_id != target {
            assert!(returned.elapsed() < 2 * bound, "it is older than it may be");
            thread::yield_now();
        }
        lags.push(returned.elapsed().as_secs_f64() * 1000.0);
        ages.extend(reader.stats().cluster.unwrap().age.map(|age| age.as_secs_f64() * 1000.0));
    }
    let worst = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
    println!("\nAnother node, at most {bound:?} old, showed a change after it had returned elsewhere:");
    println!("median {:.3} ms, longest {:.3} ms, {} changes", median(lags.clone()), worst(&lags), lags.len());
    println!(
        "how old it said it may be: median {:.0} ms, longest {:.0} ms",
        median(ages.clone()),
        worst(&ages)
    );
}

/// What a key with one alias takes on the disk of a member, compacted and defragmented.
fn size(cluster: &Cluster, keys: usize) {
    println!("\nSize of a key with one alias, of {keys}, on each member:");
    for history in [false, true] {
        let before = bytes(cluster);
        let etcd = Etcd::new(cluster.endpoints())
            .prefix(format!("size-{history}"))
            .deadline(Duration::from_secs(20));
        let quotas = Quotas { keys_per_project: keys as u64, ..Quotas::default() };
        let store = Options::new().quotas(quotas).history(history).open_etcd(&etcd).unwrap();
        let new = |number: usize| NewKey::new(&format!("key-{number:06}")).unwrap().alias(alias(number));
        for batch in store.import(&Request::new(&scope()), (0..keys).map(new)) {
            assert_eq!(batch.unwrap().refused.len(), 0);
        }
        let each = (bytes(cluster) - before) / keys as f64;
        println!(
            "{each:.0} bytes, {}",
            if history { "with the history of its creation" } else { "without history" }
        );
    }
}

fn bytes(cluster: &Cluster) -> f64 {
    let status = || -> serde_json::Value {
        let said = cluster.control(0, &["endpoint", "status", "--write-out=json"]).unwrap();
        serde_json::from_str(said.lines().next().unwrap()).unwrap()
    };
    let revision = status()[0]["Status"]["header"]["revision"].to_string();
    cluster.control(0, &["compact", "--physical", "--command-timeout=120s", &revision]).unwrap();
    cluster.control(0, &["defrag", "--command-timeout=120s"]).unwrap();
    status()[0]["Status"]["dbSize"].as_f64().unwrap()
}
