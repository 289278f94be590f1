//! Where the store is: in a file, or on an etcd cluster that other processes use too.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use keystead::{Options, Store};

use crate::config::{Config, Etcd};

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Where the store is; etcd if this program was built with `--features etcd`
    #[arg(long, value_enum, default_value_t = Engine::File)]
    engine: Engine,
    /// The file of the store; it is made if it is not there
    #[arg(long, default_value = "kms.redb", conflicts_with = "endpoints")]
    data: PathBuf,
    /// The addresses of etcd's members for clients, with commas between them
    #[arg(long, value_delimiter = ',', required_if_eq("engine", "etcd"))]
    endpoints: Vec<String>,
    /// With what the store's keys in etcd begin
    #[arg(long, requires = "endpoints")]
    prefix: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    File,
    Etcd,
}

impl Place {
    /// That this program can open such a store.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self.engine {
            Engine::File if !self.endpoints.is_empty() => Err("--endpoints is for --engine etcd".to_owned()),
            Engine::Etcd if !cfg!(feature = "etcd") => {
                Err("this program was built without etcd: build it with --features etcd".to_owned())
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn open(&self, options: &Options, config: &Config) -> Result<Store, String> {
        match self.engine {
            Engine::File => {
                options.open(&self.data).map_err(|error| format!("{}: {error}", self.data.display()))
            }
            Engine::Etcd => self.open_etcd(options, &config.etcd),
        }
    }

    #[cfg(feature = "etcd")]
    fn open_etcd(&self, options: &Options, config: &Etcd) -> Result<Store, String> {
        let read =
            |path: &PathBuf| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let millis = |millis: Option<u64>| millis.map(std::time::Duration::from_millis);
        let mut cluster = keystead::Etcd::new(&self.endpoints);
        if let Some(prefix) = &self.prefix {
            cluster = cluster.prefix(prefix);
        }
        if let Some(path) = &config.ca_certificate {
            cluster = cluster.ca_certificate(read(path)?);
        }
        match (&config.client_certificate, &config.client_key) {
            (Some(certificate), Some(key)) => {
                cluster = cluster.client_certificate(read(certificate)?, read(key)?);
            }
            (None, None) => {}
            _ => return Err("client_certificate and client_key go together".to_owned()),
        }
        if let Some(name) = &config.server_name {
            cluster = cluster.server_name(name);
        }
        match (&config.user, &config.password) {
            (Some(user), Some(password)) => cluster = cluster.user(user, password.as_str()),
            (None, None) => {}
            _ => return Err("user and password go together".to_owned()),
        }
        if let Some(deadline) = millis(config.deadline_ms) {
            cluster = cluster.deadline(deadline);
        }
        if let Some(time) = millis(config.attempt_ms) {
            cluster = cluster.attempt_time(time);
        }
        if let Some(staleness) = millis(config.staleness_ms) {
            cluster = cluster.staleness(staleness);
        }
        options.open_etcd(&cluster).map_err(|error| format!("{}: {error}", self.endpoints.join(",")))
    }

    #[cfg(not(feature = "etcd"))]
    fn open_etcd(&self, _: &Options, _: &Etcd) -> Result<Store, String> {
        self.check().and(Err("a store on etcd can't be opened".to_owned()))
    }
}
