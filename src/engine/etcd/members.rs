//! [`Members`]: the members of the cluster, and which of them are asked.
//!
//! One that did not answer is asked for nothing more until it answers in the background, as long as there are others.
//! So a member that stands still, or is cut off from the others, costs each call that was on its way to it one attempt,
//! and later calls nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error as EtcdError, GetOptions};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use super::failure::Failure;
use super::layout::Key;

/// How long it is waited until a member that did not answer is asked again.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Members {
    all: Vec<Arc<Member>>,
    turn: AtomicUsize,
}

pub(super) struct Member {
    endpoint: String,
    options: ConnectOptions,
    /// What it is asked for to find out whether it answers.
    key: Key,
    client: OnceCell<Client>,
    /// Whether it did not answer, and is asked in the background.
    silent: AtomicBool,
}

impl Members {
    /// Those at these addresses. None is asked for anything yet.
    pub(super) fn new(endpoints: &[String], options: &ConnectOptions, key: &Key) -> Self {
        let member = |endpoint: &String| Member {
            endpoint: endpoint.clone(),
            options: options.clone(),
            key: key.clone(),
            client: OnceCell::new(),
            silent: AtomicBool::new(false),
        };
        Self { all: endpoints.iter().map(member).map(Arc::new).collect(), turn: AtomicUsize::new(0) }
    }

    /// The next in turn of those that answer, or of all if none does.
    pub(super) fn next(&self) -> Arc<Member> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = || (0..self.all.len()).map(|step| &self.all[turn.wrapping_add(step) % self.all.len()]);
        let answers = in_turn().find(|member| !member.silent.load(Ordering::Acquire));
        let member = answers.or_else(|| in_turn().next());
        Arc::clone(member.expect("the settings were checked: there is one at least"))
    }
}

impl Member {
    /// What it is asked by. With a user, the first call is made here: to check a password takes a member long, so this
    /// goes on when an attempt that waits for it is given up.
    pub(super) async fn client(self: &Arc<Self>) -> Result<Client, EtcdError> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let member = Arc::clone(self);
        let connected = tokio::spawn(async move {
            let connect = || Client::connect([&member.endpoint], Some(member.options.clone()));
            member.client.get_or_try_init(connect).await.cloned()
        });
        connected.await.unwrap_or_else(|gone| Err(EtcdError::Internal(gone.to_string())))
    }

    /// Notes that it did not answer, until it does.
    pub(super) fn note_silent(self: Arc<Self>, runtime: &Runtime, within: Duration) {
        if self.silent.swap(true, Ordering::AcqRel) {
            return;
        }
        runtime.spawn(async move {
            while !matches!(timeout(within, self.answers()).await, Ok(true)) {
                sleep(PAUSE).await;
            }
            self.silent.store(false, Ordering::Release);
        });
    }

    /// Whether it can say what is the newest, for which it needs the others. A refusal is an answer too.
    async fn answers(self: &Arc<Self>) -> bool {
        let newest = async {
            let mut kv = self.client().await?.kv_client();
            kv.get(self.key.clone(), Some(GetOptions::new().with_count_only())).await
        };
        newest.await.map_err(Failure::from).err().is_none_or(|failure| failure.is_final())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_answer_are_asked_in_turn() {
        let endpoints = ["http://one", "http://two", "http://three"].map(str::to_owned);
        let members = Members::new(&endpoints, &ConnectOptions::new(), &Key::new());
        let asked = |count| {
            let mut asked: Vec<_> = (0..count).map(|_| members.next().endpoint.clone()).collect();
            asked.sort_unstable();
            asked.dedup();
            asked.len()
        };
        assert_eq!(asked(3), 3);
        members.all[1].silent.store(true, Ordering::Release);
        assert_eq!(asked(3), 2);
        assert!((0..9).all(|_| members.next().endpoint != "http://two"));
        for member in &members.all {
            member.silent.store(true, Ordering::Release);
        }
        assert_eq!(asked(3), 3, "one of them must be asked");
    }
}
