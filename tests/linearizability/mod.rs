//! Whether what threads saw of a store can be explained by one operation after the other.
//!
//! `recorder` notes what each thread asked, what it was answered, and in which order calls began and
//! returned. `specification` says what a store answers that does one operation at a time. `checker` looks
//! for an order of the operations, each between its beginning and its return, in which the specification
//! gives the very answers that were recorded.

#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part; unwrap is fine in tests")]

pub(crate) mod checker;
pub(crate) mod recorder;
pub(crate) mod specification;
pub(crate) mod workload;
