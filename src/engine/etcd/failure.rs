//! [`Failure`]: why a call of the cluster failed, by what etcd and the transport say.

use std::fmt;
use std::io;

use etcd_client::Error as EtcdError;
use tonic::{Code, Status};

use crate::error::Error;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// There is no answer. What was asked may have been done, or be done yet.
    NoAnswer(String),
    /// As that: the connection was made, and then closed.
    Closed,
    /// There was no time left to ask.
    NotAsked,
    /// It is refused for now, and nothing was done.
    Busy(String),
    Denied(String),
    /// The revision is no longer kept.
    Compacted,
    /// The member that was asked does not know the revision yet.
    NotYet,
    TooLarge(String),
    OutOfSpace,
    /// The lease has ended, and nothing was done.
    NoLease,
}

/// What it is about when members of a secure cluster refuse a connection.
pub(super) const OF_THIS_CLIENT: &str = "the members do not accept this client's certificate, or demand one";

/// What a member says of a revision that it has not reached.
pub(super) const NOT_YET: &str = "the member does not know that revision yet";

impl Failure {
    /// Whether it is sure that nothing was done, now or later.
    pub(super) fn is_final(&self) -> bool {
        // Of several writes that use up the space, etcd refuses the last after it has carried it out.
        !matches!(self, Self::NoAnswer(_) | Self::Closed | Self::OutOfSpace)
    }

    /// Whether another attempt may have an answer.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::NoAnswer(_) | Self::Closed | Self::Busy(_))
    }

    fn of_status(status: &Status) -> Self {
        let said = status.message();
        let text = || said.trim_start_matches("etcdserver: ").to_owned();
        match status.code() {
            Code::OutOfRange if said.contains("compacted") => Self::Compacted,
            Code::OutOfRange if said.contains("future revision") => Self::NotYet,
            Code::NotFound if said.contains("lease not found") => Self::NoLease,
            Code::ResourceExhausted if said.contains("space exceeded") => Self::OutOfSpace,
            Code::ResourceExhausted if said.contains("too many requests") => Self::Busy(text()),
            Code::ResourceExhausted | Code::OutOfRange => Self::TooLarge(text()),
            Code::InvalidArgument if said.contains("too many operations") || said.contains("too large") => {
                Self::TooLarge(text())
            }
            // Users or roles were changed meanwhile.
            Code::InvalidArgument if said.contains("revision of auth store is old") => Self::Busy(text()),
            Code::Unauthenticated | Code::PermissionDenied => Self::Denied(text()),
            Code::InvalidArgument | Code::FailedPrecondition
                if ["auth", "user name", "password", "permission"].iter().any(|word| said.contains(word)) =>
            {
                Self::Denied(text())
            }
            _ => Self::of_transport(with_sources(said.to_owned(), status)),
        }
    }

    /// By what the transport says.
    fn of_transport(said: String) -> Self {
        let lower = said.to_lowercase();
        let is_any = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        // `UnknownIssuer`, and what the alerts of TLS are called.
        if is_any(&["certificate", "unknownissuer", "unknownca", "handshakefailure", "private key"]) {
            let alert = lower.contains("fatal alert");
            Self::Denied(if alert { format!("{OF_THIS_CLIENT}: {said}") } else { said })
        } else if is_any(&["connection closed", "broken pipe", "connection reset"]) {
            Self::Closed
        } else {
            Self::NoAnswer(said)
        }
    }
}

impl From<EtcdError> for Failure {
    fn from(error: EtcdError) -> Self {
        match &error {
            EtcdError::GRpcStatus(status) => Self::of_status(status),
            EtcdError::InvalidArgs(_) | EtcdError::InvalidUri(_) => Self::Denied(error.to_string()),
            // Before anybody is called: what was given does not parse, or does not fit together.
            EtcdError::TransportError(error) => Self::Denied(format!(
                "a certificate or the private key of this client can't be used: {}",
                with_sources(error.to_string(), error)
            )),
            other => Self::of_transport(with_sources(other.to_string(), other)),
        }
    }
}

/// What an error says, and those that it comes from.
fn with_sources(mut said: String, error: &(dyn std::error::Error + 'static)) -> String {
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !said.contains(&next) {
            said = format!("{said}: {next}");
        }
        source = error.source();
    }
    said
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(said) | Self::Busy(said) => f.write_str(said),
            Self::Closed => f.write_str("the connection was closed"),
            other => Error::from(other.clone()).fmt(f),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoAnswer(_) | Failure::Closed | Failure::Busy(_) => {
                Self::Unavailable(failure.to_string().into())
            }
            Failure::NotAsked => Self::Unavailable("there was no time left to ask".into()),
            Failure::Denied(what) => Self::AccessDenied(what.into()),
            // What was read is of a moment that is gone; it may be read anew.
            Failure::Compacted => Self::Conflict,
            Failure::NotYet => Self::Unavailable(NOT_YET.into()),
            Failure::TooLarge(what) => {
                Self::Corrupted(format!("etcd refuses what keeps the limits: {what}").into())
            }
            Failure::OutOfSpace => {
                let what = "etcd has used up its quota of space (--quota-backend-bytes): compact and defragment it, \
                            raise the quota, and disarm its alarm";
                io::Error::new(io::ErrorKind::StorageFull, what).into()
            }
            Failure::NoLease => Self::Unavailable("the lease has ended".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What etcd 3.4 and 3.5 say, and whether something may have been done.
    #[test]
    fn a_status_is_what_it_says() {
        let busy = |said: &str| Failure::Busy(said.to_owned());
        let denied = |said: &str| Failure::Denied(said.to_owned());
        let large = |said: &str| Failure::TooLarge(said.to_owned());
        let unknown = |said: &str| Failure::NoAnswer(said.to_owned());
        let cases = [
            (Code::OutOfRange, "mvcc: required revision has been compacted", Failure::Compacted),
            (Code::OutOfRange, "mvcc: required revision is a future revision", Failure::NotYet),
            (Code::NotFound, "requested lease not found", Failure::NoLease),
            (Code::ResourceExhausted, "mvcc: database space exceeded", Failure::OutOfSpace),
            (Code::ResourceExhausted, "too many requests", busy("too many requests")),
            (Code::InvalidArgument, "revision of auth store is old", busy("revision of auth store is old")),
            (
                Code::InvalidArgument,
                "too many operations in txn request",
                large("too many operations in txn request"),
            ),
            (Code::InvalidArgument, "request is too large", large("request is too large")),
            (Code::PermissionDenied, "permission denied", denied("permission denied")),
            (Code::Unauthenticated, "invalid auth token", denied("invalid auth token")),
            (Code::InvalidArgument, "user name is empty", denied("user name is empty")),
            (
                Code::FailedPrecondition,
                "authentication is not enabled",
                denied("authentication is not enabled"),
            ),
            (Code::Unavailable, "leader changed", unknown("etcdserver: leader changed")),
            (Code::Unavailable, "request timed out", unknown("etcdserver: request timed out")),
            (Code::Unavailable, "no leader", unknown("etcdserver: no leader")),
            (Code::Unknown, "context deadline exceeded", unknown("etcdserver: context deadline exceeded")),
        ];
        for (code, said, failure) in cases {
            let met = Failure::of_status(&Status::new(code, format!("etcdserver: {said}")));
            assert_eq!(met, failure);
            let may_be_done = matches!(failure, Failure::NoAnswer(_) | Failure::OutOfSpace);
            assert_eq!(met.is_final(), !may_be_done, "{said}");
        }
    }

    #[test]
    fn what_the_transport_says_of_certificates_is_no_silence() {
        let refused = ["invalid peer certificate: UnknownIssuer", "received fatal alert: BadCertificate"];
        assert!(
            refused
                .iter()
                .all(|said| matches!(Failure::of_transport((*said).to_owned()), Failure::Denied(_)))
        );
        let closed = ["hyper: connection closed", "stream closed because of a broken pipe"];
        assert!(closed.iter().all(|said| Failure::of_transport((*said).to_owned()) == Failure::Closed));
        let refused = Failure::of_transport("Connection refused (os error 111)".to_owned());
        assert!(matches!(&refused, Failure::NoAnswer(_)) && refused.may_pass() && !refused.is_final());
    }
}
