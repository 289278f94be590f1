//! keystead beside other engines: the same work, the same answers, in turn, in one run.
//!
//! `cargo run --release --manifest-path benches/compare/Cargo.toml -- --quick`. README.md beside this package
//! says what each row means.

#![warn(clippy::too_many_lines)]

mod crash;
mod data;
mod disk;
mod engines;
mod group;
mod machine;
mod ordered;
mod peer;
mod place;
mod plots;
mod record;
mod run;
mod samples;
mod subject;
mod table;
#[cfg(test)]
mod tests;
mod works;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::engines::Engine;
use crate::peer::Answer;
use crate::run::{OPEN_AFTER_KILL, Plan, WORKS};

/// Compares keystead with other engines that do the same work.
///
/// The numbers are worth something on a quiet machine only. Where it is permitted, run it before other
/// programs: build first, then `chrt -f 10 benches/compare/target/release/compare`.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Small stores and few rounds: it shows that everything works, in less than five minutes.
    #[arg(long)]
    quick: bool,
    /// Where the medians go; the machine is described in a file beside it that ends in .txt.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// The folder for the plots.
    #[arg(long)]
    plots: Option<PathBuf>,
    /// Measure nothing: show the table, and draw the plots, of this CSV.
    #[arg(long)]
    from: Option<PathBuf>,
    /// Only these works, separated by commas.
    #[arg(long, value_delimiter = ',')]
    works: Vec<String>,
    /// Only these engines, separated by commas.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<String>,
    /// Stores of this many keys, separated by commas: at least 1000.
    #[arg(long, value_delimiter = ',')]
    keys: Vec<usize>,
    /// The folder for the stores, on the disk to be measured; by default the package's target folder.
    #[arg(long)]
    folder: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Hidden>,
}

#[derive(Subcommand)]
enum Hidden {
    /// The process that is killed.
    #[command(name = crash::COMMAND, hide = true)]
    CommitUntilKilled { engine: String, folder: PathBuf, keys: usize, first: usize },
}

fn main() -> Answer<()> {
    let arguments = Arguments::parse();
    if let Some(Hidden::CommitUntilKilled { engine, folder, keys, first }) = &arguments.command {
        return crash::commit_until_killed(engine, folder, *keys, *first);
    }
    let rows = match &arguments.from {
        Some(csv) => samples::read_csv(csv)?,
        None => {
            let plan = arguments.plan()?;
            let rows = run::run(&plan)?;
            if let Some(csv) = &arguments.csv {
                samples::write_csv(csv, &rows)?;
                std::fs::write(csv.with_extension("txt"), machine::describe(&plan))?;
            }
            rows
        }
    };
    println!("{}", table::text(&rows));
    arguments.plots.as_deref().map_or(Ok(()), |folder| plots::draw(folder, &rows))
}

impl Arguments {
    fn plan(&self) -> Answer<Plan> {
        let target = || Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        let folder = self.folder.clone().unwrap_or_else(target);
        std::fs::create_dir_all(&folder)?;
        let sizes = match (self.keys.is_empty(), self.quick) {
            (false, _) => self.keys.clone(),
            (true, true) => vec![1000, 20_000],
            (true, false) => vec![1000, 10_000, 100_000, 1_000_000],
        };
        if let Some(small) = sizes.iter().find(|size| **size < 1000) {
            return Err(format!("a store of {small} keys is too small").into());
        }
        let (rounds, slice) = if self.quick { (3, 80) } else { (5, 200) };
        Ok(Plan {
            sizes,
            works: self.works()?,
            engines: self.engines()?,
            folder,
            rounds,
            slice: Duration::from_millis(slice),
            quick: self.quick,
        })
    }

    fn works(&self) -> Answer<Vec<String>> {
        let known = || WORKS.into_iter().chain([OPEN_AFTER_KILL]).map(str::to_owned);
        if let Some(unknown) = self.works.iter().find(|work| !known().any(|known| known == **work)) {
            let known = known().collect::<Vec<_>>().join(", ");
            return Err(format!("no work is called {unknown}; there are {known}").into());
        }
        Ok(if self.works.is_empty() { known().collect() } else { self.works.clone() })
    }

    fn engines(&self) -> Answer<Vec<Engine>> {
        if self.engines.is_empty() {
            return Ok(engines::all());
        }
        let named = |name: &String| engines::named(name).ok_or_else(|| format!("no engine is called {name}"));
        // The disk is no engine; its works run when they are asked for.
        let names = self.engines.iter().filter(|name| *name != "disk");
        Ok(names.map(named).collect::<Result<_, _>>()?)
    }
}
