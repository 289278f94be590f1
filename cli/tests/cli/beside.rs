//! Commands beside a process that writes the store: this one. The tool is another.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;
use std::{fs, thread};

use keystead::{Alias, Commit, KeyFilter, NewKey, Options, Position, Request, Store};
use serde_json::{Value, json};

use crate::tool::{Tool, scope};

/// With a write-ahead log that is as short as can be and is written to the table again and again.
fn writer(tool: &Tool) -> Store {
    let options = Options::new().wal_bytes(Options::WAL_BYTES_MIN).checkpoint_bytes(4_000);
    options.open(tool.store()).unwrap()
}

/// Makes a key of this name, with an alias of the same name.
fn create(store: &Store, name: &str) -> Commit {
    let new = NewKey::new(name).unwrap().alias(name.parse().unwrap());
    store.write(&Request::new(&scope()), |txn| txn.create_key(&new)).unwrap().commit
}

/// Moves an alias back and forth between keys until it is asked to stop.
fn keep_writing(store: &Store, keys: &[NewKey], end: &AtomicBool) {
    let (request, moving): (_, Alias) = (Request::new(&scope()), "moving".parse().unwrap());
    store.write(&request, |txn| txn.create_alias(&moving, keys[0].key_id)).unwrap();
    for key in keys.iter().cycle().skip(1) {
        if end.load(Ordering::Relaxed) {
            return;
        }
        store.write(&request, |txn| txn.associate_alias(&moving, key.key_id)).unwrap();
    }
}

/// What a command must show of the newest commit that was acknowledged before it began.
enum Shows {
    /// The name of the key that it made.
    Name,
    /// Its number, or a later one, in the field of this name.
    Commit(&'static str),
    /// How many keys there are.
    Keys(fn(&Value) -> &Value),
}

use Shows::{Commit as Number, Keys, Name};

/// Each command that reads and need not have the store to itself; NAME is that of the newest key, POSITION is behind the commit before.
const COMMANDS: [(&str, Shows); 15] = [
    ("keys", Name),
    ("aliases", Name),
    ("show NAME", Name),
    ("resolve NAME", Name),
    ("history NAME", Name),
    ("history --alias NAME", Name),
    ("changes --after POSITION --limit 1", Name),
    ("export", Name),
    ("export --all", Name),
    ("scopes", Keys(|answer| &answer["keys"])),
    ("stats", Number("position")),
    ("verify", Keys(|answer| &answer["report"]["keys"])),
    ("report --output page.html --replace", Number("commit")),
    ("backup copy-NAME", Number("position")),
    ("backup changes-NAME --since POSITION", Number("position")),
];

/// The number of a commit, also that in a position.
fn number(value: &Value) -> u64 {
    let behind = |position: &str| position.rsplit('-').next().unwrap().parse().unwrap();
    value.as_u64().unwrap_or_else(|| behind(value.as_str().unwrap_or_else(|| panic!("{value}"))))
}

fn must_read_along(tool: &Tool, store: &Store, turn: &str) {
    for (place, (line, shows)) in COMMANDS.iter().enumerate() {
        let name = format!("newest-{turn}-{place}");
        let commit = create(store, &name);
        let before = store.position_after(Commit::new(commit.number() - 1));
        let line = line.replace("NAME", &name).replace("POSITION", &before.to_string());
        let answers = tool.json_lines(&line);
        match shows {
            Name => assert!(
                answers.iter().any(|answer| answer.to_string().contains(&name)),
                "{line}: {name} is missing in {answers:?}"
            ),
            Number(field) => {
                let shown = number(&answers[0][field]);
                assert!(shown >= commit.number(), "{line}: {shown} is older than {commit}");
            }
            Keys(count) => {
                let keys = store.read(&scope(), |snap| snap.count_keys(&KeyFilter::all())).unwrap();
                assert_eq!(count(&answers[0]), &json!(keys), "{line}");
            }
        }
        if line == "verify" {
            assert_eq!((&answers[0]["clean"], &answers[0]["pages"]), (&json!(true), &json!("sound")));
        }
    }
}

#[test]
fn each_command_that_reads_shows_what_was_acknowledged_before_it() {
    let tool = Tool::with_store();
    let (store, end) = (writer(&tool), AtomicBool::new(false));
    let keys = ["here", "there"].map(|name| NewKey::new(name).unwrap());
    for key in &keys {
        store.write(&Request::new(&scope()), |txn| txn.create_key(key)).unwrap();
    }
    // While nobody else writes, nothing but the mark tells of the newest commit.
    must_read_along(&tool, &store, "alone");
    thread::scope(|threads| {
        threads.spawn(|| keep_writing(&store, &keys, &end));
        // Whatever comes of it, the other thread must end.
        let read = || must_read_along(&tool, &store, "together");
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
        end.store(true, Ordering::Relaxed);
        read.unwrap();
    });
}

/// What `changes --follow` tells, as it tells it.
struct Feed {
    command: Child,
    lines: Receiver<String>,
}

impl Feed {
    fn of(tool: &Tool, after: &Position) -> Self {
        let line = format!("changes --after {after} --follow --json");
        let mut command = tool.command(&line).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(command.stdout.take().unwrap());
        let (told, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| told.send(line)));
        Self { command, lines }
    }

    /// The next commit that it tells of.
    fn must_tell_of(&self, commit: Commit) {
        let line = self.lines.recv_timeout(Duration::from_secs(60)).expect("it tells of the commit");
        let told: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(told["info"]["commit"], json!(commit));
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.command.kill().unwrap();
        self.command.wait().unwrap();
    }
}

/// It is held up by nothing that the writer does, and ends neither when that ends nor when it comes again.
#[test]
fn the_feed_is_followed_beside_a_writer_and_across_its_restart() {
    let tool = Tool::with_store();
    let store = writer(&tool);
    let feed = Feed::of(&tool, &store.position().unwrap());
    for number in 0..3 {
        let commit = create(&store, &format!("key-{number}"));
        feed.must_tell_of(commit);
    }
    drop(store);
    let again = Options::new().open(tool.store()).unwrap();
    for name in ["into-the-table", "into-the-log"] {
        let commit = create(&again, name);
        feed.must_tell_of(commit);
    }
}

/// As a crash left it: a process that reads it keeps nobody out, and hears of what the next writer does.
#[test]
fn the_feed_of_a_store_that_nobody_closed_is_followed_into_the_next_writer() {
    let mut tool = Tool::with_store();
    let store = Options::new().open(tool.store()).unwrap();
    let begin = store.position().unwrap();
    // The first is in the table only, the others are in the log too.
    for (number, logged) in [(1, false), (2, true), (3, true)] {
        let commit = create(&store, &format!("before-{number}"));
        assert_eq!(tool.path("kms.redb.redo").exists(), logged);
        for suffix in ["", ".redo"].iter().take(1 + usize::from(logged)) {
            let copy = format!("crashed-{number}.redb{suffix}");
            fs::copy(tool.path(&format!("kms.redb{suffix}")), tool.path(&copy)).unwrap();
        }
        tool.set("KEYSTEAD_STORE", &format!("crashed-{number}.redb"));
        let feed = Feed::of(&tool, &begin);
        for earlier in (1..=number).rev() {
            feed.must_tell_of(Commit::new(commit.number() + 1 - earlier));
        }
        let again = Options::new().open(tool.path(&format!("crashed-{number}.redb"))).unwrap();
        let commit = create(&again, "after");
        feed.must_tell_of(commit);
    }
}

#[test]
fn a_file_that_another_program_has_locked_says_so() {
    let tool = Tool::with_store();
    let stranger = fs::File::open(tool.store()).unwrap();
    stranger.lock().unwrap();
    for line in ["keys", "verify", "report", "backup copy", "create x"] {
        let said = tool.fails(4, line);
        let says = said.starts_with("error: locked by ") && said.contains(": kms.redb\n");
        assert!(says && said.contains("another program has locked"), "{line}: {said}");
        assert!(!said.contains(" log"), "{line}: {said}");
    }
    drop(stranger);
    tool.ok("verify");
}
