//! The order of the modules, and where the names of dependencies may stand.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

use super::sources::source_files;

/// Each module imports only from those before it. Those of one line stand together.
const ORDER: [&[&str]; 19] = [
    &["sync"],
    &["id"],
    &["time"],
    &["alias"],
    &["key"],
    &["page"],
    &["change"],
    &["policy"],
    &["error"],
    &["request"],
    &["progress"],
    &["telemetry"],
    &["rules"],
    &["format"],
    &["engine"],
    &["txn"],
    &["verify"],
    &["store"],
    &["asynchronous"],
];

/// The sources without comments and without what is compiled for tests only, by their place in `src`.
fn sources() -> BTreeMap<String, String> {
    sources_in("src")
}

/// As [`sources`], by their place in a folder.
pub(super) fn sources_in(folder: &str) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut sources = BTreeMap::new();
    for path in source_files() {
        if let Ok(place) = path.strip_prefix(&root) {
            let place = place.to_str().unwrap().replace('\\', "/");
            sources.insert(place, fs::read_to_string(path).unwrap());
        }
    }
    let tests = tests_in(&sources);
    sources.retain(|place, _| !tests.iter().any(|test| Path::new(place).starts_with(test)));
    sources.into_iter().map(|(place, source)| (place, without_comments(&source))).collect()
}

/// The modules that are declared for tests and the fuzzer only: files, or folders of the same name.
fn tests_in(sources: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let declared = r"#\[cfg\((?:test|fuzzing|any\(test, fuzzing\))\)\]\s*(?:#\[doc\(hidden\)\]\s*)?(?:pub(?:\([a-z]+\))? )?mod (\w+);";
    let declared = Regex::new(declared).unwrap();
    let mut tests = Vec::new();
    for (place, source) in sources {
        // The modules of `a/mod.rs` and of `a.rs` lie in the folder `a`.
        let folder = match place.strip_suffix("mod.rs").or_else(|| place.strip_suffix("lib.rs")) {
            Some(folder) => Path::new(folder),
            None => Path::new(place.trim_end_matches(".rs")),
        };
        for found in declared.captures_iter(source) {
            tests.push(folder.join(format!("{}.rs", &found[1])));
            tests.push(folder.join(&found[1]));
        }
    }
    tests
}

fn without_comments(source: &str) -> String {
    let lines = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The module of the first level that a file belongs to.
fn module(place: &str) -> &str {
    place.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The modules that a source names by `crate::`, one at a time or several in braces.
fn imports(source: &str) -> Vec<String> {
    let one = Regex::new(r"\bcrate::([a-z_]+)").unwrap();
    let several = Regex::new(r"\bcrate::\{([^;]*)\};").unwrap();
    let first = Regex::new(r"(?:^|,)\s*([a-z_]+)::").unwrap();
    let inner = Regex::new(r"\{[^{}]*\}").unwrap();
    let mut imports: Vec<_> = one.captures_iter(source).map(|found| found[1].to_owned()).collect();
    for group in several.captures_iter(source) {
        // What is inside inner braces belongs to the module before them.
        let outer = inner.replace_all(&group[1], "").into_owned();
        imports.extend(first.captures_iter(&outer).map(|found| found[1].to_owned()));
    }
    imports
}

#[test]
fn each_module_imports_only_from_those_above_it() {
    let place_of = |module: &str| ORDER.iter().position(|line| line.contains(&module));
    let mut seen = 0;
    for (place, source) in sources() {
        let module = module(&place);
        if matches!(module, "lib" | "bin") {
            continue;
        }
        let own = place_of(module).unwrap_or_else(|| panic!("{module} has no place in the order"));
        for import in imports(&source) {
            let other = place_of(&import).unwrap_or_else(|| panic!("{place} names crate::{import}"));
            assert!(other <= own, "{place} imports from {import}, which is below it");
            seen += 1;
        }
    }
    assert!(seen > 50, "only {seen} imports were found");
}

#[test]
fn the_reader_of_imports_finds_them() {
    let source =
        "use crate::{alias::InvalidAlias, key::{Description, page::X}};\nlet a = crate::time::now();";
    assert_eq!(imports(source), ["time", "alias", "key"]);
}

#[test]
fn names_stand_only_where_they_may() {
    let names: [(&str, &[&str]); 10] = [
        (r"\bunsafe\b", &[]),
        (r"\bbincode\b", &["format/codec.rs"]),
        (r"\btracing::", &["telemetry/traces.rs"]),
        (r"\bmetrics::", &["telemetry/numbers.rs"]),
        // The store opens the engine by its name.
        (
            r"\bredb\b",
            &[
                "engine/mod.rs",
                "engine/direct.rs",
                "engine/disk.rs",
                "engine/redb/mod.rs",
                "engine/redb/draft.rs",
                "engine/redb/errors.rs",
                "engine/redb/pages/header.rs",
                "engine/redb/pages/mod.rs",
                "engine/redb/pages/node.rs",
                "engine/redb/pages/walk.rs",
                "engine/redb/salvage.rs",
                "engine/redb/spaces.rs",
                "engine/redb/read.rs",
                "engine/redb/write.rs",
                "engine/embedded/checkpoint.rs",
                "engine/embedded/commit.rs",
                "engine/embedded/follower.rs",
                "engine/embedded/follower/attach.rs",
                "engine/embedded/follower/files.rs",
                "engine/embedded/mod.rs",
                "engine/embedded/recovery.rs",
                "engine/embedded/snapshot.rs",
                "engine/simulated.rs",
                "store/files.rs",
                "store/options.rs",
                "store/page_check.rs",
                "store/storages.rs",
            ],
        ),
        (
            r"\bredb::(?:redb|Database|Builder|backends)\b",
            &["engine/redb/draft.rs", "engine/redb/mod.rs", "engine/redb/write.rs"],
        ),
        (r"\bSystemTime\b", &["time.rs"]),
        (r"\bnew_v4\b", &["id.rs"]),
        (
            r"\bRedb[A-Z]\w*\b",
            &[
                "engine/redb/mod.rs",
                "engine/redb/draft.rs",
                "engine/redb/read.rs",
                "engine/embedded/checkpoint.rs",
                "engine/embedded/follower/attach.rs",
                "engine/embedded/mod.rs",
                "engine/embedded/recovery.rs",
                "engine/embedded/snapshot.rs",
                "store/files.rs",
                "store/options.rs",
                "store/storages.rs",
            ],
        ),
        (r"\bKeyRecord\b.*\bbatch\b|\bsled\b|\brocksdb\b", &[]),
    ];
    let sources = sources();
    for (name, places) in names {
        let name = Regex::new(name).unwrap();
        for (place, source) in &sources {
            let allowed = places.contains(&place.as_str());
            let found = name.find(source).map(|found| found.as_str());
            assert!(allowed || found.is_none(), "{place} names {found:?}");
        }
    }
}

/// shuttle can stop a thread only at locks, atomics and threads that are its own.
#[test]
fn what_runs_under_shuttle_has_its_locks() {
    let places = [
        "bell",
        "embedded/checkpoint",
        "embedded/commit",
        "embedded/follower",
        "embedded/follower/attach",
        "embedded/follower/files",
        "embedded/memtable",
        "embedded/mod",
        "embedded/recovery",
        "embedded/snapshot",
        "embedded/wal",
        "embedded/wal/frame",
        "embedded/wal/mark",
        "embedded/wal/recovery",
        "newest",
        "stripes",
    ];
    let foreign = r"\bstd::(?:thread|sync::(?:\{[^;]*)?\b(?:Mutex|Condvar|RwLock|atomic)\b)|\barc_swap\b";
    let (foreign, sources) = (Regex::new(foreign).unwrap(), sources());
    for place in places.map(|name| format!("engine/{name}.rs")) {
        let found = foreign.find(&sources[&place]).map(|found| found.as_str());
        assert!(found.is_none(), "{place} names {found:?}");
    }
    assert!(foreign.is_match("use std::sync::{Arc, Mutex};") && foreign.is_match("std::thread::spawn"));
}

#[test]
fn rules_see_no_bytes_and_engines_no_records() {
    let forbidden: [(&str, &[&str]); 3] = [
        ("rules", &["format", "engine", "txn", "store", "request"]),
        ("engine", &["key", "alias", "rules", "policy", "page"]),
        ("txn", &["engine::redb"]),
    ];
    for (place, source) in sources() {
        for (_, words) in forbidden.iter().filter(|(name, _)| *name == module(&place)) {
            for word in *words {
                assert!(!source.contains(&format!("crate::{word}")), "{place} names {word}");
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for path in source_files() {
        let source = fs::read_to_string(&path).unwrap();
        assert!(source.starts_with("//! "), "{}", path.display());
        assert!(source.is_ascii(), "{}", path.display());
    }
}
