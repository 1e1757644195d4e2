//! One thing that was looked at: what was found, why it matters, what to do.

use std::io::stdout;

use serde::Serialize;

use crate::exit::Result;
use crate::out::print;
use crate::text::{Paint, count, json, printable};

/// How bad it is, the least bad first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing; promises are kept.
    Note,
    /// A promise depends on something that may well not hold.
    Warning,
    /// A promise is broken, or locks do not work.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// What was looked at, in a word that stays the same.
    pub(super) check: &'static str,
    /// Where: a server's address, a file, or the whole deployment by its kind.
    pub(super) place: String,
    pub(super) found: String,
    /// Nothing where all is well.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) why: String,
    /// What to do, line by line: lines of a configuration are exactly as they have to be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) fix: Vec<String>,
}

/// All that was found so far at one place.
#[derive(Debug)]
pub(super) struct Findings {
    place: String,
    pub(super) all: Vec<Finding>,
}

impl Findings {
    pub(super) fn at(place: &str) -> Self {
        Self { place: place.to_owned(), all: Vec::new() }
    }

    pub(super) fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(Level::Ok, check, found, "", &[]);
    }

    pub(super) fn add(&mut self, level: Level, check: &'static str, found: impl Into<String>, why: &str, fix: &[&str]) {
        let fix = fix.iter().map(ToString::to_string).collect();
        let (place, why) = (self.place.clone(), why.to_owned());
        self.all.push(Finding { level, check, place, found: found.into(), why, fix });
    }
}

/// Prints them: as JSON a line each, for people place by place.
pub(super) fn tell(findings: &[Finding], as_json: bool) -> Result<()> {
    if as_json {
        return findings.iter().try_for_each(|finding| print(&json(finding)));
    }
    let paint = Paint::on(&stdout());
    let mut text = String::new();
    for (i, finding) in findings.iter().enumerate() {
        if i == 0 || findings[i - 1].place != finding.place {
            let gap = if i == 0 { "" } else { "\n" };
            text += &format!("{gap}{}\n", paint.bold(&printable(&finding.place)));
        }
        let level = match finding.level {
            Level::Ok => paint.green("ok     "),
            Level::Note => "note   ".to_owned(),
            Level::Warning => paint.yellow("warning"),
            Level::Error => paint.red("error  "),
        };
        text += &format!("  {level}  {}: {}\n", finding.check, printable(&finding.found));
        if !finding.why.is_empty() {
            text += &wrapped(&printable(&finding.why));
        }
        for line in &finding.fix {
            text += &format!("           {} {}\n", paint.dim("→"), printable(line));
        }
    }
    let of = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings, notes) = (of(Level::Error), of(Level::Warning), of(Level::Note));
    let (errors, warnings, notes) = (count(errors, "error"), count(warnings, "warning"), count(notes, "note"));
    text += &format!("\n{errors}, {warnings}, {notes}, {} ok\n", of(Level::Ok));
    print(&text)
}

/// In lines of no more than 100 characters, below what it explains.
fn wrapped(text: &str) -> String {
    let mut shown = String::new();
    let mut width = WIDTH;
    for word in text.split(' ') {
        width += 1 + word.chars().count();
        if width > WIDTH {
            shown += if shown.is_empty() { INDENT } else { "\n           " };
            width = INDENT.len() + word.chars().count();
        } else {
            shown.push(' ');
        }
        shown += word;
    }
    shown + "\n"
}

const INDENT: &str = "           ";
const WIDTH: usize = 100;
