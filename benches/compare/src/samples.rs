//! What was measured: samples by work, engine, threads and keys; medians; the CSV.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::peer::Answer;

/// What a number is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    pub work: String,
    pub threads: usize,
    pub keys: usize,
    pub engine: String,
}

/// A line of the CSV.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub series: Series,
    pub median: f64,
    pub p99: f64,
    pub unit: String,
}

impl Row {
    /// Whether more is better.
    pub fn is_rate(&self) -> bool {
        self.unit.ends_with("per_s")
    }
}

/// All samples of a run.
#[derive(Default)]
pub struct Samples {
    units: BTreeMap<String, &'static str>,
    order: Vec<String>,
    all: BTreeMap<Series, Vec<f64>>,
}

impl Samples {
    /// Adds samples.
    pub fn add(&mut self, series: Series, unit: &'static str, samples: &[f64]) {
        if self.units.insert(series.work.clone(), unit).is_none() {
            self.order.push(series.work.clone());
        }
        self.all.entry(series).or_default().extend(samples);
    }

    /// The median of a series, if it has samples.
    pub fn median(&self, series: &Series) -> Option<f64> {
        self.all.get(series).map(|samples| quantile(samples, 0.5))
    }

    /// Adds the samples of one series under another name too.
    pub fn copy(&mut self, from: &Series, work: &str, unit: &'static str) {
        if let Some(samples) = self.all.get(from).cloned() {
            self.add(Series { work: work.into(), ..from.clone() }, unit, &samples);
        }
    }

    /// Everything, in the order in which the works ran.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<_> = self.all.iter().filter(|(_, samples)| !samples.is_empty()).collect();
        rows.sort_by_key(|(series, _)| self.order.iter().position(|work| *work == series.work));
        let row = |(series, samples): (&Series, &Vec<f64>)| {
            let unit = self.units[&series.work].to_owned();
            // 99 of 100 are at least as good.
            let share = if unit.ends_with("per_s") { 0.01 } else { 0.99 };
            let (median, p99) = (quantile(samples, 0.5), quantile(samples, share));
            Row { series: series.clone(), median, p99, unit }
        };
        rows.into_iter().map(row).collect()
    }
}

fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len() - 1;
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "from 0 to last")]
    let at = (last as f64 * share).round() as usize;
    sorted[at]
}

const HEAD: &str = "work,engine,threads,keys,median,p99,unit";

/// Four digits that matter.
pub fn short(number: f64) -> String {
    match number.abs() {
        small if small < 10.0 => format!("{number:.3}"),
        middle if middle < 100.0 => format!("{number:.2}"),
        large if large < 1000.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// Writes the rows.
pub fn write_csv(path: &Path, rows: &[Row]) -> Answer<()> {
    let mut text = format!("{HEAD}\n");
    for Row { series, median, p99, unit } in rows {
        let Series { work, engine, threads, keys } = series;
        let (median, p99) = (short(*median), short(*p99));
        writeln!(text, "{work},{engine},{threads},{keys},{median},{p99},{unit}")?;
    }
    Ok(fs::write(path, text)?)
}

/// Reads what [`write_csv`] wrote.
pub fn read_csv(path: &Path) -> Answer<Vec<Row>> {
    let text = fs::read_to_string(path)?;
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return Err(format!("the first line is not {HEAD}").into());
    }
    let row = |line: &str| {
        let [work, engine, threads, keys, median, p99, unit] = line.split(',').collect::<Vec<_>>()[..] else {
            return Err(format!("not seven columns: {line}").into());
        };
        let (work, engine, unit) = (work.to_owned(), engine.to_owned(), unit.to_owned());
        let series = Series { work, engine, threads: threads.parse()?, keys: keys.parse()? };
        Ok(Row { series, median: median.parse()?, p99: p99.parse()?, unit })
    };
    lines.map(row).collect()
}
