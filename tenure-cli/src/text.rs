//! Text for a terminal: escaped, coloured where that is wanted, in columns.

use std::fmt::Write as _;
use std::io::IsTerminal;

/// `text` with everything escaped that could steer a terminal or turn the reading order around.
///
/// Names and metadata come from whoever can write to the store.
pub(crate) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        match c {
            _ if c.is_control() => shown.extend(c.escape_default()),
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {
                shown.extend(c.escape_unicode());
            }
            c => shown.push(c),
        }
        shown
    })
}

/// The most characters that are shown of one text from the store.
const SHOWN: usize = 1024;

/// The same, and cut where it is longer than what a client of the library writes.
pub(crate) fn brief(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => printable(text),
        Some((end, _)) => format!("{}… ({} bytes in all)", printable(&text[..end]), text.len()),
    }
}

/// JSON in one line, with the controls escaped that JSON itself would let through (DEL and C1).
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    let plain = serde_json::to_string(value).expect("what is printed here is text and numbers");
    plain.chars().fold(String::with_capacity(plain.len()), |mut shown, c| {
        if c.is_control() {
            // Compact JSON has controls inside of strings alone.
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
        shown
    })
}

/// Whether to colour, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint(bool);

impl Paint {
    /// Colours where `stream` is a terminal and NO_COLOR does not forbid it.
    pub(crate) fn on(stream: &impl IsTerminal) -> Self {
        Self(stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Rows under a header, each column as wide as its widest cell; the last one is not padded.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>], paint: Paint) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut shown = paint.bold(&line(header)) + "\n";
    for row in rows {
        shown += &line(&row.iter().map(String::as_str).collect::<Vec<_>>());
        shown += "\n";
    }
    shown
}

/// `1 waiter`, `2 waiters`.
pub(crate) fn count(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        let evil = "a\x1b[2J\u{9b}31m\r\n\x7f\u{202e}txt.\u{feff}é";
        let shown = printable(evil);
        assert_eq!(shown, "a\\u{1b}[2J\\u{9b}31m\\r\\n\\u{7f}\\u{202e}txt.\\u{feff}é");
        let line = json(&evil);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), evil);
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(brief(&"é".repeat(SHOWN)), "é".repeat(SHOWN));
        assert_eq!(brief(&"é".repeat(SHOWN + 1)), format!("{}… (2050 bytes in all)", "é".repeat(SHOWN)));
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["é".to_owned(), "2".to_owned()], vec!["long".to_owned(), "3".to_owned()]];
        assert_eq!(table(&["A", "B"], &rows, Paint(false)), "A     B\né     2\nlong  3\n");
    }
}
