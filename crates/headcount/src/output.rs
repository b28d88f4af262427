//! What commands print: for people, or as JSON for programs.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;

/// The standard output, and who reads it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether programs read it.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Whether a person watches it on a terminal.
    pub(crate) fn is_terminal() -> bool {
        io::stdout().is_terminal()
    }

    /// Prints a line, for people and programs alike.
    pub(crate) fn line(self, text: &str) -> Result<(), Failure> {
        write(&format!("{text}\n"))
    }

    /// Prints lines for people; nothing for programs.
    pub(crate) fn say(self, text: &str) -> Result<(), Failure> {
        if self.json { Ok(()) } else { self.line(text) }
    }

    /// Prints a value as one line of JSON, for programs; nothing for people.
    pub(crate) fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        if !self.json {
            return Ok(());
        }
        let text = serde_json::to_string(value).map_err(Failure::failed)?;
        self.line(&text)
    }

    /// Prints a value as JSON for programs, or what `tell` makes of it for people.
    pub(crate) fn show<T: Serialize>(
        self,
        value: &T,
        tell: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            self.json(value)
        } else {
            write(&tell(value))
        }
    }
}

fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::NobodyReads),
        other => other.map_err(Failure::failed),
    }
}

/// Prints a line on the standard error output, where it does not mix with results.
pub(crate) fn complain(text: &str) {
    // If even that cannot be written, nobody is there to be told.
    drop(writeln!(io::stderr(), "{text}"));
}

/// Lays rows out in columns, each as wide as its widest cell, under their headings.
pub(crate) fn table<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    rows: &[[String; COLUMNS]],
) -> String {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let lay_out = |cells: [&str; COLUMNS]| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            let blanks = width - cell.chars().count() + 2;
            line.push_str(cell);
            line.push_str(&" ".repeat(blanks));
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = lay_out(headings);
    for row in rows {
        text.push_str(&lay_out(row.each_ref().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            ["1".to_owned(), "ünïcode".to_owned()],
            ["22".to_owned(), String::new()],
        ];
        let text = table(["node", "name"], &rows);
        assert_eq!(text, "node  name\n1     ünïcode\n22\n");
    }
}
