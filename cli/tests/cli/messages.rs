//! What is said when something is in the way: which file, what to do, and with --json nothing but JSON.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::tool::{Answer, Tool, json_lines};

#[test]
fn a_folder_that_is_missing_is_named() {
    let tool = Tool::with_store();
    tool.write("lines", "");
    for line in [
        "init --store missing/new",
        "backup missing/copy",
        "export --output missing/lines",
        "report --output missing/page.html",
        "copy --to missing/copy --yes",
        "repair --into missing/saved --yes",
        "restore kms.redb --store missing/new --yes",
        "bench --folder missing --seconds 1",
    ] {
        let said = tool.fails(5, line);
        assert!(
            said.contains("there is no folder missing\n") && !said.contains(".keystead-"),
            "{line}: {said}"
        );
        assert!(said.contains("make the folder"), "{line}: {said}");
    }
    let said = tool.fails(5, "backup lines/copy");
    assert!(said.contains("lines"), "{said}");
}

#[test]
fn a_path_that_is_too_long_is_told_as_such() {
    let tool = Tool::with_store();
    // The store's name fits, and that of its log does not.
    for (length, line) in [
        (300, "init --store NAME"),
        (252, "init --store NAME"),
        (300, "backup NAME"),
        (300, "keys --store NAME"),
    ] {
        let name = "n".repeat(length);
        let answer = tool.run(&line.replace("NAME", &name));
        assert!(matches!(answer.code, 4 | 5), "{line}: {answer:?}");
        let says = answer.err.contains("too long") && answer.err.contains(&name);
        assert!(says && answer.err.contains("shorter name"), "{line}: {answer:?}");
    }
    for line in
        ["create NAME", "create x --alias NAME", "show NAME", "resolve NAME", "swap x NAME", "rename x NAME"]
    {
        let said = tool.fails(2, &line.replace("NAME", &"n".repeat(256)));
        assert!(said.contains("the name is too long, it has 256 characters"), "{line}: {said}");
    }
}

#[test]
fn of_those_who_make_a_store_at_the_same_time_one_does() {
    for _ in 0..5 {
        let tool = Tool::new();
        let init = || tool.command("init").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let children: Vec<_> = (0..6).map(|_| init()).collect();
        let answers: Vec<Answer> =
            children.into_iter().map(|child| child.wait_with_output().unwrap().into()).collect();
        let made = answers.iter().filter(|answer| answer.code == 0).count();
        assert_eq!(made, 1, "{answers:?}");
        for answer in answers.iter().filter(|answer| answer.code != 0) {
            assert!(
                answer.code == 1 && answer.err.contains("there is a file already: kms.redb"),
                "{answer:?}"
            );
        }
        tool.ok("create orders");
        assert_eq!(fs::read_dir(tool.folder()).unwrap().count(), 1, "nothing is left");
    }
}

#[test]
fn a_command_that_is_mistyped_is_json_too() {
    let tool = Tool::with_store();
    for line in [
        "--json",
        "nonsense --json",
        "create not.allowed --json",
        "keys --limit 0 --json",
        "keys --json --no",
        "purge --json",
    ] {
        let said: Value = serde_json::from_str(&tool.fails(2, line)).unwrap();
        assert_eq!(said["error"]["kind"], json!("usage"), "{line}: {said}");
        let message = said["error"]["message"].as_str().unwrap();
        assert!(!message.contains("error:") && !message.contains("Usage"), "{line}: {message}");
    }
    // A name that looks like the option.
    assert!(tool.fails(1, "show -- --json").starts_with("error: "));
    assert!(tool.ok("keys --json --help").contains("Usage"));
}

/// Some damage makes redb panic; the library makes an error of that. Nobody who reads JSON hears of it in words.
#[test]
fn with_json_nothing_else_is_said_of_a_damaged_file() {
    const PAGE: usize = 4096;
    let tool = Tool::with_store();
    for number in 0..3 {
        tool.ok(&format!("create orders-{number}"));
    }
    let sound = fs::read(tool.store()).unwrap();
    for place in
        (PAGE..sound.len()).step_by(PAGE).flat_map(|page| [0, 1, 2, 4, 8, 9, 12].map(|byte| page + byte))
    {
        for line in ["keys --json", "verify --json"] {
            let mut bytes = sound.clone();
            bytes[place] = !bytes[place];
            fs::write(tool.store(), bytes).unwrap();
            let answer = tool.run(line);
            let told = json_lines(&answer.err);
            assert!(
                answer.code == 0 || told.last().is_some_and(|line| line["error"].is_object()),
                "{answer:?}"
            );
        }
    }
}

/// A shell that allows files of so many blocks of 512 bytes, and then runs the tool.
fn run_limited(tool: &Tool, blocks: u64, line: &str) -> Answer {
    let tool_command = tool.command(line);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -f {blocks}; exec \"$0\" \"$@\"")]).arg(tool_command.get_program());
    shell.args(tool_command.get_args()).current_dir(tool.folder()).env_clear();
    shell.envs(tool_command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    // `From` demands that it was not killed.
    shell.stdin(Stdio::null()).output().unwrap().into()
}

#[test]
#[cfg(unix)]
fn a_limit_of_the_size_of_files_is_an_error_and_no_death() {
    let tool = Tool::with_store();
    for number in 0..20 {
        tool.ok(&format!("create orders-{number}"));
    }
    fs::create_dir(tool.path("disk")).unwrap();
    for (blocks, line) in [
        (8, "bench --folder disk --seconds 1"),
        (8, "repair --into saved --yes"),
        (8, "init --store new"),
        (8, "backup copy"),
        (8, "compact --yes"),
        (1, "export --output lines"),
        (8, "report --output page.html"),
        (8, "copy --to copy --yes"),
        (8, "restore kms.redb --store new --yes"),
    ] {
        let before = names_in(tool.folder());
        let answer = run_limited(&tool, blocks, line);
        assert_eq!(answer.code, 5, "{line}: {answer:?}");
        assert!(
            answer.err.contains("File too large") && answer.err.contains("ulimit -f"),
            "{line}: {answer:?}"
        );
        let named = ["disk", "saved", "new", "copy", "kms.redb", "lines", "page.html"];
        assert!(named.iter().any(|name| answer.err.contains(name)), "{line}: {answer:?}");
        assert!(!answer.err.contains("durable"), "{line}: nothing was made: {answer:?}");
        assert_eq!(names_in(tool.folder()), before, "{line}: nothing is left");
        assert_eq!(tool.json_lines("keys").len(), 20, "{line}");
    }
    // A commit into the store itself.
    let answer = run_limited(&tool, 16, "create last");
    assert!(answer.code == 5 && answer.err.contains("File too large"), "{answer:?}");
    assert!(answer.err.contains("ulimit -f") || answer.err.contains("make room"), "{answer:?}");
    tool.ok("checkpoint");
    tool.ok("create last");
}

#[test]
#[cfg(unix)]
fn a_dry_run_names_the_copy_that_failed() {
    let mut tool = Tool::with_store();
    fs::create_dir(tool.path("temporary")).unwrap();
    tool.set("TMPDIR", tool.path("temporary").to_str().unwrap());
    let line = |number| format!("{{\"type\":\"key\",\"key_alias\":\"key-{number}\"}}\n");
    tool.write("lines", &(0..4000).map(line).collect::<String>());
    let before = fs::read(tool.store()).unwrap();
    // The copy has room, and what is imported into it has not, or the log beside it.
    let answer = run_limited(&tool, 500, "import lines --dry-run --keys-per-project 5000");
    assert!(answer.code == 5 && answer.err.contains("nothing was changed; "), "{answer:?}");
    let names = answer.err.contains("temporary/.keystead-") && answer.err.contains("/copy: ");
    assert!(names && answer.err.contains("File too large"), "{answer:?}");
    assert!(!answer.err.contains("durable") && !answer.err.contains("are done"), "{answer:?}");
    assert_eq!(fs::read_dir(tool.path("temporary")).unwrap().count(), 0);
    assert_eq!(fs::read(tool.store()).unwrap(), before);
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_mistyped_does_nothing_to_a_terminal() {
    let tool = Tool::with_store();
    for line in ["no\u{1b}[31mthing", "keys --no\u{1b}[2J", "show a\u{9b}b", "keys --limit \u{202e}1"] {
        let said = tool.fails(2, line);
        assert!(!said.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{said:?}");
    }
}
