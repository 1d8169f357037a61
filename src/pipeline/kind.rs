//! What nodes do.

/// What a node does; what it leaves in its folder follows from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Decodes the images.
    Images,
    /// Trains a block with a classifier on frozen features, and writes its own.
    Block,
    /// Trains a block with a classifier as it is before it is pruned.
    Wide,
    /// Prunes a block that is trained, fine-tunes what is left, and writes its features.
    Pruned,
    /// Trains all blocks together on the images.
    EndToEnd,
    /// Trains all blocks at once on the images, each with a classifier.
    Decoupled,
    /// Takes the weights of a network from a file.
    Imported,
    /// Takes a block from a network that was trained as a whole or imported, and writes its features.
    Depth,
    /// Writes features that are handcrafted: the scattering transform of the images.
    Scattering,
    /// Trains a classifier in the place of that of the last stage, on the features of that.
    Classifier,
    /// Asks all stages that classify together.
    Ensemble,
    /// Measures something of the features of a stage.
    Probe,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 12] = [
        Self::Images,
        Self::Block,
        Self::Wide,
        Self::Pruned,
        Self::EndToEnd,
        Self::Decoupled,
        Self::Imported,
        Self::Depth,
        Self::Scattering,
        Self::Classifier,
        Self::Ensemble,
        Self::Probe,
    ];

    /// Its name in records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Block => "block",
            Self::Wide => "wide",
            Self::Pruned => "pruned",
            Self::EndToEnd => "end_to_end",
            Self::Decoupled => "decoupled",
            Self::Imported => "imported",
            Self::Depth => "depth",
            Self::Scattering => "scattering",
            Self::Classifier => "classifier",
            Self::Ensemble => "ensemble",
            Self::Probe => "probe",
        }
    }

    /// Whether it is one of the images or of a stage: what stages are made of and can be made from.
    pub fn is_stage(self) -> bool {
        matches!(self, Self::Images | Self::Block | Self::Pruned | Self::Depth | Self::Scattering)
    }

    /// Whether it is a network of which stages are taken.
    pub fn is_network(self) -> bool {
        matches!(self, Self::EndToEnd | Self::Decoupled | Self::Imported)
    }

    /// Whether nothing is ever made of it: it says something about stages.
    pub fn is_leaf(self) -> bool {
        matches!(self, Self::Classifier | Self::Ensemble | Self::Probe)
    }
}
