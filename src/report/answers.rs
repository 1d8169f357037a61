//! Validation images that the classifier is surest about, rightly and wrongly.

use super::html::{escape, note};
use super::picture::thumbnail;
use super::subject::{Subject, class_word, favourite};
use crate::error::Result;
use crate::inspect::Images;
use crate::run::{Record, softmax};
use std::collections::BTreeMap;

/// Images of each kind.
const SHOWN: usize = 12;
/// Of one class at most: one that is easy, or labelled badly, would fill all places.
const OF_A_CLASS: usize = 2;

/// A validation image, what it was named, and how surely.
struct Answer {
    sample: usize,
    label: usize,
    named: usize,
    /// The probability of the class that was named.
    certainty: f64,
    /// The probability of the label.
    own: f64,
}

/// The most wrong and the most certain images.
pub(super) fn answers(subject: &Subject) -> Result<String> {
    let (node, record, answers) = subject.answers()?;
    let judge = |(sample, row, label): (usize, &[f32], usize)| {
        let (named, probabilities) = (favourite(row), softmax(row));
        let (certainty, own) = (probabilities[named], probabilities[label]);
        (certainty.is_finite() && own.is_finite()).then_some(Answer { sample, label, named, certainty, own })
    };
    let judged: Vec<Answer> = answers.rows().filter_map(judge).collect();
    let (mut correct, mut wrong): (Vec<Answer>, Vec<Answer>) =
        judged.into_iter().partition(|answer| answer.label == answer.named);
    wrong.sort_by(|a, b| {
        a.own.total_cmp(&b.own).then(b.certainty.total_cmp(&a.certainty)).then(a.sample.cmp(&b.sample))
    });
    correct.sort_by(|a, b| b.certainty.total_cmp(&a.certainty).then(a.sample.cmp(&b.sample)));
    let images = images(subject);
    let show = |title: &str, answers: &[Answer]| {
        let cards: String = spread(answers).map(|answer| card(answer, record, images.as_ref().ok())).collect();
        match answers {
            [] => note(&format!("{title}: there are none.")),
            _ => format!("<h4>{}</h4>\n<div class=\"cards\">\n{cards}</div>\n", escape(title)),
        }
    };
    let missing = match &images {
        Err(fault) => note(&subject.without_places(&format!("The images cannot be shown: {fault}"))),
        Ok(_) => String::new(),
    };
    Ok(format!(
        "<p>By the classifier of {}.</p>\n{missing}{}{}",
        escape(&node.title),
        show("Most wrong: the label is thought least likely", &wrong),
        show("Most certain, and correct", &correct)
    ))
}

/// The first few, not too many of one class.
fn spread(answers: &[Answer]) -> impl Iterator<Item = &Answer> {
    let mut of_class: BTreeMap<usize, usize> = BTreeMap::new();
    let fits = move |answer: &&Answer| {
        let count = of_class.entry(answer.label).or_default();
        *count += 1;
        *count <= OF_A_CLASS
    };
    answers.iter().filter(fits).take(SHOWN)
}

fn card(answer: &Answer, record: &Record, images: Option<&Images>) -> String {
    let (label, named) = (class_word(record, answer.label), class_word(record, answer.named));
    let is_correct = answer.label == answer.named;
    let picture = images.map_or(String::new(), |images| image(images, answer.sample, &label));
    let text = match is_correct {
        true => format!("<b>{}</b> {:.1} %", escape(&label), 100.0 * answer.certainty),
        false => format!(
            "<b>{}</b>, named {} {:.1} % <span class=\"faint\">(own class {:.2} %)</span>",
            escape(&label),
            escape(&named),
            100.0 * answer.certainty,
            100.0 * answer.own
        ),
    };
    format!(
        "<figure class=\"card\">{picture}<figcaption>{text}<span class=\"faint\"> no. {}</span></figcaption></figure>\n",
        answer.sample
    )
}

/// The images that a subject's nodes were made of.
///
/// # Errors
/// When they are not there.
pub(super) fn images(subject: &Subject) -> Result<Images> {
    let (folder, record) = subject.images()?;
    Images::open(&folder, &record)
}

/// A validation image with what it shows; a line where it cannot be read.
pub(super) fn image(images: &Images, sample: usize, label: &str) -> String {
    let alt = format!("validation image {sample}, {label}");
    let made = images.picture(sample).and_then(|picture| thumbnail(&picture, &alt));
    made.unwrap_or_else(|_| note(&format!("image {sample} cannot be read")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_class_does_not_fill_all_places() {
        let answer = |sample, label| Answer { sample, label, named: label, certainty: 1.0, own: 1.0 };
        let answers: Vec<Answer> = (0..100).map(|sample| answer(sample, sample / 10)).collect();
        let shown: Vec<usize> = spread(&answers).map(|answer| answer.sample).collect();
        assert_eq!(shown, [0, 1, 10, 11, 20, 21, 30, 31, 40, 41, 50, 51]);
    }
}
