//! A fault of a pipeline file: where it is, what it is, and what may have been meant.

use super::place::Place;
use std::fmt;

/// What is wrong with a pipeline file.
#[derive(Clone, Debug)]
pub struct Fault {
    place: String,
    message: String,
    hint: Option<String>,
}

impl Fault {
    pub(super) fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place: place.to_string(), message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Hints at the known word that is nearest to the one written, or lists them all.
    pub(super) fn suggest<'a>(self, written: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.collect();
        match nearest(written, known.iter().copied()) {
            Some(word) => self.hint(format!("did you mean `{word}`?")),
            None if known.is_empty() => self,
            None => self.hint(format!("known here: {}", known.join(", "))),
        }
    }

    /// Adds a known word that is like the one written, where there is one; the others are named already.
    pub(super) fn suggest_like<'a>(self, written: &str, known: impl Iterator<Item = &'a str>) -> Self {
        match nearest(written, known) {
            Some(word) => self.hint(format!("did you mean `{word}`?")),
            None => self,
        }
    }

    /// What may have been meant.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// The known word that a mistaken one is so like that it may have been meant.
fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, word) = known.map(|word| (strsim::damerau_levenshtein(written, word), word)).min()?;
    (distance <= 1 + word.len() / 4).then_some(word)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}
