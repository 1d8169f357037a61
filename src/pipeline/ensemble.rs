//! `[ensemble]`: all stages that classify, asked together; later ones count for more.

use super::section::Section;
use super::{Fault, Method};

/// What an ensemble is the weighted mean of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// Logits: the paper's code for CIFAR-10.
    Logits,
    /// Probabilities: the paper's code for ImageNet.
    Softmax,
}

impl Average {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Logits, Self::Softmax];

    /// Its name in a pipeline file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Logits => "logits",
            Self::Softmax => "softmax",
        }
    }

    /// The one of a name.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|average| average.word() == word)
    }

    /// Reads the table `[ensemble]`, which makes a node of the ensemble where it is there.
    pub(super) fn read(root: &mut Section<'_>, method: Method) -> Result<Option<Self>, Fault> {
        let wanted = root.has("ensemble");
        let mut section = root.section("ensemble")?;
        let of = section.choice("of", Self::Logits, &Self::ALL.map(|average| (average.word(), average)))?;
        section.finish()?;
        if wanted && method == Method::EndToEnd {
            return Err(
                root.fault("ensemble", "has no meaning where all blocks are trained together: one of them classifies")
            );
        }
        Ok(wanted.then_some(of))
    }
}
