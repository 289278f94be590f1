//! [`Html`]: markup that is written here, and texts of others, which never become markup.

use std::fmt::{self, Display, Write};

use crate::text::printable;

/// A page that is being written.
///
/// Markup is a constant of this program, so a text that was read somewhere can't be taken for it: the compiler sees
/// to that. Whatever else is written goes through [`text`](Self::text).
#[derive(Default)]
pub(super) struct Html {
    page: String,
}

impl Html {
    /// Markup with a text for each `{}` in it. In an attribute `{}` stands in quotation marks.
    pub(super) fn put(&mut self, markup: &'static str, texts: &[&dyn Display]) -> &mut Self {
        debug_assert_eq!(markup.matches("{}").count(), texts.len(), "{markup}");
        let mut texts = texts.iter();
        for (index, part) in markup.split("{}").enumerate() {
            if index > 0
                && let Some(text) = texts.next()
            {
                self.text(text);
            }
            self.page.push_str(part);
        }
        self
    }

    /// A text, as it is to be read.
    pub(super) fn text(&mut self, text: impl Display) -> &mut Self {
        // To write into a `String` does not fail.
        let _ = write!(Escaped(&mut self.page), "{text}");
        self
    }

    pub(super) fn into_page(self) -> String {
        self.page
    }
}

/// Writes texts so that they stand for themselves, in an element or in a quoted attribute; without characters that
/// have no picture, or turn the direction of what stands beside them.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in printable(text).chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "in a test a failure is a panic")]
mod tests {
    use super::Html;

    fn put(markup: &'static str, text: &str) -> String {
        let mut html = Html::default();
        html.put(markup, &[&text]);
        html.into_page()
    }

    #[test]
    fn a_text_never_becomes_markup() {
        let hostile = "</script><img src=x onerror='alert(\"1\")'>&lt;";
        let shown = "&lt;/script&gt;&lt;img src=x onerror=&#39;alert(&quot;1&quot;)&#39;&gt;&amp;lt;";
        assert_eq!(put("<td>{}</td>", hostile), format!("<td>{shown}</td>"));
        assert_eq!(put("<a title=\"{}\">", hostile), format!("<a title=\"{shown}\">"));
        assert_eq!(put("{}", "{}{}"), "{}{}", "a text has no places");
    }

    #[test]
    fn a_text_controls_nothing() {
        assert_eq!(put("{}", "a\0b\u{1b}[31m\u{202e}c\r\n"), "a\\u{0}b\\u{1b}[31m\\u{202e}c\\r\\n");
        assert_eq!(put("{}", "Schl\u{fc}ssel \u{9375}"), "Schl\u{fc}ssel \u{9375}");
    }

    #[test]
    fn each_text_has_its_place() {
        let mut html = Html::default();
        html.put("<b>{}</b>={}", &[&"a", &7]).text('<').put("<br>", &[]);
        assert_eq!(html.into_page(), "<b>a</b>=7&lt;<br>");
    }
}
