//! Preconditions: statements about what is there, judged where they stand.

use super::{Rows, Transaction, read};
use crate::alias::{Alias, KeyAlias};
use crate::error::{Actual, Error, Result};
use crate::id::{Commit, KeyId};

/// What a precondition expects of a key or a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expect {
    /// It is there, in this version.
    Version(Commit),
    /// It is there, and is or names this key.
    Target(KeyId),
    /// It is not there.
    Absent,
}

impl Expect {
    fn judge(self, actual: Option<Actual>) -> Result<()> {
        let holds = match (self, actual) {
            (Self::Version(expected), Some(actual)) => expected == actual.version,
            (Self::Target(expected), Some(actual)) => expected == actual.target,
            (Self::Absent, actual) => actual.is_none(),
            (_, None) => false,
        };
        if holds { Ok(()) } else { Err(Error::PreconditionFailed { actual }) }
    }
}

/// Preconditions. Each fails with [`PreconditionFailed`](Error::PreconditionFailed), which tells what
/// is there instead. Without one, the last writer wins.
impl Transaction<'_> {
    /// Goes on only if this holds of the key with this id.
    pub fn expect_key(&self, key_id: KeyId, expect: Expect) -> Result<()> {
        let key = read::find_key(self, key_id).map_err(|error| self.met(error))?;
        expect.judge(key.map(|key| Actual { target: key.key_id, version: key.version }))
    }

    /// Goes on only if this holds of the alias; the version is that of the alias.
    pub fn expect_alias(&self, alias: &Alias, expect: Expect) -> Result<()> {
        let record = read::find_alias(self, alias).map_err(|error| self.met(error))?;
        expect.judge(record.map(|record| Actual { target: record.key_id, version: record.version }))
    }

    /// Goes on only if this holds of the key alias; the version is that of the key.
    pub fn expect_key_alias(&self, key_alias: &KeyAlias, expect: Expect) -> Result<()> {
        match self.find_by_key_alias(key_alias) {
            Ok(key) => expect.judge(Some(Actual { target: key.key_id, version: key.version })),
            Err(Error::KeyNotFound { .. }) => expect.judge(None),
            Err(error) => Err(error),
        }
    }
}
