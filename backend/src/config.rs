//! The configuration file: accounts, who may call, and how the store is opened.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keystead::{
    Alias, AliasScope, AsyncLimits, DomainId, KeyAlias, KeyId, NewKey, ProjectId, Quotas, Region, Retention,
};
use serde::{Deserialize, Deserializer};

use crate::{first_keys, random};

/// The services for which the platform makes a default key, by the names of these keys.
const SERVICES: [&str; 13] =
    ["obs", "evs", "ims", "vbs", "sfs", "kps", "csms", "dlf", "dds", "elb", "mkp", "coc", "cce"];

/// The most connections, requests and calls of the store at once, and mebibytes of bodies.
const BOUND_MAX: usize = 100_000;

/// A text that is never shown.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    #[cfg(feature = "etcd")]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Everything that the configuration file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The region in URNs and key details.
    pub(crate) region: Region,
    /// Whether a repeated `sequence` repeats the answer instead of the operation.
    #[serde(default)]
    pub(crate) idempotent_sequence: bool,
    /// Where aliases are unique: in the account, as documented, or in the project.
    #[serde(default = "alias_scope")]
    pub(crate) alias_scope: AliasScope,
    #[serde(default, deserialize_with = "quotas")]
    pub(crate) quotas: Quotas,
    #[serde(default, deserialize_with = "retention")]
    pub(crate) retention: Retention,
    /// The services that have a default key in each project.
    #[serde(default = "services")]
    pub(crate) default_key_services: Vec<String>,
    #[serde(default)]
    pub(crate) limits: Limits,
    /// How the members of an etcd cluster are reached.
    #[serde(default)]
    pub(crate) etcd: Etcd,
    #[serde(rename = "account")]
    pub(crate) accounts: Vec<Account>,
}

fn alias_scope() -> AliasScope {
    AliasScope::Domain
}

/// As the library's own, but a name that is none of its fields is an error.
fn quotas<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Quotas, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Given {
        keys_per_project: Option<u64>,
        aliases_per_key: Option<usize>,
        tags_per_key: Option<usize>,
    }
    let (given, usual) = (Given::deserialize(deserializer)?, Quotas::default());
    Ok(Quotas {
        keys_per_project: given.keys_per_project.unwrap_or(usual.keys_per_project),
        aliases_per_key: given.aliases_per_key.unwrap_or(usual.aliases_per_key),
        tags_per_key: given.tags_per_key.unwrap_or(usual.tags_per_key),
    })
}

fn retention<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Retention, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Given {
        history_days: Option<u16>,
        history_commits: Option<u64>,
        outcome_hours: Option<u32>,
        outcomes_per_scope: Option<u64>,
    }
    let (given, usual) = (Given::deserialize(deserializer)?, Retention::default());
    Ok(Retention {
        history_days: given.history_days.or(usual.history_days),
        history_commits: given.history_commits.or(usual.history_commits),
        outcome_hours: given.outcome_hours.unwrap_or(usual.outcome_hours),
        outcomes_per_scope: given.outcomes_per_scope.unwrap_or(usual.outcomes_per_scope),
    })
}

fn services() -> Vec<String> {
    SERVICES.map(str::to_owned).to_vec()
}

/// How much the service does at once, and how long.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Limits {
    /// Open connections; more wait to be accepted.
    pub(crate) connections: usize,
    /// Requests in work, from when their bodies are there; more wait, up to their time-out.
    pub(crate) requests: usize,
    /// Reads of the store in work, each on its own thread; more wait.
    pub(crate) store_reads: usize,
    /// Writes of the store in work, each on its own thread; more wait, but no read waits for them.
    pub(crate) store_writes: usize,
    /// The time for a whole request.
    pub(crate) request_seconds: u64,
    /// The time in which its body must come.
    pub(crate) body_seconds: u64,
    /// The memory that all bodies together may have beyond their first 16 KiB.
    pub(crate) body_mebibytes: usize,
    /// The time in which a client must read an answer, or each 64 KiB of it.
    pub(crate) write_seconds: u64,
    /// The time between two sweeps.
    pub(crate) sweep_seconds: u64,
    /// The time that open requests have to end when the service stops.
    pub(crate) stop_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            requests: 256,
            store_reads: 16,
            store_writes: 32,
            request_seconds: 30,
            body_seconds: 10,
            body_mebibytes: 64,
            write_seconds: 10,
            sweep_seconds: 60,
            stop_seconds: 10,
        }
    }
}

impl Limits {
    /// Each request has at most one call of the store at a time, so all that are in work may wait there.
    pub(crate) fn of_calls(&self) -> AsyncLimits {
        let bound = |bound: usize| u32::try_from(bound).unwrap_or(u32::MAX);
        AsyncLimits {
            reads: bound(self.store_reads),
            writes: bound(self.store_writes),
            waiting: bound(self.requests),
            ..AsyncLimits::default()
        }
    }

    pub(crate) fn request_time(&self) -> Duration {
        Duration::from_secs(self.request_seconds)
    }

    pub(crate) fn body_time(&self) -> Duration {
        Duration::from_secs(self.body_seconds)
    }

    pub(crate) fn write_time(&self) -> Duration {
        Duration::from_secs(self.write_seconds)
    }

    pub(crate) fn sweep_time(&self) -> Duration {
        Duration::from_secs(self.sweep_seconds)
    }

    pub(crate) fn stop_time(&self) -> Duration {
        Duration::from_secs(self.stop_seconds)
    }
}

/// For a store on an etcd cluster; where it is, and which it is, the command line says.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "it is checked, and used where there is etcd"))]
pub(crate) struct Etcd {
    /// The file with the certificate of the authority that signed those of the members.
    pub(crate) ca_certificate: Option<PathBuf>,
    /// The files with the certificate and the private key by which the service shows who it is.
    pub(crate) client_certificate: Option<PathBuf>,
    pub(crate) client_key: Option<PathBuf>,
    /// The name in the members' certificates, if it is not the host of their addresses.
    pub(crate) server_name: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    /// How long a call of the store may take.
    pub(crate) deadline_ms: Option<u64>,
    /// How long a member may take to answer.
    pub(crate) attempt_ms: Option<u64>,
    /// How old what is read may be; if nothing is said, every read asks the cluster.
    pub(crate) staleness_ms: Option<u64>,
}

/// A customer: a domain, its projects, and who may call for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Account {
    pub(crate) domain_id: DomainId,
    pub(crate) projects: Vec<ProjectId>,
    /// Access keys, with which requests are signed.
    #[serde(default)]
    pub(crate) access: Vec<Access>,
    /// Tokens for X-Auth-Token.
    #[serde(default)]
    pub(crate) token: Vec<Token>,
    /// Keys that a project has from its first use on, for demonstrations and tests.
    #[serde(default)]
    pub(crate) key: Vec<FirstKey>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Access {
    pub(crate) access_key: String,
    pub(crate) secret_key: Secret,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Token {
    pub(crate) token: Secret,
    /// The actor in change records; `token` if nothing is said.
    #[serde(default = "token_name")]
    pub(crate) name: String,
}

fn token_name() -> String {
    "token".to_owned()
}

/// A key made when the project is first used.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FirstKey {
    pub(crate) project: ProjectId,
    pub(crate) key_id: KeyId,
    pub(crate) key_alias: KeyAlias,
    #[serde(default)]
    pub(crate) aliases: Vec<Alias>,
}

impl Config {
    /// Reads a configuration file. What is wrong with it is told without showing any value.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| format!("{shown} can't be read: {error}"))?;
        warn_if_others_can_read(path);
        Self::parse(&text).map_err(|wrong| format!("{shown}: {wrong}"))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| without_values(text, &error))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        let mut once = |what: &'static str, name: &[u8]| {
            if name.is_empty() {
                return Err(format!("an empty {what}"));
            }
            let first = names.insert((what, name.to_vec()));
            if first { Ok(()) } else { Err(format!("the same {what} twice")) }
        };
        for account in &self.accounts {
            once("domain_id", account.domain_id.as_str().as_bytes())?;
            for project in &account.projects {
                once("project", project.as_str().as_bytes())?;
            }
            for access in &account.access {
                once("access_key", access.access_key.as_bytes())?;
                if access.secret_key.as_bytes().is_empty() {
                    return Err("an empty secret_key".to_owned());
                }
            }
            for token in &account.token {
                once("token", token.token.as_bytes())?;
            }
            for key in &account.key {
                if !account.projects.contains(&key.project) {
                    return Err("a key in a project that is not the account's".to_owned());
                }
                if key.key_alias.is_reserved() {
                    return Err("a key_alias that is reserved for the platform".to_owned());
                }
                once("key_id", key.key_id.to_string().as_bytes())?;
            }
        }
        for service in &self.default_key_services {
            once("service", service.as_bytes())?;
            NewKey::default_of(service).map_err(|error| format!("default_key_services: {error}"))?;
        }
        let limits = &self.limits;
        first_keys::check(self)?;
        let bounds = [limits.connections, limits.requests, limits.store_reads, limits.store_writes];
        let bounds = bounds.into_iter().chain([limits.body_mebibytes]);
        let times = [limits.request_seconds, limits.body_seconds, limits.write_seconds, limits.sweep_seconds];
        if bounds.into_iter().any(|bound| !(1..=BOUND_MAX).contains(&bound)) || times.contains(&0) {
            return Err(format!("a limit that is 0 or more than {BOUND_MAX}"));
        }
        Ok(())
    }
}

/// Where a TOML file is wrong, and how, if that shows no more than the name of a field.
fn without_values(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let about_fields = ["unknown field", "missing field", "duplicate"];
    let message = error.message();
    let what =
        if about_fields.iter().any(|start| message.starts_with(start)) { message } else { "a wrong value" };
    format!("line {line}: {what}")
}

#[cfg(unix)]
fn warn_if_others_can_read(path: &Path) {
    use std::os::unix::fs::PermissionsExt;

    let mode = fs::metadata(path).map_or(0, |about| about.permissions().mode());
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others than its owner can read the configuration file");
    }
}

#[cfg(not(unix))]
fn warn_if_others_can_read(_: &Path) {}

/// Writes the configuration of a demonstration, for its owner only, unless the file is there. The
/// account's secret is random.
pub(crate) fn make_demo(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        opened => opened?,
    };
    file.write_all(demo(&random::access_key(), &random::secret()).as_bytes())?;
    file.sync_all()
}

/// The two keys are those that the service's documentation names in its examples.
fn demo(access_key: &str, secret_key: &str) -> String {
    format!(
        r#"# A demonstration of keystead-kms, made on its first start. It holds a secret.
region = "cn-north-7"
idempotent_sequence = false
alias_scope = "domain"

[[account]]
domain_id = "3bab8e245e854f68af5967c00dd43127"
projects = ["0d0466b0e7274d9cb35df84bb474a37f"]

[[account.access]]
access_key = "{access_key}"
secret_key = "{secret_key}"

# Keys that the project has from its first use on.
[[account.key]]
project = "0d0466b0e7274d9cb35df84bb474a37f"
key_id = "0d0466b0-e727-4d9c-b35d-f84bb474a37f"
key_alias = "orders-2025"
aliases = ["kms-1234"]

[[account.key]]
project = "0d0466b0e7274d9cb35df84bb474a37f"
key_id = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e"
key_alias = "orders"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = r#"
        region = "cn-north-7"
        idempotent_sequence = false
        alias_scope = "domain"
        [quotas]
        keys_per_project = 1000
        [[account]]
        domain_id = "3bab8e245e854f68af5967c00dd43127"
        projects = ["0d0466b0e7274d9cb35df84bb474a37f", "0d0466b0e7274d9cb35df84bb474a380"]
        [[account.access]]
        access_key = "AKEXAMPLE"
        secret_key = "SKEXAMPLE"
        [[account.token]]
        token = "TOKENEXAMPLE"
    "#;

    #[test]
    fn the_documented_file_is_read() {
        let config = Config::parse(DOCUMENTED).unwrap();
        assert_eq!(config.quotas.keys_per_project, 1000);
        assert_eq!(config.quotas.aliases_per_key, 50);
        assert_eq!(config.alias_scope, AliasScope::Domain);
        assert_eq!(config.accounts[0].projects.len(), 2);
        assert_eq!(config.accounts[0].token[0].name, "token");
        assert!(config.default_key_services.contains(&"obs".to_owned()));
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", Config::parse(DOCUMENTED).unwrap());
        assert!(shown.contains("AKEXAMPLE"));
        assert!(!shown.contains("SKEXAMPLE") && !shown.contains("TOKENEXAMPLE"), "{shown}");
    }

    fn first_key(project: &str, name: &str) -> String {
        let key_id = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e";
        format!("\n[[account.key]]\nproject = \"{project}\"\nkey_id = \"{key_id}\"\nkey_alias = \"{name}\"\n")
    }

    #[test]
    fn a_wrong_file_is_refused_without_showing_values() {
        let wrong = [
            DOCUMENTED.replace("secret_key = \"SKEXAMPLE\"", "secret_key = SKEXAMPLE"),
            DOCUMENTED.replace("region = \"cn-north-7\"", "region = [\"SKEXAMPLE\"]"),
            DOCUMENTED.replace("projects = [", "projects = \"SKEXAMPLE\" # ["),
            DOCUMENTED.replace("\"SKEXAMPLE\"", "\"\""),
            DOCUMENTED.replace("4a380\"]", "4a37f\"]"),
            DOCUMENTED.replace("[quotas]", "[limits]\nrequests = 0\n[quotas]"),
            format!("unheard_of = 1\n{DOCUMENTED}"),
            DOCUMENTED.replace("keys_per_project", "keys_per_poject"),
            DOCUMENTED.replace("[quotas]", "[retention]\nhours = 1\n[quotas]"),
            DOCUMENTED.replace("[quotas]", "[etcd]\npassword = 7 # SKEXAMPLE\n[quotas]"),
            DOCUMENTED.replace("[quotas]", "[etcd]\nstaleness = 1\n[quotas]"),
            format!("{DOCUMENTED}\n[[account.access]]\naccess_key = \"AKEXAMPLE\"\nsecret_key = \"x\""),
            format!("{DOCUMENTED}{}", first_key("0d0466b0e7274d9cb35df84bb474a37f", "a/default")),
            format!("{DOCUMENTED}{}", first_key("EXAMPLE", "a")),
            format!("{DOCUMENTED}{0}{0}", first_key("0d0466b0e7274d9cb35df84bb474a37f", "a")),
        ];
        for text in wrong {
            let said = Config::parse(&text).unwrap_err();
            assert!(!said.contains("EXAMPLE"), "{said}");
        }
        let said = Config::parse(&format!("unheard_of = 1\n{DOCUMENTED}")).unwrap_err();
        assert!(said.starts_with("line 1: unknown field `unheard_of`"), "{said}");
    }

    #[test]
    fn the_demonstration_is_for_its_owner_and_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("demo.toml");
        make_demo(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        make_demo(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(Config::load(&path).unwrap().accounts[0].key.len(), 2);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_ne!(demo("a", &random::secret()), demo("a", &random::secret()));
    }
}
