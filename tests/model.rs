//! The model test: random operations on the store and on a sequential specification of it; every
//! answer, refusal, version and page must be the one that the specification predicts.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of the test functions")]

#[path = "model/compare.rs"]
mod compare;
#[path = "model/ops.rs"]
mod ops;
#[path = "model/spec.rs"]
mod spec;
#[path = "model/steps.rs"]
mod steps;
#[path = "model/values.rs"]
mod values;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed, TestRunner};

use steps::Pair;

/// So many cases, or as many as `PROPTEST_CASES` says.
fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(120))]

    #[test]
    fn a_store_in_memory_does_what_the_specification_says(
        policy in steps::policy(),
        steps in steps::steps(false),
    ) {
        Pair::in_memory(policy).run(steps)?;
    }
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn a_store_in_a_file_does_too_and_survives_being_closed(
        policy in steps::policy(),
        steps in steps::steps(true),
    ) {
        Pair::in_file(policy, steps::CHECKPOINT_BYTES).run(steps)?;
    }

    #[test]
    fn a_store_whose_table_changes_all_the_time_does_too(
        policy in steps::policy(),
        steps in steps::steps(true),
    ) {
        Pair::in_file(policy, 1).run(steps)?;
    }
}

/// What the random operations must come to: changes, successes without one, refusals.
const CHANGES: [&str; 25] = [
    "Create",
    "EnsureDefault",
    "Describe",
    "SetTags",
    "RemoveTags",
    "EnableRotation",
    "DisableRotation",
    "SetInterval",
    "RecordRotation",
    "Enable",
    "Disable",
    "Schedule",
    "Cancel",
    "Purge",
    "Freeze",
    "Unfreeze",
    "Imported",
    "MaterialDeleted",
    "MaterialExpired",
    "Rename",
    "SwapKeyAliases",
    "CreateAlias",
    "Associate",
    "SwapAliases",
    "DeleteAliases",
];
const UNCHANGED: [&str; 15] = [
    "EnsureDefault",
    "Describe",
    "SetTags",
    "RemoveTags",
    "SetInterval",
    "Purge",
    "Unfreeze",
    "MaterialExpired",
    "Rename",
    "SwapKeyAliases",
    "Associate",
    "SwapAliases",
    "ExpectKey",
    "ExpectAlias",
    "ExpectKeyAlias",
];
const REFUSALS: [&str; 31] = [
    "AliasExists",
    "AliasNotFound",
    "AliasNotOnKey",
    "AlreadyPendingDeletion",
    "AsymmetricNotRotatable",
    "DefaultKeyImmutable",
    "DuplicateTag",
    "ExternalKeyNotRotatable",
    "ExternalKeyRequired",
    "IncompatibleKey",
    "InvalidAlias",
    "InvalidAliasList",
    "InvalidExpiry",
    "InvalidKeySpec",
    "KeyAliasExists",
    "KeyDisabled",
    "KeyFrozen",
    "KeyIdExists",
    "KeyNotDisabled",
    "KeyNotEnabled",
    "KeyNotFound",
    "MaterialNotDeletable",
    "NotPendingDeletion",
    "NotPendingImport",
    "PendingDeletion",
    "PreconditionFailed",
    "QuotaExceeded",
    "RotationNotDisabled",
    "RotationNotEnabled",
    "TagNotFound",
    "TooManyTags",
];

/// A comparison says something only of what the random operations come to.
#[test]
fn the_random_operations_come_to_every_change_and_every_refusal() {
    let config =
        ProptestConfig { cases: 400, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..config(0) };
    let met = std::cell::RefCell::new(BTreeSet::new());
    let all = (steps::policy(), steps::steps(false));
    let run = TestRunner::new(config).run(&all, |(policy, steps)| {
        met.borrow_mut().extend(steps::outcomes(policy, steps));
        Ok(())
    });
    run.unwrap();
    let met = met.into_inner();
    let has = |op: &str, end: &str| met.contains(&(op.to_owned(), end.to_owned()));
    let missed =
        |ops: &[&'static str], end| ops.iter().copied().filter(|op| !has(op, end)).collect::<Vec<_>>();
    assert_eq!(missed(&CHANGES, "changed"), [""; 0], "never changed anything");
    assert_eq!(missed(&UNCHANGED, "unchanged"), [""; 0], "never left things as they were");
    let refused: BTreeSet<&str> = met.iter().map(|(_, end)| end.as_str()).collect();
    let unmet: Vec<&str> = REFUSALS.into_iter().filter(|refusal| !refused.contains(refusal)).collect();
    assert_eq!(unmet, [""; 0], "never refused so");
}

/// What the fuzzer has kept of its own runs.
#[test]
fn the_corpus_of_the_fuzzer_finds_nothing() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/operations");
    let mut inputs = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let outcome = steps::run_bytes(&fs::read(&path).unwrap());
        assert!(outcome.is_ok(), "{}: {outcome:?}", path.display());
        inputs += 1;
    }
    assert!(inputs > 0, "there is no corpus");
}
