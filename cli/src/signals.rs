//! Signals that would end the tool where an error is better.

use std::io;

/// A write beyond the limit of the size of files (`ulimit -f`) fails then, as one on a full disk does. By default the
/// signal that comes with it ends the process.
#[cfg(unix)]
pub(crate) fn survive_file_size_limit() -> io::Result<()> {
    use std::sync::Arc;

    use signal_hook::consts::SIGXFSZ;
    use signal_hook::flag;

    // That the signal has a handler is all; nobody looks at the flag.
    flag::register(SIGXFSZ, Arc::default()).map(drop)
}

#[cfg(not(unix))]
pub(crate) fn survive_file_size_limit() -> io::Result<()> {
    Ok(())
}
