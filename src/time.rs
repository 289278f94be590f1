//! Points in time and spans of days: [`Timestamp`], [`PendingDays`], [`RotationInterval`].

use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

const MILLISECONDS_A_DAY: u64 = 24 * 60 * 60 * 1000;

/// A point in time: milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The present time of the system's clock. To be called outside of transactions.
    #[expect(clippy::disallowed_methods, reason = "this is the edge at which the clock is read")]
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    /// The time so many milliseconds after the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time so many hours later; at the end of the range, the last time there is.
    pub const fn plus_hours(self, hours: u32) -> Self {
        Self(self.0.saturating_add(hours as u64 * (MILLISECONDS_A_DAY / 24)))
    }

    /// The time so many days of 24 hours later; at the end of the range, the last time there is.
    pub const fn plus_days(self, days: u16) -> Self {
        Self(self.0.saturating_add(days as u64 * MILLISECONDS_A_DAY))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// Tells how long something takes. Nothing that is stored depends on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "limits of time are kept at the edge, and what a commit holds does not depend on them"
    )]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// The waiting time before a deletion is not 7 to 1096 days.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key is deleted after 7 to 1096 days, not {0}")]
pub struct InvalidPendingDays(pub u16);

/// How long a key waits for its deletion: 7 to 1096 days (schedule-key-deletion, `pending_days`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct PendingDays(u16);

impl PendingDays {
    /// The days that the service allows.
    pub const RANGE: RangeInclusive<u16> = 7..=1096;

    /// Checks and takes a number of days.
    pub fn new(days: u16) -> Result<Self, InvalidPendingDays> {
        if Self::RANGE.contains(&days) { Ok(Self(days)) } else { Err(InvalidPendingDays(days)) }
    }

    /// The number of days.
    pub const fn days(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for PendingDays {
    type Error = InvalidPendingDays;

    fn try_from(days: u16) -> Result<Self, InvalidPendingDays> {
        Self::new(days)
    }
}

impl From<PendingDays> for u16 {
    fn from(days: PendingDays) -> u16 {
        days.0
    }
}

/// The rotation interval is not 30 to 365 days.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key is rotated every 30 to 365 days, not {0}")]
pub struct InvalidRotationInterval(pub u16);

/// How often a key is rotated: every 30 to 365 days (update-key-rotation-interval); 365 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct RotationInterval(u16);

impl RotationInterval {
    /// The days that the service allows.
    pub const RANGE: RangeInclusive<u16> = 30..=365;

    /// Checks and takes a number of days.
    pub fn new(days: u16) -> Result<Self, InvalidRotationInterval> {
        if Self::RANGE.contains(&days) { Ok(Self(days)) } else { Err(InvalidRotationInterval(days)) }
    }

    /// The number of days.
    pub const fn days(self) -> u16 {
        self.0
    }
}

impl Default for RotationInterval {
    fn default() -> Self {
        Self(365)
    }
}

impl TryFrom<u16> for RotationInterval {
    type Error = InvalidRotationInterval;

    fn try_from(days: u16) -> Result<Self, InvalidRotationInterval> {
        Self::new(days)
    }
}

impl From<RotationInterval> for u16 {
    fn from(interval: RotationInterval) -> u16 {
        interval.0
    }
}
