//! Plain tables: columns under their headings, numbers to the right.

use std::ops::Range;

/// What stands between columns.
const GAP: &str = "  ";

/// Columns of a terminal that nobody has made wider.
pub(super) const TERMINAL: usize = 80;

/// Rows of cells under headings.
pub(super) struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &[&str]) -> Self {
        Self { headings: headings.iter().map(|heading| heading.to_string()).collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as lines; the first column is set to the left, the others to the right.
    pub fn text(&self) -> String {
        self.columns(1..self.headings.len())
    }

    /// The same for lines of a width: columns that find no place are set below the others, beside the first column again.
    pub fn folded(&self, width: usize) -> String {
        let widths = self.widths();
        let (mut parts, mut first, mut taken) = (Vec::new(), 1, widths[0]);
        for (column, own) in widths.iter().enumerate().skip(1) {
            if column > first && taken + GAP.len() + own > width {
                parts.push(self.columns(first..column));
                (first, taken) = (column, widths[0]);
            }
            taken += GAP.len() + own;
        }
        parts.push(self.columns(first..widths.len()));
        parts.join("\n")
    }

    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.headings).chain(&self.rows)
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            self.lines().filter_map(|cells| cells.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..self.headings.len()).map(width).collect()
    }

    /// The first column and some others.
    fn columns(&self, others: Range<usize>) -> String {
        let widths = self.widths();
        let line = |cells: &Vec<String>| {
            let set = cells.iter().zip(&widths).enumerate().filter_map(|(column, (cell, &width))| match column {
                0 => Some(format!("{cell:<width$}")),
                _ if others.contains(&column) => Some(format!("{cell:>width$}")),
                _ => None,
            });
            format!("{}\n", set.collect::<Vec<_>>().join(GAP).trim_end())
        };
        self.lines().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_stand_under_their_headings() {
        let mut table = Table::new(&["stage", "accuracy"]);
        table.row(["1".to_string(), "61.2 %".to_string()]);
        table.row(["images".to_string(), "".to_string()]);
        assert_eq!(table.text(), "stage   accuracy\n1         61.2 %\nimages\n");
        assert_eq!(table.folded(80), table.text());
    }

    #[test]
    fn columns_that_find_no_place_are_set_below() {
        let mut table = Table::new(&["stage", "one", "two", "a long one"]);
        table.row(["1", "2", "3", "4"].map(String::from));
        let expected = "stage  one  two\n1        2    3\n\nstage  a long one\n1               4\n";
        assert_eq!(table.folded(15), expected);
        assert_eq!(table.folded(27), table.text());
    }
}
