//! What the reader sees: aligned tables, and one verdict per line of the performance budget.

use std::fmt;

use crate::stats::Rounds;

/// Columns as wide as their widest cell; the first is text, the others stand at the right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        Self { rows: vec![header.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                let width = width(column).unwrap_or(0);
                match column {
                    0 => write!(out, "  {cell:<width$}")?,
                    _ => write!(out, "  {cell:>width$}")?,
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// The median with a spread around it: `1.12 (1.08-1.15)`.
pub fn spread(rounds: &Rounds, edges: fn(&Rounds) -> (f64, f64), decimals: usize) -> String {
    let (low, high) = edges(rounds);
    let between = if low < 0.0 { " to " } else { "-" };
    format!("{:.decimals$} ({low:.decimals$}{between}{high:.decimals$})", rounds.median())
}

/// The budget, line by line.
#[derive(Default)]
pub struct Verdicts(Vec<Verdict>);

struct Verdict {
    met: bool,
    line: String,
}

impl Verdicts {
    /// Records a figure of the gateway that has a limit. A figure that is not a number breaks its budget.
    pub fn at_most(&mut self, what: &str, figure: f64, limit: f64, unit: &str) {
        let met = figure <= limit;
        let word = if met { "met   " } else { "BROKEN" };
        self.0.push(Verdict { met, line: format!("{word}  {what}: {figure:.2}{unit}, budget {limit:.2}{unit}") });
    }

    pub fn all_met(&self) -> bool {
        self.0.iter().all(|verdict| verdict.met)
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return writeln!(out, "budget: nothing to judge, the gateway was not measured");
        }
        writeln!(out, "budget:")?;
        self.0.iter().try_for_each(|verdict| writeln!(out, "  {}", verdict.line))
    }
}
