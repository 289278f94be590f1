//! A store under many moves: how long a commit takes while a checkpoint runs and while none
//! does, how the file grows, and how much memory it all takes.
//!
//! `cargo bench --bench growth -- [KEYS [MOVES [THREADS]]]`; with `--test` only a few.
//!
//! `cargo bench --bench growth -- held [KEYS [COMMITS]]`: how the file grows by each commit while a read holds its
//! snapshot.
//!
//! `cargo bench --bench growth -- beside [KEYS [SECONDS]]`: how long a commit takes, of one caller that makes a hundred
//! a second, while another process verifies the store at the lowest priority, and while none does; in turn, so many
//! seconds each.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails says so")]
#![allow(clippy::disallowed_methods, reason = "a benchmark takes the time")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use keystead::{Alias, KeyId, NewKey, Options, Quotas, Request, Scope, Store};

/// The variable by which another process of this program is asked to verify a store, and the path of that.
const VERIFIED: &str = "KEYSTEAD_BENCH_VERIFIED";
/// How often a caller commits beside another process, and how many times each of the two is measured.
const PACE: Duration = Duration::from_millis(10);
const ROUNDS: u64 = 3;

/// After how many parts of the moves the sizes are told.
const PARTS: u64 = 10;

/// How long commits took, in microseconds.
#[derive(Default)]
struct Latencies {
    while_idle: Vec<f64>,
    while_checkpointing: Vec<f64>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let smoke = arguments.iter().any(|argument| argument == "--test");
    if let Some(path) = std::env::var_os(VERIFIED) {
        return verify_again_and_again(Path::new(&path));
    }
    let mut numbers = arguments.iter().filter_map(|argument| argument.parse::<u64>().ok());
    let few = |many: u64, few: u64| if smoke { few } else { many };
    let folder = tempfile::tempdir_in(std::env::var_os("TMPDIR").unwrap_or("/tmp".into())).unwrap();
    if arguments.iter().any(|argument| argument == "held") {
        let keys = numbers.next().unwrap_or(few(100_000, 500));
        // Commits reach the table file by checkpoints only: it takes many of them.
        return held(folder.path(), keys, numbers.next().unwrap_or(few(10_000, 200)));
    }
    if arguments.iter().any(|argument| argument == "beside") {
        let keys = numbers.next().unwrap_or(few(1_000_000, 500));
        return beside(folder.path(), keys, Duration::from_secs(numbers.next().unwrap_or(few(20, 1))));
    }
    let keys = numbers.next().unwrap_or(few(100_000, 500));
    let moves = numbers.next().unwrap_or(few(1_000_000, 2_000));
    let threads = numbers.next().unwrap_or(few(16, 2));

    let path = folder.path().join("kms.redb");
    let quotas = Quotas { keys_per_project: u64::MAX, ..Quotas::default() };
    let store = Options::new().quotas(quotas).history(false).open(&path).unwrap();
    let scope = Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f").unwrap();
    let before = resident();
    let names: Vec<(Alias, KeyId)> = load(&store, &Request::new(&scope), keys);
    println!("{keys} keys, {moves} moves by {threads} threads, history off");
    println!(
        "{:>10} {:>14} {:>14} {:>12} {:>14}",
        "moves", "file, bytes", "bytes a key", "resident MiB", "moves a second"
    );
    tell(0, keys, &path, None);
    let latencies = Mutex::new(Latencies::default());
    for part in 1..=PARTS {
        let started = Instant::now();
        thread::scope(|scope_of_threads| {
            for thread in 0..threads {
                let (store, names, latencies) = (&store, &names, &latencies);
                let request = Request::new(&scope);
                let each = moves / PARTS / threads;
                scope_of_threads.spawn(move || {
                    let found = move_aliases(store, &request, names, part * 1000 + thread, each);
                    let mut latencies = latencies.lock().unwrap();
                    latencies.while_idle.extend(found.while_idle);
                    latencies.while_checkpointing.extend(found.while_checkpointing);
                });
            }
        });
        let rate = (moves / PARTS) as f64 / started.elapsed().as_secs_f64();
        tell(moves / PARTS * part, keys, &path, Some(rate));
    }
    println!("resident before the load: {before} MiB");
    let Latencies { while_idle, while_checkpointing } = latencies.into_inner().unwrap();
    for (name, latencies) in [("no checkpoint", while_idle), ("a checkpoint", while_checkpointing)] {
        tell_latencies(name, latencies);
    }
    println!("{:#?}", store.stats());
    assert!(store.verify().unwrap().is_clean());
    let started = Instant::now();
    drop(store);
    println!("closed in {:?}; {} bytes", started.elapsed(), fs::metadata(&path).unwrap().len());
}

/// How the file grows while one read holds its snapshot, and by as many commits before and after it. What counts
/// is the room on the disk: redb doubles the length, and writes what it needs of that.
fn held(folder: &Path, keys: u64, commits: u64) {
    println!("{keys} keys, history on; commits of one move each; bytes on the disk for each commit");
    println!(
        "{:>10} {:>14} {:>22} {:>12} {:>14} {:>14} {:>12}",
        "commits", "before", "while a read is held", "after it", "on the disk", "length", "checkpoints"
    );
    let scope = Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f").unwrap();
    let request = Request::new(&scope);
    let path = folder.join("held.redb");
    let quotas = Quotas { keys_per_project: u64::MAX, ..Quotas::default() };
    let store = Options::new().quotas(quotas).open(&path).unwrap();
    let names = load(&store, &request, keys);
    let grown = |seed: u64| {
        let before = on_disk(&path);
        move_aliases(&store, &request, &names, seed, commits);
        on_disk(&path).saturating_sub(before) as f64 / commits as f64
    };
    let before = grown(1);
    let (holding, held) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let while_held = thread::scope(|threads| {
        let (store, scope) = (&store, &scope);
        threads.spawn(move || {
            let holds = store.read(scope, |_| {
                holding.send(()).unwrap();
                // Until the other end is dropped.
                Ok(released.recv().is_err())
            });
            assert!(holds.unwrap());
        });
        held.recv().unwrap();
        let grown = grown(2);
        drop(release);
        grown
    });
    let after = grown(3);
    let checkpoints = store.stats().log.map_or(0, |log| log.checkpoints);
    println!(
        "{commits:>10} {before:>14.0} {while_held:>22.0} {after:>12.0} {:>14} {:>14} {checkpoints:>12}",
        on_disk(&path),
        length(&path),
    );
}

/// How long commits take beside a process that verifies the store.
fn beside(folder: &Path, keys: u64, each: Duration) {
    let scope = Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f").unwrap();
    let request = Request::new(&scope);
    let path = folder.join("beside.redb");
    let quotas = Quotas { keys_per_project: u64::MAX, ..Quotas::default() };
    let store = Options::new().quotas(quotas).open(&path).unwrap();
    let names = load(&store, &request, keys);
    println!(
        "{keys} keys, history on; one caller, a commit each {PACE:?}; {ROUNDS} times {each:?} of each, in turn"
    );
    // The first commits of a process make the log.
    move_at_pace(&store, &request, &names, 1, each / 10);
    let (mut alone, mut verified) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        alone.extend(move_at_pace(&store, &request, &names, 2 * round, each));
        let mut verifier = verify_elsewhere(&path);
        verified.extend(move_at_pace(&store, &request, &names, 2 * round + 1, each));
        assert_eq!(verifier.try_wait().unwrap(), None, "the process that verifies ended");
        verifier.kill().unwrap();
        verifier.wait().unwrap();
    }
    let [alone, verified] =
        [("nobody verifies", alone), ("another process verifies", verified)].map(|(while_so, latencies)| {
            let [median, p99, longest] = quantiles(latencies);
            println!("commits while {while_so}: us: median {median:.0}, p99 {p99:.0}, longest {longest:.0}");
            p99
        });
    println!("ratio of p99: {:.2}", verified / alone);
    assert!(store.verify().unwrap().is_clean());
}

/// Starts this program once more, at the lowest priority where the system has `nice`.
fn verify_elsewhere(path: &Path) -> Child {
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new("nice");
    let command = command.args(["-n", "19"]).arg(this).env(VERIFIED, path).stdout(Stdio::null());
    command.spawn().unwrap()
}

fn verify_again_and_again(path: &Path) {
    let store = Options::new().open_read_only(path).unwrap();
    loop {
        assert!(store.verify().unwrap().is_clean());
    }
}

/// Moves random aliases, one at each tick.
fn move_at_pace(
    store: &Store,
    request: &Request,
    names: &[(Alias, KeyId)],
    seed: u64,
    time: Duration,
) -> Vec<f64> {
    let started = Instant::now();
    let mut all = Vec::new();
    for number in 0.. {
        let due = PACE * number;
        if due > time {
            break;
        }
        thread::sleep(due.saturating_sub(started.elapsed()));
        let found = move_aliases(store, request, names, seed << 32 | u64::from(number), 1);
        all.extend(found.while_idle.into_iter().chain(found.while_checkpointing));
    }
    all
}

/// Median, p99 and the longest.
fn quantiles(mut latencies: Vec<f64>) -> [f64; 3] {
    latencies.sort_by(f64::total_cmp);
    [500, 990, 1000].map(|thousandths| latencies[(latencies.len() - 1) * thousandths / 1000])
}

/// The bytes that the file takes on the disk; its length where that is not known.
fn on_disk(path: &Path) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap()) * 512;
    #[cfg(not(unix))]
    length(path)
}

/// Keys with an alias each.
fn load(store: &Store, request: &Request, keys: u64) -> Vec<(Alias, KeyId)> {
    let new: Vec<NewKey> = (0..keys)
        .map(|number| {
            let alias: Alias = format!("alias/service-{number:07}").parse().unwrap();
            NewKey::new(&format!("key-{number:07}")).unwrap().alias(alias)
        })
        .collect();
    let names = new.iter().map(|new| (new.aliases[0].clone(), new.key_id)).collect();
    let created: u64 = store.import(request, new).map(|batch| batch.unwrap().created).sum();
    assert_eq!(created, keys);
    names
}

/// Moves random aliases to random keys.
fn move_aliases(
    store: &Store,
    request: &Request,
    names: &[(Alias, KeyId)],
    seed: u64,
    count: u64,
) -> Latencies {
    let mut state = seed;
    let mut random = || {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % names.len() as u64).unwrap()
    };
    let mut latencies = Latencies::default();
    for _ in 0..count {
        let (alias, target) = (&names[random()].0, names[random()].1);
        let started = Instant::now();
        let moved = store.write(request, |txn| txn.associate_alias(alias, target));
        let took = started.elapsed();
        // A key that has too many aliases already refuses another.
        if moved.is_ok_and(|moved| moved.changed) {
            let checkpointing = store.stats().log.is_some_and(|log| log.checkpointing);
            let kind =
                if checkpointing { &mut latencies.while_checkpointing } else { &mut latencies.while_idle };
            kind.push(microseconds(took));
        }
    }
    latencies
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn tell(moves: u64, keys: u64, path: &Path, rate: Option<f64>) {
    let bytes = length(path);
    let rate = rate.map(|rate| format!("{rate:.0}")).unwrap_or_default();
    println!("{moves:>10} {bytes:>14} {:>14.1} {:>12} {rate:>14}", bytes as f64 / keys as f64, resident());
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

fn tell_latencies(name: &str, mut latencies: Vec<f64>) {
    if latencies.is_empty() {
        return println!("commits while {name} runs: none");
    }
    latencies.sort_by(f64::total_cmp);
    let at = |thousandths: usize| latencies[(latencies.len() - 1) * thousandths / 1000];
    println!(
        "commits while {name} runs: {}; us: median {:.0}, p99 {:.0}, p99.9 {:.0}, longest {:.0}",
        latencies.len(),
        at(500),
        at(990),
        at(999),
        at(1000),
    );
}

/// The memory of this process that is resident, in MiB; 0 where that is not told.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
