//! Damaged and hostile files: whatever is in them, no call ends the process, takes memory without bound, or answers
//! what is not so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

#[cfg(target_os = "linux")]
mod child;
#[cfg(target_os = "linux")]
mod mutations;
#[cfg(target_os = "linux")]
mod operations;
#[cfg(target_os = "linux")]
mod pages;
#[cfg(target_os = "linux")]
#[path = "../../torture/src/random.rs"]
#[allow(dead_code, reason = "the torture uses all of it")]
mod random;
#[cfg(target_os = "linux")]
mod runner;
#[cfg(target_os = "linux")]
mod stores;
#[cfg(target_os = "linux")]
mod tests;
#[cfg(target_os = "linux")]
mod tool;
#[cfg(target_os = "linux")]
mod verdict;
