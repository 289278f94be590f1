//! A disk that is full: a small file system in memory, mounted where only this test sees it; and `/dev/full`.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::files::crashed;
use crate::tool::{Answer, Tool};

const FOLDER: &str = "KEYSTEAD_TEST_FULL_DISK";
/// More than the longest write-ahead log that the tool makes.
const MOUNT: &str = "mount -t tmpfs -o size=100m tmpfs \"$0\"";

/// How this process may mount: as an administrator, or in a user namespace of its own.
fn way_to_mount(folder: &Path) -> Option<&'static str> {
    ["-m", "-rm"].into_iter().find(|way| {
        let mut tried = Command::new("unshare");
        tried.args([way, "sh", "-c", MOUNT]).arg(folder).stderr(Stdio::null());
        tried.status().is_ok_and(|status| status.success())
    })
}

#[test]
fn a_full_disk_is_reported_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let Some(way) = way_to_mount(folder.path()) else {
        eprintln!(
            "nothing was tested: this process may not mount a file system, in no user namespace either"
        );
        return;
    };
    let mut child = Command::new("unshare");
    child.args([way, "sh", "-c", &format!("{MOUNT} && exec \"$@\"")]).arg(folder.path());
    child.arg(env::current_exe().unwrap()).args(["full_disk::on_a_small_disk", "--exact", "--nocapture"]);
    let answer: Answer =
        child.env(FOLDER, folder.path()).env("TMPDIR", folder.path()).output().unwrap().into();
    assert!(answer.code == 0 && answer.out.contains("a small disk was filled"), "{answer:?}");
}

/// In the other process, where all temporary files lie on the small disk.
#[test]
fn on_a_small_disk() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let disk = Disk { folder: folder.into() };
    commands_on(&disk);
    commits_on(&disk);
    checkpoints_on(&disk);
    println!("a small disk was filled");
}

struct Disk {
    folder: std::path::PathBuf,
}

impl Disk {
    /// Leaves so many bytes free.
    fn fill(&self, free: u64) {
        self.empty();
        let mut ballast = File::create(self.folder.join("ballast")).unwrap();
        while ballast.write_all(&[1; 4096]).is_ok() {}
        let length = ballast.metadata().unwrap().len();
        ballast.set_len(length - free).unwrap();
    }

    fn empty(&self) {
        let _ = fs::remove_file(self.folder.join("ballast"));
    }
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn says_no_space(line: &str, answer: &Answer) {
    assert_eq!(answer.code, 5, "{line}: {answer:?}");
    // The second is what a commit meets if what was in the log could not be brought into the file.
    let says = answer.err.contains("No space left on device")
        || answer.err.contains("an earlier input or output error stopped the store");
    assert!(says && answer.err.contains("make room"), "{line}: {answer:?}");
}

/// What makes a file, and no commit.
fn commands_on(disk: &Disk) {
    let tool = Tool::with_store();
    for number in 0..20 {
        tool.ok(&format!("create orders-{number}"));
    }
    fs::create_dir(tool.path("disk")).unwrap();
    tool.ok("backup base");
    for line in [
        "init --store new",
        "backup copy",
        "compact --yes",
        "export --output lines",
        "report --output page.html",
        "copy --to copy --yes",
        "repair --into saved --yes",
        "restore base --store new --yes",
        "bench --folder disk --seconds 1",
    ] {
        let before = names_in(tool.folder());
        disk.fill(0);
        let answer = tool.run(line);
        says_no_space(line, &answer);
        assert!(!answer.err.contains("durable"), "{line}: nothing was made: {answer:?}");
        disk.empty();
        let after = names_in(tool.folder());
        let left: Vec<_> = after.difference(&before).collect();
        assert!(left.is_empty(), "{line}: {left:?} is left");
        assert_eq!(tool.json_lines("keys").len(), 20, "{line}");
        tool.ok("verify");
    }
}

/// Commits, until there is no room: those that were acknowledged are there.
fn commits_on(disk: &Disk) {
    for free in [0, 16 << 10, 64 << 10] {
        let tool = Tool::with_store();
        tool.ok("create first");
        let (mut acknowledged, mut unknown) = (BTreeSet::from(["first".to_owned()]), BTreeSet::new());
        disk.fill(free);
        let text = "x".repeat(255);
        for number in 0..200 {
            let name = format!("orders-{number}");
            let line = format!("create {name} --description {text} --keys-per-project 1000");
            let answer = tool.run(&line);
            if answer.code == 0 {
                acknowledged.insert(name);
                continue;
            }
            says_no_space(&line, &answer);
            if answer.err.contains("durable") {
                unknown.insert(name);
            }
            break;
        }
        assert!(acknowledged.len() < 200, "the disk was never full");
        disk.empty();
        let keys = tool.json_lines("keys");
        let keys: BTreeSet<_> =
            keys.iter().map(|key| key["key_alias"].as_str().unwrap().to_owned()).collect();
        assert!(acknowledged.is_subset(&keys), "{free}: {acknowledged:?}, there is {keys:?}");
        let more: BTreeSet<_> = keys.difference(&acknowledged).cloned().collect();
        assert!(more.is_subset(&unknown), "{free}: {more:?} was not reported as perhaps durable");
        tool.ok("verify");
        tool.ok("create last");
    }
}

/// A checkpoint that finds no room is a failure, and the files still are the store.
fn checkpoints_on(disk: &Disk) {
    let tool = Tool::with_store();
    let text = "x".repeat(200);
    let names: Vec<_> = (0..90).map(|number| format!("orders-{number}-{text}")).collect();
    crashed(&tool, &names.iter().map(String::as_str).collect::<Vec<_>>());
    for free in [0, 16 << 10] {
        disk.fill(free);
        let answer = tool.run("checkpoint --store crashed");
        assert_eq!(answer.code, 5, "{free}: {answer:?}");
        assert!(!answer.out.contains("not needed") && answer.err.contains("make room"), "{free}: {answer:?}");
        disk.empty();
        assert_eq!(tool.json_lines("keys --store crashed --limit 100").len(), 90, "{free}");
    }
    tool.ok("checkpoint --store crashed");
    fs::remove_file(tool.path("crashed.redo")).unwrap();
    assert_eq!(tool.json_lines("keys --store crashed --limit 100").len(), 90);
}

/// An answer that can't be written is a failure that says so; what was made before is there.
#[test]
fn an_answer_that_finds_no_room_is_reported() {
    let tool = Tool::with_store();
    tool.ok("create orders --alias pay");
    for line in [
        "keys",
        "keys --json",
        "show orders --json",
        "export",
        "report",
        "stats --json",
        "verify --json",
        "backup copy --json",
        "create invoices --json",
        "completions bash",
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let answer: Answer = tool
            .command(line)
            .stdin(Stdio::null())
            .stdout(full)
            .stderr(Stdio::piped())
            .output()
            .unwrap()
            .into();
        says_no_space(line, &answer);
        assert!(answer.err.contains("could not be written"), "{line}: {answer:?}");
        assert!(!answer.err.contains("durable"), "{line}: {answer:?}");
        if line.ends_with("--json") {
            let said: serde_json::Value = serde_json::from_str(&answer.err).unwrap();
            assert_eq!(said["error"]["kind"], json!("failed"));
        }
    }
    assert_eq!(tool.json("verify --backup copy")["clean"], json!(true));
    assert_eq!(tool.json_lines("keys").len(), 2);
    let said = tool.fails(1, "export --output /dev/full");
    assert!(said.contains("there is a file already"), "{said}");
}

/// A script whose log is on the full disk still sees by the exit status how the command ended.
#[test]
fn errors_that_find_no_room_leave_the_exit_status_as_it_is() {
    let tool = Tool::new();
    for (line, code) in [
        ("keys --store nowhere.redb", 4),
        ("keys --store nowhere.redb --json", 4),
        ("no-such-command", 2),
        ("no-such-command --json", 2),
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended =
            tool.command(line).stdin(Stdio::null()).stdout(Stdio::null()).stderr(full).status().unwrap();
        assert_eq!(ended.code(), Some(code), "{line}: {ended}");
    }
}
