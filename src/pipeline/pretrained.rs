//! `network.weights`: a network, or the first blocks of one, whose weights come from a file; and what lies in the one node
//! that holds a network of which stages are taken.

use super::section::Section;
use super::{Fault, Kind, Layers, Method, Recipe, Role, Stage, data};
use std::path::PathBuf;

/// Weights that come from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pretrained {
    /// The safetensors file.
    pub file: PathBuf,
    /// So many blocks are taken from it, without a classifier; or all of them, and the classifier behind the last.
    pub blocks: Option<usize>,
    /// The BLAKE3 hash of the file as it was seen; empty until somebody looks.
    pub hash: String,
}

impl Pretrained {
    /// Reads `weights` and `imported` of `[network]`, which has so many blocks.
    pub(super) fn read(section: &mut Section<'_>, blocks: usize, method: Method) -> Result<Option<Self>, Fault> {
        let file = data::read_place(section, "weights")?;
        let imported = read_imported(section, blocks)?;
        let Some(file) = file else {
            return match section.has("imported") {
                true => Err(section.fault("imported", "has no meaning without `network.weights`, the file")),
                false => Ok(None),
            };
        };
        if method != Method::Layerwise {
            let method = method.word();
            let fault =
                format!("gives trained weights, but `training.method = \"{method}\"` trains all blocks from the start");
            return Err(section.fault("weights", fault).hint("leave one of the two out"));
        }
        Ok(Some(Self { file: file.into(), blocks: imported, hash: String::new() }).filter(|_| imported != Some(0)))
    }

    /// What the pipeline file calls the part that is taken.
    pub(super) fn part(&self) -> String {
        self.blocks.map_or_else(|| "all".into(), |blocks| blocks.to_string())
    }
}

/// `"all"`, or a number of blocks.
fn read_imported(section: &mut Section<'_>, blocks: usize) -> Result<Option<usize>, Fault> {
    if let Ok(word) = section.optional::<String>("imported") {
        return match word.as_deref() {
            None | Some("all") => Ok(None),
            Some(word) => {
                let fault =
                    section.fault("imported", format!("is \"{word}\", but must be \"all\" or a number of blocks"));
                Err(fault.suggest(word, ["all"].into_iter()))
            }
        };
    }
    section.within("imported", blocks, 0..=blocks).map(Some)
}

/// A network that lies in one node, of which stages are taken: the first blocks of the pipeline's, or all.
pub struct Whole<'a> {
    /// What its node does.
    pub kind: Kind,
    /// The stages whose blocks it has.
    pub stages: &'a [Stage],
    /// The classifier of the last, where it has one.
    pub head: Option<&'a Layers>,
}

/// Blocks of a network that one classifier is behind.
#[derive(Clone, Debug, PartialEq)]
pub struct Group<'a> {
    /// The number of the stage that its weights are drawn by; 0 for a network that is trained end to end.
    pub number: usize,
    /// The blocks, first to last.
    pub blocks: Vec<&'a Layers>,
    /// The classifier of the last of them.
    pub head: &'a Layers,
}

/// A tensor of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// What it is called in the node's file.
    pub name: String,
    /// What it is called in files of other programs, and in what `greedy export` writes.
    pub known_as: Vec<String>,
    /// Its dimensions, as PyTorch has them.
    pub shape: Vec<usize>,
}

impl Recipe {
    /// The network of which stages are taken, where it is trained as a whole or comes from a file.
    pub fn whole(&self) -> Option<Whole<'_>> {
        let (kind, blocks) = match (&self.pretrained, self.method) {
            (Some(pretrained), _) => (Kind::Imported, pretrained.blocks),
            (None, Method::EndToEnd) => (Kind::EndToEnd, None),
            (None, Method::Decoupled) => (Kind::Decoupled, None),
            (None, Method::Layerwise) => return None,
        };
        let stages = &self.stages[..blocks.unwrap_or(self.stages.len())];
        let head = stages.last().and_then(|stage| stage.head.as_ref());
        Some(Whole { kind, stages, head })
    }

    /// Whether a stage is trained by its own classifier and no other: by itself, or at once with others.
    pub fn trains_apart(&self, stage: &Stage) -> bool {
        self.trains_alone(stage) || self.method == Method::Decoupled && stage.head.is_some()
    }

    /// Whether a stage is trained by itself, on frozen features.
    pub fn trains_alone(&self, stage: &Stage) -> bool {
        stage.head.is_some() && self.whole().is_none_or(|whole| stage.number > whole.stages.len())
    }
}

impl<'a> Whole<'a> {
    /// Whether its weights come from a file; otherwise it is trained.
    pub fn is_imported(&self) -> bool {
        self.kind == Kind::Imported
    }

    /// Its blocks by the classifiers that are behind them: where it is trained, each classifier trains those of its group.
    /// Blocks with no classifier behind them are in none.
    pub fn groups(&self) -> Vec<Group<'a>> {
        let (mut groups, mut blocks) = (Vec::new(), Vec::new());
        for stage in self.stages {
            blocks.push(&stage.block);
            if let Some(head) = &stage.head {
                let number = if self.kind == Kind::Decoupled { stage.number } else { 0 };
                groups.push(Group { number, blocks: std::mem::take(&mut blocks), head });
            }
        }
        groups
    }

    /// Its tensors, for so many classes; `recipe` is the one it is of.
    pub fn weights(&self, recipe: &Recipe, classes: usize) -> Vec<Weight> {
        let foreign = recipe.foreign_names(self.head);
        let mut all = Vec::new();
        let mut add = |(prefix, exported): (&str, &str), layers: &Layers, role: Role| {
            for (layer, kind, shape) in layers.tensors(role, classes) {
                let full = format!("{exported}.{layer}");
                let theirs =
                    foreign.iter().filter(|(own, _)| *own == full).map(|(_, theirs)| format!("{theirs}.{kind}"));
                let known_as = std::iter::once(format!("{full}.{kind}")).chain(theirs).collect();
                all.push(Weight { name: format!("{prefix}.{layer}.{kind}"), known_as, shape });
            }
        };
        for stage in self.stages {
            let exported = format!("block{}", stage.number);
            let prefix = if self.stages.len() == 1 { "block" } else { &exported };
            add((prefix, &exported), &stage.block, Role::Block);
        }
        if let Some(head) = self.head {
            add(("auxiliary", "auxiliary"), head, Role::Head);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(network: &str, more: &str) -> Result<Recipe, Fault> {
        let text = format!(
            "[data]\nsource = \"builtin\"\nsize = 64\n[network]\nwidth = 2\nhidden = 5\npooled = 2\narchitecture = \"vgg11_bn\"\n\
             {network}\n[auxiliary]\nk = 1\n{more}"
        );
        Recipe::parse("p.toml", "p", &text, &[])
    }

    #[test]
    fn blocks_that_are_imported_are_not_trained_and_those_after_them_are() {
        let recipe = parse("weights = \"w\"\nimported = 3", "").unwrap();
        let heads: Vec<bool> = recipe.stages.iter().map(|stage| stage.head.is_some()).collect();
        assert_eq!(heads, [false, false, false, true, true, true, true, true]);
        let whole = recipe.whole().unwrap();
        assert_eq!((whole.is_imported(), whole.stages.len(), whole.head), (true, 3, None));
        assert!(whole.groups().is_empty());
        let all = parse("weights = \"w\"", "").unwrap();
        assert_eq!(all.stages.iter().filter(|stage| stage.head.is_some()).count(), 1);
        assert!(all.whole().unwrap().head.is_some() && !all.trains_alone(&all.stages[7]));
        assert!(parse("weights = \"w\"\nimported = 0", "").unwrap().whole().is_none());
    }

    #[test]
    fn weights_are_known_by_the_names_of_torchvision_and_timm() {
        let recipe = parse("weights = \"w\"", "").unwrap();
        let weights = recipe.whole().unwrap().weights(&recipe, 9);
        assert_eq!(weights.len(), 8 * 6 + 3 * 2);
        assert_eq!(weights[2].known_as, ["block1.bn.weight", "features.1.weight"]);
        assert_eq!((&weights[7].name[..], &weights[7].shape[..]), ("block2.conv.bias", &[4][..]));
        assert_eq!(weights[52].known_as, ["auxiliary.linear3.weight", "classifier.6.weight", "head.fc.weight"]);
        assert_eq!(weights[48].known_as[2], "pre_logits.fc1.weight");
        assert_eq!((&weights[48].shape[..], &weights[53].shape[..]), (&[5, 64][..], &[9][..]));
    }

    #[test]
    fn a_slip_in_what_is_imported_is_named() {
        let fault = |network: &str, more: &str| parse(network, more).unwrap_err().to_string();
        assert!(fault("imported = 3", "").contains("`network.imported` has no meaning without `network.weights`"));
        assert!(fault("weights = \"w\"\nimported = 9", "").contains("must lie between 0 and 8"));
        assert!(fault("weights = \"w\"\nimported = \"al\"", "").contains("must be \"all\" or a number"));
        assert!(fault("weights = \"w\"", "[training]\nmethod = \"end_to_end\"").contains("`network.weights` gives"));
        assert!(fault("weights = \"w\"", "[ensemble]").contains("`ensemble` has no meaning"));
    }
}
