//! Arbitrary bytes into every decoder of values, addresses and texts.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keystead::fuzzing::decoders(data));
