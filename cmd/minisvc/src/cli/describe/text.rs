//! Indented `Key:   value` lines, and how times look to people.

use crate::cli::table::Table;
use jiff::Timestamp;
use serde_json::Value;

/// Annotations that are for programs.
const HIDDEN: &[&str] = &["kubectl.kubernetes.io/last-applied-configuration"];

#[derive(Debug)]
enum Line {
    /// `key:   value`; an empty key continues the value above.
    Pair { indent: usize, key: String, value: String },
    /// As it is.
    Raw { indent: usize, text: String },
}

/// A description that is being written.
#[derive(Debug, Default)]
pub struct Text {
    lines: Vec<Line>,
}

/// The text of a value: empty for null, JSON for what is no text.
pub fn str_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The text, or `<none>`.
pub fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// The items of a list, none if it is not there.
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

impl Text {
    /// `key:  value`; values of one indentation line up.
    pub fn line(&mut self, indent: usize, key: &str, value: impl Into<String>) {
        let (key, value) = (key.to_owned(), value.into());
        self.lines.push(Line::Pair { indent, key, value });
    }

    /// A line only if there is a value.
    pub fn maybe(&mut self, indent: usize, key: &str, value: &Value) {
        let text = str_of(value);
        if !text.is_empty() {
            self.line(indent, key, text);
        }
    }

    /// `key:` above what belongs to it.
    pub fn heading(&mut self, indent: usize, key: &str) {
        self.raw(indent, format!("{key}:"));
    }

    /// A line as it is.
    pub fn raw(&mut self, indent: usize, text: impl Into<String>) {
        self.lines.push(Line::Raw { indent, text: text.into() });
    }

    /// Several values under each other, `<none>` if there are none.
    pub fn list(&mut self, indent: usize, key: &str, values: Vec<String>) {
        let mut values = values.into_iter();
        self.line(indent, key, values.next().unwrap_or_else(|| "<none>".to_owned()));
        for value in values {
            self.lines.push(Line::Pair { indent, key: String::new(), value });
        }
    }

    /// The entries of an object under each other.
    pub fn map(&mut self, indent: usize, key: &str, map: &Value, between: &str) {
        let entries =
            map.as_object().into_iter().flatten().filter(|(key, _)| !HIDDEN.contains(&key.as_str()));
        self.list(
            indent,
            key,
            entries.map(|(key, value)| format!("{key}{between}{}", str_of(value))).collect(),
        );
    }

    /// A table with a line under its headers.
    pub fn table(&mut self, indent: usize, headers: &[&str], rows: Vec<Vec<String>>) {
        let mut all = vec![headers.iter().map(|header| (*header).to_owned()).collect::<Vec<_>>()];
        all.push(headers.iter().map(|header| "-".repeat(header.len())).collect());
        all.extend(rows);
        let table = Table { headers: Vec::new(), rows: all };
        table.text(false, &[]).0.lines().for_each(|line| self.raw(indent, line));
    }

    /// The whole text.
    pub fn render(&self) -> String {
        let mut widths = [0; 8];
        for line in &self.lines {
            if let Line::Pair { indent, key, .. } = line {
                let width: &mut usize = &mut widths[(*indent).min(7)];
                *width = (*width).max(key.chars().count() + 3);
            }
        }
        let mut text = String::new();
        for line in &self.lines {
            let line = match line {
                Line::Pair { indent, key, value } => {
                    let key = if key.is_empty() { String::new() } else { format!("{key}:") };
                    let width = widths[(*indent).min(7)];
                    format!("{}{key:<width$}{}", "  ".repeat(*indent), harmless(value))
                }
                Line::Raw { indent, text } => format!("{}{}", "  ".repeat(*indent), harmless(text)),
            };
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// What a terminal would obey is escaped.
fn harmless(text: &str) -> String {
    let escape = |c: char| c.is_control() && c != '\t';
    text.chars().flat_map(|c| if escape(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// `Mon, 02 Jan 2006 15:04:05 +0000`; the text itself if it is no time.
pub fn time(text: &str) -> String {
    match text.parse::<Timestamp>() {
        Ok(time) => time.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string(),
        Err(_) => text.to_owned(),
    }
}

/// How long ago, as kubectl says it: `12s`, `3m5s`, `2h`, `5d`.
pub fn age(text: &str, now: Timestamp) -> String {
    let Ok(then) = text.parse::<Timestamp>() else { return "<unknown>".to_owned() };
    let seconds = (now.as_second() - then.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let both = |large: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{small_unit}"),
    };
    match seconds {
        ..120 => format!("{seconds}s"),
        120..600 => both(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => both(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => both(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 8 * 365 => both(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}
