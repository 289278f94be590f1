//! [`Tool`]: the binary in a folder of its own, and what it answered.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use keystead::{KeyRecord, Scope};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const DOMAIN: &str = "3bab8e245e854f68af5967c00dd43127";
pub(crate) const PROJECT: &str = "0d0466b0e7274d9cb35df84bb474a37f";

/// The tool, in a folder that goes when the test ends.
pub(crate) struct Tool {
    folder: TempDir,
    environment: BTreeMap<String, String>,
}

/// What one command answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Tool {
    /// In an empty folder.
    pub(crate) fn new() -> Self {
        let environment = [
            ("KEYSTEAD_STORE", "kms.redb"),
            ("USER", "tester"),
            ("TERM", "xterm"),
            ("KEYSTEAD_DOMAIN", DOMAIN),
            ("KEYSTEAD_PROJECT", PROJECT),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self { folder: tempfile::tempdir().unwrap(), environment: environment.into() }
    }

    /// In a folder with an empty store.
    pub(crate) fn with_store() -> Self {
        let tool = Self::new();
        tool.ok("init");
        tool
    }

    /// Sets a variable of the environment for all commands from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The store of all commands that name no other.
    pub(crate) fn store(&self) -> PathBuf {
        self.path("kms.redb")
    }

    /// The command that a line stands for; words are parted by spaces. Nothing comes from the environment of
    /// the test.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keystead"));
        command.args(line.split_whitespace()).current_dir(self.folder()).env_clear();
        command.envs(&self.environment);
        command
    }

    pub(crate) fn run(&self, line: &str) -> Answer {
        self.command(line).stdin(Stdio::null()).output().unwrap().into()
    }

    /// What a command that must succeed wrote.
    pub(crate) fn ok(&self, line: &str) -> String {
        let answer = self.run(line);
        assert_eq!(answer.code, 0, "{line}: {answer:?}");
        assert_eq!(answer.err, "", "{line}");
        answer.out
    }

    /// The same as JSON, one value.
    pub(crate) fn json(&self, line: &str) -> Value {
        let lines = self.json_lines(line);
        assert_eq!(lines.len(), 1, "{line}: {lines:?}");
        lines.into_iter().next().unwrap()
    }

    pub(crate) fn json_lines(&self, line: &str) -> Vec<Value> {
        json_lines(&self.ok(&format!("{line} --json")))
    }

    /// What a command that must fail said, with this exit code.
    pub(crate) fn fails(&self, code: i32, line: &str) -> String {
        let answer = self.run(line);
        assert_eq!(answer.code, code, "{line}: {answer:?}");
        answer.err
    }

    /// A command that gets this text from its standard input.
    pub(crate) fn run_with_input(&self, line: &str, input: &str) -> Answer {
        let mut command = self.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// The key of that name, as the tool shows it.
    pub(crate) fn key(&self, name: &str) -> KeyRecord {
        serde_json::from_value(self.json(&format!("show {name}"))["key"].clone()).unwrap()
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it was not killed"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub(crate) fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

pub(crate) fn scope() -> Scope {
    Scope::new(DOMAIN, PROJECT).unwrap()
}
