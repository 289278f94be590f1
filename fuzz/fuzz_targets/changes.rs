//! Files of changes, and restoring from them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keystead::fuzzing::changes(data));
