//! What was measured, as a table.

use std::fmt::Write as _;

/// Figures of the same thing.
#[derive(Clone, Debug)]
pub(crate) struct Spread(Vec<f64>);

impl Spread {
    /// # Panics
    /// If there is no figure.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        assert!(!figures.is_empty(), "something was measured");
        Self(figures)
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// The figure that a share of them, 0 to 1, does not exceed.
    pub(crate) fn at(&self, share: f64) -> f64 {
        let last = self.0.len() - 1;
        self.0[(last as f64 * share).round() as usize]
    }
}

/// Rows of figures with what they are held to.
#[derive(Debug, Default)]
pub(crate) struct Table {
    text: String,
    /// What is told behind the figures, line by line.
    notes: String,
    /// Ratios far below their bars.
    pub(crate) failures: Vec<String>,
}

impl Table {
    /// Adds a figure with its spread.
    pub(crate) fn row(&mut self, what: &str, figures: &Spread, bar: &str) {
        let [median, least, most] = [0.5, 0.0, 1.0].map(|share| short(figures.at(share)));
        let figure = if figures.0.len() == 1 {
            median
        } else {
            format!("{median} ({least} to {most})")
        };
        self.line(what, &figure, bar);
    }

    /// Adds a ratio; one below the floor is a failure.
    pub(crate) fn ratio(&mut self, what: &str, ratio: f64, bar: f64, floor: f64) {
        self.line(what, &format!("**{ratio:.2}**"), &format!("≥ {bar}"));
        if ratio < floor {
            self.failures
                .push(format!("{what}: {ratio:.2}, and the bar is {bar}"));
        }
    }

    /// Adds a figure that shall not exceed a bar; one above twice of it is a failure.
    pub(crate) fn most(&mut self, what: &str, figures: &Spread, bar: f64) {
        self.row(what, figures, &format!("≤ {bar}"));
        let median = figures.median();
        if median > bar * 2.0 {
            self.failures
                .push(format!("{what}: {median:.2}, and the bar is {bar}"));
        }
    }

    /// Adds a ratio or a number of bytes that shall not exceed a bar, if there is one; twice of it
    /// is a failure.
    pub(crate) fn at_most(&mut self, what: &str, figure: f64, bar: f64) {
        if bar.is_nan() {
            self.line(what, &short(figure), "");
        } else {
            self.most(what, &Spread::of([figure]), bar);
        }
    }

    /// Adds how figures are spread.
    pub(crate) fn percentiles(&mut self, what: &str, figures: &Spread) {
        let [median, late, last] = [0.5, 0.99, 1.0].map(|share| short(figures.at(share)));
        let count = figures.0.len();
        let what = format!("{what} (median, p99, worst of {count})");
        self.line(&what, &format!("{median}, {late}, {last}"), "");
    }

    /// Adds a time, or times beside one, which never fails the run: the machine may be busy.
    pub(crate) fn time(&mut self, what: &str, figures: &Spread, bar: f64) {
        self.row(what, figures, &format!("≤ {bar}"));
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, what: &str, figure: &str, bar: &str) {
        let line = format!("| {what} | {figure} | {bar} |");
        eprintln!("{line}");
        // Writing to a string cannot fail.
        let _fits = writeln!(self.text, "{line}");
    }

    /// Adds a line behind the figures.
    pub(crate) fn note(&mut self, line: &str) {
        eprintln!("{line}");
        self.notes.push_str(line);
        self.notes.push('\n');
    }

    /// The table in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let table = format!("| what | figure | bar |\n|---|---:|---:|\n{}", self.text);
        if self.notes.is_empty() {
            return table;
        }
        format!("{table}\n```text\n{}\n```\n", self.notes.trim_end())
    }
}

/// Three digits that matter, thousands apart.
pub(crate) fn short(figure: f64) -> String {
    if figure < 100.0 {
        return format!("{figure:.2}");
    }
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
