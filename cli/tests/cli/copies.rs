//! `copy` from file to file, and what is said of a place before anybody is asked.

use std::fs;
use std::process::Stdio;

use keystead::{NewKey, Options, Request};
use serde_json::json;

use crate::tool::{Tool, scope};

/// A store in which something happened, and what it tells of its history.
pub(crate) fn lived_in(tool: &Tool) -> Vec<serde_json::Value> {
    tool.ok("create orders --alias kms-1234 --tag team=checkout --actor alice");
    tool.ok("create invoices --request-id 919c82d4-8046-4722-9094-35c3c6524cff");
    tool.ok("associate kms-1234 invoices --actor bob");
    tool.ok("rename orders orders-2026");
    tool.ok("swap --key-aliases orders-2026 invoices");
    history(tool, "")
}

/// The history of all, without what a copy has of its own.
pub(crate) fn history(tool: &Tool, place: &str) -> Vec<serde_json::Value> {
    let commits = tool.json_lines(&format!("changes {place}"));
    let what = |mut commit: serde_json::Value| {
        commit["info"]["commit"].take();
        let changes = commit["changes"].as_array().unwrap().iter().cloned().map(|mut change| {
            change["previous"].take();
            for (kind, image) in
                [("key", "before"), ("key", "after"), ("alias", "before"), ("alias", "after")]
            {
                if let Some(image) = change["images"].pointer_mut(&format!("/{kind}/{image}/version")) {
                    image.take();
                }
            }
            change
        });
        json!([commit["info"], changes.collect::<Vec<_>>()])
    };
    commits.into_iter().map(what).collect()
}

#[test]
fn a_store_is_copied_with_its_history() {
    let tool = Tool::with_store();
    let there = lived_in(&tool);
    let would = tool.json("copy --to new --dry-run");
    assert_eq!((&would["dry_run"], &would["keys"]), (&json!(true), &json!(2)));
    assert!(tool.ok("copy --to new --dry-run").contains("nothing was copied"));
    let said = tool.fails(6, "copy --to new");
    assert!(said.contains("everything in kms.redb is copied to new") && said.contains("--yes"), "{said}");
    assert!(!tool.path("new").exists());

    let copied = tool.json("copy --to new --yes");
    assert_eq!(copied["entries"], json!(5));
    assert_eq!(copied["commit"], tool.json("stats")["commit"]);
    let names: Vec<_> =
        fs::read_dir(tool.folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "only the store and its copy: {names:?}");
    assert_eq!(history(&tool, "--store new"), there);
    assert_eq!(copied["position"], tool.json("stats --store new")["position"]);
    tool.ok("verify --store new");
    // It is another one, in which things go on.
    let position = tool.json("stats")["position"].as_str().unwrap().to_owned();
    tool.fails(1, &format!("changes --store new --after {position}"));
    let again = tool.ok("create invoices --request-id 919c82d4-8046-4722-9094-35c3c6524cff --store new");
    assert!(again.contains("carried out before"), "{again}");
    tool.ok("create more --store new");
    tool.ok("create yet-more --store new");

    let said = tool.fails(1, "copy --to new --yes");
    assert!(said.contains("there is a file already"), "{said}");
    tool.fails(1, "copy --to new --dry-run");
    tool.fails(4, "copy --to other --yes --store nowhere");
    assert!(tool.fails(5, "copy --to no-folder/new --yes").contains("no-folder"));
}

#[test]
fn a_store_without_history_is_copied_without() {
    let tool = Tool::new();
    tool.ok("init --no-history --alias-scope domain --region cn-north-7");
    tool.ok("create orders --alias kms-1234");
    assert_eq!(tool.json("copy --to new --yes")["entries"], json!(0));
    let stats = tool.json("stats --store new");
    assert_eq!(
        (&stats["history"], &stats["alias_scope"], &stats["region"]),
        (&json!(false), &json!("domain"), &json!("cn-north-7"))
    );
}

/// Who has the store open goes on to write.
#[test]
fn what_is_written_meanwhile_is_told() {
    let tool = Tool::with_store();
    lived_in(&tool);
    let store = Options::new().open(tool.store()).unwrap();
    let request = Request::new(&scope());
    let new = NewKey::new("meanwhile").unwrap();
    store.write(&request, |txn| txn.create_key(&new)).unwrap();
    let mut copying = tool.command("copy --to new --yes");
    let mut child = copying.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        store.write(&request, |txn| txn.disable(new.key_id)).unwrap();
        store.write(&request, |txn| txn.enable(new.key_id)).unwrap();
    }
    let answer: crate::tool::Answer = child.wait_with_output().unwrap().into();
    assert_eq!(answer.code, 3, "{answer:?}");
    assert!(
        answer.err.contains("was changed meanwhile") && answer.err.contains("stop whoever"),
        "{answer:?}"
    );
    tool.ok("verify --store new");
}

#[test]
fn a_place_is_named_once() {
    let mut tool = Tool::with_store();
    for (line, words) in [
        ("keys --store kms.redb --etcd http://127.0.0.1:1", "exclude each other"),
        ("keys --etcd-prefix kms", "--etcd-prefix is for a store on etcd, and kms.redb is a file"),
        ("keys --etcd-deadline soon --etcd http://127.0.0.1:1", "seconds are a number"),
        ("copy --yes", "no place is named to copy to"),
        ("copy --to x --to-etcd http://127.0.0.1:1 --yes", "exclude each other"),
    ] {
        let said = tool.fails(2, line);
        assert!(said.contains(words), "{line}: {said}");
    }
    // What is typed goes before the environment.
    tool.set("KEYSTEAD_ETCD", "http://127.0.0.1:1");
    assert!(tool.fails(2, "keys").contains("set both"));
    tool.ok("keys --store kms.redb");
    tool.set("KEYSTEAD_STORE", "");
    tool.ok("keys --store kms.redb");
    tool.set("KEYSTEAD_ETCD", "");
    assert!(tool.fails(2, "keys").contains("no store is named"));
}

#[test]
fn an_empty_variable_says_nothing() {
    let mut tool = Tool::with_store();
    let variables =
        ["ETCD", "ETCD_PREFIX", "ETCD_CA", "ETCD_CERTIFICATE", "ETCD_PRIVATE_KEY", "ETCD_SERVER_NAME"];
    let more =
        ["ETCD_USER", "ETCD_PASSWORD", "ETCD_PASSWORD_FILE", "ETCD_DEADLINE", "TO_ETCD", "TO_ETCD_DEADLINE"];
    let rules = ["KEYS_PER_PROJECT", "ALIASES_PER_KEY", "TAGS_PER_KEY", "COMPATIBILITY", "ACTOR"];
    for name in variables.into_iter().chain(more).chain(rules) {
        tool.set(&format!("KEYSTEAD_{name}"), "");
    }
    tool.ok("create orders");
    assert!(tool.ok("history orders").contains("tester"), "an empty actor is none");
    tool.ok("copy --to new --yes");
    tool.set("KEYSTEAD_DOMAIN", "");
    tool.set("KEYSTEAD_PROJECT", "");
    assert!(tool.fails(2, "keys").contains("--domain"));
    tool.ok("export --all");
    tool.set("KEYSTEAD_STORE", "");
    assert!(tool.fails(2, "stats").contains("no store is named"));
    tool.ok("stats --store new");
}

#[cfg(not(feature = "etcd"))]
#[test]
fn without_etcd_it_says_how_to_get_it() {
    let tool = Tool::with_store();
    for line in
        ["keys --etcd http://127.0.0.1:1", "copy --to-etcd http://127.0.0.1:1 --yes", "bench --etcd x"]
    {
        let said = tool.fails(2, line);
        assert!(
            said.contains("built without etcd") && said.contains("--path cli --features etcd"),
            "{line}: {said}"
        );
    }
}
