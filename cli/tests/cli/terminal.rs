//! What is shown only on a terminal: questions, bars, and tables that fit.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use keystead::{NewKey, Options, Quotas, Request, Store};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::tool::{Tool, scope};

/// A command on a terminal, and what the terminal shows.
struct Session {
    child: Child,
    terminal: File,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Session {
    fn begin(tool: &Tool, line: &str) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
        let open = || Stdio::from(OpenOptions::new().read(true).write(true).open(&name).unwrap());
        let child = tool.command(line).stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
        let terminal = File::from(terminal);
        let mut screen = terminal.try_clone().unwrap();
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let seen = Arc::clone(&shown);
        let reader = thread::spawn(move || {
            let mut part = [0; 4096];
            // When nobody has the other side open any more, reading fails.
            while let Ok(read @ 1..) = screen.read(&mut part) {
                seen.lock().unwrap().extend(&part[..read]);
            }
        });
        Self { child, terminal, shown, reader }
    }

    fn types(&mut self, text: &str) -> &mut Self {
        self.terminal.write_all(text.as_bytes()).unwrap();
        self
    }

    /// What is there by now.
    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    fn waits_for_an_answer(&self) {
        let looks = (0..6000).inspect(|_| thread::sleep(Duration::from_millis(10)));
        let asked = looks.map(|_| self.shown()).any(|shown| shown.contains("Go on? [y/N]"));
        assert!(asked, "{}", self.shown());
    }

    fn ends(mut self) -> (i32, String) {
        let code = self.child.wait().unwrap().code().unwrap();
        self.reader.join().unwrap();
        let shown = self.shown.lock().unwrap();
        (code, String::from_utf8_lossy(&shown).into_owned())
    }
}

#[test]
fn a_question_is_asked_and_the_answer_counts() {
    let tool = Tool::with_store();
    for (answer, code) in [("n\n", 6), ("\n", 6), ("maybe\n", 6), ("y\n", 0), ("YES\n", 0)] {
        let mut session = Session::begin(&tool, "compact");
        session.types(answer);
        let (ended, shown) = session.ends();
        assert_eq!(ended, code, "{answer:?}: {shown}");
        assert!(shown.contains("is replaced by a copy") && shown.contains("Go on? [y/N]"), "{shown}");
    }
}

#[test]
fn while_a_question_waits_others_open_the_store() {
    let tool = Tool::with_store();
    tool.ok("create orders");
    for line in ["trim-history 2", "purge --due=all", "purge orders", "compact"] {
        let mut session = Session::begin(&tool, line);
        session.waits_for_an_answer();
        drop(Store::open(tool.store()).expect(line));
        session.types("y\n");
        let (code, shown) = session.ends();
        // The key is not due, so a rule of the store refuses it then.
        assert_eq!(code, i32::from(line == "purge orders"), "{line}: {shown}");
    }
}

#[test]
fn long_commands_show_how_far_they_are_only_on_a_terminal() {
    let tool = Tool::with_store();
    let quotas = Quotas { keys_per_project: 20_000, ..Quotas::default() };
    let store = Options::new().quotas(quotas).open(tool.store()).unwrap();
    let keys = (0..4_000).map(|number| NewKey::new(&format!("key-{number}")).unwrap());
    store.import(&Request::new(&scope()), keys).for_each(|batch| assert!(batch.unwrap().refused.is_empty()));
    drop(store);
    let (code, shown) = Session::begin(&tool, "export --output e.jsonl").ends();
    assert_eq!(code, 0, "{shown}");
    assert!(
        shown.contains("exporting") && shown.contains("/4,000 keys, ") && shown.contains("left"),
        "{shown}"
    );
    for (line, doing) in [
        ("verify", "verifying ["),
        ("backup copy", "copying ["),
        ("copy --to moved --yes", "comparing ["),
        ("compact --yes", "copying ["),
    ] {
        let (code, shown) = Session::begin(&tool, line).ends();
        assert_eq!(code, 0, "{shown}");
        assert!(
            shown.contains(doing) && shown.contains(" rows, ") && shown.contains("left"),
            "{line}: {shown}"
        );
    }
    let answer = tool.run("export --output f.jsonl");
    assert_eq!((answer.code, answer.err.as_str()), (0, ""));

    tool.ok("init --store other");
    let line = "import e.jsonl --store other --keys-per-project 20000";
    let (code, shown) = Session::begin(&tool, line).ends();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("importing") && shown.contains("MiB") && shown.contains("/s, "), "{shown}");
    assert!(shown.contains("4000 keys created"), "{shown}");
}

#[test]
fn colours_on_a_terminal() {
    let tool = Tool::with_store();
    let (_, shown) = Session::begin(&tool, "show nothing").ends();
    assert!(shown.contains("\u{1b}["), "{shown:?}");
}
