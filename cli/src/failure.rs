//! [`Failure`]: why a command ended otherwise than well, what to do then, and its exit code.

use std::fmt;
use std::io;
use std::panic;
use std::path::Path;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use keystead::{ApiCode, Error, Locked};
use serde_json::json;

use crate::text::{error_line, is_json, print_json, printable};

/// Why a command ended otherwise than well.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    advice: Option<&'static str>,
    api: Option<ApiCode>,
}

/// What the exit codes tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Refused,
    Usage,
    Findings,
    NotOpened,
    Failed,
    NotConfirmed,
    /// Whoever read the output went away: nothing is wrong, and nobody is there to be told.
    NobodyReads,
}

impl Kind {
    fn exit_code(self) -> u8 {
        match self {
            Self::NobodyReads => 0,
            Self::Refused => 1,
            Self::Usage => 2,
            Self::Findings => 3,
            Self::NotOpened => 4,
            Self::Failed => 5,
            Self::NotConfirmed => 6,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Usage => "usage",
            Self::Findings => "findings",
            Self::NotOpened => "not_opened",
            Self::Failed => "failed",
            Self::NotConfirmed => "not_confirmed",
            Self::NobodyReads => "nobody_reads",
        }
    }
}

impl Failure {
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(crate) fn findings(message: impl Into<String>) -> Self {
        Self::new(Kind::Findings, message)
    }

    pub(crate) fn not_opened(message: impl Into<String>) -> Self {
        Self::new(Kind::NotOpened, message)
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    pub(crate) fn not_confirmed(message: impl Into<String>) -> Self {
        Self::new(Kind::NotConfirmed, message)
    }

    /// After a panic, which was told when it happened.
    pub(crate) fn panicked() -> Self {
        Self::failed("keystead ended where it should not").advice(
            "keep a copy of the store's files, run `keystead verify`, and report what was said before this",
        )
    }

    /// What the library says of a file, with the name of the file.
    pub(crate) fn of_file(path: &Path) -> impl Fn(Error) -> Self {
        move |error| {
            let path = path.display();
            let message = match &error {
                Error::Io(error) if error.kind() == io::ErrorKind::InvalidFilename => {
                    format!("the path is too long, or a name in it: {path}")
                }
                Error::Io(error) => format!("{path}: {error}"),
                _ => return error.into(),
            };
            Self { message, ..error.into() }
        }
    }

    /// From writing to the standard output; whatever the command does beside that may be done.
    pub(crate) fn of_output(error: io::Error) -> Self {
        let failure = Self::from(error);
        match failure.kind {
            Kind::NobodyReads => failure,
            _ => failure.behind("the output could not be written: "),
        }
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), advice: None, api: None }
    }

    /// Of a file that can't be looked at, so that nothing was tried.
    pub(crate) fn not_opened_either(self) -> Self {
        Self { kind: Kind::NotOpened, ..self }
    }

    /// With what to do about it.
    pub(crate) fn advice(mut self, advice: &'static str) -> Self {
        self.advice = Some(advice);
        self
    }

    /// With what came before it.
    pub(crate) fn behind(mut self, what: &str) -> Self {
        self.message.insert_str(0, what);
        self
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        self.kind.exit_code().into()
    }

    /// As JSON, under the documented names.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        json!({
            "kind": self.kind.as_str(),
            "message": self.message,
            "advice": self.advice,
            "api_code": self.api.map(|api| api.code),
        })
    }

    /// Tells it on the standard error output.
    pub(crate) fn tell(&self, json: bool) {
        if self.kind == Kind::NobodyReads {
            return;
        }
        if json {
            print_json(&json!({ "error": self.to_json() }));
            return;
        }
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        let bold = Style::new().bold();
        error_line(format_args!("{red}error{red:#}: {}", printable(&self.to_string())));
        if let Some(advice) = self.advice {
            error_line(format_args!("{bold}what to do{bold:#}: {advice}"));
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.api.map_or(Ok(()), |api| write!(f, " ({})", api.code))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (kind, api) = (kind_of(&error), error.api());
        let message = match &error {
            Error::Aborted(reason) => reason.to_string(),
            Error::AlreadyOpen(Locked { path, holder: None, .. }) => {
                format!("locked by another process: {path}")
            }
            Error::AlreadyOpen(locked) => locked.to_string(),
            error => error.to_string(),
        };
        Self { kind, api, advice: advice_for(&error), message }
    }
}

/// Has panics told as all else is: what it catches of them the library returns as errors besides.
pub(crate) fn report_panics() {
    let in_words = panic::take_hook();
    panic::set_hook(Box::new(move |info| match is_json() {
        true => print_json(&json!({ "note": { "message": info.to_string() } })),
        false => in_words(info),
    }));
}

/// From writing the output; errors of the store's own files come as [`Error::Io`].
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Kind::NobodyReads, "nobody reads the output"),
            _ => Error::from(error).into(),
        }
    }
}

fn kind_of(error: &Error) -> Kind {
    match error {
        // What was said of the cluster; nobody was asked.
        Error::OptionsMismatch { option: "endpoints" | "prefix" | "deadline", .. } => Kind::Usage,
        // It is what a closure of this tool refused.
        Error::Aborted(_)
        | Error::CommitNotFound(_)
        | Error::HistoryDisabled
        | Error::HistoryTrimmed { .. }
        | Error::NotRevertible(_)
        | Error::PositionOfAnotherStore
        | Error::InvalidOutcome(_)
        | Error::TransactionTooLarge { .. }
        | Error::FileExists(_)
        | Error::NotEmpty
        | Error::BackupMismatch(_) => Kind::Refused,
        Error::LogMismatch(_)
        | Error::AlreadyOpen(_)
        | Error::AccessDenied(_)
        | Error::NoStore(_)
        | Error::Unfinished
        | Error::NotAStore(_)
        | Error::Unsupported { .. }
        | Error::OptionsMismatch { .. } => Kind::NotOpened,
        _ if error.api().is_some() => Kind::Refused,
        _ => Kind::Failed,
    }
}

/// What an operator does about a store that is locked.
const LOCKED: &str = "for a command that writes, stop the process that has the store open, or ask it to do this. A command that only \
     reads works beside that process, but not while the store is compacted, or while a process is opening it: give the command \
     again, or wait longer by --lock-wait SECONDS. If that does not help, another program has locked the file, or a process was \
     stopped while it read: end it, or let it run on";

/// What an operator does about it; what the message says already is not said again.
fn advice_for(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::AlreadyOpen(_) => LOCKED,
        Error::NoStore(_) => {
            "check the path, or the addresses and the prefix; `keystead init` makes a new store"
        }
        Error::NotAStore(_) => {
            "check the path, or the prefix; if this was a store, `keystead repair` makes one of what is left of it, or \
             restore a backup"
        }
        Error::Unfinished => {
            "delete that file, or the keys of the prefix, and copy again; or take another place. `etcdctl del PREFIX \
             $'PREFIX\\x01'` deletes those of that store only; with --prefix it would delete all that begin so, other \
             stores too"
        }
        Error::NotEmpty => "copy to another place; nothing is overwritten, and nothing was written",
        Error::Unavailable(_) => {
            "see to the cluster's members and the network; the command can just be given again"
        }
        Error::Conflict => {
            "give the command again. If it reads the whole store, let etcd keep old revisions for longer: \
             --auto-compaction-retention"
        }
        Error::AccessDenied(_) => {
            "check --etcd-user and its password, its role in etcd, and the certificates; who only reads needs only \
             the permission to read"
        }
        Error::LogMismatch(_) => {
            "put the log that belongs to the store beside it, under the store's name with .redo added; don't delete \
             either. If the log is gone, restore a backup, or let `keystead repair` save what is in the file"
        }
        Error::Unsupported { .. } => "use a newer keystead; nothing was changed",
        Error::Corrupted(_) => {
            "keep all as it is; run `keystead verify`; restore a backup, or let `keystead repair` save what is left of \
             a file"
        }
        Error::Unsound(_) => "nothing was kept; run `keystead verify` on what it was made of",
        Error::Poisoned => "nothing was written; make room if the disk is full, and try again",
        Error::CommitUnknown(_) => {
            "make room if the disk is full; then look with `keystead history` whether it was done; with the same \
             --request-id the same command can just be given again"
        }
        Error::Io(error) => match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "make room: on a disk; or in etcd: compact, defragment, raise its quota, `etcdctl alarm disarm`"
            }
            io::ErrorKind::FileTooLarge => {
                "raise the limit of the size of files (`ulimit -f`), and try again"
            }
            io::ErrorKind::InvalidFilename => {
                "choose a shorter name; beside a store there is a log, whose name has .redo added"
            }
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                "check the path; make the folder if it is missing"
            }
            _ => "check the disk's free space, its health, and permissions; then try again",
        },
        Error::FileExists(_) => "choose another name, or move that file away; nothing is overwritten",
        Error::QuotaExceeded { .. } | Error::TooManyTags { .. } => {
            "give the quotas of your service: --keys-per-project, --aliases-per-key, --tags-per-key"
        }
        Error::PendingDeletion(_) => "run `keystead cancel-deletion` first",
        Error::HistoryTrimmed { .. } => "ask for what is later, or for the present",
        Error::PositionOfAnotherStore => {
            "begin anew: `keystead changes` without --after, or --from-now; for a backup make a whole one"
        }
        Error::RequestIdReused(_) => "take a new id for a new request",
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use keystead::Options;

    use super::*;
    use crate::text::say_in_json;

    const ROLE: &str = "KEYSTEAD_TEST_PANICS";

    /// In the other process: a panic that is caught, on a thread that has no output of its own.
    #[test]
    fn panics_in_another_process() {
        if std::env::var_os(ROLE).is_some() {
            say_in_json(true);
            report_panics();
            assert!(std::thread::spawn(|| panic!("a \"page\"\nis damaged")).join().is_err());
        }
    }

    #[test]
    fn a_panic_is_told_in_json() {
        let mut other = Command::new(std::env::current_exe().unwrap());
        other.args(["failure::tests::panics_in_another_process", "--exact", "--nocapture"]).env(ROLE, "1");
        let output = other.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let told: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        let message = told["note"]["message"].as_str().unwrap();
        assert!(message.contains("a \"page\"\nis damaged") && message.contains("failure.rs"), "{message}");
    }

    #[test]
    fn what_to_do_fits_what_happened() {
        let advice = |kind: io::ErrorKind| {
            let failure = Failure::of_file(Path::new("/data/kms"))(io::Error::from(kind).into());
            assert!(failure.message.contains("/data/kms"), "{failure:?}");
            failure.advice.unwrap()
        };
        assert!(advice(io::ErrorKind::StorageFull).starts_with("make room"));
        assert!(advice(io::ErrorKind::QuotaExceeded).starts_with("make room"));
        assert!(advice(io::ErrorKind::FileTooLarge).contains("ulimit -f"));
        assert!(advice(io::ErrorKind::InvalidFilename).contains("shorter name"));
        assert!(advice(io::ErrorKind::NotFound).contains("check the path"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kms");
        let options = Options::new().lock_wait(Duration::from_millis(10));
        let _held = options.open(&path).unwrap();
        let locked = Failure::of_file(Path::new("/into"))(options.open(&path).unwrap_err());
        let holder =
            if cfg!(target_os = "linux") { "another handle of this process" } else { "another process" };
        assert_eq!(locked.message, format!("locked by {holder}: {}", path.display()));
        assert_eq!(locked.kind, Kind::NotOpened);
        let unknown = Failure::from(Error::CommitUnknown("No space left on device".into()));
        assert!(unknown.advice.unwrap().contains("make room"));
    }
}
