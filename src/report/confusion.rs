//! Which classes are taken for which others: a matrix, or the most confused pairs where there are many classes.

use super::html::{Table, cut, escape, note, paragraph};
use super::subject::{Answers, Subject, class_name, class_word, favourite};
use crate::error::Result;
use crate::run::Record;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Classes up to which the whole matrix is shown.
const MOST_CLASSES: usize = 50;
/// Classes up to which counts stand in the cells.
const COUNTED: usize = 12;
/// Rows of the tables that stand for the matrix of more.
const ROWS: usize = 40;

/// How often each class was taken for each other.
struct Confusion {
    classes: usize,
    /// (label, class that was named) -> how often; what never happened is not in it.
    counts: BTreeMap<(usize, usize), usize>,
    /// Samples of each class.
    samples: Vec<usize>,
}

impl Confusion {
    fn of(answers: &Answers) -> Self {
        let mut found = Self { classes: answers.classes, counts: BTreeMap::new(), samples: vec![0; answers.classes] };
        for (_, row, label) in answers.rows() {
            found.samples[label] += 1;
            *found.counts.entry((label, favourite(row))).or_default() += 1;
        }
        found
    }

    fn count(&self, label: usize, named: usize) -> usize {
        self.counts.get(&(label, named)).copied().unwrap_or(0)
    }

    /// The share of a class's samples that a cell has.
    fn share(&self, label: usize, named: usize) -> f64 {
        self.count(label, named) as f64 / self.samples[label].max(1) as f64
    }
}

/// What the deepest node that classifies takes for what.
pub(super) fn confusion(subject: &Subject) -> Result<String> {
    let (node, record, answers) = subject.answers()?;
    let confusion = Confusion::of(&answers);
    let of = paragraph(&format!(
        "By the classifier of {}, over {} validation images.",
        node.title,
        confusion.samples.iter().sum::<usize>()
    ));
    let pairs = pairs(record, &confusion);
    Ok(match confusion.classes {
        0..=MOST_CLASSES => format!("{of}{}{pairs}", matrix(record, &confusion)),
        _ => format!("{of}{pairs}{}", worst(record, &confusion)),
    })
}

/// The matrix: a row for each label, a column for each class that was named.
fn matrix(record: &Record, confusion: &Confusion) -> String {
    let count = confusion.classes;
    let cell = if count <= COUNTED {
        34.0
    } else if count <= 25 {
        20.0
    } else {
        12.0
    };
    let names: Vec<String> = (0..count).map(|at| class_word(record, at)).collect();
    // Only what fits beside the cells is written there; the rest is in each cell's own text.
    let label = |at: usize| -> String { cut(&names[at], if count <= 25 { 13 } else { 12 }) };
    let size = if count <= 25 { 11.0 } else { 9.0 };
    let margin = 112.0;
    let side = margin + cell * count as f64;
    // The last names lean out to the right.
    let wide = side + 80.0;
    let mut svg = format!(
        "<div class=\"wide\"><svg class=\"matrix\" style=\"min-width:{:.0}px;max-width:{:.0}px\" viewBox=\"0 0 {wide:.0} {:.0}\" role=\"img\" aria-label=\"Confusion matrix of {count} classes; the table below names the largest entries off the diagonal\"><title>Confusion matrix</title>\n",
        (wide * 0.75).min(600.0),
        wide * 1.1,
        side + 2.0
    );
    for at in 0..count {
        let middle = margin + cell * (at as f64 + 0.5);
        let text = escape(&label(at));
        let _ = writeln!(
            svg,
            "<text font-size=\"{size}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text><text font-size=\"{size}\" transform=\"translate({:.1} {:.1}) rotate(-55)\">{text}</text>",
            margin - 5.0,
            middle + 4.0,
            middle + 2.0,
            margin - 5.0
        );
    }
    let _ = writeln!(
        svg,
        "<rect class=\"frame\" x=\"{margin}\" y=\"{margin}\" width=\"{0:.1}\" height=\"{0:.1}\"/>",
        cell * count as f64
    );
    for (&(label, named), &found) in &confusion.counts {
        let share = confusion.share(label, named);
        let (x, y) = (margin + cell * named as f64, margin + cell * label as f64);
        let text = format!(
            "{} named {}: {found} of {} ({:.1} %)",
            names[label],
            names[named],
            confusion.samples[label],
            100.0 * share
        );
        let kind = if label == named { "right" } else { "wrong" };
        let _ = write!(
            svg,
            "<rect class=\"cell {kind}\" fill-opacity=\"{:.2}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{cell}\" height=\"{cell}\"><title>{}</title></rect>",
            // What is wrong is rare: its root is seen better.
            if label == named { share } else { share.sqrt() }.max(0.05),
            escape(&text)
        );
        if count <= COUNTED {
            let strong = if share > 0.55 && label == named { " strong" } else { "" };
            let _ = write!(
                svg,
                "<text class=\"count{strong}\" font-size=\"10\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{found}</text>",
                x + cell / 2.0,
                y + cell / 2.0 + 4.0
            );
        }
        svg.push('\n');
    }
    svg + "</svg></div>\n<p class=\"about\">Rows are labels, columns what was named: the stronger a cell&#39;s colour, the larger its share of the row. The diagonal is correct.</p>\n"
}

/// The largest entries off the diagonal.
fn pairs(record: &Record, confusion: &Confusion) -> String {
    let mut wrong: Vec<(usize, usize, usize)> = confusion
        .counts
        .iter()
        .filter(|((label, named), _)| label != named)
        .map(|(&(label, named), &count)| (count, label, named))
        .collect();
    if wrong.is_empty() {
        return note("No validation image was taken for one of another class.");
    }
    wrong.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let all = wrong.len();
    let rows = if confusion.classes <= MOST_CLASSES { 10 } else { ROWS };
    let mut table =
        Table::new("The most confused pairs", &["label", "named", "images", "of the label's", "the other way round"]);
    for &(count, label, named) in wrong.iter().take(rows) {
        table.row([
            class_name(record, label),
            class_name(record, named),
            count.to_string(),
            format!("{:.1} %", 100.0 * confusion.share(label, named)),
            confusion.count(named, label).to_string(),
        ]);
    }
    let more = if all > rows { note(&format!("And {} more pairs.", all - rows)) } else { String::new() };
    format!("{}{more}", table.html())
}

/// The classes that fare worst.
fn worst(record: &Record, confusion: &Confusion) -> String {
    let mut classes: Vec<usize> = (0..confusion.classes).filter(|&at| confusion.samples[at] > 0).collect();
    classes.sort_by(|&a, &b| confusion.share(a, a).total_cmp(&confusion.share(b, b)).then(a.cmp(&b)));
    let mut table = Table::new("The classes that fare worst", &["class", "right", "images"]);
    for &at in classes.iter().take(ROWS) {
        let right = format!("{:.1} %", 100.0 * confusion.share(at, at));
        table.row([class_name(record, at), right, confusion.samples[at].to_string()]);
    }
    table.html()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_label_and_by_what_was_named() {
        let logits = [[0.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 5.0], [f32::NAN, 0.0, 0.0]].concat();
        let confusion = Confusion::of(&Answers { logits, labels: vec![1, 1, 9, 1], classes: 3 });
        assert_eq!(confusion.samples, [0, 3, 0], "a label that is no class counts for nothing");
        assert_eq!([(1, 1), (1, 0), (1, 2)].map(|(label, named)| confusion.count(label, named)), [2, 1, 0]);
        assert!((confusion.share(1, 0) - 1.0 / 3.0).abs() < 1e-12);
    }
}
