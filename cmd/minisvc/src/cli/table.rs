//! Tables as kubectl prints them: upper-case headers, three spaces between columns.

use std::fmt::Write;

/// Spaces between columns.
const GAP: usize = 3;
/// Least width of a column with its gap.
const CELL_MIN: usize = 6;

/// Rows of text under headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Column names.
    pub headers: Vec<String>,
    /// Cells, as many a row as there are headers.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Widths of all columns but the last, gaps included.
    fn widths(&self, headers: bool, least: &[usize]) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).chain([self.headers.len()]).max().unwrap_or(0);
        let shown = self.rows.iter().chain(headers.then_some(&self.headers));
        let mut widths = vec![CELL_MIN; columns];
        for row in shown {
            for (cell, width) in row.iter().zip(&mut widths) {
                *width = (*width).max(cell.chars().count() + GAP);
            }
        }
        for (width, least) in widths.iter_mut().zip(least) {
            *width = (*width).max(*least);
        }
        widths
    }

    /// The table as text, and its column widths: rows of a watch that come later are laid out by them.
    pub fn text(&self, headers: bool, least: &[usize]) -> (String, Vec<usize>) {
        let widths = self.widths(headers, least);
        let mut text = String::new();
        let upper: Vec<String> = self.headers.iter().map(|header| header.to_uppercase()).collect();
        for row in headers.then_some(&upper).into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (index, cell) in row.iter().enumerate() {
                if index + 1 == row.len() {
                    line.push_str(cell);
                } else {
                    // Writing into a String cannot fail.
                    let _ = write!(line, "{cell:<width$}", width = widths[index]);
                }
            }
            text.push_str(&line);
            text.push('\n');
        }
        (text, widths)
    }
}

/// A cell on one line; what a terminal would obey is escaped.
pub fn cell(value: &serde_json::Value) -> String {
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Null => "<none>".to_owned(),
        other => other.to_string(),
    };
    let line = text.split(['\n', '\r']).next().unwrap_or_default();
    let cut = if line.len() < text.len() { "..." } else { "" };
    line.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect::<String>()
        + cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table(rows: &[&[&str]]) -> Table {
        let owned = |row: &&[&str]| row.iter().map(|cell| (*cell).to_owned()).collect();
        Table { headers: owned(&rows[0]), rows: rows[1..].iter().map(owned).collect() }
    }

    #[test]
    fn columns_line_up_as_kubectls() {
        let table = table(&[
            &["Name", "Type", "Port(s)", "Age"],
            &["web", "ClusterIP", "80/TCP", "5s"],
            &["db-long", "X", "", "1m"],
        ]);
        let (text, widths) = table.text(true, &[]);
        assert_eq!(
            text,
            "NAME      TYPE        PORT(S)   AGE\n\
             web       ClusterIP   80/TCP    5s\n\
             db-long   X                     1m\n"
        );
        let (later, _) =
            Table { headers: vec![], rows: vec![vec!["a".into(), "b".into(), "c".into(), "d".into()]] }
                .text(false, &widths);
        assert_eq!(later, "a         b           c         d\n");
    }

    #[test]
    fn cells_stay_on_their_line() {
        assert_eq!(cell(&json!("a\nb")), "a...");
        assert_eq!(cell(&json!("\u{1b}[31m")), "\\u{1b}[31m");
        assert_eq!(cell(&json!(3)), "3");
    }
}
