//! `export` and `import`: what is carried over, what is refused and named, and how a stopped import goes on.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use keystead::{KeyState, NewKey, Options, Quotas, Request, RotationInterval, Store, Timestamp};
use serde_json::{Value, json};

use crate::tool::{Answer, DOMAIN, Tool, json_lines, scope};

/// A store with a key in each state, of each kind.
fn with_all_kinds() -> Tool {
    let tool = Tool::with_store();
    tool.ok("create plain --alias a --alias alias/b --tag team=a --description some --enterprise-project 7");
    tool.ok("create disabled --spec RSA_2048 --usage ENCRYPT_DECRYPT");
    tool.ok("disable disabled");
    tool.ok("create dying --alias dying-alias");
    tool.ok("schedule-deletion dying --days 30");
    tool.ok("create waiting --origin external");
    let store = Store::open(tool.store()).unwrap();
    let request = Request::new(&scope());
    let external = || NewKey::new("external").unwrap().origin(keystead::Origin::External);
    let days = RotationInterval::new(90).unwrap();
    let expiry = Some(Timestamp::from_millis(4_000_000_000_000));
    let new = external();
    store.write(&request, |txn| txn.create_key(&new).and(txn.material_imported(new.key_id, expiry))).unwrap();
    let new = NewKey::new("rotating").unwrap();
    store
        .write(&request, |txn| {
            txn.create_key(&new)?;
            txn.enable_rotation(new.key_id, days)?;
            txn.record_rotation(new.key_id)
        })
        .unwrap();
    let new = NewKey::new("rotated").unwrap();
    store
        .write(&request, |txn| {
            txn.create_key(&new)?;
            txn.enable_rotation(new.key_id, days)?;
            txn.disable_rotation(new.key_id)
        })
        .unwrap();
    let new = NewKey::new("frozen").unwrap();
    store
        .write(&request, |txn| {
            txn.create_key(&new)?;
            txn.disable(new.key_id)?;
            txn.freeze(new.key_id)
        })
        .unwrap();
    let new = NewKey::default_of("obs").unwrap();
    store.write(&request, |txn| txn.ensure_default_key(&new)).unwrap();
    tool
}

/// The keys of an export without what an import can't carry over.
fn carried(lines: &[Value]) -> Vec<Value> {
    let keys = lines.iter().filter(|line| line["type"] == "key").cloned();
    let keys = keys.map(|mut key| {
        let fields = key.as_object_mut().unwrap();
        for name in ["created_at", "updated_at", "version"] {
            assert!(fields.remove(name).is_some());
        }
        let due = fields.insert("scheduled_deletion_at".to_owned(), Value::Null);
        assert_eq!(due.unwrap().is_u64(), key["state"] == "pending_deletion");
        for name in ["count", "last_rotated_at"] {
            key["rotation"][name] = Value::Null;
        }
        key
    });
    keys.collect()
}

#[test]
fn an_export_is_one_snapshot_in_lines() {
    let tool = with_all_kinds();
    let answer = tool.ok("export");
    let lines = json_lines(&answer);
    let stats = tool.json("stats");
    let head = json!({
        "type": "export", "format": 1, "position": stats["position"], "region": "local", "alias_scope": "project",
    });
    assert_eq!(lines[0], head);
    assert_eq!((&lines[1]["type"], &lines[1]["commit"]), (&json!("scope"), &stats["commit"]));
    let end = json!({ "type": "end", "scopes": 1, "keys": 9, "aliases": 3, "one_commit": true });
    assert_eq!(lines.last(), Some(&end));
    assert_eq!(lines.len(), 12);
    let plain = lines.iter().find(|line| line["key_alias"] == "plain").unwrap();
    assert_eq!(plain["aliases"], json!(["a", "alias/b"]));

    assert_eq!(tool.json("export --output e.jsonl"), json!({ "scopes": 1, "keys": 9, "aliases": 3 }));
    assert_eq!(tool.read("e.jsonl"), answer);
    assert!(tool.fails(1, "export --output e.jsonl").contains("there is a file already"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(tool.path("e.jsonl")).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn every_kind_of_key_is_carried_over_and_what_is_not_is_told() {
    let tool = with_all_kinds();
    tool.ok("export --output e.jsonl");
    tool.ok("init --store other");
    let answer = tool.run("import e.jsonl --store other --json");
    assert_eq!(answer.code, 0, "{answer:?}");
    let told = json_lines(&answer.out);
    let (notes, done) = told.split_at(told.len() - 1);
    let counts = json!({
        "dry_run": false, "created": 9, "present": 0, "refused": 0, "lines": 12, "complete": true,
    });
    assert_eq!(done[0], json!({ "imported": counts }));
    let notes: Vec<_> = notes.iter().map(|note| note["note"]["message"].as_str().unwrap()).collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes.iter().any(|note| note.starts_with("its deletion is due ") && note.contains("30 days")),
        "{notes:?}"
    );
    assert!(notes.iter().any(|note| note.contains("rotated 1 times")), "{notes:?}");

    let (before, after) = (tool.json_lines("export"), tool.json_lines("export --store other"));
    assert_eq!(carried(&before), carried(&after));
    tool.ok("verify --store other");
    let again = tool.run("import e.jsonl --store other");
    assert!(again.out.contains("0 keys created, 9 there already, 0 lines refused"), "{again:?}");
    assert_eq!((again.code, again.err.as_str()), (0, ""));
}

#[test]
fn every_scope_is_exported_if_asked_for() {
    let tool = Tool::with_store();
    tool.ok("create a");
    tool.ok("create a --project other");
    let lines = tool.json_lines("export --all");
    let end = json!({ "type": "end", "scopes": 2, "keys": 2, "aliases": 0, "one_commit": true });
    assert_eq!(lines.last(), Some(&end));
    tool.write("e.jsonl", &tool.ok("export --all"));
    tool.ok("init --store copy");
    tool.ok("import e.jsonl --store copy");
    let scopes = tool.json_lines("scopes --store copy");
    assert_eq!(scopes, tool.json_lines("scopes"));
    assert_eq!(scopes.len(), 2);
}

fn imported(answer: &Answer) -> Value {
    json_lines(&answer.out).last().unwrap()["imported"].clone()
}

/// The numbers of the lines that were refused, and why.
fn refused(answer: &Answer) -> Vec<(u64, String)> {
    let lines = json_lines(&answer.out);
    let refused = lines.iter().filter_map(|line| line.get("refused"));
    refused
        .map(|line| (line["line"].as_u64().unwrap(), line["error"]["message"].as_str().unwrap().into()))
        .collect()
}

#[test]
fn refused_lines_are_named_and_the_rest_is_done() {
    let tool = Tool::with_store();
    tool.ok("create taken --id bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e --alias a");
    let lines = [
        r#"{"type":"key","key_alias":"fine"}"#,
        r#"{"type":"key","key_alias":"taken","key_id":"0d0466b0-e727-4d9c-b35d-f84bb474a37f"}"#,
        r#"{"type":"key","key_alias":"other","key_id":"bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e"}"#,
        "",
        r#"{"type":"key","key_alias":"not.allowed"}"#,
        r#"{"type":"key","key_alias":"x","surprise":1}"#,
        r#"{"type":"key","key_alias":"x","aliases":["a"]}"#,
        r#"{"type":"key","key_alias":"x","spec":"AES_256","usage":"SIGN_VERIFY"}"#,
        r#"{"type":"key","key_alias":"x","domain_id":"half"}"#,
        r#"{"type":"key","key_alias":"x","state":"frozen"}"#,
        r#"{"type":"key","key_alias":"x","state":"pending_import"}"#,
        r#"{"type":"key","key_alias":"x/default"}"#,
        "nonsense",
        r#"{"type":"key","key_alias":"fine-too","state":"disabled","domain_id":"d","project_id":"p"}"#,
        r#"{"type":"key","key_alias":"cut o"#,
    ];
    tool.write("lines", &lines.join("\n"));
    let answer = tool.run("import lines --json");
    assert_eq!(answer.code, 3);
    let (mut numbers, mut whys): (Vec<_>, Vec<_>) = refused(&answer).into_iter().unzip();
    let why = |number: u64| &whys[numbers.iter().position(|one| *one == number).unwrap()];
    assert_eq!(why(2), "another key is named taken");
    assert_eq!(why(3), "this key is there, and differs in: key_alias, aliases");
    assert!(why(6).contains("unknown field `surprise`"));
    assert!(why(7).contains("the alias a, or one with the same URN, exists"));
    assert!(why(9).contains("half a scope"));
    assert_eq!(why(10), "no operation brings this about: frozen_from");
    assert!(why(11).contains("no operation brings this about: state"), "{}", why(11));
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15]);
    assert_eq!(imported(&answer)["created"], json!(2));
    whys.clear();

    let answer = tool.run("import lines");
    assert!(answer.err.contains("line 2 refused: another key is named taken (KMS.1104)\n"), "{answer:?}");
    assert!(answer.out.contains("0 keys created, 2 there already, 12 lines refused"), "{answer:?}");
    tool.ok("verify");
}

#[test]
fn a_key_that_differs_is_told_by_its_field() {
    let tool = Tool::with_store();
    tool.ok("create a --id bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e --spec RSA_2048 --alias x");
    let there = tool.json_lines("export")[2].clone();
    let material = json!({ "present": true, "expires_at": 4_000_000_000_000_u64 });
    let rotation = json!({ "enabled": false, "interval_days": 90, "last_rotated_at": null, "count": 0 });
    let others = [
        ("key_alias", json!("b")),
        ("description", json!("another")),
        ("spec", json!("RSA_3072")),
        ("usage", json!("ENCRYPT_DECRYPT")),
        ("enterprise_project_id", json!("7")),
        ("keystore_id", json!("7")),
        ("tags", json!({ "team": "b" })),
        ("state", json!("disabled")),
        ("material", material),
        ("rotation", rotation),
        ("aliases", json!([])),
        ("aliases", json!(["x", "y"])),
    ];
    for (field, value) in others {
        let mut line = there.clone();
        assert_ne!(line[field], value);
        line[field] = value;
        tool.write("lines", &line.to_string());
        let answer = tool.run("import lines --json");
        let whys: Vec<_> = refused(&answer).into_iter().map(|(_, why)| why).collect();
        let told = [format!("this key is there, and differs in: {field}")];
        assert_eq!(whys, told, "{answer:?}");
    }
    tool.write("lines", &there.to_string());
    tool.ok("import lines");
    tool.write("lines", &format!("{}\n{there}", "x".repeat(1024 * 1024 + 1)));
    assert_eq!(refused(&tool.run("import lines --json")), [(1, "it is longer than 1 MiB".to_owned())]);
}

#[test]
fn material_that_has_expired_meanwhile_is_not_there() {
    let tool = Tool::with_store();
    let line = |name: &str, rest: Value| {
        let material = json!({ "present": true, "expires_at": 1_700_000_000_000_u64 });
        let mut line =
            json!({ "type": "key", "key_alias": name, "origin": "external", "material": material });
        line.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        line.to_string()
    };
    let lines = [
        line("enabled", json!({ "key_id": "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e", "state": "enabled" })),
        line("disabled", json!({ "state": "disabled" })),
        line("frozen", json!({ "state": "frozen", "frozen_from": "enabled" })),
        line("dying", json!({ "state": "pending_deletion", "scheduled_deletion_at": 4_000_000_000_000_u64 })),
        line("unsaid", json!({})),
    ];
    tool.write("lines", &lines.join("\n"));
    let answer = tool.run("import lines");
    assert_eq!(answer.code, 0, "{answer:?}");
    let told = "its material expired at 2023-11-14T22:13:20.000Z, so it waits for an import";
    let all = format!("{}{}", answer.out, answer.err);
    assert_eq!(all.matches(told).count(), lines.len(), "{answer:?}");
    let became = ["enabled", "disabled", "frozen", "dying", "unsaid"].map(|name| {
        let key = tool.key(name);
        assert!(!key.material.present && key.material.expires_at.is_none(), "{name}");
        (key.state, key.frozen_from)
    });
    let waits = KeyState::PendingImport;
    let expected = [
        (waits, None),
        (waits, None),
        (KeyState::Frozen, Some(waits)),
        (KeyState::PendingDeletion, None),
        (waits, None),
    ];
    assert_eq!(became, expected);
    // Once more, nothing is left to do.
    let again = tool.run("import lines --json");
    assert_eq!(imported(&again)["present"], json!(5), "{again:?}");
    tool.ok("verify");
}

#[test]
fn a_tag_that_a_line_has_twice_is_refused_by_name() {
    let tool = Tool::with_store();
    let line = "{\"type\":\"key\",\"key_alias\":\"one\",\"tags\":{\"a\":\"1\",\"b\":\"2\",\"a\":\"3\"}}";
    tool.write("lines", line);
    let answer = tool.run("import lines --json");
    let [(1, why)] = &refused(&answer)[..] else { panic!("{answer:?}") };
    assert!(why.contains("the tag \"a\" is named twice"), "{why}");
    assert_eq!(tool.json("stats")["keys"], json!(0));
}

/// Lines for so many keys.
fn many(count: u64) -> String {
    (0..count).map(|number| format!("{{\"type\":\"key\",\"key_alias\":\"key-{number}\"}}\n")).collect()
}

#[test]
fn an_import_ends_behind_refused_lines_unless_told_to_go_on() {
    let tool = Tool::with_store();
    let lines =
        many(6_000).replace("\"key-3\"", "\"not.allowed\"").replace("\"key-5500\"", "\"not.allowed\"");
    tool.write("lines", &lines);
    let quota = "--keys-per-project 20000";
    let answer = tool.run(&format!("import lines {quota} --json"));
    assert_eq!((answer.code, imported(&answer)["created"].clone()), (3, json!(4_999)));
    assert_eq!(imported(&answer)["lines"], json!(5_000), "it tells how far it came");

    let answer = tool.run(&format!("import lines {quota} --json --from-line 5001"));
    assert_eq!(imported(&answer)["created"], json!(999));
    assert_eq!(refused(&answer)[0].0, 5_501);
    let answer = tool.run(&format!("import lines {quota} --json --continue-on-refused"));
    assert_eq!((answer.code, refused(&answer).len()), (3, 2));
    let counts = imported(&answer);
    assert_eq!((&counts["created"], &counts["present"]), (&json!(0), &json!(5_998)));
    assert_eq!(tool.json("stats")["keys"], json!(5_998));
    tool.ok("verify");
}

#[test]
fn a_killed_import_goes_on_when_it_is_run_again() {
    let tool = Tool::with_store();
    tool.write("lines", &many(7_000));
    let line = "import --keys-per-project 20000 --json";
    // A piece and a half; then it waits for more.
    let mut child = tool.command(line).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(tool.read("lines").as_bytes()).unwrap();
    while tool.json("stats")["keys"] == json!(0) {
        assert!(child.try_wait().unwrap().is_none(), "it must not end by itself");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(tool.json("stats")["keys"], json!(5_000));
    let again = imported(&tool.run(&format!("{line} lines")));
    assert_eq!((&again["created"], &again["present"]), (&json!(2_000), &json!(5_000)));
    assert_eq!(tool.json("stats")["keys"], json!(7_000));
    tool.ok("verify");
}

#[test]
fn a_dry_run_tells_the_same_and_changes_nothing() {
    let tool = Tool::with_store();
    tool.ok("create key-1");
    // The second of a name is refused because of the first.
    tool.write("lines", &[many(3), many(1).replace("}", ",\"state\":\"disabled\"}")].concat());
    let before = fs::read(tool.store()).unwrap();
    let tried = tool.run("import lines --dry-run --json");
    assert_eq!(fs::read(tool.store()).unwrap(), before);
    let done = tool.run("import lines --json");
    assert_eq!((tried.code, done.code), (3, 3));
    assert_eq!(refused(&tried), refused(&done));
    assert_eq!(refused(&tried), [(4, "this key is there, and differs in: state".to_owned())]);
    let (mut tried, done) = (imported(&tried), imported(&done));
    assert_eq!(tried["dry_run"], json!(true));
    tried["dry_run"] = json!(false);
    assert_eq!(tried, done);
    assert!(
        tool.run("import lines --dry-run")
            .out
            .starts_with("nothing was changed; it would be: 0 keys created")
    );
}

#[test]
fn an_export_that_was_cut_off_is_noticed() {
    let tool = Tool::with_store();
    tool.ok("create a");
    tool.ok("create b");
    let whole = tool.ok("export");
    let lines: Vec<_> = whole.lines().collect();
    tool.ok("init --store other");
    let answer = tool.run_with_input("import --store other", &lines[..3].join("\n"));
    assert_eq!(answer.code, 3);
    assert!(
        answer.err.contains("the export was cut off") && answer.out.contains("1 keys created"),
        "{answer:?}"
    );
    let answer = tool.run_with_input("import --store other", &[&lines[..3], &lines[4..]].concat().join("\n"));
    assert_eq!(answer.code, 3);
    assert!(answer.err.contains("has 1 keys, and not the 2"), "{answer:?}");
    let answer = tool.run_with_input("import --store other", &whole);
    assert_eq!((answer.code, answer.err.as_str()), (0, ""));

    let newer = whole.replace("\"format\":1", "\"format\":2");
    let answer = tool.run_with_input("import --store other", &newer);
    assert_eq!(answer.code, 1);
    assert!(answer.err.contains("has format 2") && answer.err.contains("use a newer keystead"), "{answer:?}");
}

#[test]
fn lines_without_a_scope_need_one() {
    let tool = Tool::with_store();
    tool.write("lines", &many(1));
    let mut command = tool.command("import lines");
    let answer: Answer =
        command.env_remove("KEYSTEAD_DOMAIN").env_remove("KEYSTEAD_PROJECT").output().unwrap().into();
    assert_eq!(answer.code, 3);
    assert!(
        answer.err.contains("line 1 refused: it names no scope; give --domain and --project"),
        "{answer:?}"
    );
    tool.ok("import lines");
    assert_eq!(tool.json("scopes")["domain_id"], json!(DOMAIN));
    assert_eq!(tool.json("history key-0")["info"]["actor"], json!("tester"));
    tool.fails(2, "import nowhere");
    tool.fails(2, "import lines --from-line 0");
}

#[test]
fn another_region_or_alias_scope_is_told() {
    let tool = Tool::with_store();
    tool.ok("create a");
    tool.write("e", &tool.ok("export"));
    tool.ok("init --store other --alias-scope domain");
    let answer = tool.run("import e --store other");
    assert_eq!(answer.code, 0);
    assert!(
        answer.err.contains("line 1: the export is of a store with another region or alias scope"),
        "{answer:?}"
    );
}

#[test]
fn many_keys_are_carried_over_in_bounded_pieces() {
    let tool = Tool::with_store();
    let quotas = Quotas { keys_per_project: 20_000, ..Quotas::default() };
    let store = Options::new().quotas(quotas).open(tool.store()).unwrap();
    let keys = (0..6_000).map(|number| {
        NewKey::new(&format!("key-{number}")).unwrap().alias(format!("alias-{number}").parse().unwrap())
    });
    store.import(&Request::new(&scope()), keys).for_each(|batch| assert!(batch.unwrap().refused.is_empty()));
    drop(store);
    tool.ok("export --output e.jsonl");
    tool.ok("init --store other");
    let done = imported(&tool.run("import e.jsonl --store other --keys-per-project 20000 --json"));
    assert_eq!((&done["created"], &done["lines"]), (&json!(6_000), &json!(6_003)));
    assert_eq!(carried(&tool.json_lines("export")), carried(&tool.json_lines("export --store other")));
    let store = Options::new().open_read_only(tool.path("other")).unwrap();
    let key = store.read(&scope(), |snap| snap.resolve(&"alias-5999".parse()?)).unwrap();
    assert_eq!((key.key_alias.as_str(), key.state), ("key-5999", KeyState::Enabled));
}
