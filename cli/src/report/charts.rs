//! Charts: pictures that need no script, and each with a table of the same figures.
//!
//! Across they are measured in parts of the width, so that texts keep their size on any screen; lines are drawn in a
//! picture inside of the picture, which is stretched.

use std::fmt::Write;

use keystead::Timestamp;

use super::html::Html;
use super::tally::{DAY, HOUR, Happened};
use crate::values::{show_day, show_minute};

/// How high a bar is with its name.
const BAR_ROW: u64 = 38;
/// How much is above the plot of a chart over time, how high the plot is, and how much is below.
const ABOVE: u64 = 20;
const PLOT: u64 = 150;
const BELOW: u64 = 24;

/// What a chart shows, in words: its name, and what its rows or columns are.
#[derive(Clone, Copy)]
pub(super) struct Words {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    pub(super) of: &'static str,
    pub(super) unit: &'static str,
}

/// A stretch of time, what happened in it, and what there was at its end.
pub(super) struct Stretch {
    pub(super) begin: Timestamp,
    pub(super) happened: Happened,
    pub(super) keys: u64,
    pub(super) aliases: u64,
}

/// Stretches that follow one another, each so many milliseconds long.
pub(super) struct Stretches {
    pub(super) all: Vec<Stretch>,
    pub(super) length: u64,
}

/// A number as it is read easily: `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// How large a part is, in percent of a whole.
pub(super) fn percent(part: u64, whole: u64) -> String {
    match part as f64 * 100.0 / whole.max(1) as f64 {
        small if part > 0 && small < 1.0 => "< 1 %".to_owned(),
        share => format!("{share:.0} %"),
    }
}

fn part(number: u64, most: u64) -> f64 {
    number as f64 / most.max(1) as f64
}

/// A position or length across, in parts of the width.
fn across(part: f64) -> String {
    format!("{:.3}%", part * 100.0)
}

/// Horizontal bars, one below the other, each as long as its part of all.
pub(super) fn bars(html: &mut Html, words: Words, rows: &[(String, u64)]) {
    let all: u64 = rows.iter().map(|(_, number)| number).sum();
    let in_words: Vec<_> = rows.iter().map(|(name, number)| format!("{name}: {}", count(*number))).collect();
    let height = rows.len() as u64 * BAR_ROW;
    begin(html, words, height, &in_words.join(", "));
    for ((name, number), top) in rows.iter().zip((0..).step_by(38)) {
        let (number, share) = (*number, percent(*number, all));
        html.put("<g><title>{}: {} {}, {}</title>", &[name, &count(number), &words.unit, &share]);
        html.put("<rect class=\"hit\" y=\"{}\" width=\"100%\" height=\"36\"/>", &[&top]);
        html.put("<text x=\"0\" y=\"{}\">{}</text>", &[&(top + 16), name]);
        html.put("<text class=\"value\" x=\"100%\" y=\"{}\">", &[&(top + 16)]);
        html.put(
            "<tspan class=\"share\">{}</tspan><tspan dx=\"8\">{}</tspan></text>",
            &[&share, &count(number)],
        );
        html.put("<rect class=\"track\" y=\"{}\" width=\"100%\" height=\"7\" rx=\"3.5\"/>", &[&(top + 23)]);
        if number > 0 {
            let width = across(part(number, all).max(0.012));
            html.put(
                "<rect class=\"bar\" y=\"{}\" width=\"{}\" height=\"7\" rx=\"3.5\"/>",
                &[&(top + 23), &width],
            );
        }
        html.put("</g>", &[]);
    }
    html.put("</svg>", &[]);
    begin_table(html, &[words.of, words.unit]);
    for (name, number) in rows {
        html.put("<tr><th scope=\"row\">{}</th><td class=\"number\">{}</td></tr>", &[name, &count(*number)]);
    }
    end_table(html);
}

/// Two lines: how many keys and aliases there were.
pub(super) fn growth(html: &mut Html, words: Words, times: &Stretches) {
    let most = times.all.iter().map(|stretch| stretch.keys.max(stretch.aliases)).max().unwrap_or(0);
    let (top, last) = (round_up(most), times.all.last());
    let (keys, aliases) = last.map_or((0, 0), |last| (last.keys, last.aliases));
    html.put("<p class=\"legend\"><span><svg width=\"26\" height=\"10\" aria-hidden=\"true\">", &[]);
    html.put("<path class=\"line\" d=\"M1 5H25\"/></svg> keys, {} now</span> ", &[&count(keys)]);
    html.put("<span><svg width=\"26\" height=\"10\" aria-hidden=\"true\"><path class=\"line dashed\" ", &[]);
    html.put("d=\"M1 5H25\"/></svg> aliases, {} now</span></p>", &[&count(aliases)]);
    let in_words = format!("at the end {} keys and {} aliases", count(keys), count(aliases));
    begin(html, words, ABOVE + PLOT + BELOW, &in_words);
    grid(html);
    let number = times.all.len();
    html.put("<svg y=\"{}\" width=\"100%\" height=\"{}\" overflow=\"visible\" ", &[&ABOVE, &PLOT]);
    html.put("preserveAspectRatio=\"none\" viewBox=\"0 0 {} 1\">", &[&number]);
    let steps = |of: fn(&Stretch) -> u64| {
        let mut path = String::new();
        for (index, stretch) in times.all.iter().enumerate() {
            let height = 1.0 - part(of(stretch), top);
            let step = if index == 0 { 'M' } else { 'L' };
            // To write into a `String` does not fail.
            let _ = write!(path, "{step}{index} {height:.5}H{} ", index + 1);
        }
        path
    };
    html.put("<path class=\"line dashed\" d=\"{}\"/>", &[&steps(|stretch| stretch.aliases)]);
    html.put("<path class=\"line\" d=\"{}\"/></svg>", &[&steps(|stretch| stretch.keys)]);
    axes(html, top, times);
    for (index, stretch) in times.all.iter().enumerate() {
        html.put("<g><title>{}: {} keys, ", &[&times.name(stretch), &count(stretch.keys)]);
        html.put("{} aliases</title>", &[&count(stretch.aliases)]);
        hit(html, index, number);
    }
    html.put("</svg>", &[]);
    begin_table(html, &[times.column(), "keys at the end", "aliases at the end"]);
    for stretch in &times.all {
        row(html, &times.name(stretch), &[stretch.keys, stretch.aliases]);
    }
    end_table(html);
}

/// Bars: how much was changed when.
pub(super) fn changes(html: &mut Html, words: Words, times: &Stretches) {
    let most = times.all.iter().map(|stretch| stretch.happened.all()).max().unwrap_or(0);
    let (top, number) = (round_up(most), times.all.len());
    let all: u64 = times.all.iter().map(|stretch| stretch.happened.all()).sum();
    let in_words = format!("{} changes, at most {} in one of {} columns", count(all), count(most), number);
    begin(html, words, ABOVE + PLOT + BELOW, &in_words);
    grid(html);
    for (index, stretch) in times.all.iter().enumerate() {
        let happened = &stretch.happened;
        let (all, made, gone) = (
            happened.all(),
            happened.keys_made + happened.aliases_made,
            happened.keys_gone + happened.aliases_gone,
        );
        html.put("<g><title>{}: {} changes ", &[&times.name(stretch), &count(all)]);
        html.put(
            "({} made, {} gone, {} changed)</title>",
            &[&count(made), &count(gone), &count(happened.changed)],
        );
        if all > 0 {
            let height = (part(all, top) * PLOT as f64).max(1.5);
            let (left, width) = (across((index as f64 + 0.1) / number as f64), across(0.8 / number as f64));
            let place = format!("{:.2}", (ABOVE + PLOT) as f64 - height);
            html.put("<rect class=\"bar\" x=\"{}\" y=\"{}\" width=\"{}\" ", &[&left, &place, &width]);
            html.put("height=\"{}\"/>", &[&format!("{height:.2}")]);
        }
        hit(html, index, number);
    }
    axes(html, top, times);
    html.put("</svg>", &[]);
    let columns = [times.column(), "keys made", "keys gone", "aliases made", "aliases gone", "other changes"];
    begin_table(html, &columns);
    for stretch in times.all.iter().filter(|stretch| stretch.happened.all() > 0) {
        let Happened { keys_made, keys_gone, aliases_made, aliases_gone, changed } = stretch.happened;
        row(html, &times.name(stretch), &[keys_made, keys_gone, aliases_made, aliases_gone, changed]);
    }
    end_table(html);
}

impl Stretches {
    fn column(&self) -> &'static str {
        if self.length < DAY { "from (UTC)" } else { "from the day (UTC)" }
    }

    fn name(&self, stretch: &Stretch) -> String {
        if self.length < DAY { show_minute(stretch.begin) } else { show_day(stretch.begin) }
    }

    /// How long one is, in words.
    pub(super) fn length(&self) -> String {
        match self.length {
            HOUR => "an hour".to_owned(),
            DAY => "a day".to_owned(),
            short if short < DAY => format!("{} hours", short / HOUR),
            length if length == 7 * DAY => "a week".to_owned(),
            length if length.is_multiple_of(7 * DAY) => format!("{} weeks", count(length / (7 * DAY))),
            length => format!("{} days", count(length / DAY)),
        }
    }
}

/// The smallest number that is not less, easily read, and even or large.
fn round_up(number: u64) -> u64 {
    const SMALL: [u64; 5] = [2, 4, 6, 8, 10];
    const LARGE: [u64; 10] = [12, 16, 20, 24, 30, 40, 50, 60, 80, 100];
    let mut unit: u64 = 1;
    while unit.saturating_mul(100) < number {
        unit = unit.saturating_mul(10);
    }
    let found = SMALL.into_iter().chain(LARGE.into_iter().map(|times| unit.saturating_mul(times)));
    found.into_iter().find(|round| *round >= number).unwrap_or(u64::MAX)
}

/// Lines for nothing, half and all.
fn grid(html: &mut Html) {
    for y in [ABOVE, ABOVE + PLOT / 2, ABOVE + PLOT] {
        html.put("<line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"{}\" y2=\"{}\"/>", &[&y, &y]);
    }
}

/// What the lines stand for, and when the chart begins and ends. Above what is drawn.
fn axes(html: &mut Html, top: u64, times: &Stretches) {
    for (number, y) in [(top, ABOVE), (top / 2, ABOVE + PLOT / 2)] {
        html.put("<text class=\"axis\" x=\"0\" y=\"{}\">{}</text>", &[&(y - 5), &count(number)]);
    }
    let y = ABOVE + PLOT + 18;
    if let Some(first) = times.all.first() {
        html.put("<text class=\"axis\" x=\"0\" y=\"{}\">{}</text>", &[&y, &times.name(first)]);
    }
    if let Some(last) = times.all.get(1..).and_then(<[_]>::last) {
        html.put("<text class=\"axis value\" x=\"100%\" y=\"{}\">{}</text>", &[&y, &times.name(last)]);
    }
}

/// Where a pointer asks for the title of a column; ends the column.
fn hit(html: &mut Html, index: usize, number: usize) {
    let (left, width) = (across(index as f64 / number as f64), across(1.0 / number as f64));
    html.put("<rect class=\"hit\" x=\"{}\" y=\"{}\" width=\"{}\" ", &[&left, &ABOVE, &width]);
    html.put("height=\"{}\"/></g>", &[&PLOT]);
}

fn begin(html: &mut Html, words: Words, height: u64, in_words: &str) {
    html.put(
        "<figure id=\"{}\"><svg class=\"chart\" role=\"img\" aria-label=\"{}\" ",
        &[&words.id, &words.name],
    );
    html.put("aria-describedby=\"{}-desc\" width=\"100%\" height=\"{}\">", &[&words.id, &height]);
    html.put("<desc id=\"{}-desc\">{}</desc>", &[&words.id, &in_words]);
}

fn begin_table(html: &mut Html, columns: &[&'static str]) {
    html.put(
        "<details><summary>The same as a table</summary><div class=\"wide\" tabindex=\"0\" role=\"group\" ",
        &[],
    );
    html.put("aria-label=\"the figures of the chart\"><table class=\"figures\"><thead><tr>", &[]);
    for column in columns {
        html.put("<th scope=\"col\">{}</th>", &[column]);
    }
    html.put("</tr></thead><tbody>", &[]);
}

fn row(html: &mut Html, name: &str, numbers: &[u64]) {
    html.put("<tr><th scope=\"row\">{}</th>", &[&name]);
    for number in numbers {
        html.put("<td class=\"number\">{}</td>", &[&count(*number)]);
    }
    html.put("</tr>", &[]);
}

fn end_table(html: &mut Html) {
    html.put("</tbody></table></div></details></figure>", &[]);
}

#[cfg(test)]
mod tests {
    use super::{count, percent, round_up};

    #[test]
    fn numbers_are_read_easily() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [(0, 0), (1, 3), (1, 1000), (3, 3)].map(|(part, whole)| percent(part, whole)),
            ["0 %", "33 %", "< 1 %", "100 %"]
        );
        assert_eq!([0, 1, 3, 10, 11, 61, 801, 1323].map(round_up), [2, 2, 4, 10, 12, 80, 1000, 1600]);
        assert_eq!(round_up(u64::MAX), u64::MAX);
    }
}
