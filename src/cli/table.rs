//! Plain tables: columns under their headings, numbers to the right.

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
        let lines: Vec<&Vec<String>> = std::iter::once(&self.headings).chain(&self.rows).collect();
        let width = |column: usize| {
            lines.iter().filter_map(|cells| cells.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let line = |cells: &Vec<String>| {
            let set = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            format!("{}\n", set.collect::<Vec<_>>().join("  ").trim_end())
        };
        lines.into_iter().map(line).collect()
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
    }
}
