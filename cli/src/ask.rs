//! [`Confirm`]: asking before what can't be undone.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;

use crate::failure::Failure;
use crate::text::is_json;

/// Whether to ask.
#[derive(Args)]
pub(crate) struct Confirm {
    /// Don't ask. Needed where there is no terminal, and with --json.
    #[arg(long, short)]
    yes: bool,
}

impl Confirm {
    /// Says what is going to be done, and returns if it was confirmed.
    pub(crate) fn ask(&self, what: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        // A question is no JSON.
        if is_json() || !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            let message = format!("not confirmed, nothing was done: {what}");
            return Err(Failure::not_confirmed(message).advice("give --yes"));
        }
        let mut terminal = io::stderr().lock();
        write!(terminal, "{what}\nGo on? [y/N] ")?;
        terminal.flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::not_confirmed("nothing was done")),
        }
    }
}
