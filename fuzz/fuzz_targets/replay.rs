//! Whole frames of a write-ahead log that hold anything.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keystead::fuzzing::replay(data));
