//! The operator's tool, as a process: what each command answers, to people and to machines, its exit codes,
//! and what it does beside an open store, on a terminal, and with broken files.

#![allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]

#[path = "cli/beside.rs"]
mod beside;
#[cfg(feature = "etcd")]
#[path = "../../tests/etcd/cluster.rs"]
mod cluster;
#[path = "cli/commands.rs"]
mod commands;
#[path = "cli/copies.rs"]
mod copies;
#[path = "cli/documents.rs"]
mod documents;
#[cfg(feature = "etcd")]
#[path = "cli/etcd.rs"]
mod etcd;
#[path = "cli/exchange.rs"]
mod exchange;
#[path = "cli/files.rs"]
mod files;
#[cfg(target_os = "linux")]
#[path = "cli/full_disk.rs"]
mod full_disk;
#[path = "cli/leftovers.rs"]
mod leftovers;
#[path = "cli/messages.rs"]
mod messages;
#[path = "cli/names.rs"]
mod names;
#[cfg(unix)]
#[path = "cli/nightly.rs"]
mod nightly;
#[cfg(feature = "etcd")]
#[path = "../../tests/etcd/raw.rs"]
mod raw;
#[path = "cli/report.rs"]
mod report;
#[cfg(feature = "etcd")]
#[path = "../../tests/etcd/secured.rs"]
mod secured;
#[path = "cli/sizes.rs"]
mod sizes;
#[cfg(target_os = "linux")]
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/tool.rs"]
mod tool;
