//! [`Request`]: in which scope, when, and for whom a write is made.

use std::sync::Arc;

use crate::change::CommitInfo;
use crate::error::{Error, Result};
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
    /// The most bytes that the name of an actor may have: it is stored with every commit.
    pub const ACTOR_BYTES_MAX: usize = 1024;

    /// A request in this scope, now.
    pub fn new(scope: &Scope) -> Self {
        Self { scope: scope.clone(), time: Timestamp::now(), actor: None, request_id: None }
    }

    /// At another time than that of the system's clock.
    pub fn at(mut self, time: Timestamp) -> Self {
        self.time = time;
        self
    }

    /// Made by this user or program: at most [`ACTOR_BYTES_MAX`](Self::ACTOR_BYTES_MAX) bytes, or the
    /// write is [`TransactionTooLarge`](Error::TransactionTooLarge). The history keeps it.
    pub fn actor(mut self, actor: &str) -> Self {
        self.actor = Some(actor.into());
        self
    }

    /// With the caller's own id of the request. The history tells it; what makes a request repeatable is
    /// [`Store::write_once`](crate::Store::write_once), which notes its own id in the place of this one.
    pub fn request_id(mut self, request_id: RequestId) -> Self {
        self.request_id = Some(request_id);
        self
    }

    /// Whether everything in it may be stored.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.actor {
            Some(actor) if actor.len() > Self::ACTOR_BYTES_MAX => Err(Error::TransactionTooLarge {
                what: "bytes in the name of the actor",
                max: Self::ACTOR_BYTES_MAX,
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn has_id(&self) -> bool {
        self.request_id.is_some()
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

    pub(crate) fn id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
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
