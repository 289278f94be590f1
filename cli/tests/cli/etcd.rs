//! Stores on etcd, on a real cluster of three members: every command, what it says where it can't be done, and moving
//! stores to and fro.

#![allow(clippy::disallowed_methods, reason = "it waits")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use keystead::{Etcd, NewKey, Request, Store};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::copies::{history, lived_in};
use crate::documents;
use crate::files::fill;
use crate::raw::Raw;
use crate::secured::{Authority, argument, with_users};
use crate::tool::{Tool, scope};

const PATIENCE: Duration = Duration::from_secs(60);

/// A tool whose store is on etcd, at this prefix.
fn tool_at(cluster: &Cluster, prefix: &str) -> Tool {
    let mut tool = Tool::new();
    tool.set("KEYSTEAD_STORE", "");
    tool.set("KEYSTEAD_ETCD", &cluster.endpoints().join(","));
    tool.set("KEYSTEAD_ETCD_PREFIX", prefix);
    tool
}

fn settings(cluster: &Cluster, prefix: &str) -> Etcd {
    Etcd::new(cluster.endpoints()).prefix(prefix)
}

/// All in one, because a cluster takes some seconds to start.
#[test]
fn stores_on_a_cluster() {
    let cluster = Cluster::start();
    the_examples_are_what_the_tool_answers(&cluster);
    nothing_is_begun_by_a_mistyped_prefix(&cluster);
    everything_works_beside_a_backend(&cluster);
    a_page_names_its_place(&cluster);
    what_is_for_files_says_so(&cluster);
    wrong_settings_are_told(&cluster);
    what_happens_is_followed(&cluster);
    a_store_moves_to_etcd_and_back(&cluster);
    a_copy_that_was_killed_is_no_store(&cluster);
    a_copy_that_failed_says_what_is_there(&cluster);
    what_is_written_meanwhile_is_told(&cluster);
}

fn the_examples_are_what_the_tool_answers(cluster: &Cluster) {
    documents::run_examples("console etcd", 10, &cluster.endpoints());
}

fn nothing_is_begun_by_a_mistyped_prefix(cluster: &Cluster) {
    let (tool, raw) = (tool_at(cluster, "mistyped"), Raw::new(&cluster.endpoints()));
    tool.write("export", "");
    for line in [
        "keys",
        "scopes",
        "stats",
        "verify",
        "report --output page.html",
        "changes",
        "export",
        "backup b",
        "create x",
        "rename x y",
        "import export",
        "import export --dry-run",
        "trim-history 1 --yes",
        "purge --due=all --yes",
        "copy --to b --yes",
    ] {
        let said = tool.fails(4, line);
        assert!(said.contains("there is no store at the prefix mistyped"), "{line}: {said}");
        assert!(said.contains("keystead init"), "{line}: {said}");
    }
    assert_eq!(raw.all(b"mistyped").len(), 0);
    assert_eq!(std::fs::read_dir(tool.folder()).unwrap().count(), 1, "no file was made");
    raw.put(b"mistyped\0else", b"something");
    assert!(tool.fails(4, "keys").contains("choose another prefix"));
    assert!(tool.fails(4, "init").contains("choose another prefix"));
}

fn everything_works_beside_a_backend(cluster: &Cluster) {
    let (tool, raw) = (tool_at(cluster, "beside"), Raw::new(&cluster.endpoints()));
    assert_eq!(tool.ok("init --region cn-north-7"), "made an empty store\n");
    let said = tool.fails(1, "init");
    assert!(said.contains("there is a store already at the prefix beside"), "{said}");
    let backend = Store::open_etcd(&settings(cluster, "beside")).unwrap();
    let of_backend = NewKey::new("of-the-backend").unwrap();
    backend.write(&Request::new(&scope()), |txn| txn.create_key(&of_backend)).unwrap();
    lived_in(&tool);
    let new = NewKey::new("also").unwrap();
    backend.write(&Request::new(&scope()), |txn| txn.create_key(&new)).unwrap();
    assert_eq!(tool.json_lines("keys").len(), 4, "it sees what the backend wrote since");

    let (before, leases) = (raw.all(b"beside"), raw.leases());
    for line in [
        "keys",
        "aliases",
        "show orders-2026",
        "resolve kms-1234",
        "history --alias kms-1234",
        "changes",
        "scopes",
        "stats",
        "verify",
        "export",
        "backup sunday",
        "rename also x --dry-run",
        "purge --due=all --dry-run",
    ] {
        tool.ok(line);
    }
    let dry = ["rename also x --dry-run", "purge --due=all --dry-run"].len();
    assert_eq!(raw.all(b"beside"), before, "who only reads writes nothing, nor do {dry} dry runs");
    assert_eq!(raw.leases(), leases);
    let stats = tool.json("stats");
    assert_eq!(
        (&stats["bytes"], &stats["region"], &stats["keys"]),
        (&json!(null), &json!("cn-north-7"), &json!(4))
    );
    assert!(
        stats["place"].as_str().unwrap().starts_with("the prefix beside of the cluster http://127.0.0.1:")
    );
    let since = "backup monday --since-backup sunday";
    for line in [
        "disable also",
        "enable also",
        "create-alias pay also",
        "delete-alias pay",
        "schedule-deletion also --days 7",
        "cancel-deletion also",
        "rename also also-2026",
        since,
    ] {
        tool.ok(line);
    }
    let commit = tool.json("associate kms-1234 of-the-backend")["commit"].clone();
    tool.ok(&format!("revert {commit}"));
    tool.ok("trim-history 5 --yes");
    tool.ok("restore sunday monday --store restored --yes");
    assert_eq!(tool.json_lines("keys --store restored").len(), 4);

    let lines = tool.ok("export");
    tool.write("keys.jsonl", &lines);
    let other = tool_at(cluster, "imported");
    other.ok("init --region cn-north-7");
    other.write("keys.jsonl", &lines);
    assert!(other.ok("import keys.jsonl --dry-run").contains("would be: 4 keys created"));
    assert!(other.ok("import keys.jsonl").starts_with("4 keys created"));
    assert!(other.ok("import keys.jsonl").starts_with("0 keys created, 4 there already"));
    other.ok("verify");
    assert!(backend.verify().unwrap().is_clean());
}

fn a_page_names_its_place(cluster: &Cluster) {
    let (tool, raw) = (tool_at(cluster, "page"), Raw::new(&cluster.endpoints()));
    tool.ok("init");
    tool.ok("create orders --alias kms-1234");
    let before = raw.all(b"page");
    let page = tool.ok("report");
    assert!(page.contains("<h1>the prefix page of the cluster http://127.0.0.1:"), "{page}");
    assert!(page.contains("<strong>Sound.</strong>") && !page.contains("pages of the file"), "{page}");
    assert_eq!(raw.all(b"page"), before, "who only reads writes nothing");
}

fn what_is_for_files_says_so(cluster: &Cluster) {
    let tool = tool_at(cluster, "beside");
    for (line, advice) in [
        ("compact --yes", "etcdctl defrag"),
        ("checkpoint", "has no log"),
        ("repair --into x --yes", "keystead export"),
        ("restore sunday --yes", "restore into a file"),
    ] {
        let said = tool.fails(2, line);
        assert!(said.contains("to files only") && said.contains("the prefix beside"), "{line}: {said}");
        assert!(said.contains(advice), "{line}: {said}");
    }
    let said = tool.fails(2, &format!("bench --etcd {}", cluster.endpoint(0)));
    assert!(said.contains("cargo bench"), "{said}");
}

fn wrong_settings_are_told(cluster: &Cluster) {
    let tool = tool_at(cluster, "beside");
    tool.write("empty", "\n");
    for (line, words) in [
        ("keys --etcd localhost", "must be http://"),
        ("keys --etcd-deadline 61", "deadline"),
        ("keys --etcd-prefix \u{e4}", "prefix"),
        ("keys --etcd-ca nowhere.pem", "nowhere.pem"),
        ("keys --etcd-certificate empty", "need each other"),
        ("keys --etcd-private-key empty", "need each other"),
        ("keys --etcd-password-file empty", "need each other"),
        ("keys --etcd-user kms", "KEYSTEAD_ETCD_PASSWORD"),
        ("keys --etcd-user kms --etcd-password-file empty", "is empty"),
        ("keys --etcd-user kms --etcd-password-file nowhere", "nowhere"),
        ("keys --etcd-ca empty", "must be https://"),
    ] {
        let said = tool.fails(2, line);
        assert!(said.contains(words), "{line}: {said}");
    }
    let since = Instant::now();
    let said = tool.fails(5, "keys --etcd http://127.0.0.1:1 --etcd-deadline 0.3");
    assert!(said.contains("can't be reached") && said.contains("given again"), "{said}");
    assert!(since.elapsed() < Duration::from_secs(5));
}

/// The tool's standard output, line by line, until a line has these words.
fn until(lines: &mut impl Iterator<Item = std::io::Result<String>>, words: &str) {
    let found = lines.map(Result::unwrap).find(|line| line.contains(words));
    assert!(found.is_some(), "{words:?} did not come");
}

fn what_happens_is_followed(cluster: &Cluster) {
    let tool = tool_at(cluster, "followed");
    tool.ok("init");
    tool.ok("create before");
    let mut following = tool.command("changes --follow").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    until(&mut lines, "before made");
    tool.ok("create after");
    until(&mut lines, "after made");
    following.kill().unwrap();
    following.wait().unwrap();
}

fn a_store_moves_to_etcd_and_back(cluster: &Cluster) {
    let mut tool = Tool::with_store();
    let there = lived_in(&tool);
    let to_etcd =
        |prefix: &str| format!("copy --to-etcd {} --to-etcd-prefix {prefix}", cluster.endpoints().join(","));
    let on = |prefix: &str| format!("--etcd {} --etcd-prefix {prefix}", cluster.endpoints().join(","));
    assert_eq!(tool.json(&format!("{} --dry-run", to_etcd("moved")))["keys"], json!(2));
    let said = tool.fails(6, &to_etcd("moved"));
    assert!(said.contains("everything in kms.redb is copied to the prefix moved of the cluster"), "{said}");
    assert!(tool.fails(4, &format!("keys {}", on("moved"))).contains("there is no store"));

    let copied = tool.json(&format!("{} --yes", to_etcd("moved")));
    assert_eq!(copied["entries"], json!(5));
    assert_eq!(history(&tool, &on("moved")), there);
    tool.ok(&format!("verify {}", on("moved")));
    for what in ["--yes", "--dry-run"] {
        let said = tool.fails(1, &format!("{} {what}", to_etcd("moved")));
        assert!(said.contains("is not empty") && said.contains("another place"), "{said}");
    }
    // To another prefix, and back to a file.
    tool.set("KEYSTEAD_STORE", "");
    let copied = tool.json(&format!("{} --yes {}", to_etcd("moved-on"), on("moved")));
    assert_eq!(copied["entries"], json!(5));
    let copied = tool.json(&format!("copy --to back --yes {}", on("moved-on")));
    assert_eq!(copied["entries"], json!(5));
    assert_eq!(history(&tool, "--store back"), there);
    tool.ok("verify --store back");
    // Into one that was begun and is empty, if it is of the same kind.
    tool.ok(&format!("init {}", on("begun")));
    tool.ok(&format!("{} --yes --store back", to_etcd("begun")));
    tool.ok(&format!("init --region elsewhere {}", on("other")));
    for what in ["--yes", "--dry-run"] {
        let said = tool.fails(4, &format!("{} {what} --store back", to_etcd("other")));
        assert!(said.contains("the option region"), "{said}");
    }
    // One that holds nothing any more, but in which something happened, is not empty.
    let emptied = Store::open_etcd(&settings(cluster, "emptied")).unwrap();
    let new = NewKey::new("gone").unwrap();
    emptied.write(&Request::new(&scope()), |txn| txn.create_key(&new)).unwrap();
    emptied.remove_scope(&Request::new(&scope()), 100).unwrap();
    tool.fails(1, &format!("{} --dry-run --store back", to_etcd("emptied")));
}

/// A file in which an alias was moved to and fro, so often that copying it takes a while.
fn restless(tool: &Tool) -> Store {
    let store = keystead::Store::open(tool.store()).unwrap();
    let request = Request::new(&scope());
    let alias: keystead::Alias = "moved".parse().unwrap();
    let keys = [NewKey::new("first").unwrap().alias(alias.clone()), NewKey::new("second").unwrap()];
    store.write(&request, |txn| keys.iter().try_for_each(|new| txn.create_key(new).map(drop))).unwrap();
    for turn in 1..=400 {
        store.write(&request, |txn| txn.associate_alias(&alias, keys[turn % 2].key_id)).unwrap();
    }
    store
}

fn a_copy_that_was_killed_is_no_store(cluster: &Cluster) {
    let tool = Tool::new();
    drop(restless(&tool));
    let endpoints = cluster.endpoints().join(",");
    let copy = format!("copy --to-etcd {endpoints} --to-etcd-prefix killed --yes");
    let mut child = tool.command(&copy).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (raw, since) = (Raw::new(&cluster.endpoints()), Instant::now());
    while raw.all(b"killed").len() < 50 {
        assert!(since.elapsed() < PATIENCE, "nothing is copied");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let there = format!("--etcd {endpoints} --etcd-prefix killed");
    for line in [&format!("keys {there}"), &format!("create x {there}"), &format!("init {there}"), &copy] {
        let said = tool.fails(4, line);
        assert!(said.contains("a copy into it did not come to its end"), "{line}: {said}");
        assert!(said.contains("etcdctl del PREFIX $'PREFIX\\x01'"), "{line}: {said}");
    }
    // A store whose prefix begins like that stays.
    tool.ok(&format!("init --etcd {endpoints} --etcd-prefix killed2"));
    let beside = raw.all(b"killed2");
    raw.delete_all(b"killed\0");
    assert_eq!(raw.all(b"killed"), beside);
    assert_eq!(tool.json(&copy)["entries"], json!(401));
    tool.ok(&format!("verify {there}"));

    // Of a file nothing is there under its name.
    let mut child = tool.command("copy --to new --yes").stdout(Stdio::null()).spawn().unwrap();
    let is_copying = || std::fs::read_dir(tool.folder()).unwrap().count() > 2;
    while !is_copying() {
        assert!(child.try_wait().unwrap().is_none() && since.elapsed() < PATIENCE);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!tool.path("new").exists());
    tool.ok("copy --to new --yes");
}

/// What is damaged is found before anything is written, or in between.
fn a_copy_that_failed_says_what_is_there(cluster: &Cluster) {
    let endpoints = cluster.endpoints().join(",");
    let copy_to = |prefix: &str| format!("copy --to-etcd {endpoints} --to-etcd-prefix {prefix} --yes");
    let tool = tool_at(cluster, "damaged");
    tool.ok("init");
    lived_in(&tool);
    // Up to which commit its log was trimmed.
    Raw::new(&cluster.endpoints()).put(b"damaged\0\x05", b"damaged");
    let said = tool.fails(5, &copy_to("nothing"));
    assert!(!said.contains("etcdctl del") && !said.contains("can't be opened"), "{said}");
    tool.ok("keys --etcd-prefix nothing");

    let tool = Tool::with_store();
    fill(&tool, "many");
    let sound = fs::read(tool.store()).unwrap();
    // Damage of most pages is found before anything is written, of some in between.
    let (prefix, said) = (4096..sound.len())
        .step_by(4096)
        .find_map(|page| {
            let mut damaged = sound.clone();
            damaged[page + 100] ^= 1;
            fs::write(tool.store(), damaged).unwrap();
            let prefix = format!("part-{page}");
            let answer = tool.run(&copy_to(&prefix));
            let is_in_between = answer.err.contains("did not come to its end");
            assert!(answer.code == 5 || answer.code == 0 && !is_in_between, "{answer:?}");
            is_in_between.then_some((prefix, answer.err))
        })
        .unwrap();
    assert!(said.contains(&format!("did not come to its end, and the prefix {prefix} of ")), "{said}");
    assert!(said.contains("etcdctl del PREFIX $'PREFIX\\x01'") && said.contains("kms/prod2"), "{said}");
    tool.fails(4, &format!("keys --etcd {endpoints} --etcd-prefix {prefix}"));
}

fn what_is_written_meanwhile_is_told(cluster: &Cluster) {
    let tool = tool_at(cluster, "busy");
    tool.ok("init");
    lived_in(&tool);
    let backend = Store::open_etcd(&settings(cluster, "busy")).unwrap();
    let (request, new) = (Request::new(&scope()), NewKey::new("meanwhile").unwrap());
    backend.write(&request, |txn| txn.create_key(&new)).unwrap();
    let mut child = tool
        .command("copy --to new --yes --json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none() {
        backend.write(&request, |txn| txn.disable(new.key_id)).unwrap();
        backend.write(&request, |txn| txn.enable(new.key_id)).unwrap();
    }
    let answer: crate::tool::Answer = child.wait_with_output().unwrap().into();
    assert_eq!(answer.code, 3, "{answer:?}");
    let (copied, error): (Value, Value) =
        (serde_json::from_str(&answer.out).unwrap(), serde_json::from_str(&answer.err).unwrap());
    assert!(copied["entries"].as_u64().unwrap() >= 6);
    assert_eq!(error["error"]["kind"], json!("findings"));
    // What others write in the cluster is no change of the store.
    drop(backend);
    Raw::new(&cluster.endpoints()).put(b"beside it", b"something");
    tool.ok("copy --to other --yes");
}

#[test]
fn certificates_users_and_passwords() {
    let authority = Authority::new("authority");
    authority.certify("members", &["127.0.0.1"]);
    authority.certify("client", &["client"]);
    let trusted = argument("--trusted-ca-file", &authority.path("ca.pem"));
    let arguments = ["--max-txn-ops=512", "--client-cert-auth", &trusted];
    let cluster = Cluster::of(3, &arguments, Some(authority.secured("members")));
    with_users(&cluster);
    let mut tool = tool_at(&cluster, "kms");
    let file = |name: &str| authority.path(name).display().to_string();
    tool.set("KEYSTEAD_ETCD_CA", &file("ca.pem"));
    tool.set("KEYSTEAD_ETCD_USER", "kms");
    tool.write("password", "kms-password\n");
    tool.write("guessed", "guessed-password\n");
    let certified =
        format!("--etcd-certificate {} --etcd-private-key {}", file("client.pem"), file("client.key"));
    let said = tool.fails(4, "init --etcd-password-file password");
    assert!(said.contains("certificate"), "{said}");
    let said = tool.fails(4, &format!("init {certified} --etcd-password-file guessed"));
    assert!(said.contains("authentication failed") && said.contains("--etcd-user"), "{said}");
    assert!(!said.contains("guessed-password"), "{said}");
    let said = tool
        .fails(4, &format!("init {certified} --etcd-password-file password --etcd-server-name elsewhere"));
    assert!(said.contains("certificate"), "{said}");

    tool.ok(&format!("init {certified} --etcd-password-file password"));
    tool.ok(&format!("create orders {certified} --etcd-password-file password --etcd-server-name 127.0.0.1"));
    tool.set("KEYSTEAD_ETCD_CERTIFICATE", &file("client.pem"));
    tool.set("KEYSTEAD_ETCD_PRIVATE_KEY", &file("client.key"));
    tool.set("KEYSTEAD_ETCD_PASSWORD", "kms-password");
    assert_eq!(tool.json_lines("keys").len(), 1);
    assert!(!tool.ok("--help").contains("kms-password"));
    // A user who may only read reads, and changes nothing.
    tool.set("KEYSTEAD_ETCD_USER", "reader");
    tool.set("KEYSTEAD_ETCD_PASSWORD", "reader-password");
    for line in ["keys", "verify", "changes", "stats", "backup b", "copy --to c --yes"] {
        tool.ok(line);
    }
    let said = tool.fails(4, "create invoices");
    assert!(said.contains("permission denied") && !said.contains("reader-password"), "{said}");
    assert_eq!(tool.json_lines("keys").len(), 1);
}
