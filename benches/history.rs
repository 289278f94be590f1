//! What the history costs: the same writes on a store with history and on one without, in turn, in one
//! run; medians and their ratio, and the bytes that the history keeps of each.
//!
//! `cargo bench -p keystead-benches --bench history`; with `-- --test` a few rounds only, to see that it runs.

use std::path::Path;
use std::time::{Duration, Instant};

use keystead::{Alias, KeyId, NewKey, Options, Quotas, Request, Result, Scope, Store};

/// Writes of one kind on one store before it is the other's turn.
const IN_A_ROW: usize = 20;

/// Creates in one transaction while a store is filled: each reads six rows of its own, of 200.
const AT_ONCE: usize = 25;

struct Side {
    store: Store,
    keys: Vec<KeyId>,
    aliases: Vec<Alias>,
    moved: usize,
    created: usize,
}

fn main() -> Result<()> {
    let smoke = std::env::args().any(|argument| argument == "--test");
    let (keys, rounds) = if smoke { (200, 2) } else { (10_000, 100) };
    let folder = tempfile::tempdir()?;
    let mut with = Side::new(&folder.path().join("with"), true, keys)?;
    let mut without = Side::new(&folder.path().join("without"), false, keys)?;
    let mut times: [[Vec<Duration>; 2]; 2] = Default::default();
    for _ in 0..rounds {
        for (which, side) in [&mut with, &mut without].into_iter().enumerate() {
            for _ in 0..IN_A_ROW {
                times[0][which].push(timed(|| side.associate())?);
            }
            for _ in 0..IN_A_ROW {
                times[1][which].push(timed(|| side.create())?);
            }
        }
    }
    println!("{keys} keys, {} writes of each kind on each store, in turn", rounds * IN_A_ROW);
    for (work, [on, off]) in ["associate", "create with an alias"].into_iter().zip(times) {
        let (on, off) = (median(on), median(off));
        let ratio = on.as_secs_f64() / off.as_secs_f64();
        println!("{work}: with history {on:?}, without {off:?}, ratio {ratio:.3}");
    }
    let (before, count) = (with.history_bytes()?, rounds as u64);
    (0..count).try_for_each(|_| with.associate())?;
    let between = with.history_bytes()?;
    (0..count).try_for_each(|_| with.create())?;
    let after = with.history_bytes()?;
    println!("bytes of history an associate: {}", (between - before) / count);
    println!("bytes of history a create with an alias: {}", (after - between) / count);
    assert_eq!(without.history_bytes()?, 0);
    Ok(())
}

impl Side {
    fn new(path: &Path, history: bool, keys: usize) -> Result<Self> {
        let quotas = Quotas { keys_per_project: u64::MAX, ..Quotas::default() };
        let store = Options::new().history(history).quotas(quotas).open(path)?;
        let mut side = Self { store, keys: Vec::new(), aliases: Vec::new(), moved: 0, created: 0 };
        for first in (0..keys).step_by(AT_ONCE) {
            let new = (first..first + AT_ONCE).map(new_key).collect::<Result<Vec<_>>>()?;
            side.store
                .write(&request()?, |txn| new.iter().try_for_each(|new| txn.create_key(new).map(drop)))?;
            side.keys.extend(new.iter().map(|new| new.key_id));
            side.aliases.extend(new.into_iter().flat_map(|new| new.aliases));
        }
        side.created = side.keys.len();
        Ok(side)
    }

    /// Moves an alias to the key after the one that has it.
    fn associate(&mut self) -> Result<()> {
        // A step that meets all of them, far from the one before.
        let place = self.moved * 7919 % self.aliases.len();
        let target = self.keys[(place + 1 + self.moved / self.aliases.len()) % self.keys.len()];
        self.moved += 1;
        let alias = &self.aliases[place];
        let done = self.store.write(&request()?, |txn| txn.associate_alias(alias, target))?;
        assert!(done.value.changed);
        Ok(())
    }

    fn history_bytes(&self) -> Result<u64> {
        let report = self.store.verify()?;
        assert!(report.is_clean(), "{:?}", report.violations);
        Ok(report.history_bytes)
    }

    fn create(&mut self) -> Result<()> {
        let new = new_key(self.created)?;
        self.created += 1;
        let done = self.store.write(&request()?, |txn| txn.create_key(&new))?;
        assert_eq!(done.value.key_id, new.key_id);
        Ok(())
    }
}

fn request() -> Result<Request> {
    let scope = Scope::new("3bab8e245e854f68af5967c00dd43127", "0d0466b0e7274d9cb35df84bb474a37f")?;
    Ok(Request::new(&scope).actor("alice"))
}

fn new_key(number: usize) -> Result<NewKey> {
    Ok(NewKey::new(&format!("key-{number}"))?.alias(format!("alias-{number}").parse()?))
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn timed(run: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
