//! [`Bar`], [`watched`]: how far a long command is, shown on the terminal; and the clock, which is read only here.

use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use keystead::Progress;

use crate::text::{error_line, is_json, printable};

/// How far something is. Silent where the standard error output is no terminal.
pub(crate) struct Bar(ProgressBar);

/// How often a bar moves that nobody moves.
const TICK: Duration = Duration::from_millis(100);
/// How often it is looked how far a call is.
const LOOK: Duration = Duration::from_millis(20);

impl Bar {
    /// Of so many of something; of unknown length if there are none.
    pub(crate) fn new(doing: &'static str, total: u64, unit: &'static str) -> Self {
        let template = match total {
            0 => "{msg} {spinner} {human_pos} {unit}, {per_sec}, {elapsed}",
            _ => "{msg} [{wide_bar}] {human_pos}/{human_len} {unit}, {per_sec}, {eta} left",
        };
        Self::with(doing, total, &template.replace("{unit}", unit))
    }

    /// Of so many bytes.
    pub(crate) fn bytes(doing: &'static str, total: u64) -> Self {
        let template = match total {
            0 => "{msg} {spinner} {bytes}, {bytes_per_sec}, {elapsed}",
            _ => "{msg} [{wide_bar}] {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left",
        };
        Self::with(doing, total, template)
    }

    fn with(doing: &'static str, total: u64, template: &str) -> Self {
        if is_json() {
            return Self(ProgressBar::hidden());
        }
        let bar = if total == 0 { ProgressBar::no_length() } else { ProgressBar::new(total) };
        let style = ProgressStyle::with_template(template).expect("the templates are constants");
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(doing);
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// So many are done.
    pub(crate) fn set(&self, done: u64) {
        self.0.set_position(done);
    }

    /// Writes a line above the bar, to the standard error output.
    pub(crate) fn tell(&self, line: &str) {
        self.0.suspend(|| error_line(printable(line)));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Runs a long call of the library and shows how far it is.
pub(crate) fn watched<T>(call: impl FnOnce() -> T) -> T {
    if is_json() || !io::stderr().is_terminal() {
        return call();
    }
    let progress = Progress::new();
    thread::scope(|threads| {
        let ((running, ended), seen) = (channel(), progress.clone());
        threads.spawn(move || show(&seen, &ended));
        let result = progress.of(call);
        drop::<std::sync::mpsc::Sender<()>>(running);
        result
    })
}

/// Shows each step by a bar of its own, until the call has ended.
fn show(progress: &Progress, ended: &Receiver<()>) {
    let mut shown: Option<(&'static str, Bar)> = None;
    while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        let step = progress.step();
        if step.doing.is_empty() {
            continue;
        }
        let bar = match shown.take() {
            Some((doing, bar)) if doing == step.doing => bar,
            _ => Bar::new(step.doing, step.total.unwrap_or(0), "rows"),
        };
        bar.set(step.done);
        shown = Some((step.doing, bar));
    }
}

/// The clock, for what is measured.
#[expect(
    clippy::disallowed_methods,
    reason = "the tool measures how long things take, and stores none of it"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}
