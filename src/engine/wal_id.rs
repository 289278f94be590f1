//! [`LogId`] and [`FORMAT`]: what a table says of the write-ahead log that it needs, and a log of itself.

/// Which write-ahead log a file is.
pub(crate) type LogId = [u8; 16];

/// The format of write-ahead logs.
pub(crate) const FORMAT: u32 = 3;
