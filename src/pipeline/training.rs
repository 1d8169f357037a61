//! `[training]`: how a stage learns.

use super::Fault;
use super::section::Section;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How the values of feature maps are computed with; weights, statistics and losses are always single precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Single precision.
    F32,
    /// The upper half of single precision, which tensor cores and some processors multiply; sums are taken in single precision.
    Bf16,
}

impl Precision {
    /// Its name in a pipeline file.
    pub fn word(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Batches that wait before a block at most.
const MOST_REPLAYED: usize = 10_000;

/// How the blocks of a network are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// One after the other, each with a classifier of its own, on the features of the frozen ones before it.
    Layerwise,
    /// All together, by the gradient of one loss.
    EndToEnd,
    /// All at once, each with a classifier of its own, on what the one before has just made of the same images (Belilovsky
    /// et al. 2019).
    Decoupled,
}

impl Method {
    /// Its name in a pipeline file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Layerwise => "layerwise",
            Self::EndToEnd => "end_to_end",
            Self::Decoupled => "decoupled",
        }
    }

    /// Whether all blocks are trained by one node, on the images.
    pub fn is_whole(self) -> bool {
        self != Self::Layerwise
    }

    pub(super) fn read(section: &mut Section<'_>) -> Result<Self, Fault> {
        let methods = [Self::Layerwise, Self::EndToEnd, Self::Decoupled].map(|method| (method.word(), method));
        section.choice("method", Self::Layerwise, &methods)
    }

    /// Reads how many batches wait before each block: 0 where each is used once, in the order of the images.
    pub(super) fn read_replay(self, section: &mut Section<'_>) -> Result<usize, Fault> {
        let replay = section.within("replay", 0, 0..=MOST_REPLAYED)?;
        if replay == 0 || self == Self::Decoupled {
            return Ok(replay);
        }
        let (own, decoupled) = (self.word(), Self::Decoupled.word());
        let fault = format!("is {replay}, but `training.method` is \"{own}\": no batches wait between blocks");
        Err(section.fault("replay", fault).hint(format!("write `method = \"{decoupled}\"` beside it, or leave it out")))
    }
}

/// What carries the gradient of the loss back through blocks that are trained together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// The weights of each layer: backpropagation.
    Exact,
    /// Fixed random weights in the place of each layer's own (Lillicrap et al. 2016).
    Aligned,
    /// Fixed random matrices, from the logits straight to each block and hidden layer (Nøkland 2016).
    Direct,
}

impl Feedback {
    /// Its name in a pipeline file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Aligned => "aligned",
            Self::Direct => "direct",
        }
    }

    pub(super) fn read(section: &mut Section<'_>, method: Method) -> Result<Self, Fault> {
        let words = [Self::Exact, Self::Aligned, Self::Direct].map(|feedback| (feedback.word(), feedback));
        let feedback = section.choice("feedback", Self::Exact, &words)?;
        if feedback == Self::Exact || method == Method::EndToEnd {
            return Ok(feedback);
        }
        let (word, method, whole) = (feedback.word(), method.word(), Method::EndToEnd.word());
        let fault =
            format!("is \"{word}\", but `training.method` is \"{method}\": no gradient goes from block to block");
        Err(section.fault("feedback", fault).hint(format!("write `method = \"{whole}\"` beside it, or leave it out")))
    }
}

/// How one stage is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Training {
    /// Passes over the training images.
    pub epochs: usize,
    /// Images a step.
    pub batch: usize,
    /// How it is computed.
    pub precision: Precision,
    /// The first learning rate.
    pub learning_rate: f64,
    /// Momentum of the gradient descent.
    pub momentum: f64,
    /// L2 penalty, added to the gradient.
    pub weight_decay: f64,
    /// The factor of the learning rate at each drop.
    pub decay: f64,
    /// Epochs between drops; 0 for none.
    pub decay_every: usize,
    /// Epochs between looks at the validation images; 0 for the last only.
    pub evaluate_every: usize,
    /// The time between checkpoints within an epoch; results do not depend on it.
    pub checkpoint_every: Duration,
}

impl Training {
    /// What a file without a `[training]` table has: the paper's recipe for CIFAR-10.
    pub(super) const DEFAULT: Self = Self {
        epochs: 50,
        batch: 128,
        precision: Precision::F32,
        learning_rate: 0.1,
        momentum: 0.9,
        weight_decay: 5e-4,
        decay: 0.2,
        decay_every: 15,
        evaluate_every: 1,
        checkpoint_every: Duration::from_secs(5 * 60),
    };

    /// What a learning rate may be.
    pub(super) const LEARNING_RATES: RangeInclusive<f64> = 1e-9..=1e3;

    pub(super) fn read(section: &mut Section<'_>, default: Self) -> Result<Self, Fault> {
        let precisions = [Precision::F32, Precision::Bf16].map(|precision| (precision.word(), precision));
        let minutes = default.checkpoint_every.as_secs_f64() / 60.0;
        let minutes = section.within("checkpoint_minutes", minutes, 0.0..=1e6)?;
        Ok(Self {
            epochs: section.within("epochs", default.epochs, 1..=100_000)?,
            batch: section.within("batch", default.batch, 2..=65_536)?,
            precision: section.choice("precision", default.precision, &precisions)?,
            learning_rate: section.within("learning_rate", default.learning_rate, Self::LEARNING_RATES)?,
            momentum: section.within("momentum", default.momentum, 0.0..=0.9999)?,
            weight_decay: section.within("weight_decay", default.weight_decay, 0.0..=1.0)?,
            decay: section.within("decay", default.decay, 0.0..=1.0)?,
            decay_every: section.get("decay_every", default.decay_every)?,
            evaluate_every: section.get("evaluate_every", default.evaluate_every)?,
            checkpoint_every: Duration::from_secs_f64(minutes * 60.0),
        })
    }

    /// The learning rate of an epoch, counted from 0.
    pub fn learning_rate_at(&self, epoch: usize) -> f64 {
        let drops = epoch.checked_div(self.decay_every).unwrap_or(0);
        self.learning_rate * self.decay.powi(drops as i32)
    }

    /// Whether the optimiser is rebuilt, with momentum at zero, when an epoch begins: so it is in the published code.
    pub fn restarts_at(&self, epoch: usize) -> bool {
        epoch > 0 && self.decay_every > 0 && epoch.is_multiple_of(self.decay_every)
    }

    /// Whether the validation images are looked at when an epoch ends.
    pub fn evaluates_at(&self, epoch: usize) -> bool {
        epoch + 1 == self.epochs || (self.evaluate_every > 0 && (epoch + 1).is_multiple_of(self.evaluate_every))
    }
}
