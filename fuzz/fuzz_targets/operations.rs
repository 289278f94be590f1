//! Random operations on a store and on the specification that the model test has.

#![no_main]
#![allow(dead_code, reason = "the model test uses more of its modules")]

#[path = "../../tests/model/compare.rs"]
mod compare;
#[path = "../../tests/model/ops.rs"]
mod ops;
#[path = "../../tests/model/spec.rs"]
mod spec;
#[path = "../../tests/model/steps.rs"]
mod steps;
#[path = "../../tests/model/values.rs"]
mod values;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(error) = steps::run_bytes(data) {
        panic!("{error}");
    }
});
