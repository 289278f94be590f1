//! The plots, as SVG that is readable on light and on dark paper: bars for what the engines cost in comparison
//! with keystead, and lines for what they cost as the store grows.

use std::fs;
use std::path::Path;

use crate::peer::Answer;
use crate::samples::{Row, short};
use crate::table::{BASELINE, cost, engines_of, keys};

const COLUMNS: usize = 3;
const WIDTH: f64 = 330.0;
const GAP: f64 = 24.0;
const MARGIN: f64 = 20.0;

/// Colours of the engines, by their place, on light and on dark paper.
const COLOURS: [(&str, &str); 8] = [
    ("#d1490c", "#ff7a3d"),
    ("#d99a00", "#f0bc45"),
    ("#1167b1", "#5aaef2"),
    ("#0b8a66", "#3ecf9f"),
    ("#b3508a", "#e88fc2"),
    ("#6a4fc4", "#a893f5"),
    ("#6b7280", "#a3abb8"),
    ("#20808d", "#57c4d2"),
];

/// A work that has a panel of its own, in this order: its name, and its title.
const PANELS: [(&str, &str); 12] = [
    ("associate", "move an alias, 1 caller"),
    ("associate_64_rate", "moves a second, 64 callers"),
    ("resolve", "alias to key record, all names"),
    ("resolve_hot_1k", "the same, 1,000 hot names"),
    ("resolve_hot_100k", "the same, 100,000 hot names"),
    ("list_100", "page of 100 aliases"),
    ("list_100_of_1k", "page, scope of 1,000 keys"),
    ("import", "import"),
    ("size_import", "file after import, no history"),
    ("size_after_moves", "file after moves, no history"),
    ("open_after_kill", "open after kill -9, first answer"),
    ("associate_64", "move an alias, 64 callers"),
];

/// Draws both plots into a folder.
pub fn draw(folder: &Path, rows: &[Row]) -> Answer<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("compare-cost.svg"), bars(rows))?;
    Ok(fs::write(folder.join("compare-growth.svg"), lines(rows))?)
}

/// A drawing of panels in a grid.
struct Drawing {
    body: String,
    panels: usize,
    height: f64,
    top: f64,
}

impl Drawing {
    fn new(title: &str, note: &str, height: f64, engines: &[String]) -> Self {
        let mut body = text((MARGIN, 26.0), "title", title) + &text((MARGIN, 44.0), "note", note);
        let mut x = MARGIN;
        for (index, engine) in engines.iter().enumerate() {
            body += &format!(r#"<rect x="{x:.1}" y="56" width="10" height="10" class="e{index}"/>"#);
            body += &text((x + 15.0, 65.0), "label", engine);
            x += 34.0 + 6.6 * engine.len() as f64;
        }
        Self { body, panels: 0, height, top: 86.0 }
    }

    /// The upper left corner of the next panel.
    fn place(&mut self) -> (f64, f64) {
        let (column, row) = (self.panels % COLUMNS, self.panels / COLUMNS);
        self.panels += 1;
        (MARGIN + column as f64 * (WIDTH + GAP), self.top + row as f64 * (self.height + GAP))
    }

    fn finish(self) -> String {
        let columns = COLUMNS as f64;
        let width = 2.0 * MARGIN + columns * WIDTH + (columns - 1.0) * GAP;
        let rows = self.panels.div_ceil(COLUMNS) as f64;
        let height = self.top + rows * (self.height + GAP) + MARGIN - GAP;
        let colours = |dark: bool| {
            let colour = |index: usize, pair: &(&str, &str)| {
                let colour = if dark { pair.1 } else { pair.0 };
                format!(".e{index}{{fill:{colour}}}.l{index}{{stroke:{colour}}}")
            };
            COLOURS.iter().enumerate().map(|(index, pair)| colour(index, pair)).collect::<String>()
        };
        let ink = |paper: &str, ink: &str, faint: &str, rule: &str| {
            format!(
                ".paper{{fill:{paper}}}text{{fill:{ink}}}.note,.tick{{fill:{faint}}}.rule{{stroke:{rule}}}"
            )
        };
        format!(
            concat!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" "#,
                r#"width="{width:.0}" height="{height:.0}" font-family="system-ui,sans-serif"><style>"#,
                "text{{font-size:11px}}.title{{font-size:16px;font-weight:600}}",
                ".head{{font-size:12px;font-weight:600}}.tick{{font-size:10px}}",
                ".line{{fill:none;stroke-width:2}}.rule{{stroke-width:1}}",
                "{light}{light_colours}@media(prefers-color-scheme:dark){{{dark}{dark_colours}}}</style>",
                r#"<rect class="paper" width="100%" height="100%"/>{body}</svg>"#,
                "\n"
            ),
            light = ink("#ffffff", "#1f2328", "#59636e", "#d1d9e0"),
            dark = ink("#0d1117", "#f0f6fc", "#9198a1", "#3d444d"),
            light_colours = colours(false),
            dark_colours = colours(true),
            body = self.body,
            width = width,
            height = height,
        )
    }
}

fn text((x, y): (f64, f64), class: &str, words: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    format!(r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{words}</text>"#)
}

fn right((x, y): (f64, f64), class: &str, words: &str) -> String {
    text((x, y), class, words).replacen("<text ", r#"<text text-anchor="end" "#, 1)
}

fn rule((x1, y1): (f64, f64), (x2, y2): (f64, f64)) -> String {
    format!(r#"<line class="rule" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#)
}

/// The unit as it is written behind a number.
fn unit(row: &Row) -> &str {
    match row.unit.as_str() {
        "per_s" => "/s",
        "keys_per_s" => "keys/s",
        "bytes_per_key" => "B a key",
        other => other,
    }
}

/// The median with its unit: 245 ns, 76.1 us, 3.2 ms.
fn median(row: &Row) -> String {
    match row.unit.as_str() {
        "us" if row.median < 1.0 => format!("{:.0} ns", 1000.0 * row.median),
        "us" if row.median >= 1000.0 => format!("{} ms", short(row.median / 1000.0)),
        _ => format!("{} {}", short(row.median), unit(row)),
    }
}

/// The rows of a work with the fewest threads.
fn rows_of<'a>(rows: &'a [Row], work: &str) -> Vec<&'a Row> {
    let of_work = || rows.iter().filter(|row| row.series.work == work);
    let threads = of_work().map(|row| row.series.threads).min();
    of_work().filter(|row| Some(row.series.threads) == threads).collect()
}

fn bars(rows: &[Row]) -> String {
    let engines = engines_of(rows);
    let height = 26.0 + 19.0 * engines.len() as f64;
    let note = format!(
        "Bars: the cost of one operation, of {BASELINE} = 1; a shorter bar is cheaper, one with a gap is cut off. Medians."
    );
    let mut drawing = Drawing::new("What the same work costs", &note, height, &engines);
    for (work, title) in PANELS {
        let of_work = rows_of(rows, work);
        let Some(size) = of_work.iter().map(|row| row.series.keys).max() else { continue };
        let of_size = |engine: &str| {
            of_work.iter().find(|row| row.series.keys == size && row.series.engine == engine).copied()
        };
        let Some(base_row) = of_size(BASELINE) else { continue };
        let costs = engines.iter().map(|engine| of_size(engine).map(|row| (row, cost(row, base_row))));
        let costs: Vec<_> = costs.collect();
        let (x, y) = drawing.place();
        drawing.body += &text((x, y + 12.0), "head", &format!("{title}, {} keys", keys(size)));
        drawing.body += &bars_of(&costs, (x, y + 22.0));
    }
    drawing.finish()
}

fn bars_of(costs: &[Option<(&Row, f64)>], (x, y): (f64, f64)) -> String {
    // The label stands behind the bar.
    let room = WIDTH - 125.0;
    let most = costs.iter().flatten().map(|(_, cost)| *cost).fold(1.0, f64::max).min(BAR_MAX);
    let one = x + room / most;
    let mut body = rule((one, y - 2.0), (one, y + 19.0 * costs.len() as f64 - 3.0));
    for (index, cost) in costs.iter().enumerate() {
        let Some((row, cost)) = cost else { continue };
        let (top, width) = (y + 19.0 * index as f64, room * cost.min(most) / most);
        let colour = index % COLOURS.len();
        body +=
            &format!(r#"<rect x="{x:.1}" y="{top:.1}" width="{width:.1}" height="14" class="e{colour}"/>"#);
        if *cost > most {
            let gap = x + width - 14.0;
            let shape = format!(
                "{gap:.1},{top:.1} {:.1},{top:.1} {gap:.1},{:.1} {:.1},{:.1}",
                gap + 4.0,
                top + 14.0,
                gap - 4.0,
                top + 14.0
            );
            body += &format!(r#"<polygon class="paper" points="{shape}"/>"#);
        }
        let label = format!("{}x  {}", short_cost(*cost), median(row));
        body += &text((x + width + 5.0, top + 11.0), "label", &label);
    }
    body
}

fn short_cost(cost: f64) -> String {
    if cost < 10.0 { format!("{cost:.2}") } else { format!("{cost:.0}") }
}

/// A longer bar is cut, so that the others can be compared.
const BAR_MAX: f64 = 5.0;

const PLOT_HEIGHT: f64 = 200.0;
const LEFT: f64 = 52.0;

fn lines(rows: &[Row]) -> String {
    let engines = engines_of(rows);
    let note = "Both axes are logarithmic. Medians.";
    let mut drawing = Drawing::new("What it costs as the store grows", note, PLOT_HEIGHT + 44.0, &engines);
    for (work, title) in PANELS {
        let of_work = rows_of(rows, work);
        let mut sizes: Vec<_> = of_work.iter().map(|row| row.series.keys).collect();
        sizes.sort_unstable();
        sizes.dedup();
        if sizes.len() < 2 {
            continue;
        }
        let (x, y) = drawing.place();
        let measure = of_work[0].unit.replace('_', " ");
        drawing.body += &text((x, y + 12.0), "head", &format!("{title}, {measure}"));
        drawing.body += &lines_of(&of_work, &engines, &sizes, (x, y + 24.0));
    }
    drawing.finish()
}

fn lines_of(rows: &[&Row], engines: &[String], sizes: &[usize], (x, y): (f64, f64)) -> String {
    let medians = || rows.iter().map(|row| row.median);
    let low = medians().fold(f64::INFINITY, f64::min).log10() - 0.05;
    let high = medians().fold(0.0, f64::max).log10() + 0.05;
    let (first, last) = ((sizes[0] as f64).log10(), (sizes[sizes.len() - 1] as f64).log10());
    let (left, width) = (x + LEFT, WIDTH - LEFT - 10.0);
    let across = |size: usize| left + width * ((size as f64).log10() - first) / (last - first);
    let down = |value: f64| y + PLOT_HEIGHT * (high - value.log10()) / (high - low);
    let mut body = String::new();
    for size in sizes {
        body += &rule((across(*size), y), (across(*size), y + PLOT_HEIGHT));
        let label = text((across(*size), y + PLOT_HEIGHT + 13.0), "tick", &keys(*size));
        body += &label.replacen("<text ", r#"<text text-anchor="middle" "#, 1);
    }
    for tick in ticks(low, high) {
        body += &rule((left, down(tick)), (left + width, down(tick)));
        body += &right((left - 5.0, down(tick) + 3.5), "tick", &tick_label(tick));
    }
    for (index, engine) in engines.iter().enumerate() {
        let of_engine: Vec<_> = rows.iter().filter(|row| row.series.engine == *engine).collect();
        let mut points: Vec<_> = of_engine.iter().map(|row| (row.series.keys, row.median)).collect();
        points.sort_by_key(|point| point.0);
        let colour = index % COLOURS.len();
        let place = |(size, value): &(usize, f64)| format!("{:.1},{:.1}", across(*size), down(*value));
        let path: Vec<_> = points.iter().map(place).collect();
        body += &format!(r#"<polyline class="line l{colour}" points="{}"/>"#, path.join(" "));
        for (size, value) in points {
            let (at, height) = (across(size), down(value));
            body += &format!(r#"<circle class="e{colour}" cx="{at:.1}" cy="{height:.1}" r="3"/>"#);
        }
    }
    body
}

/// 1, 2 and 5 of each power of ten between two, or only the powers if those are too many.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let all = |steps: &[f64]| {
        let powers = (-4..9).flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)));
        powers.filter(|tick| (low..=high).contains(&tick.log10())).collect::<Vec<_>>()
    };
    let fine = all(&[1.0, 2.0, 5.0]);
    if fine.len() > 8 { all(&[1.0]) } else { fine }
}

fn tick_label(tick: f64) -> String {
    match tick {
        large if large >= 1e6 => format!("{}M", tick / 1e6),
        large if large >= 1e3 => format!("{}k", tick / 1e3),
        _ => format!("{}", (tick * 1e4).round() / 1e4),
    }
}
