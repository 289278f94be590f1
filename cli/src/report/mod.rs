//! `report`: one page, in HTML, of how a store is.

mod charts;
mod figures;
mod html;
mod page;
mod tally;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::RangedU64ValueParser;
use keystead::{DomainId, Error, ProjectId, Scope, Timestamp};
use serde_json::json;

use crate::Context;
use crate::failure::Failure;
use crate::location::QuotaOptions;
use crate::new_file::NewFile;
use figures::{Asked, Figures};
use page::About;

/// Write one page, in HTML, of how the store is.
#[derive(Args)]
pub(crate) struct Report {
    /// The file to be made; the standard output if nothing is said.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if it is there and is such a page.
    #[arg(long, requires = "output")]
    replace: bool,
    /// Don't verify the store, which reads all of it once more.
    #[arg(long)]
    no_verify: bool,
    /// How many rows a table has at most: 1 to 1000.
    #[arg(long, value_name = "NUMBER", default_value = "20", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    rows: usize,
    /// Only of this domain's project; of the whole store if nothing is said.
    #[arg(long, requires = "project", help_heading = "Scope")]
    domain: Option<DomainId>,
    /// Only of this project.
    #[arg(long, requires = "domain", help_heading = "Scope")]
    project: Option<ProjectId>,
    #[command(flatten)]
    quotas: QuotaOptions,
}

impl Report {
    pub(crate) fn run(&self, context: &mut Context) -> Result<(), Failure> {
        let location = context.store.location()?;
        let file = self.output.as_deref().map(|output| self.file(output)).transpose()?;
        let asked = Asked { scope: self.scope()?, rows: self.rows, verify: !self.no_verify };
        let figures = Figures::gather(&location, &asked, Timestamp::now())?;
        let bytes = location.bytes()?;
        let quotas = self.quotas.quotas();
        let page = page::write(&figures, &About { location, bytes, quotas, rows: self.rows });
        match file {
            None => {
                let mut out = io::stdout().lock();
                out.write_all(page.as_bytes()).and_then(|()| out.flush()).map_err(Failure::of_output)?;
            }
            Some(file) => {
                file.writer().write_all(page.as_bytes())?;
                if self.replace {
                    file.replace()?
                } else {
                    file.finish()?
                }
                self.tell(&figures, context)?;
            }
        }
        match figures.findings() {
            0 => Ok(()),
            found => {
                context.output.flush()?;
                let failure = Failure::findings(format!("the page is made; {found} findings are in it"));
                Err(failure.advice(
                    "keep the store's file; restore a backup, or let `keystead repair` save what is left",
                ))
            }
        }
    }

    fn scope(&self) -> Result<Option<Scope>, Error> {
        let both = self.domain.as_ref().zip(self.project.as_ref());
        Ok(both.map(|(domain, project)| Scope::new(domain.as_str(), project.as_str())).transpose()?)
    }

    /// Asked before anything is read, which may take long.
    fn file(&self, path: &Path) -> Result<NewFile, Failure> {
        let is_file = match path.symlink_metadata() {
            Err(_) => return NewFile::create(path),
            Ok(_) if !self.replace => return NewFile::create(path),
            // To open anything else may wait for ever, or do something; a link would be replaced, not its file.
            Ok(metadata) => metadata.is_file(),
        };
        if !is_file {
            let message = format!("{} is no file", path.display());
            return Err(Failure::refused(message).advice("choose another name; only such pages are replaced"));
        }
        if is_page(path)? {
            return NewFile::beside(path);
        }
        let message = format!("{} is no page that this command made", path.display());
        Err(Failure::refused(message).advice("choose another name; only such pages are replaced"))
    }

    fn tell(&self, figures: &Figures, context: &mut Context) -> Result<(), Failure> {
        let Figures { keys, aliases, scopes, .. } = figures;
        if context.output.is_json() {
            return context.output.json(&json!({
                "commit": figures.commits.1, "one_commit": figures.commits.0 == figures.commits.1,
                "scopes": scopes, "keys": keys, "aliases": aliases,
                "verified": figures.verified.is_some(), "findings": figures.findings(),
            }));
        }
        context.output.line(format!("wrote a page of {keys} keys with {aliases} aliases, of {scopes} scopes"))
    }
}

/// Whether a file begins as a page does.
fn is_page(path: &Path) -> Result<bool, Failure> {
    let mut begin = Vec::new();
    let read = File::open(path).and_then(|file| file.take(page::BEGIN.len() as u64).read_to_end(&mut begin));
    read.map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
    Ok(begin == page::BEGIN.as_bytes())
}
