//! `import`: keys with their aliases, as `export` wrote them, by the operations of the API.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use keystead::cli_support::{Temporary, remove_unused};
use keystead::{DomainId, Error, ProjectId, Request, Scope, Store};
use serde_json::json;

use super::line::{FORMAT, Line};
use super::place::Wanted;
use crate::Context;
use crate::failure::Failure;
use crate::location::WriteRules;
use crate::output::Output;
use crate::progress::{Bar, watched};
use crate::write::ActorOption;

/// Create the keys and aliases of an export, checking every rule; what is there already counts as done.
#[derive(Args)]
pub(crate) struct Import {
    /// The export; the standard input if nothing is said.
    file: Option<PathBuf>,
    /// Begin with this line, the first being 1.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    from_line: u64,
    /// Go on behind lines that are refused; otherwise it ends soon behind the first.
    #[arg(long)]
    continue_on_refused: bool,
    /// Do it all on a copy of the store, made among temporary files and deleted again.
    #[arg(long)]
    dry_run: bool,
    /// The domain of lines that name no scope.
    #[arg(long, env = "KEYSTEAD_DOMAIN", requires = "project", help_heading = "Scope")]
    domain: Option<DomainId>,
    /// Their project.
    #[arg(long, env = "KEYSTEAD_PROJECT", requires = "domain", help_heading = "Scope")]
    project: Option<ProjectId>,
    #[command(flatten)]
    actor: ActorOption,
    #[command(flatten)]
    rules: WriteRules,
}

/// How many lines are handled together.
const LINES_AT_ONCE: usize = 5_000;
/// How many bytes of lines are.
const BYTES_AT_ONCE: u64 = 16 * 1024 * 1024;
/// The longest line: a key with all that it may have is far shorter.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

impl Import {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        if !self.dry_run {
            let store = context.store.write(&self.rules)?;
            return self.import(&store, &Failure::from, &mut context.output);
        }
        let store = context.store.read()?;
        let among = std::env::temp_dir();
        remove_unused(&among);
        let folder = Temporary::create_in(&among)?;
        let copy = folder.path().join("copy");
        let failed = |error| of_copy(&copy, error).behind("nothing was changed; ");
        watched(|| store.backup(&copy)).map_err(failed)?;
        drop(store);
        let store = self.rules.options().open(&copy).map_err(failed)?;
        self.import(&store, &|error| of_copy(&copy, error), &mut context.output)
    }

    fn import(
        &self,
        store: &Store,
        failed: &dyn Fn(Error) -> Failure,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let mut lines = self.lines()?;
        let bar = Bar::bytes(if self.dry_run { "trying" } else { "importing" }, lines.total);
        let mut importing = Importing { import: self, store, failed, output, bar, counts: Counts::default() };
        let ended = importing.all(&mut lines);
        let Importing { output, bar, counts, .. } = importing;
        drop(bar);
        let done = lines.number.saturating_sub(lines.in_piece);
        let so_far = match self.dry_run {
            true => format!("nothing was changed; the lines up to {done} were tried; "),
            false => format!("the lines up to {done} are done; "),
        };
        ended.map_err(|failure| failure.behind(&so_far))?;
        counts.tell(self, &lines, output)
    }

    fn lines(&self) -> Result<Lines, Failure> {
        let (reader, total): (Box<dyn Read>, _) = match &self.file {
            None => (Box::new(io::stdin()), 0),
            Some(path) => {
                let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
                let (total, file) =
                    opened.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
                (Box::new(file), total)
            }
        };
        Ok(Lines { reader: BufReader::new(reader), total, number: 0, bytes: 0, in_piece: 0, ended: false })
    }

    fn request(&self, scope: &Scope) -> Request {
        self.actor.sign(Request::new(scope))
    }

    /// The scope of lines that name none.
    fn scope(&self) -> Result<Option<Scope>, Error> {
        let named = self.domain.as_ref().zip(self.project.as_ref());
        Ok(named.map(|(domain, project)| Scope::new(domain.as_str(), project.as_str())).transpose()?)
    }
}

/// What failed of the copy that a dry run works on. Whether a commit into it is durable is nobody's concern.
fn of_copy(copy: &Path, error: Error) -> Failure {
    match error {
        Error::CommitUnknown(why) => Failure::failed(format!("{}: {why}", copy.display())).advice(
            "make room for the copy if the disk is full, or name a folder on another disk in TMPDIR; the store \
             itself was only read",
        ),
        other => Failure::of_file(copy)(other),
    }
}

/// The lines of an export, counted.
struct Lines {
    reader: BufReader<Box<dyn Read>>,
    total: u64,
    number: u64,
    bytes: u64,
    /// How many of the lines that were read are still being handled.
    in_piece: u64,
    ended: bool,
}

impl Lines {
    /// The next one with its number; of one that is too long, the beginning, a byte longer than it may be.
    fn next(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line)?;
        if read == 0 {
            self.ended = true;
            return Ok(None);
        }
        self.bytes += read as u64;
        if !line.ends_with(b"\n") {
            self.bytes += self.reader.skip_until(b'\n')? as u64;
        }
        self.number += 1;
        self.in_piece += 1;
        Ok(Some((self.number, line)))
    }

    /// Lines that are handled together.
    fn piece(&mut self, from_line: u64) -> io::Result<Vec<(u64, Vec<u8>)>> {
        self.in_piece = 0;
        let (mut piece, start) = (Vec::new(), self.bytes);
        while piece.len() < LINES_AT_ONCE && self.bytes - start < BYTES_AT_ONCE {
            let Some((number, line)) = self.next()? else { break };
            if number >= from_line {
                piece.push((number, line));
            }
        }
        Ok(piece)
    }
}

/// What became of the lines.
#[derive(Default)]
struct Counts {
    created: u64,
    present: u64,
    refused: u64,
    /// Lines that are keys, refused or not.
    keys: u64,
    /// Whether there was a first line, so that there must be a last one.
    begun: bool,
    /// How many keys the last line tells of.
    ended: Option<u64>,
}

impl Counts {
    fn tell(&self, import: &Import, lines: &Lines, output: &mut Output) -> Result<(), Failure> {
        let Self { created, present, refused, .. } = *self;
        let cut_off = lines.ended && self.begun && self.ended.is_none();
        if output.is_json() {
            let counts = json!({
                "dry_run": import.dry_run, "created": created, "present": present, "refused": refused,
                "lines": lines.number, "complete": lines.ended && !cut_off,
            });
            output.json(&json!({ "imported": counts }))?;
        } else {
            let tried = if import.dry_run { "nothing was changed; it would be: " } else { "" };
            output.line(format!(
                "{tried}{created} keys created, {present} there already, {refused} lines refused"
            ))?;
            if created > 0 {
                output.line("created keys have new times and versions, and their history begins now")?;
            }
        }
        output.flush()?;
        let again = "get the whole file, and import it again; what is there already counts as done";
        if cut_off {
            return Err(Failure::findings("the export was cut off: its last line is missing").advice(again));
        }
        if refused > 0 {
            let message = format!("{refused} lines were refused, of {} that were read", lines.number);
            return Err(match lines.ended {
                true => Failure::findings(message),
                false => Failure::findings(message).advice(
                    "see to them and import the file again, or give --continue-on-refused; what is there already counts \
                     as done",
                ),
            });
        }
        match self.ended {
            Some(told) if told != self.keys && import.from_line == 1 => {
                let message =
                    format!("the export has {} keys, and not the {told} that its last line tells", self.keys);
                Err(Failure::findings(message).advice(again))
            }
            _ => Ok(()),
        }
    }
}

/// An import under way.
struct Importing<'a> {
    import: &'a Import,
    store: &'a Store,
    /// What is said of a failure of the store.
    failed: &'a dyn Fn(Error) -> Failure,
    output: &'a mut Output,
    bar: Bar,
    counts: Counts,
}

impl Importing<'_> {
    fn all(&mut self, lines: &mut Lines) -> Result<(), Failure> {
        loop {
            let piece = lines
                .piece(self.import.from_line)
                .map_err(|error| Failure::failed(format!("reading: {error}")))?;
            self.piece(piece)?;
            self.bar.set(lines.bytes);
            if lines.ended || (self.counts.refused > 0 && !self.import.continue_on_refused) {
                lines.in_piece = 0;
                return Ok(());
            }
        }
    }

    /// Keys for which creating is all are created at once; the others each in a transaction.
    fn piece(&mut self, lines: Vec<(u64, Vec<u8>)>) -> Result<(), Failure> {
        let mut plain: BTreeMap<Scope, Vec<(u64, Wanted)>> = BTreeMap::new();
        let mut others = Vec::new();
        let otherwise = self.import.scope()?;
        for (number, line) in lines {
            match self.read(number, &line, otherwise.as_ref())? {
                Some((scope, wanted)) if wanted.is_plain() => {
                    plain.entry(scope).or_default().push((number, wanted))
                }
                Some((scope, wanted)) => others.push((number, scope, wanted)),
                None => {}
            }
        }
        for (scope, wanted) in plain {
            self.create_all(&scope, &wanted)?;
        }
        others.iter().try_for_each(|(number, scope, wanted)| self.create_one(*number, scope, wanted))
    }

    /// The key that a line asks for, if it is one and is understood.
    fn read(
        &mut self,
        number: u64,
        line: &[u8],
        otherwise: Option<&Scope>,
    ) -> Result<Option<(Scope, Wanted)>, Failure> {
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        if line.len() as u64 > LINE_BYTES_MAX {
            return self.refused(number, &Failure::refused("it is longer than 1 MiB")).map(|()| None);
        }
        match serde_json::from_slice(line) {
            Err(error) => self.refused(number, &Failure::refused(error.to_string())).map(|()| None),
            Ok(Line::Export { format, .. }) if format > FORMAT => {
                let message =
                    format!("the export has format {format}, this keystead knows formats up to {FORMAT}");
                Err(Failure::refused(message).advice("use a newer keystead"))
            }
            Ok(Line::Export { region, alias_scope, .. }) => {
                self.counts.begun = true;
                if region != *self.store.region() || alias_scope != self.store.alias_scope().as_str() {
                    let note = "the export is of a store with another region or alias scope";
                    self.note(number, note)?;
                }
                Ok(None)
            }
            Ok(Line::Scope { .. }) => Ok(None),
            Ok(Line::End { keys, .. }) => {
                self.counts.ended = Some(keys);
                Ok(None)
            }
            Ok(Line::Key(line)) => {
                self.counts.keys += 1;
                let read = line.scope(otherwise).map_err(Failure::refused);
                let read = read.and_then(|scope| Ok((scope, Wanted::of(*line)?)));
                match read {
                    Ok(read) => Ok(Some(read)),
                    Err(failure) => self.refused(number, &failure).map(|()| None),
                }
            }
        }
    }

    fn create_all(&mut self, scope: &Scope, wanted: &[(u64, Wanted)]) -> Result<(), Failure> {
        let keys: Vec<_> = wanted.iter().map(|(_, wanted)| wanted.new.clone()).collect();
        for batch in self.store.import(&self.import.request(scope), keys) {
            let batch = batch.map_err(self.failed)?;
            self.counts.created += batch.created;
            for (position, error) in batch.refused {
                let place = usize::try_from(position).expect("it is a place in the piece");
                let (number, wanted) = &wanted[place];
                self.settle(*number, scope, wanted, error)?;
            }
        }
        Ok(())
    }

    fn create_one(&mut self, number: u64, scope: &Scope, wanted: &Wanted) -> Result<(), Failure> {
        let request = self.import.request(scope);
        match self.store.write(&request, |txn| wanted.create(txn)) {
            Ok(done) if !done.changed => self.counts.present += 1,
            Ok(_) => {
                self.counts.created += 1;
                let notes = wanted.not_carried_over(request.time());
                notes.iter().try_for_each(|note| self.note(number, note))?;
            }
            Err(error) => self.settle(number, scope, wanted, error)?,
        }
        Ok(())
    }

    /// A key that is not created, because of what is there, or because of itself.
    fn settle(&mut self, number: u64, scope: &Scope, wanted: &Wanted, error: Error) -> Result<(), Failure> {
        let is_there = match &error {
            Error::KeyIdExists(_) => true,
            Error::KeyAliasExists(_) => wanted.line.key_id.is_none(),
            Error::Aborted(_) | Error::TransactionTooLarge { .. } => false,
            error if error.api().is_some() => false,
            _ => return Err((self.failed)(error)),
        };
        if !is_there {
            return self.refused(number, &error.into());
        }
        let now = self.import.request(scope).time();
        match self.store.read(scope, |snap| wanted.compare(snap, now)).map_err(self.failed)?[..] {
            [] => self.counts.present += 1,
            ref fields => {
                let message = format!("this key is there, and differs in: {}", fields.join(", "));
                self.refused(number, &Failure::refused(message))?;
            }
        }
        Ok(())
    }

    fn refused(&mut self, number: u64, failure: &Failure) -> Result<(), Failure> {
        self.counts.refused += 1;
        if self.output.is_json() {
            return self.output.json(&json!({ "refused": { "line": number, "error": failure.to_json() } }));
        }
        self.bar.tell(&format!("line {number} refused: {failure}"));
        Ok(())
    }

    fn note(&mut self, number: u64, note: &str) -> Result<(), Failure> {
        if self.output.is_json() {
            return self.output.json(&json!({ "note": { "line": number, "message": note } }));
        }
        self.bar.tell(&format!("line {number}: {note}"));
        Ok(())
    }
}
