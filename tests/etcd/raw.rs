//! The keys of a cluster as etcd has them, behind the back of the store that they are of.

#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;

use etcd_client::{Client, CompactionOptions, DeleteOptions, GetOptions, Txn, TxnOp};
use tokio::runtime::Runtime;

/// A client of its own.
pub(crate) struct Raw {
    runtime: Runtime,
    client: Client,
}

impl Raw {
    pub(crate) fn new(endpoints: &[String]) -> Self {
        let runtime = Runtime::new().unwrap();
        let client = runtime.block_on(Client::connect(endpoints, None)).unwrap();
        Self { runtime, client }
    }

    /// All keys that begin so, with their values and the revisions that changed them.
    pub(crate) fn all(&self, prefix: &[u8]) -> BTreeMap<Vec<u8>, (Vec<u8>, i64)> {
        let mut kv = self.client.kv_client();
        let options = GetOptions::new().with_prefix();
        let answer = self.runtime.block_on(kv.get(prefix, Some(options))).unwrap();
        let found = answer.kvs().iter();
        found.map(|found| (found.key().to_vec(), (found.value().to_vec(), found.mod_revision()))).collect()
    }

    pub(crate) fn put(&self, key: &[u8], value: &[u8]) {
        self.try_put(key, value).unwrap();
    }

    pub(crate) fn try_put(&self, key: &[u8], value: &[u8]) -> Result<(), etcd_client::Error> {
        self.runtime.block_on(self.client.kv_client().put(key, value, None)).map(drop)
    }

    pub(crate) fn delete(&self, key: &[u8]) {
        self.runtime.block_on(self.client.kv_client().delete(key, None)).unwrap();
    }

    pub(crate) fn delete_all(&self, prefix: &[u8]) {
        let options = DeleteOptions::new().with_prefix();
        self.runtime.block_on(self.client.kv_client().delete(prefix, Some(options))).unwrap();
    }

    /// Several keys at once.
    pub(crate) fn put_all(&self, pairs: &[(&[u8], &[u8])]) {
        let puts: Vec<_> = pairs.iter().map(|(key, value)| TxnOp::put(*key, *value, None)).collect();
        self.runtime.block_on(self.client.kv_client().txn(Txn::new().and_then(puts))).unwrap();
    }

    /// Forgets all revisions before the newest.
    pub(crate) fn compact(&self) {
        let mut kv = self.client.kv_client();
        let newest = self.runtime.block_on(kv.get("no such key", None)).unwrap();
        let newest = newest.header().unwrap().revision();
        let options = CompactionOptions::new().with_physical();
        self.runtime.block_on(kv.compact(newest, Some(options))).unwrap();
    }

    /// The leases that there are.
    pub(crate) fn leases(&self) -> Vec<i64> {
        let answer = self.runtime.block_on(self.client.lease_client().leases()).unwrap();
        answer.leases().iter().map(etcd_client::LeaseStatus::id).collect()
    }

    /// Ends all leases.
    pub(crate) fn revoke_all(&self) {
        for lease in self.leases() {
            self.runtime.block_on(self.client.lease_client().revoke(lease)).unwrap();
        }
    }
}
