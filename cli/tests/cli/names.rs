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
        format!("urn:uuid:{digits}"),
        format!("Urn:Uuid:{}", digits.to_uppercase()),
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
    for no_id in [
        ID.replace("bb6a", "bbga"),
        ID.to_uppercase().replace("BB6A", "BB6O"),
        moved_hyphen.to_owned(),
        format!("uuid:{digits}"),
        format!("urn:{ID}"),
        format!("urn:uuid:{moved_hyphen}"),
    ] {
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
        ok(&["history", &format!("--alias={name}")]);
        ok(&["delete-alias", "--", name]);
        ok(&["delete-alias", "--", "other"]);

        ok(&["create", "--", name]);
        assert_eq!(key(&["show", "--json", "--", name]), json!(name));
        ok(&["create-alias", "--", "other", name]);
        ok(&["associate", &format!("--from={name}"), "other", "orders"]);
        ok(&["delete-alias", "--key", "orders", "other"]);
        ok(&["aliases", &format!("--key={name}")]);
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
        ok(&["create", &format!("--alias={name}"), "--alias=other", &format!("with{name}")]);
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
        tool.ok(&format!("schedule-deletion --days 7 --key={key}"));
    }
    for line in ["purge --yes -- --due", "purge --yes --key=--due"] {
        let said = tool.fails(1, line);
        assert!(said.contains("is not due before"), "{line}: {said}");
    }
    for line in
        ["purge --due --yes", "purge --yes --due", "purge --due orders --yes", "purge orders --due --yes"]
    {
        let said = tool.fails(2, line);
        let says = said.contains("--due=all") && said.contains("--key=--due") && said.contains("-- --due");
        assert!(says, "{line}: {said}");
    }
    for line in ["purge --due=all orders --yes", "purge --due=all --key orders --yes"] {
        assert!(tool.fails(2, line).contains("cannot be used with"), "{line}");
    }
    for line in ["show --key orders orders", "disable", "enable orders --key orders", "purge --yes"] {
        tool.fails(2, line);
    }
    tool.ok("cancel-deletion --key=--due");
    tool.ok("create -- --help");
    tool.ok("disable --key=--help");
    let shown = tool.json("show --key=--help");
    assert_eq!((&shown["key"]["key_alias"], &shown["key"]["state"]), (&json!("--help"), &json!("disabled")));
    tool.ok("enable --key=--help");
    assert_eq!(tool.json_lines("history --key=--help").len(), 3);
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

/// What a script may be given as a name, unquoted by any option: options of some command, and what parsers take for
/// something else.
const LIKE_OPTIONS: [&str; 10] =
    ["--yes", "--due", "-x", "--help", "-", "--", "-h", "--key", "--alias", "--dry-run"];

/// Every command that takes a name; NAME and OTHER are words that a script puts there.
const WITH_NAMES: [&str; 16] = [
    "show NAME",
    "history NAME",
    "resolve NAME",
    "enable NAME",
    "disable NAME",
    "create NAME",
    "rename NAME OTHER",
    "rename OTHER NAME",
    "create-alias NAME OTHER",
    "create-alias OTHER NAME",
    "associate NAME OTHER",
    "associate OTHER NAME",
    "swap NAME OTHER",
    "delete-alias NAME",
    "schedule-deletion NAME --days 7",
    "purge NAME --yes",
];

/// All that is in a store but times: keys and aliases, by their names.
fn content(tool: &Tool) -> Vec<String> {
    let keys =
        tool.json_lines("keys").into_iter().map(|key| format!("key {} {}", key["key_alias"], key["state"]));
    let aliases = tool.json_lines("aliases").into_iter();
    keys.chain(aliases.map(|alias| format!("alias {} {}", alias["alias"], alias["key_id"]))).collect()
}

/// A store with a key and an alias of that name, and others.
fn store_with(name: &str) -> Tool {
    let tool = Tool::with_store();
    for id in [("bystander", "moves"), ("OTHER", "OTHER"), (name, name)] {
        let mut command = tool.command("create");
        command.args([format!("--key-alias={}", id.0), format!("--alias={}", id.1)]);
        assert!(command.output().unwrap().status.success(), "{name}");
    }
    tool
}

/// With a key and an alias of that name there, it is acted on or refused, and nothing else changes.
#[test]
fn a_name_is_never_taken_for_an_option_silently() {
    for name in LIKE_OPTIONS {
        let mut tool = store_with(name);
        let mut before = content(&tool);
        for line in WITH_NAMES {
            let mut command = tool.command("");
            command.args(line.split(' ').map(|word| if word == "NAME" { name } else { word }));
            let answer: Answer = command.stdin(Stdio::null()).output().unwrap().into();
            let after = content(&tool);
            let gone = before.iter().filter(|entry| !after.contains(entry));
            let changed: Vec<_> = gone.chain(after.iter().filter(|entry| !before.contains(entry))).collect();
            if answer.code != 0 {
                assert!(changed.is_empty(), "{line} {name}: {answer:?} changed {changed:?}");
                let says = matches!(answer.code, 1 | 6)
                    || answer.err.contains("--key=")
                    || answer.err.contains("'-- ");
                assert!(says, "{line} {name}: {answer:?}");
                continue;
            }
            let is_meant =
                |entry: &&&String| entry.contains(&format!("\"{name}\"")) || entry.contains("OTHER");
            assert_eq!(changed.iter().filter(is_meant).count(), changed.len(), "{line} {name}: {changed:?}");
            let reads = ["show", "history", "resolve"].iter().any(|command| line.starts_with(command));
            let did = if reads { answer.out.contains(name) } else { !changed.is_empty() };
            assert!(did && !answer.out.contains("Usage"), "{line} {name}: {answer:?}");
            if !changed.is_empty() {
                tool = store_with(name);
                before = content(&tool);
            }
        }
    }
}

/// Names by options only, which scripts may write without a thought.
#[test]
fn every_name_can_be_given_by_an_option() {
    for name in LIKE_OPTIONS {
        let tool = Tool::with_store();
        let ok = |words: &[&str]| {
            // Each option with its name in one word.
            let mut one = tool.command("");
            let mut words = words.iter();
            while let Some(word) = words.next() {
                match *word {
                    "--key" | "--alias" | "--key-alias" | "--from" => {
                        one.arg(format!("{word}={}", words.next().unwrap()))
                    }
                    word => one.arg(word),
                };
            }
            let answer: Answer = one.stdin(Stdio::null()).output().unwrap().into();
            assert_eq!((answer.code, &*answer.err), (0, ""), "{one:?}: {answer:?}");
            answer.out
        };
        ok(&["create", "--key-alias", "orders"]);
        ok(&["create", "--key-alias", name]);
        ok(&["create-alias", "--alias", name, "--key", name]);
        ok(&["create-alias", "--key", "orders", "--alias", "second"]);
        ok(&["associate", "--alias", name, "--from", name, "--key", "orders"]);
        assert!(ok(&["resolve", "--alias", name]).contains(" orders\n"), "{name}");
        ok(&["associate", "--alias", name, "--key", name]);
        ok(&["swap", "--alias", name, "--alias", "second"]);
        assert!(ok(&["resolve", "--alias", name]).contains(" orders\n"), "{name}");
        ok(&["delete-alias", "--alias", name]);
        ok(&["swap", "--key-aliases", "--key", name, "--key", "orders"]);
        ok(&["rename", "--key", name, "--key-alias", &format!("{name}-2")]);
        ok(&["rename", "--key", &format!("{name}-2"), "--key-alias", name]);
        for command in ["show", "history", "disable", "enable"] {
            ok(&[command, "--key", name]);
        }
    }
}

#[test]
fn what_may_be_a_name_or_an_option_is_refused() {
    let tool = Tool::with_store();
    tool.ok("create orders --alias a");
    tool.ok("create-alias b orders");
    tool.ok("create -- --json");
    tool.ok("create-alias -- --json orders");
    let before = content(&tool);
    for (line, says) in [
        ("create --alias --alias foo", "--alias --alias is two options"),
        ("create --alias --description foo", "--alias --description is two options"),
        ("associate --from --actor a orders", "--from --actor is two options"),
        ("disable --key --json", "write --key=--json for a name"),
        ("show --key --json", "write --key=--json for a name"),
        ("resolve --alias --json", "write --alias=--json for a name"),
        ("delete-alias --alias --json", "write --alias=--json for a name"),
        ("create --key-alias --json", "write --key-alias=--json for a name"),
        ("purge --key --due --yes", "write --key=--due for a name"),
        ("create-alias x --key orders", "cannot be used with"),
        ("rename --key orders new", "cannot be used with"),
        ("delete-alias a b", "unexpected argument 'b'"),
        ("delete-alias a -- b", "cannot be used with"),
        ("delete-alias --dry-run", "required arguments"),
        ("swap --alias a", "2 names are needed"),
        ("swap a", "2 names are needed"),
        ("swap --key orders --key orders", "--key-aliases"),
        ("disable --help", "`keystead help`"),
        ("disable -h", "`keystead help`"),
    ] {
        let said = tool.fails(2, line);
        assert!(said.contains(says), "{line}: {said}");
        assert_eq!(content(&tool), before, "{line}");
    }
    assert!(tool.ok("help disable").contains("Usage"));
    assert!(tool.ok("keys --help").contains("Usage"));
    tool.ok("delete-alias -- a b");
}
