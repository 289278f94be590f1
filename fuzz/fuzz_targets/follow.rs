//! What a follower reads beside a writer: the mark of the write-ahead log and its frames.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keystead::fuzzing::follow(data));
