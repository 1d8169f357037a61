//! Pieces of the page as text: what comes from outside passes [`escape`], and nothing else is put into it.

use crate::text::printable;
use std::fmt::Write;

/// Characters of a name that are shown at most where many stand side by side.
const MOST_LETTERS: usize = 40;

/// A text as HTML, also within an attribute: nothing in it opens a tag, ends an attribute or steers a reader.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in printable(text, &['\n']).chars() {
        match letter {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            // Neither is a character of a document.
            '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            _ => safe.push(letter),
        }
    }
    safe
}

/// A name that is cut off where it is very long.
pub(super) fn short(name: &str) -> String {
    cut(name, MOST_LETTERS)
}

/// A text of so many letters at most.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// A text as HTML, in which what stands between backticks is set as code.
fn prose(text: &str) -> String {
    let safe = escape(text);
    if safe.matches('`').count() % 2 == 1 {
        return safe;
    }
    let part = |(at, part): (usize, &str)| if at % 2 == 1 { format!("<code>{part}</code>") } else { part.into() };
    safe.split('`').enumerate().map(part).collect()
}

/// A line about something that is not there.
pub(super) fn note(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", prose(text))
}

/// A paragraph.
pub(super) fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", prose(text))
}

/// What is read only by those who open it.
pub(super) fn details(summary: &str, content: &str) -> String {
    format!("<details><summary>{}</summary>\n{content}</details>\n", escape(summary))
}

/// A table whose rows can be sorted by a click on a heading, where scripts run.
pub(super) struct Table {
    text: String,
    rows: usize,
}

impl Table {
    /// With these headings; the first column names what the row is about.
    pub fn new(caption: &str, headings: &[&str]) -> Self {
        let mut text =
            format!("<div class=\"wide\" tabindex=\"0\"><table><caption>{}</caption>\n<thead><tr>", escape(caption));
        for heading in headings {
            let _ = write!(text, "<th scope=\"col\">{}</th>", escape(heading));
        }
        text += "</tr></thead>\n<tbody>\n";
        Self { text, rows: 0 }
    }

    /// Adds a row of plain texts.
    pub fn row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| escape(cell.as_ref())).collect();
        self.row_of_html(&cells);
    }

    /// Adds a row of pieces of HTML.
    pub fn row_of_html(&mut self, cells: &[String]) {
        self.rows += 1;
        self.text += "<tr>";
        for (column, cell) in cells.iter().enumerate() {
            self.text += &match column {
                0 => format!("<th scope=\"row\">{cell}</th>"),
                _ => format!("<td>{cell}</td>"),
            };
        }
        self.text += "</tr>\n";
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub fn html(self) -> String {
        self.text + "</tbody></table></div>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_comes_from_outside_is_markup() {
        let hostile = "<script>alert(\"1\")</script>&'\u{1b}[2J\u{0}\u{202e}\u{ffff}";
        let safe = escape(hostile);
        assert!(!safe.contains(['<', '>', '"', '\'', '\u{1b}', '\u{0}', '\u{202e}', '\u{ffff}']), "{safe}");
        assert!(safe.starts_with("&lt;script&gt;alert(&quot;1&quot;)"), "{safe}");
        assert_eq!(escape("café & tea"), "café &amp; tea");
    }

    #[test]
    fn what_stands_between_backticks_is_code() {
        assert_eq!(note("try `a <b>` now"), "<p class=\"note\">try <code>a &lt;b&gt;</code> now</p>\n");
        assert_eq!(paragraph("a ` b"), "<p>a ` b</p>\n");
    }

    #[test]
    fn long_names_are_cut_between_letters() {
        assert_eq!(short(&"é".repeat(41)), format!("{}…", "é".repeat(40)));
        assert_eq!(short("cat"), "cat");
    }
}
