//! What each command answers, to people and to machines, and how it ends.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use keystead::{NewKey, Options, Position, Request, Store, Timestamp};
use serde_json::{Value, json};

use crate::tool::{DOMAIN, PROJECT, Tool, scope};

const ID: &str = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e";
const OTHER: &str = "0d0466b0-e727-4d9c-b35d-f84bb474a37f";

/// With a key `orders` that has the alias `kms-1234`, and a key `invoices`.
fn with_keys() -> Tool {
    let tool = Tool::with_store();
    tool.ok(&format!("create orders --id {ID} --alias kms-1234 --tag team=a"));
    tool.ok(&format!("create invoices --id {OTHER} --spec RSA_3072 --description signs"));
    tool
}

#[test]
fn a_store_is_made_once() {
    let tool = Tool::new();
    let said = tool.fails(4, "keys");
    assert!(said.contains("there is no store at kms.redb") && said.contains("keystead init"), "{said}");
    tool.fails(4, "create orders");
    assert!(!tool.store().exists(), "looking for a store makes none");

    assert_eq!(
        tool.ok("init --region cn-north-7 --alias-scope domain --no-history"),
        "made an empty store\n"
    );
    assert!(tool.fails(1, "init").contains("there is a file already"));
    let stats = tool.json("stats");
    let kept = ["region", "alias_scope", "history", "history_floor"].map(|name| stats[name].clone());
    assert_eq!(kept, [json!("cn-north-7"), json!("domain"), json!(false), json!(null)]);
    assert!(tool.fails(1, "changes").contains("without history"));
}

#[test]
fn keys_are_listed_and_shown() {
    let tool = with_keys();
    let listed = tool.ok("keys");
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(lines[0], "KEY ID                                KEY ALIAS  STATE    SPEC");
    assert_eq!(lines[1], format!("{OTHER}  invoices   enabled  RSA_3072"));
    assert_eq!(lines[2], format!("{ID}  orders     enabled  AES_256"));
    assert_eq!(lines.len(), 3);

    let names = |line: &str| {
        let keys = tool.json_lines(line);
        keys.iter().map(|key| key["key_alias"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("keys"), ["invoices", "orders"]);
    assert_eq!(names("keys --order id"), ["invoices", "orders"]);
    assert_eq!(names("keys --limit 1"), ["invoices"]);
    assert_eq!(names("keys --tag team=a"), ["orders"]);
    assert_eq!(names("keys --tag team"), ["orders"]);
    assert_eq!(names("keys --spec RSA_3072"), ["invoices"]);
    assert_eq!(names("keys --state frozen"), [""; 0]);

    let shown = tool.json(&format!("show {ID}"));
    assert_eq!(
        (&shown["key"]["key_alias"], &shown["aliases"][0]["alias"]),
        (&json!("orders"), &json!("kms-1234"))
    );
    let shown = tool.ok("show orders");
    assert!(shown.contains(&format!("key id              {ID}\n")), "{shown}");
    assert!(
        shown.contains("aliases             kms-1234\n") && shown.contains("tags                team=a\n")
    );
    assert!(tool.fails(1, "show nothing").contains("KMS.0207"));
}

#[test]
fn a_list_of_many_pages_is_whole() {
    let tool = Tool::with_store();
    let quotas = keystead::Quotas { keys_per_project: 3000, ..Default::default() };
    let store = Options::new().quotas(quotas).open(tool.store()).unwrap();
    let keys = (0..2500).map(|number| NewKey::new(&format!("key-{number:04}")).unwrap());
    store.import(&Request::new(&scope()), keys).for_each(|batch| assert!(batch.unwrap().refused.is_empty()));
    drop(store);
    let names: Vec<_> = tool.json_lines("keys").iter().map(|key| key["key_alias"].to_string()).collect();
    assert_eq!(names.len(), 2500);
    assert!(names.is_sorted());
    assert_eq!(tool.json_lines("keys --limit 1001").len(), 1001);
    assert_eq!(tool.ok("keys").lines().count(), 2503, "each of three pages has a head");
}

#[test]
fn aliases_and_scopes_are_listed() {
    let tool = with_keys();
    tool.ok("create-alias alias/b invoices");
    assert_eq!(tool.json_lines("aliases").len(), 2);
    let of_key = tool.json_lines("aliases --key invoices");
    assert_eq!((of_key.len(), &of_key[0]["alias"]), (1, &json!("alias/b")));
    assert!(tool.ok("aliases").starts_with("ALIAS     KEY ID"));
    let scopes = tool.json("scopes");
    assert_eq!(scopes, json!({ "domain_id": DOMAIN, "project_id": PROJECT, "keys": 2 }));
    assert!(tool.ok("scopes").contains(PROJECT));
}

#[test]
fn an_alias_is_resolved_now_and_then() {
    let tool = with_keys();
    assert_eq!(tool.json("resolve kms-1234")["key"]["key_id"], json!(ID));
    assert_eq!(tool.json(&format!("resolve kms:local:{DOMAIN}:alias:kms-1234"))["key"]["key_id"], json!(ID));
    tool.fails(1, &format!("resolve kms:elsewhere:{DOMAIN}:alias:kms-1234"));
    let before = tool.json("stats")["commit"].clone();
    tool.ok("associate kms-1234 invoices");
    assert_eq!(tool.json("resolve kms-1234")["key"]["key_id"], json!(OTHER));
    assert_eq!(tool.json(&format!("resolve kms-1234 --at {before}"))["key"]["key_id"], json!(ID));
    tool.fails(1, "resolve kms-1234 --at 2020-01-01T00:00:00Z");
    assert_eq!(tool.json("resolve kms-1234 --at 2999-01-01T00:00:00+01:00")["key"]["key_id"], json!(OTHER));
    assert!(tool.fails(2, "resolve kms-1234 --at yesterday").contains("a time with its zone"));
    tool.fails(1, "resolve kms-1234 --at 999999");
    assert!(
        tool.ok("resolve kms-1234")
            .contains(&format!("urn                 kms:local:{DOMAIN}:alias:kms-1234\n"))
    );

    tool.ok("create-alias alias/b invoices");
    assert_eq!(tool.json(&format!("resolve kms:local:{DOMAIN}:alias:b"))["alias"]["alias"], json!("alias/b"));
}

#[test]
fn names_change_and_the_history_tells() {
    let tool = with_keys();
    let renamed = tool.json("rename orders orders-2026 --actor alice");
    assert_eq!(renamed["value"]["former_key_alias"], json!("orders"));
    assert_eq!((&renamed["changed"], &renamed["replayed"]), (&json!(true), &json!(false)));
    let said = tool.ok("rename orders-2026 orders-2026");
    assert!(said.starts_with("nothing to change"), "{said}");
    let said = tool.ok("swap --key-aliases orders-2026 invoices");
    assert!(said.contains(&format!("key {ID} is invoices")), "{said}");
    tool.ok(&format!("create-alias b {OTHER}"));
    tool.ok("swap kms-1234 b");
    assert_eq!(tool.json("resolve b")["key"]["key_id"], json!(ID));
    let moved = tool.json("associate kms-1234 invoices");
    tool.ok(&format!("revert {}", moved["commit"]));
    assert_eq!(tool.json("resolve kms-1234")["key"]["key_id"], json!(OTHER));

    let history = tool.json_lines(&format!("history {ID} --oldest-first"));
    let operations: Vec<_> = history.iter().map(|change| change["change"]["operation"].clone()).collect();
    assert_eq!(operations, ["create_key", "rename_key_alias", "swap_key_aliases"]);
    assert_eq!(
        (&history[0]["info"]["actor"], &history[1]["info"]["actor"]),
        (&json!("tester"), &json!("alice"))
    );
    let last = tool.json_lines("history --alias kms-1234 --limit 1");
    assert_eq!(last[0]["change"]["operation"], json!("revert"));
    let told = tool.ok(&format!("history {ID}"));
    assert!(told.contains(&format!("key {ID} orders: named orders-2026")), "{told}");

    let said = tool.ok("delete-alias b");
    assert!(said.starts_with(&format!("deleted b of key {ID}")), "{said}");
    tool.fails(1, "delete-alias b");
    assert!(tool.ok("history --alias b").contains("gone, was on"));
    tool.fails(2, "history");
}

#[test]
fn a_precondition_keeps_from_moving() {
    let tool = with_keys();
    let said = tool.fails(1, "associate kms-1234 invoices --from invoices");
    assert!(said.contains("the precondition does not hold"), "{said}");
    tool.ok("associate kms-1234 invoices --from orders");
    assert_eq!(tool.json("resolve kms-1234")["key"]["key_id"], json!(OTHER));
}

#[test]
fn a_dry_run_changes_nothing() {
    let tool = with_keys();
    let before = tool.json("stats")["commit"].clone();
    let said = tool.ok("associate kms-1234 invoices --dry-run");
    assert!(said.contains(&format!("alias kms-1234: {ID} -> {OTHER}")), "{said}");
    let would = tool.json("rename orders x --dry-run");
    assert_eq!(would["changes"][0]["operation"], json!("rename_key_alias"));
    tool.fails(1, "rename orders invoices --dry-run");
    assert_eq!(tool.json("stats")["commit"], before);
}

#[test]
fn a_request_that_comes_twice_is_done_once() {
    let tool = Tool::with_store();
    let line = "create orders --request-id 919c82d4-8046-4722-9094-35c3c6524cff";
    let (first, again) = (tool.json(line), tool.json(line));
    assert_eq!((&first["value"], &first["commit"]), (&again["value"], &again["commit"]));
    assert_eq!((&first["replayed"], &again["replayed"]), (&json!(false), &json!(true)));
    assert!(tool.ok(line).contains("this request was carried out before"));
    let other = "create invoices --request-id 919c82d4-8046-4722-9094-35c3c6524cff";
    assert!(tool.fails(1, other).contains("was used for another request"));
    assert_eq!(tool.json_lines("keys").len(), 1);
}

#[test]
fn keys_end_in_steps() {
    let tool = with_keys();
    tool.ok("disable orders");
    tool.fails(1, "disable orders");
    tool.ok("enable orders");
    tool.fails(2, "schedule-deletion orders --days 6");
    tool.fails(2, "schedule-deletion orders");
    let scheduled = tool.ok("schedule-deletion orders --days 7");
    assert!(scheduled.contains("is pending_deletion"), "{scheduled}");
    let said = tool.fails(1, "purge orders --yes");
    assert!(said.contains("is not due before"), "{said}");
    tool.ok("cancel-deletion orders");
    assert_eq!(tool.key("orders").state.as_str(), "disabled");
    assert!(tool.fails(1, "purge orders --yes").contains("is not pending deletion"));
}

/// Two keys were to be deleted a week before 2001, a third in a year.
#[test]
fn what_is_due_is_erased_when_confirmed() {
    let tool = Tool::with_store();
    tool.ok("create later");
    let store = Store::open(tool.store()).unwrap();
    let long_ago = Request::new(&scope()).at(Timestamp::from_millis(978_000_000_000));
    for (name, id) in [("orders", ID), ("invoices", OTHER)] {
        let new = NewKey::new(name).unwrap().id(id.parse().unwrap());
        let new = if id == ID { new.alias("kms-1234".parse().unwrap()) } else { new };
        store
            .write(&long_ago, |txn| {
                txn.create_key(&new)?;
                txn.schedule_deletion(new.key_id, 7.try_into().unwrap())
            })
            .unwrap();
    }
    drop(store);
    tool.ok("schedule-deletion later --days 365");

    let said = tool.fails(6, "purge orders");
    assert!(
        said.contains("the key orders and its aliases are erased, for ever") && said.contains("--yes"),
        "{said}"
    );
    tool.fails(6, "purge --due=all");
    assert_eq!(tool.json("purge --due=all --dry-run")["due"], json!([OTHER, ID]));
    assert!(tool.ok("purge --due=all --dry-run").contains(&format!("key {ID}, due since 2001-01-04")));
    assert_eq!(tool.json_lines("keys").len(), 3, "nothing was erased yet");

    assert!(tool.ok("purge orders --yes").starts_with(&format!("erased key {ID}")));
    assert_eq!(tool.json("purge --due=all --yes"), json!({ "purged": 1 }));
    let left = tool.json("keys");
    assert_eq!(left["key_alias"], json!("later"));
    assert_eq!(tool.json_lines("aliases").len(), 0);
    tool.fails(2, "purge --due=all --yes --request-id 919c82d4-8046-4722-9094-35c3c6524cff");
    tool.fails(2, "purge");
}

#[test]
fn history_is_trimmed_when_confirmed() {
    let tool = with_keys();
    tool.fails(6, "trim-history 2");
    assert_eq!(tool.json("trim-history 2 --yes"), json!({ "history_floor": 2 }));
    for again in ["trim-history 2 --yes", "trim-history 1 --yes"] {
        assert_eq!(tool.ok(again), "nothing was trimmed\n", "{again}");
        assert_eq!(tool.json(again), json!({ "history_floor": 2 }), "{again}");
    }
    assert_eq!(tool.json("stats")["history_floor"], json!(2));
    assert!(tool.ok("stats").contains("behind commit 2"));
    let answer = tool.run("changes");
    assert_eq!(answer.code, 0, "{answer:?}");
    let begins =
        answer.err.strip_prefix("note: the history begins behind commit 2, at the position ").unwrap();
    assert!(begins.trim_end().ends_with("-2"), "{begins}");
    let left = answer.out.lines().filter(|line| !line.starts_with(' '));
    assert!(left.clone().all(|line| !line.split(' ').next().unwrap().ends_with("-2")), "{answer:?}");
    assert_eq!(tool.ok(&format!("changes --after {begins}")), answer.out);
    assert!(left.count() > 0);
    let told = tool.run("changes --json");
    let note: Value = serde_json::from_str(&told.err).unwrap();
    assert_eq!((told.code, note["note"]["message"].is_string()), (0, true), "{told:?}");
    // What was asked for and is gone is no other thing.
    let gone = begins.trim_end().replace("-2", "-1");
    assert!(tool.fails(1, &format!("changes --after {gone}")).contains("was trimmed"));
    tool.fails(1, "trim-history 99999 --yes");
}

#[test]
fn quotas_are_those_that_are_given() {
    let tool = Tool::with_store();
    tool.ok("create a --keys-per-project 1");
    let said = tool.fails(1, "create b --keys-per-project 1");
    assert!(said.contains("KMS.1105") && said.contains("--keys-per-project"), "{said}");
    tool.ok("create b");
    let said = tool.fails(4, "create c --aliases-per-key 56");
    assert!(said.contains("at most 55"), "{said}");
    tool.ok("create-alias x a");
    tool.ok("create c --spec RSA_2048");
    assert!(
        tool.fails(1, "associate x c --compatibility same-usage").contains("differ in spec family or usage")
    );
    tool.ok("associate x c");
}

#[test]
fn changes_are_told_in_their_order_and_followed() {
    let tool = with_keys();
    let told = tool.json_lines("changes");
    assert_eq!(told.len(), 2);
    let position: Position = serde_json::from_value(told[0]["position"].clone()).unwrap();
    assert_eq!(tool.json_lines(&format!("changes --after {position}")), told[1..]);
    assert_eq!(tool.json_lines("changes --limit 1"), told[..1]);
    assert_eq!(tool.json_lines("changes --from-now").len(), 0);
    assert_eq!(tool.json_lines("changes --domain other").len(), 0);
    assert_eq!(tool.json_lines(&format!("changes --project {PROJECT}")).len(), 2);
    let lines = tool.ok("changes --limit 1");
    assert!(
        lines.starts_with(&position.to_string()) && lines.contains("\n  create_key: alias kms-1234 made"),
        "{lines}"
    );

    let store = Store::open(tool.store()).unwrap();
    let mut follower =
        tool.command("changes --from-now --follow --json").stdout(Stdio::piped()).spawn().unwrap();
    let mut heard = BufReader::new(follower.stdout.take().unwrap()).lines();
    // Until it has begun, it hears nothing.
    let renamed = std::thread::scope(|threads| {
        let first = threads.spawn(move || heard.next().unwrap().unwrap());
        let mut number = 0;
        while !first.is_finished() {
            number += 1;
            let name = format!("orders-{number}").parse().unwrap();
            let request = Request::new(&scope()).actor("alice");
            store.write(&request, |txn| txn.rename_key_alias(ID.parse()?, &name)).unwrap();
        }
        first.join().unwrap()
    });
    follower.kill().unwrap();
    follower.wait().unwrap();
    let heard: serde_json::Value = serde_json::from_str(&renamed).unwrap();
    assert_eq!(heard["changes"][0]["operation"], json!("rename_key_alias"));
    assert_eq!(heard["info"]["actor"], json!("alice"));
}

#[test]
fn what_is_not_understood_says_why() {
    let tool = with_keys();
    tool.fails(2, "");
    tool.fails(2, "nonsense");
    tool.fails(2, "create not.allowed");
    tool.fails(2, "keys --state unknown");
    let mut without = tool.command("keys");
    let answer = without.env_remove("KEYSTEAD_DOMAIN").output().unwrap();
    assert_eq!(answer.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&answer.stderr).contains("--domain"));
    let answer = tool.command("keys").env_remove("KEYSTEAD_STORE").output().unwrap();
    assert_eq!(answer.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&answer.stderr).contains("KEYSTEAD_STORE"));
    let named = tool.command("keys --store kms.redb").env_remove("KEYSTEAD_STORE").output().unwrap();
    assert_eq!(named.status.code(), Some(0));
    assert!(tool.fails(1, "create a/default").contains("KMS.1101"));
}

#[test]
fn failures_are_json_too() {
    let tool = with_keys();
    let said: serde_json::Value = serde_json::from_str(&tool.fails(1, "create orders --json")).unwrap();
    let error = json!({
        "kind": "refused", "message": "another key is named orders", "advice": null, "api_code": "KMS.1104",
    });
    assert_eq!(said, json!({ "error": error }));
    let said: serde_json::Value = serde_json::from_str(&tool.fails(6, "compact --json")).unwrap();
    assert_eq!(said["error"]["kind"], json!("not_confirmed"));
}

#[test]
fn colours_only_where_they_are_wanted() {
    let tool = Tool::with_store();
    let says = |line: &str, variables: &[(&str, &str)]| {
        let output = tool.command(line).envs(variables.iter().copied()).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let forced = ("CLICOLOR_FORCE", "1");
    for line in ["verify", "show nothing"] {
        assert!(!says(line, &[]).contains('\u{1b}'), "it is no terminal");
        assert!(says(line, &[forced]).contains('\u{1b}'), "{line}");
        assert!(!says(line, &[forced, ("NO_COLOR", "1")]).contains('\u{1b}'), "{line}");
    }
}

/// What a tenant says of a key is shown to an operator.
#[test]
fn no_text_acts_on_the_terminal() {
    let tool = Tool::with_store();
    let store = Store::open(tool.store()).unwrap();
    let text = "a\u{1b}[2J\u{202e}b\n\u{e4}";
    let new = NewKey::new("orders").unwrap().description(text.parse().unwrap());
    let new = new.tag(text.parse().unwrap(), text.parse().unwrap());
    store.write(&Request::new(&scope()).actor(text), |txn| txn.create_key(&new)).unwrap();
    drop(store);
    tool.write("lines", "{\"type\":\"key\",\"key_alias\":\"x\",\"\\u001b[2J\":1}");
    for (line, times) in [("show orders", 3), ("history orders", 1), ("changes", 1), ("import lines", 1)] {
        let mut command = tool.command(line);
        let output = command.env("CLICOLOR_FORCE", "1").output().unwrap();
        let shown = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!shown.contains("\u{1b}[2J") && !shown.contains('\u{202e}'), "{line}: {shown:?}");
        assert_eq!(shown.matches("\\u{1b}[2J").count(), times, "{line}: {shown}");
    }
    assert!(tool.ok("show orders").contains("a\\u{1b}[2J\\u{202e}b\\n\u{e4}"));
    assert_eq!(tool.json("show orders")["key"]["description"], json!(text), "a machine gets what it is");
}

#[test]
fn completions_know_the_commands() {
    let tool = Tool::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = tool.ok(&format!("completions {shell}"));
        assert!(script.contains("schedule-deletion") && script.contains("keys-per-project"), "{shell}");
    }
    tool.fails(2, "completions nonsense");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let tool = Tool::with_store();
    let names: Vec<_> = (0..90).map(|number| format!("key-{number}")).collect();
    let store = Store::open(tool.store()).unwrap();
    for name in &names {
        store.write(&Request::new(&scope()), |txn| txn.create_key(&NewKey::new(name)?)).unwrap();
    }
    drop(store);
    // More than a pipe holds, and nobody reads it.
    let mut child =
        tool.command("changes --json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let answer = child.wait_with_output().unwrap();
    assert_eq!((answer.status.code(), String::from_utf8(answer.stderr).unwrap()), (Some(0), String::new()));
}

#[test]
fn a_disk_is_measured() {
    let tool = Tool::new();
    let measured = tool.json("bench --seconds 1");
    let commits = &measured["commits_a_second"];
    for name in ["one_writer", "eight_writers"] {
        assert!(commits[name].as_f64().unwrap() > 0.0, "{measured}");
    }
    assert!(
        measured["sync_microseconds"]["longest"].as_u64() >= measured["sync_microseconds"]["median"].as_u64()
    );
    assert!(tool.ok("bench --seconds 1").contains("commits a second, 8 writers"));
    assert_eq!(std::fs::read_dir(tool.folder()).unwrap().count(), 0, "nothing is left behind");
    tool.fails(5, "bench --folder nowhere");
    tool.fails(2, "bench --seconds 0");
}

#[test]
fn a_tag_that_is_given_twice_is_refused_by_name() {
    let tool = Tool::with_store();
    for tags in ["--tag a=1 --tag b=2 --tag a=2", "--tag a=1 --tag a=1"] {
        let refused = tool.fails(1, &format!("create one {tags}"));
        assert!(refused.contains("the tag \"a\" is named twice (KMS.0406)"), "{refused}");
    }
    assert_eq!(tool.json("stats")["keys"], json!(0));
    tool.ok("create one --tag a=1 --tag A=2");
}
