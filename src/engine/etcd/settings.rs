//! [`Etcd`]: which cluster a store is on, and how it is reached.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::{Error, Result};

/// An etcd cluster, and the part of it that a store has; by the feature `etcd`.
///
/// ```
/// use std::time::Duration;
///
/// use keystead::Etcd;
/// let cluster = Etcd::new(["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"])
///     .prefix("kms/prod")
///     .user("kms", "its password")
///     .deadline(Duration::from_secs(3));
/// assert!(!format!("{cluster:?}").contains("password"));
/// ```
#[derive(Clone)]
pub struct Etcd {
    pub(super) endpoints: Vec<String>,
    pub(super) prefix: String,
    pub(super) ca_certificate: Option<Vec<u8>>,
    pub(super) client_certificate: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) server_name: Option<String>,
    pub(super) user: Option<(String, String)>,
    pub(super) deadline: Duration,
    pub(super) attempt_time: Duration,
    pub(super) staleness: Option<Duration>,
    #[cfg(test)]
    pub(super) left_out: Option<LeftOut>,
}

/// For a test of the tests: something that a commit needs to be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeftOut {
    /// That the rows which were read have not changed.
    Comparison,
    /// By which an attempt without an answer is settled; it is just made again.
    Slot,
}

impl Etcd {
    /// The prefix if nothing else is said.
    pub const PREFIX_DEFAULT: &str = "keystead";
    /// The most bytes that a prefix may have.
    pub const PREFIX_BYTES_MAX: usize = 128;
    /// How long an operation may take if nothing else is said: 5 seconds.
    pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);
    /// How long one attempt may take if nothing else is said: 1 second.
    pub const ATTEMPT_TIME_DEFAULT: Duration = Duration::from_secs(1);

    const TIMES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);

    /// The cluster with members at these addresses: `http://` or `https://`, a host, and the port for clients.
    /// Several are asked in turn; name all members, so that each may fail.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: Self::PREFIX_DEFAULT.to_owned(),
            ca_certificate: None,
            client_certificate: None,
            server_name: None,
            user: None,
            deadline: Self::DEADLINE_DEFAULT,
            attempt_time: Self::ATTEMPT_TIME_DEFAULT,
            staleness: None,
            #[cfg(test)]
            left_out: None,
        }
    }

    /// With what all keys in etcd begin that are the store's; a zero byte follows. Each prefix is a store of its
    /// own. 1 to [`PREFIX_BYTES_MAX`](Self::PREFIX_BYTES_MAX) printable ASCII characters without spaces;
    /// [`PREFIX_DEFAULT`](Self::PREFIX_DEFAULT) if nothing is said.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The certificate of the authority that signed those of the members, as PEM. For `https://` only.
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_certificate = Some(pem.into());
        self
    }

    /// The certificate by which this client shows who it is, and its private key, as PEM. For `https://` only.
    pub fn client_certificate(
        mut self,
        pem: impl Into<Vec<u8>>,
        private_key_pem: impl Into<Vec<u8>>,
    ) -> Self {
        self.client_certificate = Some((pem.into(), private_key_pem.into()));
        self
    }

    /// The name that must be in the members' certificates, if it is not the host of the address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// A user of etcd, with the permission to read and write the keys of the store: those from its prefix with a
    /// zero byte to its prefix with a byte of 1.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// How long a write may take, all its attempts together, until it is [`Unavailable`](Error::Unavailable),
    /// [`Conflict`](Error::Conflict) or [`CommitUnknown`](Error::CommitUnknown); and a read, each time that it asks.
    /// While the members elect a leader nothing goes on, which took up to
    /// 2.4 seconds where it was measured. From 10 milliseconds to a minute;
    /// [`DEADLINE_DEFAULT`](Self::DEADLINE_DEFAULT) if nothing is said.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long a member may take to answer, until another attempt is made. From 10 milliseconds to a minute;
    /// [`ATTEMPT_TIME_DEFAULT`](Self::ATTEMPT_TIME_DEFAULT) if nothing is said.
    pub fn attempt_time(mut self, time: Duration) -> Self {
        self.attempt_time = time;
        self
    }

    /// Lets [`Store::read`](crate::Store::read) show what is at most so old: then nothing is asked of the cluster
    /// for records that are in the cache. If nothing is said, each read asks for the newest commit, and sees every
    /// write that returned before it, of other processes too. What this process wrote itself is seen in either
    /// case, and a write never rests on what is old. From 10 milliseconds to a minute.
    ///
    /// While it can't be told how old the records are, because members don't answer, reads ask the cluster.
    pub fn staleness(mut self, at_most: Duration) -> Self {
        self.staleness = Some(at_most);
        self
    }

    /// Whether members are called by TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"))
    }

    /// For a test of the tests.
    #[cfg(test)]
    pub(crate) fn leave_out(mut self, what: LeftOut) -> Self {
        self.left_out = Some(what);
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let mismatch = |option, asked: String, expected: &str| {
            Err(Error::OptionsMismatch { option, asked, expected: expected.to_owned() })
        };
        if self.endpoints.is_empty() {
            return mismatch("endpoints", "empty".to_owned(), "the address of a member at least");
        }
        if let Some(other) = self.endpoints.iter().find(|endpoint| !is_address(endpoint)) {
            return mismatch("endpoints", other.clone(), "http:// or https://, a host, a colon, and a port");
        }
        let has_tls = self.ca_certificate.is_some()
            || self.client_certificate.is_some()
            || self.server_name.is_some()
            || self.is_secure();
        let is_plain = |endpoint: &&String| endpoint.starts_with("http://");
        if let Some(plain) = self.endpoints.iter().find(is_plain).filter(|_| has_tls) {
            let expected =
                "https://, where certificates or a name in them are given, or another address has it";
            return mismatch("endpoints", plain.clone(), expected);
        }
        let length = 1..=Self::PREFIX_BYTES_MAX;
        if !length.contains(&self.prefix.len()) || !self.prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            let expected = "1 to 128 printable ASCII characters without spaces";
            return mismatch("prefix", format!("{:?}", self.prefix), expected);
        }
        let times = [
            ("deadline", Some(self.deadline)),
            ("attempt_time", Some(self.attempt_time)),
            ("staleness", self.staleness),
        ];
        for (option, time) in times {
            if let Some(time) = time.filter(|time| !Self::TIMES.contains(time)) {
                return mismatch(option, format!("{time:?}"), "from 10 ms to 60 s");
            }
        }
        Ok(())
    }
}

fn is_address(endpoint: &str) -> bool {
    let place = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    place.and_then(|place| place.rsplit_once(':')).is_some_and(|(host, port)| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
        !host.is_empty() && host.bytes().all(fits) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

impl fmt::Display for Etcd {
    /// Where the store is: prefix and addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the prefix {} of the cluster {}", self.prefix, self.endpoints.join(", "))
    }
}

impl fmt::Debug for Etcd {
    /// Without password and private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("ca_certificate", &self.ca_certificate.is_some())
            .field("client_certificate", &self.client_certificate.is_some())
            .field("deadline", &self.deadline)
            .field("attempt_time", &self.attempt_time)
            .field("staleness", &self.staleness)
            .finish_non_exhaustive()
    }
}
