//! `export`: keys with their aliases, one a line.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use keystead::{After, Commit, DomainId, Error, KeyFilter, Limit, ProjectId, Scope, Snapshot, Store};
use serde_json::json;

use super::line::{FORMAT, KeyLine, Line};
use crate::Context;
use crate::failure::Failure;
use crate::location::PageCheck;
use crate::look::all_aliases;
use crate::new_file::NewFile;
use crate::progress::Bar;
use crate::text::json_text;

/// Write keys and their aliases as JSON Lines.
#[derive(Args)]
pub(crate) struct Export {
    /// The file to be made; the standard output if nothing is said.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Every scope of the store, whatever domain and project are given.
    #[arg(long)]
    all: bool,
    /// The domain of the one scope.
    #[arg(long, env = "KEYSTEAD_DOMAIN", required_unless_present = "all", help_heading = "Scope")]
    domain: Option<DomainId>,
    /// Its project.
    #[arg(long, env = "KEYSTEAD_PROJECT", required_unless_present = "all", help_heading = "Scope")]
    project: Option<ProjectId>,
}

/// How many keys are read at once, to be written.
const KEYS_AT_ONCE: usize = 200;

impl Export {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        // First, while nobody has it open, this command too.
        let pages = context.store.location()?.check_pages()?;
        let exported = self.export(context);
        match pages {
            Some(PageCheck::Damaged(why)) => {
                let what = format!("the pages of the file are damaged: {why}");
                let what = match exported {
                    Ok(()) => {
                        format!("{what}. What was written may lack keys, or have them as they were earlier")
                    }
                    Err(failure) => format!("{what}. What was written ends too early: {failure}"),
                };
                context.output.flush()?;
                Err(Failure::findings(what).advice(
                    "keep the file; restore a backup, or let `keystead repair` save what is left, and export that",
                ))
            }
            _ => exported,
        }
    }

    fn export(&self, context: &mut Context) -> Result<(), Failure> {
        let store = context.store.read()?;
        let Some(path) = &self.output else {
            return self.write(&store, io::stdout(), Failure::of_output).map(drop);
        };
        let file = NewFile::create(path)?;
        let Exported { scopes, keys, aliases } = self.write(&store, file.writer(), Failure::from)?;
        file.finish()?;
        match context.output.is_json() {
            true => context.output.json(&json!({ "scopes": scopes, "keys": keys, "aliases": aliases })),
            false => {
                context.output.line(format!("wrote {keys} keys with {aliases} aliases, of {scopes} scopes"))
            }
        }
    }

    /// The scope, if it is only one.
    fn scope(&self) -> Result<Option<Scope>, Error> {
        match (&self.domain, &self.project) {
            (Some(domain), Some(project)) if !self.all => {
                Ok(Some(Scope::new(domain.as_str(), project.as_str())?))
            }
            _ => Ok(None),
        }
    }

    fn total(&self, store: &Store) -> Result<u64, Error> {
        let count = |scope: &Scope| store.read(scope, |snap| snap.count_keys(&KeyFilter::all()));
        if let Some(scope) = self.scope()? {
            return count(&scope);
        }
        let (mut total, mut after) = (0, None);
        loop {
            let page = store.scopes(after.as_ref().into(), Limit::MAX)?;
            for scope in &page.items {
                total += count(scope)?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(total);
            }
        }
    }

    fn write<W: Write>(
        &self,
        store: &Store,
        writer: W,
        failed: fn(io::Error) -> Failure,
    ) -> Result<Exported, Failure> {
        let bar = Bar::new("exporting", self.total(store)?, "keys");
        let writer = BufWriter::new(writer);
        let mut exporting =
            Exporting { store, writer, failed, bar, done: Exported::default(), commits: None };
        exporting.begin()?;
        if let Some(scope) = self.scope()? {
            exporting.scope(&scope)?;
            return exporting.end();
        }
        let mut after = None;
        loop {
            let page = store.scopes(after.as_ref().into(), Limit::MAX)?;
            page.items.iter().try_for_each(|scope| exporting.scope(scope))?;
            after = page.next;
            if after.is_none() {
                return exporting.end();
            }
        }
    }
}

/// How much was exported.
#[derive(Clone, Copy, Default)]
struct Exported {
    scopes: u64,
    keys: u64,
    aliases: u64,
}

/// An export that is being written.
struct Exporting<'a, W: Write> {
    store: &'a Store,
    writer: W,
    /// What is said where it can't be written.
    failed: fn(io::Error) -> Failure,
    bar: Bar,
    done: Exported,
    /// The commits at which the first and the last scope were read.
    commits: Option<(Commit, Commit)>,
}

impl<W: Write> Exporting<'_, W> {
    fn begin(&mut self) -> Result<(), Failure> {
        let store = self.store;
        self.line(&Line::Export {
            format: FORMAT,
            position: store.position()?,
            region: store.region().clone(),
            alias_scope: store.alias_scope().as_str().to_owned(),
        })
    }

    /// A scope, in one snapshot.
    fn scope(&mut self, scope: &Scope) -> Result<(), Failure> {
        self.store.read(scope, |snap| Ok(self.keys_of(snap)))?
    }

    fn keys_of(&mut self, snap: &Snapshot<'_>) -> Result<(), Failure> {
        let (scope, commit) = (snap.scope(), snap.commit());
        self.done.scopes += 1;
        self.commits = Some((self.commits.map_or(commit, |(first, _)| first), commit));
        self.line(&Line::Scope {
            domain_id: scope.domain().clone(),
            project_id: scope.project().clone(),
            commit,
            keys: snap.count_keys(&KeyFilter::all())?,
        })?;
        let mut after = None;
        loop {
            let from = after.as_ref().map_or(After::Start, After::Cursor);
            let page =
                snap.keys_by_id(&KeyFilter::all(), from, Limit::new(KEYS_AT_ONCE).map_err(Error::from)?)?;
            for key in &page.items {
                let aliases = all_aliases(snap, key)?;
                self.done.aliases += aliases.len() as u64;
                self.done.keys += 1;
                self.line(&Line::Key(Box::new(KeyLine::of(key, &aliases))))?;
            }
            self.bar.set(self.done.keys);
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    fn end(mut self) -> Result<Exported, Failure> {
        let Exported { scopes, keys, aliases } = self.done;
        let one_commit = self.commits.is_none_or(|(first, last)| first == last);
        self.line(&Line::End { scopes, keys, aliases, one_commit })?;
        self.writer.flush().map_err(self.failed)?;
        Ok(self.done)
    }

    fn line(&mut self, line: &Line) -> Result<(), Failure> {
        let text = json_text(line).map_err(|error| Failure::failed(error.to_string()))?;
        writeln!(self.writer, "{text}").map_err(self.failed)
    }
}
