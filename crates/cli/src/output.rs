//! Results on stdout: tables for people, JSON for programs.

use std::io::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use crate::args::Output;
use crate::exit::Failure;

/// Something that can be printed either way.
pub(crate) struct Listing {
    /// Column titles.
    pub header: Vec<&'static str>,
    /// One row per item.
    pub rows: Vec<Vec<String>>,
    /// The same items for programs.
    pub json: Value,
}

impl Listing {
    /// Prints the listing.
    ///
    /// # Errors
    /// When stdout cannot be written; a reader that closed its end is no error.
    pub(crate) fn print(&self, output: Output) -> Result<(), Failure> {
        match output {
            Output::Json => json(&self.json),
            Output::Table => text(&table(&self.header, &self.rows)),
        }
    }
}

/// A table without borders, one line per row.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header)
        .add_rows(rows);
    table
        .lines()
        .map(|line| line.trim().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Prints indented JSON.
pub(crate) fn json(value: &Value) -> Result<(), Failure> {
    text(&format!("{value:#}"))
}

/// Prints a text and a line's end.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| anyhow::Error::new(e).context("writing to stdout").into()),
    }
}

/// A time stamp as UTC, to the second: 2026-11-24 17:09:31.
pub(crate) fn time(stamp: Option<&prost_types::Timestamp>) -> String {
    stamp.map_or_else(String::new, |t| {
        let text = prost_types::Timestamp { nanos: 0, ..*t }.to_string();
        text.trim_end_matches('Z').replace('T', " ")
    })
}

/// Bytes as people read them: 1.4 MB.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::DecimalBytes(count).to_string()
}

/// The end of a digest's job: `sha256:` and its first 12 digits.
pub(crate) fn short(digest: &str) -> String {
    digest.chars().take("sha256:".len() + 12).collect()
}

/// Warns that a mirror answered without the registry it mirrors, if it did.
pub(crate) fn warn_stale(stale_s: u64) {
    if stale_s > 0 {
        eprintln!(
            "warning: the mirror cannot reach the registry it mirrors: this is as of {stale_s} s ago"
        );
    }
}
