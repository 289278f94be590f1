//! [`Cluster`]: what is said of a store on etcd. The same options name the store of a command and, with `to-` in front,
//! where a copy goes.

use std::path::PathBuf;
use std::time::Duration;
#[cfg(feature = "etcd")]
use std::{env, fs};

use clap::Args;
#[cfg(feature = "etcd")]
use keystead::Etcd;

use crate::failure::Failure;

/// A cluster, and how it is reached.
#[cfg_attr(not(feature = "etcd"), expect(dead_code, reason = "this tool was built without etcd"))]
pub(crate) struct Cluster<'a> {
    /// What is in front of the names of its options, and of those of the environment.
    names: (&'static str, &'static str),
    endpoints: &'a [String],
    prefix: Option<&'a str>,
    ca_certificate: Option<&'a PathBuf>,
    certificate: Option<&'a PathBuf>,
    private_key: Option<&'a PathBuf>,
    server_name: Option<&'a str>,
    user: Option<&'a str>,
    password_file: Option<&'a PathBuf>,
    deadline: Option<Duration>,
}

macro_rules! options_of_a_cluster {
    ($(#[$what:meta])* $name:ident, $option:literal, $variable:literal, $heading:literal, global = $global:literal) => {
        $(#[$what])*
        #[derive(Args)]
        pub(crate) struct $name {
            /// For a store on etcd: the addresses of all members, with commas between.
            #[arg(id = concat!($option, "etcd"), long = concat!($option, "etcd"), env = concat!($variable, "ETCD"),
                value_name = "ADDRESSES", value_delimiter = ',', global = $global, help_heading = $heading)]
            endpoints: Vec<String>,
            /// With what the store's keys in etcd begin; `keystead` if nothing is said.
            #[arg(id = concat!($option, "etcd-prefix"), long = concat!($option, "etcd-prefix"),
                env = concat!($variable, "ETCD_PREFIX"), value_name = "PREFIX", global = $global,
                help_heading = $heading, hide_short_help = true)]
            prefix: Option<String>,
            /// The certificate of the authority that signed those of the members, a PEM file; for https://.
            #[arg(id = concat!($option, "etcd-ca"), long = concat!($option, "etcd-ca"),
                env = concat!($variable, "ETCD_CA"), value_name = "FILE", global = $global,
                help_heading = $heading, hide_short_help = true)]
            ca_certificate: Option<PathBuf>,
            /// The certificate by which this tool shows who it is, a PEM file.
            #[arg(id = concat!($option, "etcd-certificate"), long = concat!($option, "etcd-certificate"),
                env = concat!($variable, "ETCD_CERTIFICATE"), value_name = "FILE", global = $global,
                help_heading = $heading, hide_short_help = true)]
            certificate: Option<PathBuf>,
            /// The private key of that certificate, a PEM file.
            #[arg(id = concat!($option, "etcd-private-key"), long = concat!($option, "etcd-private-key"),
                env = concat!($variable, "ETCD_PRIVATE_KEY"), value_name = "FILE", global = $global,
                help_heading = $heading, hide_short_help = true)]
            private_key: Option<PathBuf>,
            /// The name in the members' certificates, if it is not the host of the address.
            #[arg(id = concat!($option, "etcd-server-name"), long = concat!($option, "etcd-server-name"),
                env = concat!($variable, "ETCD_SERVER_NAME"), value_name = "NAME", global = $global,
                help_heading = $heading, hide_short_help = true)]
            server_name: Option<String>,
            /// The user of etcd. Its password is in a file, or in the environment.
            #[arg(id = concat!($option, "etcd-user"), long = concat!($option, "etcd-user"),
                env = concat!($variable, "ETCD_USER"), value_name = "NAME", global = $global,
                help_heading = $heading, hide_short_help = true)]
            user: Option<String>,
            #[arg(help = concat!("The file that holds the user's password; else it is in ", $variable, "ETCD_PASSWORD"),
                id = concat!($option, "etcd-password-file"), long = concat!($option, "etcd-password-file"),
                env = concat!($variable, "ETCD_PASSWORD_FILE"), value_name = "FILE", global = $global,
                help_heading = $heading, hide_short_help = true)]
            password_file: Option<PathBuf>,
            /// How long the cluster may take to answer, in seconds; 5 if nothing is said.
            #[arg(id = concat!($option, "etcd-deadline"), long = concat!($option, "etcd-deadline"),
                env = concat!($variable, "ETCD_DEADLINE"), value_name = "SECONDS", value_parser = parse_seconds,
                global = $global, help_heading = $heading, hide_short_help = true)]
            deadline: Option<Duration>,
        }

        impl $name {
            /// The cluster, if one was named.
            pub(crate) fn cluster(&self) -> Option<Cluster<'_>> {
                (!self.endpoints.is_empty()).then(|| Cluster {
                    names: (concat!("--", $option), $variable),
                    endpoints: &self.endpoints,
                    prefix: self.prefix.as_deref(),
                    ca_certificate: self.ca_certificate.as_ref(),
                    certificate: self.certificate.as_ref(),
                    private_key: self.private_key.as_ref(),
                    server_name: self.server_name.as_deref(),
                    user: self.user.as_deref(),
                    password_file: self.password_file.as_ref(),
                    deadline: self.deadline,
                })
            }
        }
    };
}

options_of_a_cluster! {
    /// Where the store of a command is, if it is on etcd.
    SourceOptions, "", "KEYSTEAD_", "Store on etcd", global = true
}
options_of_a_cluster! {
    /// Where a copy goes, if that is to etcd.
    TargetOptions, "to-", "KEYSTEAD_TO_", "Copy to etcd", global = false
}

/// What names a store on etcd, and the options that mean nothing without that.
pub(crate) const SETTINGS: [&str; 9] = [
    "etcd",
    "etcd-prefix",
    "etcd-ca",
    "etcd-certificate",
    "etcd-private-key",
    "etcd-server-name",
    "etcd-user",
    "etcd-password-file",
    "etcd-deadline",
];

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "seconds are a number, such as 5 or 0.5".to_owned())
}

#[cfg(not(feature = "etcd"))]
impl Cluster<'_> {
    /// Where no store can be.
    pub(crate) fn unsupported(&self) -> Failure {
        Failure::usage(format!("this keystead was built without etcd, so {}etcd can't be used", self.names.0))
            .advice("build it with the feature etcd, which needs protoc: `cargo install --path cli --features etcd`")
    }
}

#[cfg(feature = "etcd")]
impl Cluster<'_> {
    /// As the library is told.
    pub(crate) fn settings(&self) -> Result<Etcd, Failure> {
        let mut etcd = Etcd::new(self.endpoints);
        if let Some(prefix) = self.prefix {
            etcd = etcd.prefix(prefix);
        }
        if let Some(path) = self.ca_certificate {
            etcd = etcd.ca_certificate(Self::pem(path)?);
        }
        etcd = match (self.certificate, self.private_key) {
            (Some(certificate), Some(key)) => {
                etcd.client_certificate(Self::pem(certificate)?, Self::pem(key)?)
            }
            (None, None) => etcd,
            _ => return Err(self.both("certificate", "private-key")),
        };
        if let Some(name) = self.server_name {
            etcd = etcd.server_name(name);
        }
        if let Some(user) = self.user {
            etcd = etcd.user(user, self.password()?);
        } else if self.password_file.is_some() {
            return Err(self.both("user", "password-file"));
        }
        if let Some(deadline) = self.deadline {
            etcd = etcd.deadline(deadline);
        }
        Ok(etcd)
    }

    fn option(&self, name: &str) -> String {
        format!("{}etcd-{name}", self.names.0)
    }

    fn both(&self, one: &str, other: &str) -> Failure {
        let (one, other) = (self.option(one), self.option(other));
        Failure::usage(format!("{one} and {other} need each other; only one was given"))
    }

    fn pem(path: &PathBuf) -> Result<Vec<u8>, Failure> {
        fs::read(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
    }

    /// From the file, or from the environment; it is never shown.
    fn password(&self) -> Result<String, Failure> {
        let variable = format!("{}ETCD_PASSWORD", self.names.1);
        let (password, place) = match self.password_file {
            Some(path) => {
                let place = path.display().to_string();
                let text =
                    fs::read_to_string(path).map_err(|error| Failure::usage(format!("{place}: {error}")))?;
                (text.trim_end_matches(['\r', '\n']).to_owned(), place)
            }
            None => {
                let found = env::var_os(&variable).filter(|found| !found.is_empty()).ok_or_else(|| {
                    let (user, file) = (self.option("user"), self.option("password-file"));
                    Failure::usage(format!("{user} needs a password: by {file}, or in {variable}"))
                })?;
                let text =
                    found.into_string().map_err(|_| Failure::usage(format!("{variable} is no text")))?;
                (text, variable)
            }
        };
        if password.is_empty() {
            return Err(Failure::usage(format!("the password in {place} is empty")));
        }
        Ok(password)
    }
}
