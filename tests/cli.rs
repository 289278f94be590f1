//! The operator's tool, as a process: what each command answers, to people and to machines, its exit codes,
//! and what it does beside an open store, on a terminal, and with broken files.

#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

#[path = "cli/commands.rs"]
mod commands;
#[path = "cli/documents.rs"]
mod documents;
#[path = "cli/exchange.rs"]
mod exchange;
#[path = "cli/files.rs"]
mod files;
#[cfg(target_os = "linux")]
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/tool.rs"]
mod tool;
