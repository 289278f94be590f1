//! Files: beside an open store, after a crash, damaged, backed up, restored, repaired, compacted.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use keystead::{NewKey, Options, Request, Scope, Store};
use serde_json::json;

use crate::tool::{Tool, scope};

/// As the tool opens it.
fn open(tool: &Tool) -> Store {
    Options::new().open(tool.store()).unwrap()
}

fn create(store: &Store, name: &str) {
    store.write(&Request::new(&scope()), |txn| txn.create_key(&NewKey::new(name)?)).unwrap();
}

#[test]
fn readers_work_beside_an_open_store_and_writers_say_why_not() {
    let tool = Tool::with_store();
    let store = open(&tool);
    create(&store, "orders");
    for line in
        ["keys", "aliases", "show orders", "history orders", "changes", "scopes", "stats", "verify", "export"]
    {
        tool.ok(line);
    }
    let verified = tool.ok("verify");
    assert!(verified.contains("pages of the file") && verified.contains("sound"), "{verified}");
    tool.ok("backup copy");
    create(&store, "invoices");
    assert_eq!(tool.json_lines("keys").len(), 2, "it sees what was committed since");
    for line in ["create x", "checkpoint", "compact --yes", "rename orders x", "trim-history 1 --yes"] {
        let said = tool.fails(4, line);
        // The tool is another process, so the holder is this one.
        let holder = match cfg!(target_os = "linux") {
            true => format!("process {}", std::process::id()),
            false => "another process".to_owned(),
        };
        let says =
            said.contains(&format!("locked by {holder}: kms.redb")) && said.contains("stop the process");
        assert!(says, "{line}: {said}");
    }
    drop(store);
    tool.ok("create x");
}

#[test]
fn what_is_in_the_log_is_read_along() {
    let tool = Tool::with_store();
    let store = open(&tool);
    for (number, name) in (1..).zip(["orders", "more", "last"]) {
        create(&store, name);
        assert_eq!(tool.json_lines("keys").len(), number);
    }
    assert!(tool.path("kms.redb.redo").exists(), "the second commit makes the log");
    drop(store);
    tool.ok("create invoices");
    assert_eq!(tool.json_lines("keys").len(), 4);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long a command waits")]
fn a_command_waits_for_a_locked_file_as_long_as_is_said() {
    let mut tool = Tool::with_store();
    let store = Store::open(tool.store()).unwrap();
    let times = |tool: &Tool, line: &str| {
        let since = Instant::now();
        tool.fails(4, line);
        since.elapsed()
    };
    tool.set("KEYSTEAD_LOCK_WAIT", "3");
    assert!(times(&tool, "create orders") >= Duration::from_secs(3));
    // What is typed goes before the environment, anywhere in the line.
    let short =
        times(&tool, "--lock-wait 0.01 create orders").min(times(&tool, "create orders --lock-wait 0.01"));
    assert!(short < Duration::from_secs(3), "{short:?}");
    tool.set("KEYSTEAD_LOCK_WAIT", "3600");
    thread::scope(|threads| {
        let created = threads.spawn(|| tool.ok("create orders"));
        thread::sleep(Duration::from_millis(1500));
        assert!(!created.is_finished(), "it waits for more than the second of the default");
        drop(store);
        created.join().unwrap();
    });
    for wrong in ["0", "0.009", "3601", "-1", "NaN", "inf", "long"] {
        tool.set("KEYSTEAD_LOCK_WAIT", wrong);
        let said = tool.fails(2, "keys");
        assert!(said.contains("from 0.01 to 3600"), "{wrong}: {said}");
    }
}

#[test]
fn no_store_is_made_beside_the_log_of_another() {
    let tool = Tool::new();
    tool.write("kms.redb.redo", "of a store that was moved away");
    let said = tool.fails(1, "init");
    assert!(said.contains("kms.redb.redo") && said.contains("move that file away"), "{said}");
    assert!(!tool.store().exists());
    tool.ok("init --store other");
    for line in ["copy --to kms.redb --store other", "repair --into kms.redb --store other", "restore other"]
    {
        let said = tool.fails(1, line);
        assert!(said.contains("kms.redb.redo"), "{line}, before anything is asked: {said}");
    }
}

/// The files as a killed writer leaves them: those of a store that is open. Its table lacks what is in the log.
pub(crate) fn crashed(tool: &Tool, names: &[&str]) {
    let store = open(tool);
    names.iter().for_each(|name| create(&store, name));
    for suffix in ["", ".redo"] {
        fs::copy(tool.path(&format!("kms.redb{suffix}")), tool.path(&format!("crashed{suffix}"))).unwrap();
    }
}

#[test]
fn after_a_crash_it_works_as_before() {
    let tool = Tool::with_store();
    crashed(&tool, &["orders", "invoices"]);
    let before = fs::read(tool.path("crashed")).unwrap();
    assert_eq!(tool.json_lines("keys --store crashed").len(), 2);
    assert_eq!(fs::read(tool.path("crashed")).unwrap(), before, "reading changes nothing");
    tool.ok("create more --store crashed");
    assert_eq!(tool.json_lines("keys --store crashed").len(), 3);
}

#[test]
fn after_a_checkpoint_the_table_file_is_the_whole_store() {
    let tool = Tool::with_store();
    crashed(&tool, &["orders", "invoices", "more"]);
    let elsewhere = |name: &str| {
        fs::create_dir(tool.path(name)).unwrap();
        fs::copy(tool.path("crashed"), tool.path(&format!("{name}/kms.redb"))).unwrap();
        format!("--store {name}/kms.redb")
    };
    let said = tool.fails(4, &format!("keys {}", elsewhere("before")));
    assert!(said.contains("it is missing"), "the log is needed: {said}");
    let names: Vec<_> = tool.json_lines("keys --store crashed");

    let done = tool.json("checkpoint --store crashed");
    assert_eq!(done["bytes"], json!(tool.path("crashed").metadata().unwrap().len()));
    assert_eq!(done["wal"], json!({ "state": "not_needed" }));
    let there = elsewhere("after");
    assert_eq!(tool.json_lines(&format!("keys {there}")), names);
    assert_eq!(tool.json(&format!("stats {there}"))["position"], done["position"]);
    tool.ok(&format!("verify {there}"));
    tool.ok(&format!("create last {there}"));
    assert_eq!(tool.json_lines(&format!("keys {there}")).len(), 4);

    let said = tool.ok("checkpoint --store crashed");
    let says = said.starts_with("crashed is the whole store up to commit 4: ")
        && said.ends_with("B; its log is not needed\n");
    assert!(says, "{said}");
    assert_eq!(tool.json_lines("keys --store crashed"), names, "once more changes nothing");
    let left = fs::read_dir(tool.folder()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.filter(|name| name.to_string_lossy().starts_with(".keystead-")).count(), 0);
}

#[test]
fn a_checkpoint_of_a_store_that_is_in_use_is_refused() {
    let tool = Tool::with_store();
    let store = open(&tool);
    for name in ["orders", "invoices"] {
        create(&store, name);
    }
    let before = fs::read(tool.store()).unwrap();
    for line in ["checkpoint", "checkpoint --json"] {
        let said = tool.fails(4, line);
        let says =
            said.contains("locked by ") && said.contains("`keystead backup` saves a store that is in use");
        assert!(says, "{line}: {said}");
    }
    assert_eq!(fs::read(tool.store()).unwrap(), before);
    // What it suggests works.
    tool.ok("backup copy");
    assert_eq!(tool.json_lines("keys --store copy").len(), 2);
    drop(store);
    // A process that only reads is not in the way.
    let reader = Options::new().open_read_only(tool.store()).unwrap();
    tool.ok("checkpoint");
    drop(reader);
    tool.write("text", "something else");
    assert!(tool.fails(4, "checkpoint --store text").contains("not a keystead store"));
    assert!(tool.fails(4, "checkpoint --store nowhere").contains("there is no store"));
    assert!(!tool.path("nowhere").exists());
}

/// By a link whose name says nothing of where the file is.
#[test]
#[cfg(unix)]
fn a_checkpoint_finds_the_file_behind_a_link() {
    let tool = Tool::with_store();
    crashed(&tool, &["orders", "invoices"]);
    fs::create_dir(tool.path("links")).unwrap();
    std::os::unix::fs::symlink("../crashed", tool.path("links/kms.redb")).unwrap();
    tool.ok("checkpoint --store links/kms.redb");
    fs::remove_file(tool.path("crashed.redo")).unwrap();
    assert_eq!(tool.json_lines("keys --store crashed").len(), 2);
}

#[test]
fn what_is_no_store_is_told() {
    let tool = Tool::new();
    tool.write("kms.redb", "something else");
    for line in ["keys", "create x", "verify", "compact --yes"] {
        let said = tool.fails(4, line);
        assert!(said.contains("not a keystead store"), "{line}: {said}");
    }
    assert_eq!(tool.read("kms.redb"), "something else");
    tool.write("empty", "");
    tool.fails(4, "keys --store empty");
    fs::create_dir(tool.path("folder")).unwrap();
    assert!(tool.fails(4, "keys --store folder").contains("is no file"));
    assert!(tool.fails(4, "repair --into x --yes --store nowhere").contains("there is no store"));
}

/// Where one byte of this text is another one.
pub(crate) fn damage(tool: &Tool, text: &str) {
    let mut bytes = fs::read(tool.store()).unwrap();
    let places: Vec<_> =
        (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text.as_bytes())).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| bytes[at] = b'?');
    fs::write(tool.store(), bytes).unwrap();
}

/// Fills some pages in other scopes, so that damage of one leaves others.
pub(crate) fn fill(tool: &Tool, domain: &str) {
    let store = Store::open(tool.store()).unwrap();
    for project in ["one", "two"] {
        let request = Request::new(&Scope::new(domain, project).unwrap());
        let keys = (0..100).map(|number| NewKey::new(&format!("filler-{number}")).unwrap());
        store.import(&request, keys).for_each(|batch| assert!(batch.unwrap().refused.is_empty()));
    }
}

#[test]
fn damage_is_found_and_what_is_left_is_saved() {
    let tool = Tool::with_store();
    fill(&tool, "before");
    tool.ok("create orders --description this-will-be-damaged");
    fill(&tool, "behind");
    tool.ok("create invoices --project other");
    tool.ok("trim-history 3 --yes");
    damage(&tool, "this-will-be-damaged");

    let said = tool.fails(5, "show orders");
    assert!(said.contains("keystead verify") && said.contains("keystead repair"), "{said}");
    let answer = tool.run("verify");
    assert_eq!(answer.code, 3, "{answer:?}");
    assert!(
        answer.out.contains("the pages of the file: ") && answer.out.contains("invariant 12: "),
        "{answer:?}"
    );
    assert!(answer.err.contains("do not hold"), "{answer:?}");
    let answer = tool.run("verify --json");
    assert_eq!(answer.code, 3);
    let report: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!((&report["clean"], &report["pages"]), (&json!(false), &json!("damaged")));
    assert!(report["report"]["violations"][0]["invariant"].is_u64());
    let why = report["pages_damage"].as_str().unwrap();
    assert!(answer.err.contains("pages of the file are damaged, and "), "{answer:?}");
    assert!(tool.run("verify").out.contains(&format!("the pages of the file: {why}")), "{why}");
    tool.fails(5, "backup copy");
    tool.fails(5, "compact --yes");

    let before = fs::read(tool.store()).unwrap();
    tool.fails(6, "repair --into saved");
    let answer = tool.run("repair --into saved --yes");
    assert_eq!(answer.code, 3, "{answer:?}");
    assert!(answer.out.contains("may be missing: ") && answer.err.contains("may be missing"), "{answer:?}");
    let lost = answer.out.lines().find(|line| line.starts_with("lost ")).unwrap();
    assert!(lost.ends_with("nothing that is known"), "never 0 of a file whose pages don't fit: {lost}");
    assert!(answer.out.contains("is damaged, or of an earlier moment"), "{answer:?}");
    assert_eq!(fs::read(tool.store()).unwrap(), before, "the damaged file stays as it is");
    assert_eq!(tool.json("keys --store saved --project other")["key_alias"], json!("invoices"));
    tool.ok("verify --store saved");
    let answer = tool.run("repair --into again --yes --json");
    let report: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(
        (answer.code, &report["complete"], &report["wal"]["state"]),
        (3, &json!(false), &json!("none"))
    );
    let answer = tool.run("export --all --output damaged.jsonl");
    assert!(answer.code == 3 && answer.err.contains("ends too early"), "{answer:?}");
    assert!(!tool.path("damaged.jsonl").exists());
    assert!(tool.fails(1, "repair --into saved --yes").contains("there is a file already"));
}

/// Some pages hold what no invariant is about.
#[test]
fn damage_of_pages_alone_is_no_broken_promise() {
    const PAGE: usize = 4096;
    let tool = Tool::with_store();
    tool.ok("create orders");
    assert_eq!(tool.json("verify")["pages_damage"], json!(null));
    let sound = fs::read(tool.store()).unwrap();
    let places = (PAGE..sound.len()).step_by(PAGE).flat_map(|page| [page + 6, page + 100]);
    let mut found = 0;
    for place in places {
        let mut bytes = sound.clone();
        bytes[place] ^= 0xff;
        fs::write(tool.store(), bytes).unwrap();
        let answer = tool.run("verify --json");
        let report: serde_json::Value = serde_json::from_str(&answer.out).unwrap_or_default();
        if report["pages"] == json!("damaged") && report["report"]["violations"] == json!([]) {
            assert_eq!((answer.code, &report["clean"]), (3, &json!(false)), "{answer:?}");
            assert!(report["pages_damage"].is_string(), "{answer:?}");
            let says = answer.err.contains("damaged") && !answer.err.contains("promises");
            assert!(says, "{answer:?}");
            let exported = tool.run("export --all");
            assert!(
                exported.code == 3 && exported.err.contains("pages of the file are damaged"),
                "{exported:?}"
            );
            found += 1;
        }
    }
    assert!(found > 0);
}

#[test]
fn a_sound_store_is_repaired_without_loss() {
    let tool = Tool::with_store();
    tool.ok("create orders");
    let report = tool.json("repair --into saved --yes");
    assert_eq!((&report["lost"], &report["repaired"]), (&json!([]), &json!([])));
    assert_eq!((&report["complete"], &report["may_be_missing"]), (&json!(true), &json!([])));
    let said = tool.ok("repair --into again --yes");
    assert!(said.starts_with("complete: nothing is lost"), "{said}");
}

/// Its checksum tells which bit it was, so nothing is in doubt.
#[test]
fn a_flipped_bit_is_healed() {
    let tool = Tool::with_store();
    tool.ok("create orders --description this-will-be-damaged");
    let sound = fs::read(tool.store()).unwrap();
    // It is in the record and in the history, and in pages that are free by now.
    let is_served = |at: &usize| {
        let mut bytes = sound.clone();
        bytes[*at] ^= 1;
        fs::write(tool.store(), bytes).unwrap();
        tool.run("show orders").code == 0
    };
    let places = (0..sound.len()).filter(|at| sound[*at..].starts_with(b"this-will-be-damaged"));
    assert!(!places.into_iter().all(|at| is_served(&at)), "no place is damaged");
    let said = tool.ok("repair --into saved --yes");
    assert!(said.contains(" of the file was flipped: without that the page fits its checksum"), "{said}");
    assert!(said.contains("complete: nothing is lost"), "{said}");
    let count = |name: &str| {
        let line = said.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!((count("damaged pages"), count("healed pages")), ("0".to_owned(), "1".to_owned()));
    let report = tool.json("repair --into again --yes");
    assert_eq!((&report["complete"], &report["healed_pages"]), (&json!(true), &json!(1)));
    assert!(tool.ok("show orders --store saved").contains("this-will-be-damaged"));
}

#[test]
fn backups_are_made_checked_and_restored() {
    let tool = Tool::with_store();
    tool.ok("create orders");
    let whole = tool.json("backup whole");
    let created = tool.json("create invoices");
    tool.ok(&format!("backup first --since {}", whole["position"].as_str().unwrap()));
    tool.ok("create mistake");
    let second = tool.json("backup second --since-backup first");
    assert_eq!(second["since"], created["commit"]);
    assert!(tool.fails(1, "backup whole").contains("there is a file already"));

    assert_eq!(tool.json("verify --backup whole")["clean"], json!(true));
    let said = tool.ok("verify --backup second");
    assert!(said.contains(&format!("changes since commit {}", created["commit"])), "{said}");
    let mut cut = fs::read(tool.path("second")).unwrap();
    cut.pop();
    fs::write(tool.path("cut"), cut).unwrap();
    tool.fails(5, "verify --backup cut");

    tool.fails(6, "restore whole --store new");
    assert!(!tool.path("new").exists());
    tool.ok("restore whole first second --store new --yes");
    assert_eq!(tool.json_lines("keys --store new").len(), 3);
    let restored =
        tool.json(&format!("restore whole first second --store earlier --yes --up-to {}", created["commit"]));
    assert_eq!(restored["commit"], created["commit"]);
    assert_eq!(tool.json_lines("keys --store earlier").len(), 2);
    assert!(tool.fails(1, "restore whole second --store gap --yes").contains("does not fit"));
    assert!(tool.fails(1, "restore whole --yes").contains("there is a file already"));
    let other = "backup third --store new --since-backup second";
    assert!(tool.fails(1, other).contains("of another store"));
}

#[test]
fn a_backup_that_is_not_there_is_named() {
    let tool = Tool::with_store();
    tool.ok("backup whole");
    for line in [
        "verify --backup nope",
        "backup changes --since-backup nope",
        "restore nope --store new --yes",
        "restore whole nope --store new",
    ] {
        let said = tool.fails(4, line);
        assert!(said.contains("there is no file nope") && said.contains("check the path"), "{line}: {said}");
    }
    assert!(tool.fails(4, "verify --backup .").contains(". is no file"));
    assert!(!tool.path("new").exists() && !tool.path("changes").exists());
}

#[test]
fn a_store_is_compacted() {
    let tool = Tool::with_store();
    tool.ok("create orders");
    for number in 0..20 {
        tool.ok(&format!("rename {} orders-{number}", tool.key(&name(number)).key_id));
    }
    let (position, key) = (tool.json("stats")["position"].clone(), tool.key("orders-19"));
    tool.fails(6, "compact");
    let compacted = tool.json("compact --yes");
    assert!(compacted["bytes"].as_u64() < compacted["bytes_before"].as_u64(), "{compacted}");
    assert_eq!(tool.json("stats")["position"], position);
    assert_eq!(tool.key("orders-19"), key);
    tool.ok("verify");
    tool.ok("rename orders-19 x");
    assert!(tool.ok("compact --yes").contains("before"));
    assert!(tool.fails(4, "compact --yes --store nowhere").contains("there is no store"));
}

fn name(number: u32) -> String {
    number.checked_sub(1).map_or_else(|| "orders".to_owned(), |before| format!("orders-{before}"))
}
