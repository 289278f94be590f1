//! Keys and aliases are acted on as they are named, whatever their names look like.

use std::process::Stdio;

use serde_json::json;

use crate::tool::{Answer, Tool};

const ID: &str = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e";

/// Whoever may name keys names theirs like the id of another one, in a spelling that is no id.
#[test]
fn what_looks_like_an_id_never_names_a_key_by_its_key_alias() {
    let tool = Tool::with_store();
    tool.ok(&format!("create orders --id {ID}"));
    let digits = ID.replace('-', "");
    let spelled = [
        ID.to_uppercase(),
        ID.replace("bb6a3d22", "BB6a3d22"),
        digits.clone(),
        digits.to_uppercase(),
        format!("urn:uuid:{ID}"),
        format!("URN:UUID:{}", ID.to_uppercase()),
    ];
    let meant = |line: &str| tool.json(line)["key"]["key_id"].clone();
    for spelling in &spelled {
        tool.ok(&format!("create {spelling} --alias of-{}", spelling.replace(':', "-")));
        assert_eq!(meant(&format!("show {spelling}")), json!(ID), "{spelling}");
        let history = tool.json_lines(&format!("history {spelling}"));
        assert_eq!(history[0]["change"]["images"]["key"]["after"]["key_id"], json!(ID));
        assert_eq!(tool.json_lines(&format!("aliases --key {spelling}")).len(), 0);
        tool.ok(&format!("disable {spelling}"));
        assert_eq!(tool.key("orders").state.as_str(), "disabled", "{spelling}");
        tool.ok(&format!("enable {spelling}"));
        tool.ok(&format!("create-alias moved {spelling}"));
        assert_eq!(meant("resolve moved"), json!(ID), "{spelling}");
        tool.ok(&format!("delete-alias moved --key {spelling}"));
        // The one of this name is reached by its own id.
        let other = meant(&format!("resolve of-{}", spelling.replace(':', "-")));
        let other = other.as_str().unwrap();
        assert_eq!(tool.json(&format!("show {other}"))["key"]["key_alias"], json!(spelling));
    }
    assert_eq!(meant(&format!("show {{{ID}}}")), json!(ID), "in braces");
    assert_eq!(meant(&format!("show {{{}}}", ID.to_uppercase())), json!(ID), "in braces");

    let moved_hyphen = "bb6a3d22d-c93-47ac-b5bd-88df7ad35f1e";
    for no_id in
        [ID.replace("bb6a", "bbga"), ID.to_uppercase().replace("BB6A", "BB6O"), moved_hyphen.to_owned()]
    {
        tool.ok(&format!("create {no_id}"));
        for line in ["show NAME", "rename NAME x", "create-alias x NAME", "swap --key-aliases orders NAME"] {
            let said = tool.fails(2, &line.replace("NAME", &no_id));
            assert!(said.contains("looks like a key id and is none"), "{line}: {said}");
        }
    }
    // These are names.
    for name in ["bb6a3d22", "bb6a3d22-dc93-47ac-b5bd", "uuid-of-2026", "a-b-c-d-e"] {
        tool.ok(&format!("create {name}"));
        assert_eq!(tool.key(name).key_alias.as_str(), name);
    }
}

/// All that begins with a hyphen and may be a name, options of the commands too.
const NAMES: [&str; 9] = ["-", "--", "-y", "--yes", "--due", "--json", "--help", "-rf", "--from"];

#[test]
fn a_name_that_begins_with_a_hyphen_is_a_name_behind_two_hyphens() {
    let tool = Tool::with_store();
    tool.ok("create orders");
    tool.ok("create invoices");
    for name in NAMES {
        let ok = |arguments: &[&str]| {
            let mut command = tool.command("");
            let answer: Answer = command.args(arguments).stdin(Stdio::null()).output().unwrap().into();
            assert_eq!((answer.code, &*answer.err), (0, ""), "{arguments:?}: {answer:?}");
            answer.out
        };
        let key = |arguments: &[&str]| {
            let answer: serde_json::Value = serde_json::from_str(&ok(arguments)).unwrap();
            answer["key"]["key_alias"].clone()
        };
        ok(&["create-alias", "--", name, "orders"]);
        assert_eq!(key(&["resolve", "--json", "--", name]), json!("orders"), "{name}");
        ok(&["associate", "--from", "orders", "--", name, "invoices"]);
        assert_eq!(key(&["resolve", "--json", "--", name]), json!("invoices"), "{name}");
        ok(&["create-alias", "other", "orders"]);
        ok(&["swap", "--", name, "other"]);
        assert_eq!(key(&["resolve", "--json", "--", name]), json!("orders"), "{name}");
        ok(&["history", "--alias", name]);
        ok(&["history", &format!("--alias={name}")]);
        ok(&["delete-alias", "--", name]);
        ok(&["delete-alias", "--", "other"]);

        ok(&["create", "--", name]);
        assert_eq!(key(&["show", "--json", "--", name]), json!(name));
        ok(&["create-alias", "--", "other", name]);
        ok(&["associate", "--from", name, "other", "orders"]);
        ok(&["delete-alias", "--key", "orders", "other"]);
        ok(&["aliases", "--key", name]);
        ok(&["history", "--", name]);
        ok(&["schedule-deletion", "--days", "7", "--", name]);
        let mut purge = tool.command("purge --yes --");
        let answer: Answer = purge.arg(name).output().unwrap().into();
        assert!(answer.code == 1 && answer.err.contains("is not due"), "{answer:?}");
        ok(&["cancel-deletion", "--", name]);
        ok(&["rename", "--", name, "renamed"]);
        ok(&["swap", "--key-aliases", "--", "renamed", "orders"]);
        ok(&["swap", "--key-aliases", "--", "renamed", "orders"]);
        ok(&["rename", "--", "renamed", &format!("{name}-former")]);
        ok(&["create", "--alias", name, "--alias=other", &format!("with{name}")]);
        assert_eq!(key(&["resolve", "--json", "--", name]), json!(format!("with{name}")));
        ok(&["delete-alias", "--", name, "other"]);
    }
}

/// A key named as the option that erases all is erased, or refused, alone.
#[test]
fn a_key_named_due_is_one_key() {
    let tool = Tool::with_store();
    tool.ok("create orders");
    tool.ok("create -- --due");
    for key in ["orders", "--due"] {
        tool.ok(&format!("schedule-deletion --days 7 --key {key}"));
    }
    for line in ["purge --yes -- --due", "purge --key --due --yes", "purge --yes --key=--due"] {
        let said = tool.fails(1, line);
        assert!(said.contains("is not due before"), "{line}: {said}");
    }
    for line in ["purge --due orders --yes", "purge orders --due --yes", "purge --due --key orders --yes"] {
        assert!(tool.fails(2, line).contains("cannot be used with"), "{line}");
    }
    for line in ["show --key orders orders", "disable", "enable orders --key orders", "purge --yes"] {
        tool.fails(2, line);
    }
    tool.ok("cancel-deletion --key --due");
    tool.ok("create -- --help");
    tool.ok("disable --key --help");
    let shown = tool.json("show --key --help");
    assert_eq!((&shown["key"]["key_alias"], &shown["key"]["state"]), (&json!("--help"), &json!("disabled")));
    tool.ok("enable --key --help");
    assert_eq!(tool.json_lines("history --key --help").len(), 3);
}

/// Whoever may name aliases names one like the URN of another.
#[test]
fn an_alias_named_as_a_urn_is_found_or_refused_and_never_mistaken() {
    let tool = Tool::with_store();
    tool.ok("create orders --alias pay");
    tool.ok("create invoices");
    let shown = tool.ok("resolve pay");
    let urn = shown.lines().find_map(|line| line.strip_prefix("urn ")).unwrap().trim().to_owned();
    assert_eq!(tool.json(&format!("resolve {urn}"))["key"]["key_alias"], json!("orders"));
    tool.ok(&format!("create-alias {urn} invoices"));
    let said = tool.fails(1, &format!("resolve {urn}"));
    assert!(said.contains(&urn) && said.contains("the URN of the alias pay"), "{said}");
    tool.ok("delete-alias pay");
    assert_eq!(tool.json(&format!("resolve {urn}"))["key"]["key_alias"], json!("invoices"));
}
