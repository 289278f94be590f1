//! `examples/backup_every_night`, as cron runs it: on stores and in folders of every name.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::tool::{Answer, Tool};

/// Names that a shell splits, expands, or takes for options, if a script lets it.
const NAMES: [&str; 8] =
    ["plain", "kms nightly", "new\nline", "-rf", "--yes", "a * b", "$(touch broken) `touch broken`", "end\n"];

fn run_script(tool: &Tool, store: &str, folder: &str) -> Answer {
    let tools = Path::new(env!("CARGO_BIN_EXE_keystead")).parent().unwrap();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/backup_every_night");
    let mut command = Command::new("sh");
    command.arg(script).args([store, folder]).current_dir(tool.folder()).env("PATH", path);
    command.env_remove("KEYSTEAD_STORE").output().unwrap().into()
}

fn names_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn a_script_for_cron_backs_up_under_every_name() {
    for name in NAMES {
        let tool = Tool::with_store();
        tool.ok("create orders");
        fs::rename(tool.store(), tool.path(&format!("{name}.redb"))).unwrap();
        let folder = tool.path(name);
        for week in 1..=6 {
            fs::create_dir_all(folder.join(format!("2001-0{week}"))).unwrap();
            fs::write(folder.join(format!("2001-0{week}/000")), "an old backup").unwrap();
        }
        // Beside the folder, what its name would be taken for in pieces; in it, what is no week.
        let others: Vec<_> = name.split_whitespace().filter(|word| *word != name && *word != "*").collect();
        for other in &others {
            fs::write(tool.path(other), "not of the script").unwrap();
        }
        fs::write(folder.join("notes of a week"), "").unwrap();

        for _ in 0..3 {
            let answer = run_script(&tool, &format!("{name}.redb"), name);
            assert_eq!((answer.code, &*answer.out, &*answer.err), (0, "", ""), "{name:?}: {answer:?}");
        }
        let mut names = names_in(&folder);
        assert_eq!(names.pop().as_deref(), Some("notes of a week"));
        let week = names.pop().unwrap();
        assert_eq!(names, ["2001-03", "2001-04", "2001-05", "2001-06"], "{name:?}: the oldest two are gone");
        assert_eq!(names_in(&folder.join(&week)), ["000", "001", "002"], "{name:?}");
        for other in &others {
            assert_eq!(tool.read(other), "not of the script", "{name:?}");
        }
        assert!(!tool.path("broken").exists(), "{name:?} was run");

        let files = ["000", "001", "002"].map(|file| folder.join(&week).join(file));
        let mut restore = tool.command("restore --store restored --yes");
        let answer: Answer = restore.args(&files).output().unwrap().into();
        assert_eq!(answer.code, 0, "{name:?}: {answer:?}");
        assert_eq!(tool.json_lines("keys --store restored").len(), 1);
    }
}

#[test]
fn a_script_that_fails_deletes_nothing_and_one_goes_on_behind_a_gap() {
    let tool = Tool::with_store();
    for week in 1..=6 {
        fs::create_dir_all(tool.path(&format!("backups/2001-0{week}"))).unwrap();
    }
    assert_ne!(run_script(&tool, "no store", "backups").code, 0);
    assert_ne!(run_script(&tool, "kms.redb", "").code, 0, "not below the root");
    assert_eq!(names_in(&tool.path("backups")).len(), 7);
    assert_eq!(run_script(&tool, "kms.redb", "backups").code, 0);
    let week = tool.path("backups").join(names_in(&tool.path("backups")).pop().unwrap());
    for number in 1..=9 {
        fs::copy(week.join("000"), week.join(format!("00{number}"))).unwrap();
    }
    fs::remove_file(week.join("004")).unwrap();
    assert_eq!(run_script(&tool, "kms.redb", "backups").code, 0);
    assert!(week.join("010").exists() && !week.join("004").exists());
}
