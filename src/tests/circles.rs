//! That modules of one folder name each other in no circle: whoever reads one needs only those that it stands on.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use super::layers::sources_in;

/// The modules of a crate, each as the names on the way to it.
type Modules = BTreeMap<Vec<String>, String>;

/// Of each folder, which of its modules name which others.
type Names = BTreeMap<Vec<String>, BTreeSet<(String, String)>>;

/// The sources without the tests in them, by their module.
fn modules(sources: BTreeMap<String, String>) -> Modules {
    let mut modules = Modules::new();
    for (place, source) in sources {
        let mut module: Vec<_> = place.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            module.pop();
        }
        let code = source.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
        modules.insert(module, code);
    }
    modules
}

/// The paths that a source names, those within braces with what is before the braces.
fn paths(source: &str) -> Vec<Vec<String>> {
    let path = Regex::new(r"\b((?:super|crate|self)(?:::\w+)*)(?:::\{([^;]*?)\};)?").unwrap();
    let inner = Regex::new(r"(?:^|[,{])\s*(\w+)").unwrap();
    let mut paths = Vec::new();
    for found in path.captures_iter(source) {
        let begin: Vec<_> = found[1].split("::").map(str::to_owned).collect();
        for name in found.get(2).into_iter().flat_map(|group| inner.captures_iter(group.as_str())) {
            paths.push([&begin[..], &[name[1].to_owned()]].concat());
        }
        paths.push(begin);
    }
    paths
}

/// The module that a path leads to from another one, or the last on the way that is a module.
fn resolve(modules: &Modules, crate_root: &[String], from: &[String], path: &[String]) -> Vec<String> {
    let mut at = if path[0] == "crate" { crate_root.to_vec() } else { from.to_vec() };
    for name in path {
        match name.as_str() {
            "crate" | "self" => {}
            "super" => drop(at.pop()),
            name => at.push(name.to_owned()),
        }
        if !modules.contains_key(&at) {
            at.pop();
            break;
        }
    }
    at
}

fn names(modules: &Modules) -> Names {
    let mut names = Names::new();
    for (module, source) in modules {
        // A program has a folder in `bin`, and is a crate of its own.
        let crate_root = if module.first().is_some_and(|first| first == "bin") { 2 } else { 0 };
        for path in paths(source) {
            let other = resolve(modules, &module[..crate_root.min(module.len())], module, &path);
            let alike = module.iter().zip(&other).take_while(|(one, other)| one == other).count();
            if let (Some(one), Some(other)) = (module.get(alike), other.get(alike)) {
                let folder = names.entry(module[..alike].to_vec()).or_default();
                folder.insert((one.clone(), other.clone()));
            }
        }
    }
    names
}

/// Those that are left when whoever names none of the others is taken away, again and again.
fn circle(names: &BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    let mut left = names.clone();
    loop {
        let naming: BTreeSet<_> = left.iter().map(|(one, _)| one.clone()).collect();
        let before = left.len();
        left.retain(|(_, other)| naming.contains(other));
        if left.len() == before {
            return left;
        }
    }
}

#[test]
fn no_modules_name_each_other_in_a_circle() {
    let mut seen = 0;
    for folder in ["src", "cli/src"] {
        for (folder, names) in names(&modules(sources_in(folder))) {
            assert!(circle(&names).is_empty(), "in {folder:?}: {:?}", circle(&names));
            seen += names.len();
        }
    }
    assert!(seen > 200, "only {seen} were found");
}

#[test]
fn a_circle_is_found() {
    let source = |place: &str, source: &str| (place.to_owned(), source.to_owned());
    let crate_with = |b: &str| {
        modules(BTreeMap::from([
            source("lib.rs", ""),
            source("txn/mod.rs", "use staging::Staging;"),
            source("txn/import.rs", "use super::staging::Staging;\nuse crate::engine::Load;"),
            source("txn/staging.rs", b),
            source("engine/mod.rs", ""),
            source("bin/tool/main.rs", ""),
            source("bin/tool/output.rs", "use crate::{failure::Failure};"),
            source("bin/tool/failure.rs", "use std::fmt;\n#[cfg(test)]\nmod tests { use crate::output::X; }"),
        ]))
    };
    let circles =
        |modules: &Modules| names(modules).values().filter(|names| !circle(names).is_empty()).count();
    assert_eq!(circles(&crate_with("use crate::engine::Row;")), 0);
    assert_eq!(circles(&crate_with("use super::import::Importing;")), 1);
    assert_eq!(circles(&crate_with("use super::{\n    Limits,\n    import::{Importing, Gap},\n};")), 1);
    assert_eq!(circles(&crate_with("fn a(x: crate::txn::import::Importing) {}")), 1);
}
