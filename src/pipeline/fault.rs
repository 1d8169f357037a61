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
        let nearest = known.iter().map(|word| (strsim::damerau_levenshtein(written, word), word)).min();
        match nearest {
            Some((distance, word)) if distance <= 1 + word.len() / 4 => self.hint(format!("did you mean `{word}`?")),
            Some(_) => self.hint(format!("known here: {}", known.join(", "))),
            None => self,
        }
    }

    /// What may have been meant.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}
