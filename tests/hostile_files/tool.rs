//! The operator's tool on damaged files: its commands end with an exit code that is documented, and success means that
//! nothing is missing. It is called if `KEYSTEAD_HOSTILE_TOOL` names its file: it is of another package.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{env, fs};

use keystead::{KeyId, Options, Result};
use serde_json::Value;

use crate::operations::{Said, Subject};
use crate::stores::{NOTHING, Name, TABLE, copy_files, key_id, scope};

/// The tool's file, if it is to be called.
fn tool() -> Option<PathBuf> {
    env::var_os("KEYSTEAD_HOSTILE_TOOL").map(PathBuf::from)
}

/// Every so many cases also the tool is run: it makes six processes.
const EVERY: u64 = 8;

/// Whether the tool is run in the case with this number.
pub(crate) fn is_run(number: u64) -> bool {
    tool().is_some() && number.is_multiple_of(EVERY)
}

/// What came of all commands.
#[derive(Default)]
struct Commands {
    outcomes: BTreeMap<&'static str, String>,
    faults: Vec<String>,
}

pub(crate) fn run(subject: &Subject<'_>) -> Result<Said> {
    let mut commands = Commands::default();
    let export = subject.scratch.join("export.jsonl");
    let path = export.to_str().unwrap().to_owned();
    if commands.run(subject, "export", &["--all", "--output", &path]) == Some(0) {
        commands.faults.extend(missing(subject, &fs::read_to_string(&export).unwrap()));
    }
    commands.run(subject, "verify", &[]);
    commands.run(subject, "disable", &[&key_id(0, 1).to_string()]);
    commands.run(subject, "compact", &["--yes"]);
    let repaired = subject.scratch.join("repaired");
    let path = repaired.to_str().unwrap().to_owned();
    if commands.run(subject, "repair", &["--into", &path, "--yes"]) == Some(0) {
        let judged = subject.judge(&Options::new().open_read_only(&repaired)?);
        let faults = judged.faults(subject.rules());
        commands.faults.extend(faults.iter().map(|fault| format!("repair: exit code 0, {fault}")));
    }
    let outcomes = commands.outcomes.iter().map(|(command, code)| format!("{command} {code}"));
    Ok(Said { outcome: outcomes.collect::<Vec<_>>().join(", "), faults: commands.faults })
}

impl Commands {
    /// Runs a command on a copy; its exit code, if it has one.
    fn run(&mut self, subject: &Subject<'_>, command: &'static str, arguments: &[&str]) -> Option<i32> {
        let copy = subject.scratch.join(command);
        copy_files(&subject.files, &copy);
        let Output { status, stderr, .. } = call(&copy.join(TABLE), command, arguments);
        let code = status.code();
        let told = String::from_utf8_lossy(&stderr);
        // 101 is a panic that nobody caught; 2 would be a mistake of this test.
        if !code.is_some_and(|code| [0, 1, 3, 4, 5, 6].contains(&code)) {
            let last = told.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            self.faults.push(format!("{command}: {status}: {last}"));
        }
        self.outcomes.insert(command, code.map_or_else(|| "DIED".to_owned(), |code| code.to_string()));
        code
    }
}

fn call(store: &Path, command: &str, arguments: &[&str]) -> Output {
    let scope = scope(0);
    let mut tool = Command::new(tool().unwrap());
    tool.arg(command).args(arguments).env_clear().env("KEYSTEAD_STORE", store);
    tool.env("KEYSTEAD_DOMAIN", scope.domain().as_str()).env("KEYSTEAD_PROJECT", scope.project().as_str());
    tool.env("MALLOC_ARENA_MAX", "1").env("USER", "tester").env("TERM", "dumb");
    tool.stdin(Stdio::null()).output().expect("KEYSTEAD_HOSTILE_TOOL names a program")
}

/// What an export that calls itself whole has not, or has otherwise than it was.
fn missing(subject: &Subject<'_>, export: &str) -> Vec<String> {
    let image = subject.image();
    let answers: BTreeMap<_, _> = image.names.iter().zip(image.newest().iter().copied()).collect();
    let keys = export.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let keys: Vec<_> = keys.filter(|line| line["key_id"].is_string()).collect();
    let there =
        answers.iter().filter(|(name, answer)| matches!(name, Name::Key(..)) && **answer != NOTHING).count();
    let mut faults = Vec::new();
    if keys.len() != there && subject.rules().earlier.is_none() && !subject.rules().hostile {
        faults.push(format!("export: exit code 0, but {} keys of {there}", keys.len()));
    }
    for key in &keys {
        let key_id: KeyId = key["key_id"].as_str().unwrap().parse().unwrap();
        let number = usize::from(key_id.as_bytes()[0]);
        let of_key = answers.get(&Name::Key(number, key_id)).copied().unwrap_or(NOTHING);
        for alias in key["aliases"].as_array().into_iter().flatten() {
            let alias = Name::Alias(number, alias.as_str().unwrap().to_owned());
            if answers.get(&alias) != Some(&of_key) && subject.rules().earlier.is_none() {
                faults.push(format!("export: exit code 0, wrong answer: {alias:?} on {key_id}"));
            }
        }
    }
    faults.truncate(3);
    faults
}
