//! The readable table: works down, engines across, and how each compares with keystead.

use std::collections::BTreeMap;

use crate::engines;
use crate::samples::{Row, short};

/// The names of the engines that have rows, in the order in which they are shown.
pub fn engines_of(rows: &[Row]) -> Vec<String> {
    let known = engines::all().into_iter().map(|engine| engine.name.to_owned());
    let mut names: Vec<_> = known.filter(|name| rows.iter().any(|row| row.series.engine == *name)).collect();
    for row in rows {
        if !names.contains(&row.series.engine) && row.series.engine != "disk" {
            names.push(row.series.engine.clone());
        }
    }
    names
}

/// What the others are compared with.
pub const BASELINE: &str = "keystead";

/// What this costs in comparison to that: above 1 it is dearer, also where more is better.
pub fn cost(row: &Row, base: &Row) -> f64 {
    if row.is_rate() { base.median / row.median } else { row.median / base.median }
}

type Line<'a> = BTreeMap<&'a str, &'a Row>;

/// The table as text.
pub fn text(rows: &[Row]) -> String {
    let engines = engines_of(rows);
    let mut lines: Vec<(String, Line<'_>)> = Vec::new();
    for row in rows {
        let series = &row.series;
        let label = format!("{} {} t{} {}", series.work, keys(series.keys), series.threads, row.unit);
        match lines.iter_mut().find(|(other, _)| *other == label) {
            Some((_, line)) => drop(line.insert(&series.engine, row)),
            None => lines.push((label, Line::from([(series.engine.as_str(), row)]))),
        }
    }
    let mut text = format!("{:<46}", "work, keys, threads, unit");
    for engine in &engines {
        text += &format!(" {engine:>16}");
    }
    text += "\n";
    for (label, line) in &lines {
        text += &format!("{label:<46}");
        if let Some(disk) = line.get("disk") {
            text += &format!(" {:>16}", short(disk.median));
        }
        for engine in engines.iter().filter(|_| !line.contains_key("disk")) {
            text += &format!(" {:>16}", cell(line.get(engine.as_str()), line.get(BASELINE)));
        }
        text += "\n";
    }
    text + &format!("In brackets: the cost in comparison to {BASELINE}; above 1 is dearer.\n")
}

fn cell(row: Option<&&Row>, base: Option<&&Row>) -> String {
    match (row, base) {
        (Some(row), Some(base)) => format!("{} ({:.2})", short(row.median), cost(row, base)),
        (Some(row), None) => short(row.median),
        (None, _) => "-".into(),
    }
}

/// 1k, 20k, 1M.
pub fn keys(count: usize) -> String {
    match count {
        0..1000 => count.to_string(),
        1000..1_000_000 => format!("{}k", count / 1000),
        _ => format!("{}M", count / 1_000_000),
    }
}
