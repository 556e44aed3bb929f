//! What the server's tables become on the screen.

use crate::cli::table::{Table, cell};
use minisvc_apimachinery::Resource;
use serde_json::Value;

/// What a table needs to know besides what the server says.
pub struct Layout<'a> {
    /// All columns, not only the important ones.
    pub wide: bool,
    /// The namespace in a first column.
    pub namespace: bool,
    /// The labels in a last column.
    pub labels: bool,
    /// Names are `type/name`.
    pub prefix: Option<&'a Resource>,
}

impl Layout<'_> {
    /// Adds the rows of the server's answer to a table.
    pub fn add(&self, answer: &Value, into: &mut Table) {
        if answer["kind"] != "Table" {
            return self.add_plain(answer, into);
        }
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let columns = list(&answer["columnDefinitions"]);
        let shown = |index: usize| {
            // Later events of a watch leave the columns out: then the headers say how many there are.
            self.wide || columns.get(index).is_none_or(|column| column["priority"].as_i64().unwrap_or(0) == 0)
        };
        if into.headers.is_empty() && !columns.is_empty() {
            let names = columns.iter().enumerate().filter(|(index, _)| shown(*index));
            let names = names.map(|(_, column)| cell(&column["name"])).collect();
            into.headers = self.framed(names, "Namespace".to_owned(), "Labels".to_owned());
        }
        for row in list(&answer["rows"]) {
            let cells = list(&row["cells"]);
            let mut cells: Vec<String> = cells
                .iter()
                .enumerate()
                .filter(|(index, _)| shown(*index))
                .map(|(_, value)| cell(value))
                .collect();
            if let (Some(resource), Some(name)) = (self.prefix, cells.first_mut()) {
                *name = format!("{}/{name}", resource.qualified_singular());
            }
            let metadata = &row["object"]["metadata"];
            into.rows.push(self.framed(cells, namespace_of(metadata), labels_of(metadata)));
        }
    }

    /// Objects of a server that makes no tables: their names.
    fn add_plain(&self, answer: &Value, into: &mut Table) {
        into.headers = self.framed(vec!["Name".to_owned()], "Namespace".to_owned(), "Labels".to_owned());
        let one = std::slice::from_ref(answer);
        for object in answer["items"].as_array().map_or(one, Vec::as_slice) {
            let metadata = &object["metadata"];
            let row = self.framed(vec![cell(&metadata["name"])], namespace_of(metadata), labels_of(metadata));
            into.rows.push(row);
        }
    }

    fn framed(&self, mut cells: Vec<String>, namespace: String, labels: String) -> Vec<String> {
        if self.namespace {
            cells.insert(0, namespace);
        }
        if self.labels {
            cells.push(labels);
        }
        cells
    }
}

fn namespace_of(metadata: &Value) -> String {
    metadata["namespace"].as_str().unwrap_or_default().to_owned()
}

fn labels_of(metadata: &Value) -> String {
    let Some(labels) = metadata["labels"].as_object().filter(|labels| !labels.is_empty()) else {
        return "<none>".to_owned();
    };
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={}", cell(value))).collect();
    labels.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use minisvc_apimachinery::resource::SERVICES;
    use serde_json::json;

    fn answer() -> Value {
        json!({"kind": "Table", "metadata": {}, "columnDefinitions": [{"name": "Name", "priority": 0},
            {"name": "Age", "priority": 0}, {"name": "Selector", "priority": 1}],
            "rows": [{"cells": ["web", "5s", "app=web"], "object": {"metadata": {"name": "web", "namespace": "default",
                "labels": {"a": "b"}, "resourceVersion": "7"}}}]})
    }

    fn rows(layout: &Layout) -> (Vec<String>, Vec<Vec<String>>) {
        let mut table = Table::default();
        layout.add(&answer(), &mut table);
        (table.headers, table.rows)
    }

    #[test]
    fn columns_follow_the_flags() {
        let plain = Layout { wide: false, namespace: false, labels: false, prefix: None };
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(rows(&plain), (owned(&["Name", "Age"]), vec![owned(&["web", "5s"])]));
        let all = Layout { wide: true, namespace: true, labels: true, prefix: Some(&SERVICES) };
        assert_eq!(
            rows(&all),
            (
                owned(&["Namespace", "Name", "Age", "Selector", "Labels"]),
                vec![owned(&["default", "service/web", "5s", "app=web", "a=b"])]
            )
        );
    }
}
