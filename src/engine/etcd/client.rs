//! [`Client`]: calls of the cluster that block, each with a bound on its time.

use std::future::Future;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use etcd_client::{
    Certificate, ConnectOptions, Error as EtcdError, GetOptions, Identity, KeyValue, TlsOptions, Txn, TxnOp,
    TxnOpResponse, TxnResponse,
};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::failure::{Failure, NOT_YET, OF_THIS_CLIENT};
use super::layout::Key;
use super::members::{Member, Members};
use super::settings::Etcd;
use crate::error::{Error, Result};
use crate::id::random_bytes;
use crate::time::Stopwatch;

/// The largest answer that is taken: 32 entries of the log, or 256 rows, and a little.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How many keys are asked for at once: etcd takes 128 if nothing else is said, and this store asks for more only
/// where it writes.
pub(super) const KEYS_AT_ONCE: usize = 100;

/// The first pause before an attempt is made again, and the longest.
const PAUSE: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How often connections are looked after: members of the cluster close those that ask more often than every five
/// seconds.
const PING: Duration = Duration::from_secs(6);
const PONG_WITHIN: Duration = Duration::from_secs(2);

/// A connection to the cluster, with threads of its own: so it can be used by threads that may not block in
/// async code, and by such that know of none.
pub(super) struct Client {
    runtime: Option<Runtime>,
    members: Members,
    asking: Asking,
    attempt_time: Duration,
}

/// Who is asked, and for how long.
struct Asking {
    endpoints: Vec<String>,
    is_secure: bool,
    deadline: Duration,
}

/// Until when an operation waits for answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Until {
    since: Stopwatch,
    time: Duration,
}

impl Until {
    /// What is left of the time.
    pub(super) fn left(self) -> Duration {
        self.time.saturating_sub(self.since.elapsed())
    }
}

/// What is asked for and when: the newest, or as of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Newest,
    Revision(i64),
}

/// A key's value as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) key: Key,
    pub(super) value: Vec<u8>,
    pub(super) created: i64,
    pub(super) modified: i64,
}

impl Client {
    /// For a store at a key, by which it is found out whether a member answers. Nobody is asked yet.
    pub(super) fn new(settings: &Etcd, key: &Key) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("keystead-etcd")
            .enable_all()
            .build()?;
        let members = Members::new(&settings.endpoints, &options(settings), key);
        let Etcd { deadline, attempt_time, .. } = *settings;
        let asking =
            Asking { endpoints: settings.endpoints.clone(), is_secure: settings.is_secure(), deadline };
        Ok(Self { runtime: Some(runtime), members, asking, attempt_time })
    }

    /// The time that an operation has that begins now.
    pub(super) fn until(&self) -> Until {
        self.until_since(Stopwatch::start())
    }

    /// The time that an operation has that began then.
    pub(super) fn until_since(&self, since: Stopwatch) -> Until {
        Until { since, time: self.asking.deadline }
    }

    /// Makes attempts until there is an answer, or the time is over.
    pub(super) fn until_answered<T>(
        &self,
        until: Until,
        attempt: impl Fn() -> Result<T, Failure>,
    ) -> Result<T> {
        self.asking.until_answered(until, attempt)
    }

    /// Makes one attempt, at one member, and waits for it no longer than that.
    fn attempt<T, F>(
        &self,
        within: Duration,
        ask: impl FnOnce(etcd_client::Client) -> F + Send + 'static,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, EtcdError>> + Send,
    {
        let within = within.min(self.attempt_time);
        if within.is_zero() {
            return Err(Failure::NotAsked);
        }
        let member = self.members.next();
        let asked = Arc::clone(&member);
        let outcome = call(self.runtime(), within, async move { ask(asked.client().await?).await });
        if matches!(outcome, Err(Failure::NoAnswer(_) | Failure::Closed)) {
            self.note_silent(member);
        }
        outcome
    }

    pub(super) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is taken only when this is dropped")
    }

    /// A member to be asked for something that takes long.
    pub(super) fn member(&self) -> Arc<Member> {
        self.members.next()
    }

    /// Notes that a member did not answer.
    pub(super) fn note_silent(&self, member: Arc<Member>) {
        member.note_silent(self.runtime(), self.attempt_time);
    }

    /// A transaction that may write, once.
    pub(super) fn try_txn(&self, txn: Txn, within: Duration) -> Result<TxnResponse, Failure> {
        self.attempt(within, async |client| {
            client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX).txn(txn).await
        })
    }

    /// A transaction that does no harm when it is made again, until there is an answer.
    pub(super) fn txn(&self, txn: &Txn, until: Until) -> Result<TxnResponse> {
        self.until_answered(until, || self.try_txn(txn.clone(), until.left()))
    }

    /// A transaction whose outcome nobody waits for.
    pub(super) fn send(&self, txn: Txn) {
        let (member, within) = (self.members.next(), self.attempt_time);
        self.runtime().spawn(async move {
            let sent = async { member.client().await?.kv_client().txn(txn).await };
            drop(timeout(within, sent).await);
        });
    }

    /// A lease of its own for so many seconds.
    pub(super) fn grant(&self, seconds: i64, until: Until) -> Result<i64> {
        self.until_answered(until, || {
            self.attempt(until.left(), async move |client| {
                client.lease_client().grant(seconds, None).await.map(|granted| granted.id())
            })
        })
    }

    /// Ends a lease and all that is tied to it, if that can be done at once.
    pub(super) fn revoke(&self, id: i64) -> Result<(), Failure> {
        self.attempt(self.attempt_time, async move |client| client.lease_client().revoke(id).await.map(drop))
    }

    /// Keeps a lease; returns for how many seconds, which is 0 for one that has ended.
    pub(super) fn keep(&self, id: i64) -> Result<i64, Failure> {
        self.attempt(self.attempt_time, async move |client| {
            let (mut keeper, mut answers) = client.lease_client().keep_alive(id).await?;
            keeper.keep_alive().await?;
            Ok(answers.message().await?.map_or(0, |kept| kept.ttl()))
        })
    }

    /// The values of these keys, in their order, and the revision that was read.
    pub(super) fn get(&self, keys: &[Key], at: At, until: Until) -> Result<(i64, Vec<Option<Found>>)> {
        let (mut at, mut found) = (at, Vec::with_capacity(keys.len()));
        let mut revision = 0;
        for keys in keys.chunks(KEYS_AT_ONCE) {
            let ranges: Vec<_> = keys.iter().map(|key| (key.clone(), GetOptions::new())).collect();
            let (read, values) = self.ranges(&ranges, at, until)?;
            found.extend(values.into_iter().map(|mut values| values.pop()));
            revision = read;
            // All of them as of the same moment.
            at = At::Revision(read);
        }
        Ok((revision, found))
    }

    /// What lies in these ranges, in one call, and the revision that was read.
    pub(super) fn ranges(
        &self,
        ranges: &[(Key, GetOptions)],
        at: At,
        until: Until,
    ) -> Result<(i64, Vec<Vec<Found>>)> {
        let ask = |serializable: bool| {
            let gets = ranges.iter().map(|(key, options)| {
                let options = match at {
                    At::Newest => options.clone(),
                    At::Revision(revision) => options.clone().with_revision(revision),
                };
                let options = if serializable { options.with_serializable() } else { options };
                TxnOp::get(key.clone(), Some(options))
            });
            let txn = Txn::new().and_then(gets.collect::<Vec<_>>());
            self.txn(&txn, until)
        };
        // What was at a revision that one member knows can be had of any that knows it, without asking the others.
        let answer = match at {
            At::Revision(_) => match ask(true) {
                Err(Error::Unavailable(what)) if *what == *NOT_YET => ask(false)?,
                answer => answer?,
            },
            At::Newest => ask(false)?,
        };
        let read = match at {
            At::Newest => revision_of(&answer),
            At::Revision(revision) => revision,
        };
        let mut found = Vec::with_capacity(ranges.len());
        for response in answer.op_responses() {
            if let TxnOpResponse::Get(mut response) = response {
                found.push(response.take_kvs().into_iter().map(Found::from).collect());
            }
        }
        if found.len() != ranges.len() {
            return Err(Error::Corrupted("etcd answered something else than what it was asked".into()));
        }
        Ok((read, found))
    }

    /// The newest revision, by one attempt.
    pub(super) fn try_revision(&self, key: &Key) -> Result<i64, Failure> {
        let get = TxnOp::get(key.clone(), Some(GetOptions::new().with_count_only()));
        self.try_txn(Txn::new().and_then([get]), self.attempt_time).map(|answer| revision_of(&answer))
    }
}

/// How members are connected to.
fn options(settings: &Etcd) -> ConnectOptions {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(settings.attempt_time)
        .with_keep_alive(PING, PONG_WITHIN)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some((name, password)) = &settings.user {
        options = options.with_user(name, password);
    }
    if settings.is_secure() {
        let mut tls = TlsOptions::new();
        if let Some(pem) = &settings.ca_certificate {
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        if let Some((certificate, key)) = &settings.client_certificate {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &settings.server_name {
            tls = tls.domain_name(name);
        }
        options = options.with_tls(tls);
    }
    options
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may be dropped where no thread may be waited for.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// The revision that an answer is of.
pub(super) fn revision_of(answer: &TxnResponse) -> i64 {
    answer.header().map_or(0, |header| header.revision())
}

impl From<KeyValue> for Found {
    fn from(value: KeyValue) -> Self {
        let (created, modified) = (value.create_revision(), value.mod_revision());
        let (key, value) = value.into_key_value();
        Self { key, value, created, modified }
    }
}

/// Runs a call on threads of its own and waits for it.
fn call<T: Send + 'static>(
    runtime: &Runtime,
    within: Duration,
    call: impl Future<Output = Result<T, EtcdError>> + Send + 'static,
) -> Result<T, Failure> {
    let (answers, answer) = mpsc::sync_channel(1);
    runtime.spawn(async move {
        let outcome = match timeout(within, call).await {
            Ok(outcome) => outcome.map_err(Failure::from),
            Err(_) => Err(Failure::NoAnswer(format!("no answer within {within:?}"))),
        };
        // Nobody waits any more if the thread that did has ended.
        let _ = answers.send(outcome);
    });
    answer.recv().unwrap_or_else(|_| Err(Failure::NoAnswer("the call was given up".to_owned())))
}

impl Asking {
    /// Makes attempts until there is an answer, or the time is over.
    fn until_answered<T>(&self, until: Until, attempt: impl Fn() -> Result<T, Failure>) -> Result<T> {
        let (mut made, mut closed) = (0, 0);
        loop {
            let failure = match attempt() {
                Err(failure) if failure.may_pass() => failure,
                outcome => return outcome.map_err(Error::from),
            };
            made += 1;
            closed += u32::from(failure == Failure::Closed);
            if pause(made, until) {
                continue;
            }
            let asked = self.endpoints.join(", ");
            // Some attempts may have had no time for that.
            let mostly_closed = closed * 2 > made;
            // By TLS 1.3 a member refuses this client's certificate only when the connection has been made.
            if self.is_secure && mostly_closed && made > 1 {
                let said = format!("{OF_THIS_CLIENT}: connections were closed (asked: {asked})");
                return Err(Error::AccessDenied(said.into()));
            }
            let hint = if !self.is_secure && mostly_closed { ", as where https:// is expected" } else { "" };
            let time = self.deadline;
            return Err(Error::Unavailable(format!("{failure}{hint} (asked for {time:?}: {asked})").into()));
        }
    }
}

/// Pauses before the next attempt, some time up to a bound that doubles: callers that failed together shall not come
/// again together. Returns whether there is time for another.
pub(super) fn pause(made: u32, until: Until) -> bool {
    let longest = PAUSE.saturating_mul(1 << made.min(10)).min(PAUSE_MAX);
    let [part, ..] = random_bytes();
    let pause = longest.mul_f64((f64::from(part) + 1.0) / 256.0);
    if pause >= until.left() {
        return false;
    }
    thread::sleep(pause);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_until_there_is_an_answer_and_names_who_did_not_give_one() {
        let asking = |is_secure| Asking {
            endpoints: vec!["one".to_owned(), "two".to_owned()],
            is_secure,
            deadline: Duration::from_millis(50),
        };
        let left = std::cell::Cell::new(3);
        let until = || Until { since: Stopwatch::start(), time: Duration::from_millis(50) };
        let answer = asking(false).until_answered(until(), || match left.replace(left.get() - 1) {
            0 => Ok("an answer"),
            1 => Err(Failure::Busy("too many requests".to_owned())),
            _ => Err(Failure::NoAnswer("none".to_owned())),
        });
        assert_eq!(answer.unwrap(), "an answer");
        let silence =
            asking(false).until_answered(until(), || Err::<(), _>(Failure::NoAnswer("none".to_owned())));
        assert!(
            matches!(silence, Err(Error::Unavailable(said)) if *said == *"none (asked for 50ms: one, two)")
        );
        let closed = |is_secure| {
            asking(is_secure).until_answered(until(), || Err::<(), _>(Failure::Closed)).unwrap_err()
        };
        assert!(matches!(closed(true), Error::AccessDenied(said) if said.contains("certificate")));
        assert!(matches!(closed(false), Error::Unavailable(said) if said.contains("https://")));
        let asked = std::cell::Cell::new(0);
        let compacted = asking(false).until_answered(until(), || {
            asked.set(asked.get() + 1);
            Err::<(), _>(Failure::Compacted)
        });
        assert!(matches!(compacted, Err(Error::Conflict)) && asked.get() == 1);
    }
}
