//! What a store is told to uphold: [`AliasScope`], [`Compatibility`], [`Quotas`], [`Policy`].

use serde::{Deserialize, Serialize};

use crate::id::Region;

/// Where an alias is unique. Fixed when a store is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AliasScope {
    /// In its project.
    #[default]
    Project,
    /// In its domain, as the service documents it: an alias of another project is taken, but can't
    /// be seen, moved or deleted from here.
    Domain,
}

impl AliasScope {
    /// The policy in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Domain => "domain",
        }
    }
}

/// To which keys an alias may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compatibility {
    /// To any; the service states no constraint.
    #[default]
    Any,
    /// To keys of the same [spec family](crate::SpecFamily) and usage, so that callers of the alias
    /// can still do what they did.
    SameUsage,
}

/// How much there may be. Counted in the transaction that adds to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quotas {
    /// Keys in a project, default keys not counted, keys pending deletion counted: 100 by default.
    pub keys_per_project: u64,
    /// Aliases of a key: 50 by default, at most [`ALIASES_PER_KEY_MAX`](Self::ALIASES_PER_KEY_MAX).
    pub aliases_per_key: usize,
    /// Tags of a key: 20 by default, at most [`TAGS_PER_KEY_MAX`](Self::TAGS_PER_KEY_MAX).
    pub tags_per_key: usize,
}

impl Quotas {
    /// The highest quota of aliases: with more of them a key could not be purged in one transaction.
    pub const ALIASES_PER_KEY_MAX: usize = 55;
    /// The highest quota of tags, for the same reason and because a key's record must fit in a row.
    pub const TAGS_PER_KEY_MAX: usize = 25;
}

impl Default for Quotas {
    fn default() -> Self {
        Self { keys_per_project: 100, aliases_per_key: 50, tags_per_key: 20 }
    }
}

/// Everything that the operations of a store must know of its options.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) alias_scope: AliasScope,
    pub(crate) compatibility: Compatibility,
    pub(crate) quotas: Quotas,
    pub(crate) region: Region,
    /// Whether each commit leaves an entry in the log.
    pub(crate) history: bool,
}

/// How long the history and the outcomes of repeatable requests are kept, until a
/// [sweep](crate::Store::sweep) prunes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// History: for so many days of 24 hours after the request, 1 to 36,500; `None`, the default, for ever.
    pub history_days: Option<u16>,
    /// History: so many commits by their numbers, back from the newest change, at least 1; `None`, the
    /// default, all. Commits that only pruned, trimmed or kept an outcome have numbers too, so there may be
    /// fewer entries.
    pub history_commits: Option<u64>,
    /// Outcomes of repeatable requests: for so many hours after the request, 24 by default, at least 1.
    pub outcome_hours: u32,
    /// Outcomes of repeatable requests: so many in a scope, 100,000 by default, at least 1.
    pub outcomes_per_scope: u64,
}

impl Retention {
    /// The longest time for which history is kept for a while: 100 years. For ever is `None`.
    pub const HISTORY_DAYS_MAX: u16 = 36_500;
    /// The most commits of which history is kept. All is `None`.
    pub const HISTORY_COMMITS_MAX: u64 = 1_000_000_000_000;
    /// The longest time for which outcomes are kept: a leap year.
    pub const OUTCOME_HOURS_MAX: u32 = 366 * 24;
    /// The most outcomes that are kept in a scope.
    pub const OUTCOMES_PER_SCOPE_MAX: u64 = 10_000_000;
}

impl Default for Retention {
    fn default() -> Self {
        Self { history_days: None, history_commits: None, outcome_hours: 24, outcomes_per_scope: 100_000 }
    }
}
