//! Opening after a kill: a process of the same program commits until it is killed, and what it acknowledged must
//! be there.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::data::{Keys, Random};
use crate::engines;
use crate::peer::{Answer, Move, Place, Settings};
use crate::record::ENABLED;
use crate::subject::Subject;

/// The hidden command that the process is started with.
pub const COMMAND: &str = "commit-until-killed";
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// The process: moves one alias after the other to random keys, and says so of each when it is durable.
pub fn commit_until_killed(engine: &str, folder: &Path, count: usize, first: usize) -> Answer<()> {
    let engine = engines::named(engine).ok_or("there is no such engine")?;
    let keys = Keys::new(count)?;
    let peer = (engine.open)(folder, Settings::of(count, true))?;
    let mut random = Random::new(first as u64);
    peer.session(&mut |session| {
        let mut out = std::io::stdout().lock();
        for alias in (first..).map(|index| index % count) {
            let (key, name) = (random.below(count), keys.aliases[alias].clone());
            let wanted = Move { place: Place::Large, alias: name, target: keys.ids[key], expected: None };
            session.associate(&wanted)?.map_err(|refusal| format!("{refusal:?}"))?;
            writeln!(out, "{alias} {key}")?;
        }
        Ok(())
    })
}

/// How long opening and a first look-up take after that, in microseconds: by who only reads, where that is measured, and
/// then to write.
pub fn open_after_kill(
    subject: &mut Subject,
    keys: &Keys,
    commits_for: Duration,
    drop_caches: bool,
) -> Answer<(Option<f64>, f64)> {
    subject.close();
    let first = subject.random.below(keys.count());
    let acknowledged = kill_one(subject, keys, first, commits_for)?;
    acknowledged.iter().for_each(|(alias, key)| subject.targets.moved(*alias, *key));
    let (alias, key) = *acknowledged.last().ok_or("nothing was acknowledged")?;
    let followed = match subject.engine.follow {
        Some(follow) => {
            forget(subject, drop_caches)?;
            let start = Instant::now();
            let follower = follow(subject.folder.path(), subject.settings)?;
            let mut took = None;
            follower.session(&mut |session| {
                let found = session.resolve(Place::Large, &keys.aliases[alias])?;
                took.get_or_insert(start.elapsed());
                if found.is_none_or(|found| found.key_id() != keys.ids[key]) {
                    return Err("an acknowledged move is not there for who only reads".into());
                }
                Ok(())
            })?;
            took.map(|took| took.as_secs_f64() * 1e6)
        }
        None => None,
    };
    forget(subject, drop_caches)?;
    let start = Instant::now();
    subject.open()?;
    let mut took = None;
    subject.peer()?.session(&mut |session| {
        let found = session.resolve(Place::Large, &keys.aliases[alias])?.ok_or("the alias is missing")?;
        took.get_or_insert(start.elapsed());
        if (found.key_id(), found.state()) != (keys.ids[key], ENABLED) {
            return Err("an acknowledged move is not there".into());
        }
        // The next one may have been committed or not.
        let next = (alias + 1) % keys.count();
        let found = session.resolve(Place::Large, &keys.aliases[next])?.ok_or("the alias is missing")?;
        let at = keys.ids.iter().position(|id| *id == found.key_id());
        subject.targets.moved(next, at.ok_or("the alias names a key that is not there")?);
        Ok(())
    })?;
    Ok((followed, took.ok_or("nothing was looked up")?.as_secs_f64() * 1e6))
}

/// Has the system forget what it holds of the files in memory.
fn forget(subject: &Subject, drop_caches: bool) -> Answer<()> {
    subject.forget_pages()?;
    if drop_caches {
        // Not permitted everywhere; then only the files' own pages are cold.
        let _ = fs::write(DROP_CACHES, "3");
    }
    Ok(())
}

/// Starts the process, kills it when it has committed for a while, and gives what it acknowledged.
fn kill_one(
    subject: &Subject,
    keys: &Keys,
    first: usize,
    commits_for: Duration,
) -> Answer<Vec<(usize, usize)>> {
    let mut child = Command::new(env::current_exe()?)
        .args([COMMAND, subject.engine.name])
        .arg(subject.folder.path())
        .args([keys.count().to_string(), first.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take().ok_or("the process has no output")?;
    let mut lines = BufReader::new(out).lines();
    let mut acknowledged: Vec<String> = Vec::new();
    acknowledged.push(lines.next().ok_or("the process ended by itself")??);
    let rest = thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
    thread::sleep(commits_for);
    child.kill()?;
    child.wait()?;
    acknowledged.extend(rest.join().map_err(|_| "the reader panicked")?);
    let pair = |line: &String| {
        let (alias, key) = line.split_once(' ').ok_or("a line without a space")?;
        Ok((alias.parse()?, key.parse()?))
    };
    acknowledged.iter().map(pair).collect()
}
