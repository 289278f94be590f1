//! Texts that do no harm on a terminal, JSON in one line, and the standard error output.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde_json::json;

/// Whether everything that is said is JSON, also by what has no [`Output`](crate::output::Output): bars, questions, a panic.
static JSON: AtomicBool = AtomicBool::new(false);

/// Has everything be JSON, or in words.
pub(crate) fn say_in_json(json: bool) {
    JSON.store(json, Ordering::Relaxed);
}

pub(crate) fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// A text that can't move the cursor, change colours, or turn the direction of what stands beside it: what
/// tenants say of their keys is shown to operators.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let escape = |character: char| match acts(character) {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escape).collect()
}

/// Whether a character controls a terminal, ends a line, or turns the direction of what stands beside it.
fn acts(character: char) -> bool {
    let turns = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    character.is_control() || turns
}

/// JSON in one line, in which characters that act are escaped: a machine reads the same text, and a terminal shows
/// nothing else. serde_json escapes those of ASCII but one; none of the others stands outside of a string.
pub(crate) fn json_text(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string(value)?;
    if !text.contains(acts) {
        return Ok(text);
    }
    let escape = |character: char| match acts(character) {
        true => format!("\\u{:04x}", u32::from(character)),
        false => character.to_string(),
    };
    Ok(text.chars().map(escape).collect())
}

/// Writes a line to the standard error output. If that fails, the exit status still reports how the command ended; the
/// macros of the standard library would panic.
pub(crate) fn error_line(line: impl Display) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// A value on the standard error output, in one line.
pub(crate) fn print_json(value: &serde_json::Value) {
    match json_text(value) {
        Ok(text) => error_line(text),
        Err(error) => error_line(json!({ "error": { "kind": "failed", "message": error.to_string() } })),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]
mod tests {
    use super::*;

    #[test]
    fn escaped_json_is_the_same_json() {
        let text = "a\u{1b}\u{7f}\u{9b}\u{61c}\u{202e}\u{2028}\"\\\u{e4}";
        let json = json_text(&json!({ text: text })).unwrap();
        assert!(!json.contains(acts), "{json:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), json!({ text: text }));
    }
}
