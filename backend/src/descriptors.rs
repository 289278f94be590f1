//! File descriptors: whether the process may have as many as its connections need.

/// What the process needs besides its connections: the store's files, the log, the runtime, and the members
/// of a cluster.
#[cfg(unix)]
const BESIDES: u64 = 64;

/// Sees to it that so many connections can be open at once. The soft limit of the process is raised where
/// its hard limit allows it.
///
/// # Errors
///
/// What to do, if it does not.
#[cfg(unix)]
pub(crate) fn make_room_for(connections: usize) -> Result<(), String> {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let needed = connections as u64 + BESIDES;
    let mut limit = getrlimit(Resource::Nofile);
    // None: there is no limit.
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if limit.maximum.is_none_or(|hard| hard >= needed) {
        limit.current = Some(needed);
        if setrlimit(Resource::Nofile, limit).is_ok() {
            tracing::info!(descriptors = needed, "the soft limit of open files was raised");
            return Ok(());
        }
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    Err(format!(
        "limits.connections = {connections} needs {needed} file descriptors, and this process may have {limit}: \
         raise its limit (ulimit -n, LimitNOFILE=), or set limits.connections to {} or less",
        limit.saturating_sub(BESIDES)
    ))
}

#[cfg(not(unix))]
pub(crate) fn make_room_for(_: usize) -> Result<(), String> {
    Ok(())
}
