//! A store on an etcd cluster that asks who one is: users, passwords, roles, certificates. What is right works; what is
//! wrong is `AccessDenied`, in time, and nothing is written.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the test functions")]
#![allow(clippy::disallowed_methods, reason = "how long calls take")]

#[path = "../cluster.rs"]
mod cluster;
#[path = "../secured.rs"]
mod secured;

use std::thread;
use std::time::{Duration, Instant};

use cluster::Cluster;
use keystead::{
    Alias, Error, Etcd, KeyFilter, KeyId, NewKey, Options, Request, Result, Scope, Store, Waited,
};
use secured::{Authority, argument, with_users};

const PREFIX: &str = "kms";
const DEADLINE: Duration = Duration::from_secs(2);
/// What a call may take beyond the deadline, on a machine that does much else.
const SLACK: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);

fn scope() -> Scope {
    Scope::new("domain", "project").unwrap()
}

fn settings(endpoints: Vec<String>) -> Etcd {
    Etcd::new(endpoints).prefix(PREFIX).deadline(DEADLINE).attempt_time(Duration::from_millis(500))
}

fn create(store: &Store, name: &str) -> Result<KeyId> {
    let new = NewKey::new(name)?;
    store.write(&Request::new(&scope()), |txn| txn.create_key(&new)).map(|done| done.value.key_id)
}

fn count(store: &Store) -> u64 {
    let report = store.verify().unwrap();
    assert!(report.is_clean(), "{report:?}");
    store.read(&scope(), |snap| snap.count_keys(&KeyFilter::all())).unwrap()
}

/// Runs a call that must be denied, in time.
fn denied<T: std::fmt::Debug>(what: &str, call: impl FnOnce() -> Result<T>, words: &[&str]) {
    let since = Instant::now();
    let outcome = call();
    let took = since.elapsed();
    assert!(took < DEADLINE + SLACK, "{what}: it took {took:?}: {outcome:?}");
    let error = outcome.unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, Error::AccessDenied(_)) && !error.is_retryable(), "{what}: {error:?}");
    let words = words.iter().chain(&["refuse this client", "nothing was written"]);
    words.for_each(|word| assert!(said.contains(word), "{what}: {said:?} does not say {word:?}"));
}

/// What etcd has at the prefix of the store.
fn keys(cluster: &Cluster) -> String {
    let get = ["--user=root:root", "get", "--prefix", PREFIX, "--write-out=json", "--keys-only"];
    cluster.control(0, &get).unwrap()
}

#[test]
fn users_passwords_and_roles() {
    let mut cluster = Cluster::of(1, &["--max-txn-ops=512", "--auth-token-ttl=1"], None);
    with_users(&cluster);
    let user = |name: &str, password: &str| settings(cluster.endpoints()).user(name, password);
    let open = |settings: Etcd| Store::open_etcd(&settings);
    let before = keys(&cluster);
    denied("a wrong password", || open(user("kms", "guessed")), &["authentication failed"]);
    denied("no such user", || open(user("nobody", "kms-password")), &["authentication failed"]);
    denied("no user", || open(settings(cluster.endpoints())), &["user name is empty"]);
    denied("a user of something else", || open(user("other", "other-password")), &["permission denied"]);
    denied("a user who may only read", || open(user("reader", "reader-password")), &["permission denied"]);
    let only_reads = || Options::new().open_etcd_read_only(&user("reader", "reader-password"));
    assert!(matches!(only_reads(), Err(Error::NoStore(_))));
    assert_eq!(keys(&cluster).split_once("kvs").is_some(), before.split_once("kvs").is_some());
    assert!(!keys(&cluster).contains("kvs"), "nothing was begun");

    let store = open(user("kms", "kms-password")).unwrap();
    create(&store, "one").unwrap();
    assert_eq!(count(&store), 1);
    // The token ends after a second in which it was not used.
    let position = store.position().unwrap();
    assert_eq!(store.wait(&position, Duration::from_secs(3)).unwrap(), Waited::TimedOut);
    let reader = only_reads().unwrap();
    create(&store, "two").unwrap();
    assert_eq!(store.wait(&position, PATIENCE).unwrap(), Waited::Committed);
    assert_eq!(count(&store), 2);
    assert_eq!(reader.wait(&position, PATIENCE).unwrap(), Waited::Committed);
    assert_eq!(count(&reader), 2);
    drop(reader);

    waits_through_a_restart(&mut cluster, &store);

    // What is taken away is denied from then on, and works when it is given again.
    let control = |arguments: &[&str]| {
        assert!(cluster.control(0, &[&["--user=root:root"], arguments].concat()).is_some(), "{arguments:?}");
    };
    control(&["user", "revoke-role", "kms", "kms"]);
    denied("a role that was taken away", || create(&store, "three"), &["permission denied"]);
    denied("a read without the role", || store.verify(), &["permission denied"]);
    control(&["user", "grant-role", "kms", "kms"]);
    assert_eq!(count(&store), 3, "nothing was written");
    create(&store, "three").unwrap();
    control(&["user", "delete", "kms"]);
    denied("a user who is gone", || create(&store, "four"), &[]);
}

/// A member that was started again knows no token of before. Who does nothing but wait learns of what is written then.
fn waits_through_a_restart(cluster: &mut Cluster, store: &Store) {
    let position = store.position().unwrap();
    thread::scope(|threads| {
        let waiting = threads.spawn(|| store.wait(&position, PATIENCE));
        cluster.kill(0);
        cluster.restart(0);
        let since = Instant::now();
        let other = settings(cluster.endpoints()).user("kms", "kms-password");
        while let Err(error) = Store::open_etcd(&other).and_then(|other| create(&other, "by-another")) {
            assert!(since.elapsed() < PATIENCE, "{error}");
        }
        assert_eq!(waiting.join().unwrap().unwrap(), Waited::Committed);
    });
}

#[test]
fn certificates_both_ways_and_a_password() {
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    authority.certify("members", &["127.0.0.1"]);
    let (certificate, key) = authority.certify("client", &["client"]);
    let (of_stranger, key_of_stranger) = stranger.certify("client", &["client"]);
    let trusted = argument("--trusted-ca-file", &authority.path("ca.pem"));
    let arguments = ["--max-txn-ops=512", "--client-cert-auth", &trusted];
    let cluster = Cluster::of(3, &arguments, Some(authority.secured("members")));
    with_users(&cluster);

    let plain = || settings(cluster.endpoints()).user("kms", "kms-password");
    let trusting = || plain().ca_certificate(authority.issuer.pem());
    let right = || trusting().client_certificate(certificate.clone(), key.clone());
    let open = |settings: Etcd| Store::open_etcd(&settings);
    denied("no authority", || open(plain()), &["certificate"]);
    denied("a wrong authority", || open(plain().ca_certificate(stranger.issuer.pem())), &["certificate"]);
    denied("no client certificate", || open(trusting()), &["certificate"]);
    let strange = || trusting().client_certificate(of_stranger.clone(), key_of_stranger.clone());
    denied("a client certificate of another authority", || open(strange()), &["certificate"]);
    denied("a wrong name of the members", || open(right().server_name("elsewhere")), &["certificate"]);
    denied("no password", || open(right().user("kms", "")), &["authentication failed"]);
    denied(
        "a key of another certificate",
        || open(trusting().client_certificate(certificate.clone(), key_of_stranger.clone())),
        &["key"],
    );
    for (what, pem) in [("no PEM", "a certificate"), ("an empty PEM", "")] {
        denied(what, || open(plain().ca_certificate(pem)), &["certificate"]);
        denied(what, || open(trusting().client_certificate(pem, pem)), &["certificate"]);
    }
    let no_tls = cluster.endpoints().iter().map(|endpoint| endpoint.replace("https", "http")).collect();
    let error = open(settings(no_tls)).unwrap_err();
    assert!(matches!(&error, Error::Unavailable(said) if said.contains("https://")), "{error:?}");
    assert!(!keys(&cluster).contains("kvs"), "nothing was begun");

    works(&right());
    works(&right().server_name("127.0.0.1"));
}

/// Two stores do all that there is to do, at the same time.
fn works(settings: &Etcd) {
    let stores = [(); 2].map(|()| Store::open_etcd(settings).unwrap());
    let before = count(&stores[0]);
    let alias: Alias = format!("alias-{before}").parse().unwrap();
    let position = stores[1].position().unwrap();
    let first = NewKey::new(&format!("first-{before}")).unwrap().alias(alias.clone());
    stores[0].write(&Request::new(&scope()), |txn| txn.create_key(&first)).unwrap();
    assert_eq!(stores[1].wait(&position, PATIENCE).unwrap(), Waited::Committed);
    assert_eq!(stores[1].read(&scope(), |snap| snap.resolve(&alias)).unwrap().key_id, first.key_id);
    thread::scope(|threads| {
        for (number, store) in stores.iter().enumerate() {
            let name = format!("key-{before}-{number}");
            threads.spawn(move || {
                for key in 0..10 {
                    create(store, &format!("{name}-{key}")).unwrap();
                }
            });
        }
    });
    assert_eq!(count(&stores[0]), before + 21);
}
