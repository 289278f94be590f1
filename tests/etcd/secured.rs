//! Who may call a cluster, for tests: users and roles, and certificates of an authority of its own.

#![allow(dead_code, reason = "each test uses a part")]

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

use crate::cluster::{Cluster, Secured};

/// Users and roles: `root`, who may do everything, `kms` for the store, and `other` for what is beside it.
pub(crate) fn with_users(cluster: &Cluster) {
    let control = |arguments: &str| {
        let arguments: Vec<_> = arguments.split(' ').collect();
        assert!(cluster.control(0, &arguments).is_some(), "etcdctl {arguments:?}");
    };
    control("user add root:root");
    control("role add root");
    control("user grant-role root root");
    for (user, prefix) in [("kms", "kms"), ("other", "other"), ("reader", "none")] {
        control(&format!("user add {user}:{user}-password"));
        control(&format!("role add {user}"));
        control(&format!("role grant-permission --prefix {user} readwrite {prefix}"));
        control(&format!("user grant-role {user} {user}"));
    }
    control("role grant-permission --prefix reader read kms");
    control("auth enable");
}

/// Certificates of one authority, in files.
pub(crate) struct Authority {
    pub(crate) issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a certificate for this name and these hosts; returns it and its private key, and leaves both in files.
    pub(crate) fn certify(&self, name: &str, hosts: &[&str]) -> (String, String) {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        std::fs::write(self.path(&format!("{name}.pem")), &pem).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        (pem, key.serialize_pem())
    }

    pub(crate) fn secured(&self, name: &str) -> Secured {
        Secured {
            authority: self.path("ca.pem"),
            certificate: self.path(&format!("{name}.pem")),
            private_key: self.path(&format!("{name}.key")),
        }
    }
}

pub(crate) fn argument(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}
