//! Opens arbitrary bytes as a store, and stores that are damaged.

#![no_main]

use std::sync::Once;

static QUIET: Once = Once::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // redb panics on damaged pages, and the library makes an error of that. So a panic is a finding only if
    // it comes out of this function.
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    keystead::fuzzing::open(data);
});
