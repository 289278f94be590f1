//! `keystead`: the operator's tool. Each command is a thin layer upon the library's public calls.

#![warn(clippy::panic)]

mod ask;
mod backups;
mod bench;
mod cluster;
mod copy;
mod deletion;
mod exchange;
mod failure;
mod history;
mod location;
mod look;
mod names;
mod new_file;
mod output;
mod progress;
mod report;
mod signals;
mod text;
mod upkeep;
mod values;
mod write;

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::failure::Failure;
use crate::location::StoreOptions;
use crate::names::HOW_TO_NAME;
use crate::output::Output;
use crate::text::{error_line, is_json, printable, say_in_json};

/// What stands below the list of commands; docs/cli.md says more.
const AFTER_HELP: &str = "\
A KEY is named by its id or by its key alias, an ALIAS by its name. What looks
like an id is one. Names may begin with `-` and look like options: scripts write
--key=NAME and --alias=NAME, or put `--` before the names and all options before
that.

Exit codes:
  0  done
  1  refused by a rule of the store, or there is no such thing
  2  the command was not understood
  3  done, and something was found: what verify reports, lines that an import
     refused, what a repair could not save, what was written during a copy
  4  the store can't be opened as it is
  5  failed: the disk, the cluster, damage, or a commit of which the outcome
     is not known
  6  not confirmed, so nothing was done

Colours are left out where NO_COLOR is set or the output is no terminal.";

/// Looks after stores of KMS keys and their aliases, in files and on etcd.
#[derive(Parser)]
#[command(name = "keystead", version, after_help = AFTER_HELP, max_term_width = 100, arg_required_else_help = true)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command is told.
#[derive(Args)]
struct Common {
    #[command(flatten)]
    store: StoreOptions,
    /// Write JSON, one value a line, instead of tables and sentences.
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Init(upkeep::Init),
    Scopes(look::Scopes),
    Keys(look::Keys),
    Aliases(look::Aliases),
    Show(look::Show),
    Resolve(look::Resolve),
    History(history::History),
    Changes(history::Changes),
    Create(write::Create),
    Enable(write::Enable),
    Disable(write::Disable),
    Rename(write::Rename),
    CreateAlias(write::CreateAlias),
    Associate(write::Associate),
    Swap(write::Swap),
    DeleteAlias(write::DeleteAlias),
    Revert(write::Revert),
    ScheduleDeletion(deletion::Schedule),
    CancelDeletion(deletion::Cancel),
    Purge(deletion::Purge),
    TrimHistory(deletion::TrimHistory),
    Verify(upkeep::Verify),
    Stats(upkeep::Stats),
    Report(report::Report),
    Checkpoint(upkeep::Checkpoint),
    Compact(upkeep::Compact),
    Backup(backups::Backup),
    Restore(backups::Restore),
    Repair(backups::Repair),
    Copy(copy::Copy),
    Export(exchange::export::Export),
    Import(exchange::import::Import),
    Bench(bench::Bench),
    Completions(Completions),
}

/// Print what makes a shell complete this tool's commands.
#[derive(Args)]
struct Completions {
    /// The shell.
    shell: Shell,
}

/// What a command works with: where the store is, and where its answers go.
struct Context {
    store: StoreOptions,
    output: Output,
}

fn main() -> ExitCode {
    // Before it is known what was typed, a mistake in it may have to be told.
    say_in_json(env::args_os().skip(1).take_while(|word| word != "--").any(|word| word == "--json"));
    failure::report_panics();
    // A panic that nobody catches is a failure too, with an exit code and in JSON.
    let done = panic::catch_unwind(execute).unwrap_or_else(|_| Err(Failure::panicked()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell(is_json());
            failure.exit_code()
        }
    }
}

fn execute() -> Result<(), Failure> {
    signals::survive_file_size_limit()?;
    let matches = without_empty_variables(Arguments::command()).try_get_matches().map_err(mistyped)?;
    if let Some(ambiguous) = names::find_ambiguous(&built(), &words()) {
        return Err(Failure::usage(ambiguous.to_string()).advice(HOW_TO_NAME));
    }
    let arguments = Arguments::from_arg_matches(&matches).map_err(mistyped)?;
    let Arguments { common: Common { mut store, json }, command } = arguments;
    say_in_json(json);
    store.note_typed(&matches);
    let mut context = Context { store, output: Output::new(json) };
    run(&command, &mut context).and_then(|()| context.output.flush())
}

/// What is wrong with the command line. Without --json the parser tells it itself, in colours; as it does with help.
fn mistyped(mut error: clap::Error) -> Failure {
    let takes_names = names::command_with_names(&built(), &words()).is_some();
    if takes_names && error.kind() == ErrorKind::DisplayHelp {
        // A script that names a key `--help` must not take this for done.
        let _ = error.print();
        return Failure::usage("the word for help was taken for this option, and not for a name")
            .advice("`keystead help` with the name of the command ends well; a name is written as --key=NAME or --alias=NAME, or behind --");
    }
    if takes_names && error.get(ContextKind::Suggested).is_none() {
        let how = ContextValue::StyledStrs(vec![HOW_TO_NAME.into()]);
        error.insert(ContextKind::Suggested, how);
    }
    if !is_json() || matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let text = error.render().to_string();
        let acts = |word: std::ffi::OsString| printable(&word.to_string_lossy()) != word.to_string_lossy();
        // What was typed, perhaps by a script, does nothing to a terminal.
        if error.use_stderr() && env::args_os().any(acts) {
            let lines = text.lines().map(printable);
            lines.for_each(error_line);
            std::process::exit(error.exit_code());
        }
        error.exit();
    }
    let text = error.render().to_string();
    // What follows is how the command is used.
    let message = text.split("\n\n").next().unwrap_or_default();
    Failure::usage(message.strip_prefix("error: ").unwrap_or(message)).advice(match takes_names {
        true => HOW_TO_NAME,
        false => "look at `keystead help`",
    })
}

/// What was typed behind the name of the program.
fn words() -> Vec<OsString> {
    env::args_os().skip(1).collect()
}

/// The commands, each with the options that all have.
fn built() -> clap::Command {
    let mut command = Arguments::command();
    command.build();
    command
}

/// A variable of the environment that is set, but empty, says nothing.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| match arg.get_env() {
            Some(name) if is_empty(name) => arg.env(None::<&str>),
            _ => arg,
        })
        .mut_subcommands(without_empty_variables)
}

fn run(command: &Command, context: &mut Context) -> Result<(), Failure> {
    match command {
        Command::Init(command) => command.run(context),
        Command::Scopes(command) => command.run(context),
        Command::Keys(command) => command.run(context),
        Command::Aliases(command) => command.run(context),
        Command::Show(command) => command.run(context),
        Command::Resolve(command) => command.run(context),
        Command::History(command) => command.run(context),
        Command::Changes(command) => command.run(context),
        Command::Create(command) => command.run(context),
        Command::Enable(command) => command.run(context),
        Command::Disable(command) => command.run(context),
        Command::Rename(command) => command.run(context),
        Command::CreateAlias(command) => command.run(context),
        Command::Associate(command) => command.run(context),
        Command::Swap(command) => command.run(context),
        Command::DeleteAlias(command) => command.run(context),
        Command::Revert(command) => command.run(context),
        Command::ScheduleDeletion(command) => command.run(context),
        Command::CancelDeletion(command) => command.run(context),
        Command::Purge(command) => command.run(context),
        Command::TrimHistory(command) => command.run(context),
        Command::Verify(command) => command.run(context),
        Command::Stats(command) => command.run(context),
        Command::Report(command) => command.run(context),
        Command::Checkpoint(command) => command.run(context),
        Command::Compact(command) => command.run(context),
        Command::Backup(command) => command.run(context),
        Command::Restore(command) => command.run(context),
        Command::Repair(command) => command.run(context),
        Command::Copy(command) => command.run(context),
        Command::Export(command) => command.run(context),
        Command::Import(command) => command.run(context),
        Command::Bench(command) => command.run(context),
        Command::Completions(command) => command.run(),
    }
}

impl Completions {
    fn run(&self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "keystead", &mut script);
        let mut out = io::stdout().lock();
        out.write_all(&script).and_then(|()| out.flush()).map_err(Failure::of_output)
    }
}
