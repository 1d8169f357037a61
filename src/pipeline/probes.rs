//! `[[probes]]`: what is measured of the features of stages, each a node of its own.

use super::layer::{Layer, Outputs, Shape};
use super::layers::Layers;
use super::network::Keys;
use super::section::Section;
use super::tree::{self, Value};
use super::{Fault, Recipe, Stage, Training, auxiliary};

/// A measurement, and the stages whose features it is taken of.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// What people call it: `name`, or its kind.
    pub name: String,
    /// What is measured.
    pub kind: ProbeKind,
    /// The side that feature maps are averaged to before; nothing where they are taken as they are.
    pub pool: Option<usize>,
    /// Whether each averaged value gets mean 0 and variance 1, by the statistics of the samples that are learned from.
    pub standardise: bool,
    /// Training samples that are looked at; all of them where the file does not say.
    pub train_images: Option<usize>,
    /// The numbers of the stages; 0 stands for the images.
    pub stages: Vec<usize>,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeKind {
    /// Multinomial logistic regression.
    Linear {
        /// The L2 penalty: half of it times the squared weights is added to the mean loss.
        penalty: f64,
        /// Iterations of L-BFGS at most.
        iterations: usize,
        /// It ends where no value of the gradient is larger.
        tolerance: f64,
    },
    /// A small CNN, which is trained as a stage is.
    Cnn {
        /// Convolutions, each with batch norm and ReLU.
        depth: usize,
        /// Channels of each.
        width: usize,
        /// How it is trained.
        training: Training,
    },
    /// The class that most of the nearest training samples have.
    Neighbours {
        /// How many are asked.
        k: usize,
    },
    /// Distances within and between the classes of validation samples.
    Contraction,
    /// A classifier in the place of that of the last stage (`[compression.classifier]`): trained as that was, but alone, and
    /// kept.
    Classifier {
        /// Its layers.
        layers: Layers,
        /// The settings that they come from.
        keys: Keys,
        /// How it is trained.
        training: Training,
    },
}

const KINDS: [&str; 4] = ["linear", "cnn", "neighbours", "contraction"];

impl ProbeKind {
    /// Its name in a pipeline file.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Linear { .. } => KINDS[0],
            Self::Cnn { .. } => KINDS[1],
            Self::Neighbours { .. } => KINDS[2],
            Self::Contraction => KINDS[3],
            Self::Classifier { .. } => Probe::CLASSIFIER,
        }
    }

    /// How a network of it is trained, where it is one.
    pub fn training(&self) -> Option<&Training> {
        match self {
            Self::Cnn { training, .. } | Self::Classifier { training, .. } => Some(training),
            Self::Linear { .. } | Self::Neighbours { .. } | Self::Contraction => None,
        }
    }

    /// Whether it is a share of right answers.
    pub fn classifies(&self) -> bool {
        *self != Self::Contraction
    }
}

impl Probe {
    /// The name of the node of a classifier in the place of the last one.
    pub const CLASSIFIER: &str = "classifier";

    /// The name of the node of a stage.
    pub fn id(&self, stage: usize) -> String {
        match self.kind {
            ProbeKind::Classifier { .. } => Self::CLASSIFIER.into(),
            _ => format!("stage{stage}-{}", self.name),
        }
    }

    /// The layers of a network for features of a shape: of a CNN its convolutions, and what classifies their features.
    pub fn layers(&self, features: Shape) -> Option<(Layers, Layers)> {
        let (depth, width) = match &self.kind {
            ProbeKind::Cnn { depth, width, .. } => (*depth, *width),
            ProbeKind::Classifier { layers, .. } => {
                return Some((Layers::new(features, Vec::new()).ok()?, layers.clone()));
            }
            _ => return None,
        };
        let hidden = Layers::new(features, (0..depth).flat_map(|_| auxiliary::unit(width, 1, true)).collect()).ok()?;
        let pooled = Layer::AvgPool { size: features.size.min(auxiliary::POOLED) };
        let classes = Layer::Linear { outputs: Outputs::Classes };
        let head = Layers::new(hidden.output, vec![pooled, Layer::Flatten, classes]).ok()?;
        Some((hidden, head))
    }

    /// Reads the list; networks that are probes are trained as `[training]` says where they say nothing else.
    pub(super) fn read_all(
        items: &[tree::Node],
        stages: &[Stage],
        (image, training): (Shape, &Training),
    ) -> Result<Vec<Self>, Fault> {
        let mut all: Vec<Self> = Vec::with_capacity(items.len());
        for (number, item) in (1..).zip(items) {
            let path = format!("probes[{number}]");
            let Value::Table(table) = &item.value else {
                let found = item.value.describe();
                return Err(Fault::new(item.place.clone(), format!("`{path}` must be a table, not {found}")));
            };
            let mut section = Section::item(path, table, item.place.clone());
            let probe = Self::read(&mut section, stages, (image, training))?;
            if all.iter().any(|other| other.name == probe.name) {
                let fault = section.fault("name", format!("is \"{}\", as another probe is called", probe.name));
                return Err(fault.hint("give one of them another `name`"));
            }
            section.finish()?;
            all.push(probe);
        }
        Ok(all)
    }

    fn read(section: &mut Section<'_>, stages: &[Stage], (image, training): (Shape, &Training)) -> Result<Self, Fault> {
        if !section.has("kind") {
            return Err(section.fault("kind", "is missing").hint(format!("known here: {}", KINDS.join(", "))));
        }
        let choices: Vec<(&str, &str)> = KINDS.iter().map(|word| (*word, *word)).collect();
        let word = section.choice("kind", KINDS[0], &choices)?;
        let kind = match word {
            "linear" => ProbeKind::Linear {
                penalty: section.within("penalty", 1e-4, 0.0..=1e6)?,
                iterations: section.within("iterations", 500, 1..=1_000_000)?,
                tolerance: section.within("tolerance", 1e-5, 1e-12..=1.0)?,
            },
            "cnn" => ProbeKind::Cnn {
                depth: section.within("depth", 2, 1..=16)?,
                width: section.within("width", 64, 1..=8192)?,
                training: Training::read(section, *training)?,
            },
            "neighbours" => ProbeKind::Neighbours { k: section.within("k", 1, 1..=1000)? },
            _ => ProbeKind::Contraction,
        };
        let averages = word != "cnn";
        let learns_from_few = matches!(word, "linear" | "neighbours");
        let side = if word == "linear" { auxiliary::POOLED } else { 1 };
        let probe = Self {
            name: read_name(section, word)?,
            pool: if averages { Some(section.within("pool", side, 1..=1024)?) } else { None },
            standardise: averages && section.get("standardise", true)?,
            train_images: if learns_from_few { section.optional("train_images")? } else { None },
            stages: read_stages(section, stages.len())?,
            kind,
        };
        if probe.train_images == Some(0) {
            return Err(section.fault("train_images", "is 0, but it needs samples to learn from"));
        }
        let shape = |&stage: &usize| if stage == 0 { image } else { stages[stage - 1].block.output };
        if !averages && probe.stages.iter().map(shape).any(|features| probe.layers(features).is_none()) {
            return Err(section.fault("width", "gives more values than any machine holds"));
        }
        Ok(probe)
    }
}

/// One probe of one stage.
#[derive(Clone, Copy, Debug)]
pub struct Probed<'a> {
    /// What is measured.
    pub probe: &'a Probe,
    /// The stage; 0 are the images.
    pub stage: usize,
    /// The shape of its features.
    pub features: Shape,
}

impl Recipe {
    /// The layers and the training of the classifier that takes the place of the last one, where one does.
    pub fn classifier(&self) -> Option<(&Layers, &Training)> {
        self.probes.iter().find_map(|probe| match &probe.kind {
            ProbeKind::Classifier { layers, training, .. } => Some((layers, training)),
            _ => None,
        })
    }

    /// All probes, each with its stage, in the order of the graph.
    pub fn probed(&self) -> impl Iterator<Item = Probed<'_>> {
        let all = self.probes.iter().flat_map(|probe| probe.stages.iter().map(move |&stage| (probe, stage)));
        all.map(|(probe, stage)| {
            let features = stage.checked_sub(1).map_or(self.image(), |at| self.stages[at].block.output);
            Probed { probe, stage, features }
        })
    }
}

impl Probed<'_> {
    /// Values of a sample that it works with.
    pub fn width(&self) -> usize {
        let side = self.probe.pool.map_or(self.features.size, |side| side.min(self.features.size).max(1));
        self.features.channels * side * side
    }

    /// Training samples that it learns from.
    pub fn learns_from(&self, train: usize) -> usize {
        match self.probe.kind {
            ProbeKind::Contraction => 0,
            _ => self.probe.train_images.map_or(train, |most| most.min(train)),
        }
    }
}

/// A name is a part of that of a folder.
fn read_name(section: &mut Section<'_>, default: &str) -> Result<String, Fault> {
    let name: String = section.get("name", default.to_string())?;
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        return Err(section.fault("name", "must be letters, digits, `-` and `_`, 64 at most: it is that of a folder"));
    }
    Ok(name)
}

/// `"all"`, or a list of numbers.
fn read_stages(section: &mut Section<'_>, count: usize) -> Result<Vec<usize>, Fault> {
    if let Ok(Some(word)) = section.optional::<String>("stages") {
        return match word.as_str() {
            "all" => Ok((1..=count).collect()),
            _ => {
                let fault = section.fault("stages", format!("is \"{word}\", but must be \"all\" or a list"));
                Err(fault.suggest(&word, ["all"].into_iter()))
            }
        };
    }
    let Some(mut stages) = section.optional::<Vec<usize>>("stages")? else { return Ok((1..=count).collect()) };
    if let Some(stage) = stages.iter().find(|&&stage| stage > count) {
        return Err(section.fault("stages", format!("names stage {stage}, but stages are 0 (images) to {count}")));
    }
    stages.sort_unstable();
    stages.dedup();
    Ok(stages)
}
