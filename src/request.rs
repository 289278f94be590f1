//! [`Request`]: in which scope, when, and for whom a write is made.

use std::sync::Arc;

use crate::change::CommitInfo;
use crate::id::{Commit, RequestId, Scope};
use crate::time::Timestamp;

/// Who asks for a write, in which scope, and when. The clock is read here, once, and not inside the
/// transaction, which may run again.
///
/// ```
/// use keystead::{Request, Scope, Timestamp};
/// let scope = Scope::new("domain", "project")?;
/// let request = Request::new(&scope).actor("alice").at(Timestamp::from_millis(1_700_000_000_000));
/// assert_eq!(request.time().as_millis(), 1_700_000_000_000);
/// # Ok::<(), keystead::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Request {
    scope: Scope,
    time: Timestamp,
    actor: Option<Arc<str>>,
    request_id: Option<RequestId>,
}

impl Request {
    /// A request in this scope, now.
    pub fn new(scope: &Scope) -> Self {
        Self { scope: scope.clone(), time: Timestamp::now(), actor: None, request_id: None }
    }

    /// At another time than that of the system's clock.
    pub fn at(mut self, time: Timestamp) -> Self {
        self.time = time;
        self
    }

    /// Made by this user or program. The history tells it, and it counts against the 1 MiB of a commit's
    /// entry there.
    pub fn actor(mut self, actor: &str) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// With the caller's own id of the request. The history tells it; what makes a request repeatable is
    /// [`Store::write_once`](crate::Store::write_once).
    pub fn request_id(mut self, request_id: RequestId) -> Self {
        self.request_id = Some(request_id);
        self
    }

    pub(crate) fn info(&self, commit: Commit) -> CommitInfo {
        CommitInfo {
            commit,
            time: self.time,
            scope: self.scope.clone(),
            actor: self.actor.clone(),
            request_id: self.request_id.clone(),
        }
    }

    /// The scope.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The time.
    pub fn time(&self) -> Timestamp {
        self.time
    }
}
