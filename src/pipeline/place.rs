//! Where something was written: a text, and a place in it.

use std::sync::Arc;

/// A text that values come from: a pipeline file or one `--set` option.
#[derive(Debug)]
pub(super) struct Source {
    pub name: String,
    pub text: String,
}

/// Where a value was written.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub source: Arc<Source>,
    pub offset: usize,
}

impl std::fmt::Display for Place {
    /// `file:line:column`, both counted from 1, columns in characters.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = &self.source.text;
        let mut end = self.offset.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        write!(f, "{}:{line}:{column}", self.source.name)
    }
}
