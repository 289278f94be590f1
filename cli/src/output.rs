//! [`Output`]: answers as tables and sentences, or as JSON.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use console::Term;
use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;
use crate::text::{error_line, json_text, print_json, printable};

/// Where answers go.
pub(crate) struct Output {
    stream: BufWriter<AutoStream<io::Stdout>>,
    json: bool,
    /// How many columns the terminal has; none if it is no terminal, and then nothing is wrapped.
    width: Option<u16>,
}

/// Whether a column of a table may be wrapped where the terminal is narrow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// Never: it is to be copied.
    Whole(&'static str),
    Wrapped(&'static str),
}

impl Column {
    fn name(self) -> &'static str {
        let (Self::Whole(name) | Self::Wrapped(name)) = self;
        name
    }
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let width = io::stdout().is_terminal().then(|| Term::stdout().size_checked()).flatten();
        let stream = BufWriter::new(AutoStream::auto(io::stdout()));
        Self { stream, json, width: width.map(|(_, columns)| columns) }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One value in one line.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let line = json_text(value).map_err(|error| Failure::failed(error.to_string()))?;
        writeln!(self.stream, "{line}").map_err(Failure::of_output)
    }

    pub(crate) fn line(&mut self, line: impl Display) -> Result<(), Failure> {
        writeln!(self.stream, "{}", printable(&line.to_string())).map_err(Failure::of_output)
    }

    /// A line that says that all is well.
    pub(crate) fn good(&mut self, line: impl Display) -> Result<(), Failure> {
        let green = Style::new().fg_color(Some(AnsiColor::Green.into()));
        writeln!(self.stream, "{green}{}{green:#}", printable(&line.to_string())).map_err(Failure::of_output)
    }

    /// A line that says what is wrong.
    pub(crate) fn bad(&mut self, line: impl Display) -> Result<(), Failure> {
        let red = Style::new().fg_color(Some(AnsiColor::Red.into()));
        writeln!(self.stream, "{red}{}{red:#}", printable(&line.to_string())).map_err(Failure::of_output)
    }

    /// Besides the answer, on the standard error output.
    pub(crate) fn note(&self, message: &str) {
        match self.json {
            true => print_json(&json!({ "note": { "message": message } })),
            false => error_line(format_args!("note: {}", printable(message))),
        }
    }

    /// A table with a head.
    pub(crate) fn table(&mut self, columns: &[Column], rows: Vec<Vec<String>>) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(columns.iter().map(|column| column.name()));
        rows.into_iter().for_each(|row| {
            table.add_row(row.iter().map(|cell| printable(cell)));
        });
        self.write_table(table, columns.iter().map(|column| matches!(column, Column::Whole(_))))
    }

    /// Names and what they are, one in a line.
    pub(crate) fn fields(&mut self, fields: &[(&str, String)]) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        for (name, value) in fields {
            table.add_row([*name, &*printable(value)]);
        }
        self.write_table(table, [true, false].into_iter())
    }

    fn write_table(&mut self, mut table: Table, whole: impl Iterator<Item = bool>) -> Result<(), Failure> {
        match self.width {
            Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        for (column, whole) in table.column_iter_mut().zip(whole) {
            column.set_padding((0, 2));
            if whole {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        for line in table.lines() {
            writeln!(self.stream, "{}", line.trim_end()).map_err(Failure::of_output)?;
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.stream.flush().map_err(Failure::of_output)
    }
}

/// How much of the disk a file takes, and its length if that is another one.
pub(crate) fn show_size(bytes: u64, disk_bytes: u64) -> String {
    // The last block of a file is full only by chance.
    const BLOCK: u64 = 4096;
    match disk_bytes.abs_diff(bytes) >= BLOCK {
        true => format!("{} ({} on the disk)", show_bytes(bytes), show_bytes(disk_bytes)),
        false => show_bytes(bytes),
    }
}

/// Bytes in a unit in which they are read easily.
pub(crate) fn show_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_holes_has_two_sizes() {
        assert_eq!(show_size(8192, 8192), "8.00 KiB");
        assert_eq!(show_size(361, 4096), "361 B", "its last block is not full");
        assert_eq!(show_size(16_384, 8192), "16.00 KiB (8.00 KiB on the disk)");
    }
}
