//! What the command line says when something was done: one value, shown as JSON or as a table or sentence.

use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use crate::command_line::Output;

/// The answer of a command.
pub(crate) struct Answer {
    data: Value,
    text: String,
}

impl Answer {
    /// A sentence that is also the data, as cloudhsm-cli does where there is nothing else to say.
    pub(crate) fn sentence(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { data: Value::String(text.clone()), text }
    }

    /// Data, and a text that tells the same to a person.
    pub(crate) fn new(data: Value, text: impl Into<String>) -> Self {
        Self { data, text: text.into() }
    }

    /// Adds a fact that is rarely there. Data that are a sentence become an object with that sentence as its `message`.
    pub(crate) fn with(self, name: &str, value: Value, text: &str) -> Self {
        let mut data = match self.data {
            Value::Object(data) => data,
            other => serde_json::Map::from_iter([("message".to_owned(), other)]),
        };
        data.insert(name.to_owned(), value);
        Self { data: Value::Object(data), text: format!("{}\n{text}", self.text) }
    }

    /// What a person reads.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Prints it.
    pub(crate) fn print(&self, output: Output) -> ExitCode {
        match output {
            Output::Text => println!("{}", self.text),
            Output::Json => println!("{}", serde_json::json!({ "error_code": 0, "data": self.data })),
        }
        ExitCode::SUCCESS
    }
}

/// A table with a heading row.
pub(crate) fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(heading);
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}
