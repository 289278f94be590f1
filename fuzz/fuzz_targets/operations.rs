//! Random operations on a store and on the specification that the model test has.

#![no_main]

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

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // The data is what the strategies take for random numbers.
    let random = TestRng::from_seed(RngAlgorithm::PassThrough, data);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let Ok(tree) = (steps::policy(), steps::steps(false)).new_tree(&mut runner) else { return };
    let (policy, steps) = tree.current();
    if let Err(error) = steps::Pair::in_memory(policy).run(steps) {
        panic!("{error}");
    }
});
