//! What the disk gives and what is shown of it; files of other kinds; characters that act on a terminal.

use std::process::Command;
use std::thread;
use std::time::Duration;

use keystead::{NewKey, Options, Quotas, Request, Store};
use serde_json::json;

use crate::tool::{Answer, Tool, scope};

/// How much of the disk a file takes.
#[cfg(unix)]
fn on_disk(tool: &Tool, name: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    tool.path(name).metadata().unwrap().blocks() * 512
}

/// An import fills pages as a copy does, and leaves holes or none, as its size has it.
#[test]
#[cfg(unix)]
fn a_compacted_store_is_no_larger_on_the_disk_and_that_is_told() {
    for keys in [1, 3000] {
        let tool = Tool::with_store();
        let quotas = Quotas { keys_per_project: 5000, ..Quotas::default() };
        let store = Options::new().quotas(quotas).open(tool.store()).unwrap();
        let new = |number| NewKey::new(&format!("key-{number:04}")).unwrap();
        store.import(&Request::new(&scope()), (0..keys).map(new)).for_each(|batch| drop(batch.unwrap()));
        drop(store);
        let backup = tool.json("backup copy");
        assert_eq!(backup["disk_bytes"].as_u64().unwrap(), on_disk(&tool, "copy"), "{keys} keys");
        assert_eq!(tool.json("verify --backup copy")["backup"]["disk_bytes"], backup["disk_bytes"]);
        for turn in 0..2 {
            let length = |name| tool.path(name).metadata().unwrap().len();
            let before = (on_disk(&tool, "kms.redb"), length("kms.redb"));
            let told = tool.json("compact --yes");
            let now = (on_disk(&tool, "kms.redb"), length("kms.redb"));
            let number = |name: &str| told[name].as_u64().unwrap();
            assert_eq!((number("disk_bytes"), number("bytes")), now, "{keys} keys, {turn}");
            assert_eq!((number("disk_bytes_before"), number("bytes_before")), before, "{keys} keys, {turn}");
            assert!(now.0 <= before.0, "{keys} keys, {turn}: {before:?} before, {now:?} now");
            assert!(now.1 <= before.1, "{keys} keys, {turn}: {before:?} before, {now:?} now");
            tool.ok("verify");
        }
        let told = tool.ok("compact --yes");
        let why = "; a copy would take more of the disk, or as much without being shorter\n";
        assert!(told.ends_with(why), "{keys} keys: {told}");
        assert_eq!(tool.json_lines("keys").len(), keys);
    }
}

#[test]
#[cfg(unix)]
fn a_pipe_is_no_page_that_is_replaced() {
    let tool = Tool::with_store();
    assert!(Command::new("mkfifo").arg(tool.path("pipe")).status().unwrap().success());
    std::os::unix::fs::symlink("pipe", tool.path("link")).unwrap();
    for line in
        ["report --output pipe --replace", "report --output link --replace", "report --output . --replace"]
    {
        let mut child = tool.command(line);
        child.stderr(std::process::Stdio::piped());
        let mut child = child.spawn().unwrap();
        // Nobody writes to the pipe: to open it would wait for ever.
        for _ in 0..500 {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        let answer: Answer =
            if ended { child.wait_with_output().unwrap().into() } else { panic!("{line} waits") };
        assert!(answer.code == 1 && answer.err.contains("is no file"), "{line}: {answer:?}");
    }
    assert!(tool.path("pipe").symlink_metadata().is_ok() && tool.path("link").is_symlink());
}

#[test]
fn a_list_of_nothing_is_refused() {
    let tool = Tool::with_store();
    tool.ok("create orders --alias x");
    for line in ["keys", "aliases", "history orders", "changes"] {
        let said = tool.fails(2, &format!("{line} --limit 0"));
        assert!(said.contains("0 is not in 1.."), "{line}: {said}");
        assert_eq!(tool.json_lines(&format!("{line} --limit 1")).len(), 1);
    }
}

/// C1 controls, which some terminals obey, and marks that turn the direction of a line.
#[test]
fn no_text_acts_on_the_terminal_in_any_form() {
    let text = "a\u{9b}2J\u{85}\u{7f}\u{61c}\u{200e}\u{200f}\u{202e}\u{2067}\u{2028}\u{2029}b\u{e4}";
    let tool = Tool::with_store();
    let store = Store::open(tool.store()).unwrap();
    let new = NewKey::new("orders").unwrap().description(text.parse().unwrap());
    let new = new.tag(text.parse().unwrap(), text.parse().unwrap());
    store.write(&Request::new(&scope()).actor(text), |txn| txn.create_key(&new)).unwrap();
    drop(store);
    let acts = |character: char| {
        (character.is_control() && character != '\n')
            || text[1..].contains(character) && !matches!(character, '2' | 'J' | 'b' | '\u{e4}')
    };
    let wrong = serde_json::to_string(&json!({ "type": "key", "key_alias": "x", text: 1 })).unwrap();
    tool.write("lines", &wrong);
    for line in [
        "show orders",
        "history orders",
        "changes",
        "keys",
        "export",
        "report",
        "verify",
        "import lines",
        "create x --dry-run",
        "rename orders y --dry-run",
    ] {
        for line in [line.to_owned(), format!("{line} --json")] {
            let answer = tool.run(&line);
            let shown = answer.out.clone() + &answer.err;
            let found: Vec<_> = shown.chars().filter(|character| acts(*character)).collect();
            assert!(found.is_empty(), "{line}: {found:?}");
        }
    }
    assert_eq!(tool.json("show orders")["key"]["description"], json!(text), "a machine gets what it is");
    tool.ok("init --store other");
    tool.ok("export --output exported");
    tool.ok("import exported --store other");
    assert_eq!(tool.json("show orders --store other")["key"]["description"], json!(text));
    let said = tool.fails(4, "keys --json --store \u{9b}2J");
    assert!(said.contains("\\u009b2J"), "{said}");
}
