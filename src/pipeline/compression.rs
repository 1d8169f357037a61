//! `[compression]`: a block that is trained is pruned to some of its channels, and what is left is fine-tuned; the next block
//! reads the narrower features. In the end a narrower classifier can take the place of the last one.

use super::auxiliary::AuxiliarySettings;
use super::layer::{Layer, Shape};
use super::layers::{Layers, Misfit};
use super::network::{Keys, Network};
use super::probes::{Probe, ProbeKind};
use super::section::Section;
use super::{Fault, Stage, Training};

/// What `[compression]` says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Compression {
    /// The share of a block's channels that stay.
    width: f64,
    /// How what is left is fine-tuned.
    training: Training,
}

/// A block and its classifier before they are pruned.
#[derive(Clone, Debug, PartialEq)]
pub struct Pruning {
    /// The block.
    pub block: Layers,
    /// Its classifier.
    pub head: Layers,
    /// How what is left is fine-tuned.
    pub training: Training,
    /// The share of channels that stay.
    pub width: f64,
}

/// A network whose blocks are pruned, and each block as it is before.
pub(super) struct Pruned {
    pub network: Network,
    wide: Vec<Option<Layers>>,
    compression: Compression,
}

impl Compression {
    /// Epochs of fine-tuning where the file does not say: the paper's.
    const EPOCHS: usize = 20;

    /// Reads the table; what it does not say of training is that of the pipeline, with a tenth of the learning rate. Nothing
    /// where there is no table, or all channels stay.
    pub fn read(section: &mut Section<'_>, training: Training) -> Result<Option<Self>, Fault> {
        if !section.is_there() {
            return Ok(None);
        }
        let width = section.within("width", 0.5, 0.01..=1.0)?;
        let learning_rate = (training.learning_rate / 10.0).max(*Training::LEARNING_RATES.start());
        let default = Training { epochs: Self::EPOCHS, learning_rate, ..training };
        let training = Training::read(section, default)?;
        Ok((width < 1.0).then_some(Self { width, training }))
    }

    /// The network with narrower blocks.
    pub fn prune(self, section: &Section<'_>, network: Network, image: Shape) -> Result<Pruned, Fault> {
        let (mut input, mut blocks, mut wide) = (image, Vec::new(), Vec::new());
        for (number, block) in (1..).zip(&network.blocks) {
            let fault =
                |misfit: Misfit| section.fault("width", format!("does not do for block {number}: {}", misfit.message));
            let mut layers: Vec<Layer> = block.iter().collect();
            let before = Layers::new(input, layers.clone()).map_err(fault)?;
            let convolutions: Vec<&mut usize> = layers.iter_mut().filter_map(channels_of).collect();
            match convolutions.into_iter().next_back() {
                Some(channels) if *channels == before.output.channels => {
                    *channels = ((*channels as f64 * self.width).round() as usize).max(1);
                    wide.push(Some(before));
                }
                _ if block.is_handcrafted() => wide.push(None),
                _ => {
                    let what =
                        format!("does not do for block {number}: its last channels are not those of a convolution");
                    return Err(section.fault("width", what));
                }
            }
            let narrow = Layers::new(input, layers).map_err(fault)?;
            input = narrow.output;
            blocks.push(narrow);
        }
        Ok(Pruned { network: Network { blocks, ..network }, wide, compression: self })
    }
}

/// Reads `[compression.classifier]`: the classifier that takes the place of the last one, where the file has the table. What
/// it does not say of the classifier is that of `[auxiliary]`, of training that of the pipeline.
pub(super) fn read_classifier(
    section: &mut Section<'_>,
    network: &Network,
    (auxiliary, training): (&AuxiliarySettings, Training),
) -> Result<Option<Probe>, Fault> {
    let auxiliary = AuxiliarySettings::read(section, auxiliary)?;
    let training = Training::read(section, training)?;
    if !section.is_there() {
        return Ok(None);
    }
    // An architecture's own classifier is the one that is replaced.
    let (network, last) = (Network { classifier: None, ..network.clone() }, network.blocks.len());
    let fitted = auxiliary.fit(&network, last);
    let (layers, keys) =
        fitted.map_err(|misfit| section.fault("layers", format!("do not fit the last block: {}", misfit.message)))?;
    Ok(Some(Probe {
        name: Probe::CLASSIFIER.into(),
        kind: ProbeKind::Classifier { layers, keys, training },
        pool: None,
        standardise: false,
        train_images: None,
        stages: vec![last],
    }))
}

impl Pruned {
    /// The classifier of a block after it is pruned, with its settings, and what the two are before: the classifier as it
    /// would be of the whole block, but for what reads it.
    ///
    /// # Errors
    /// With the first layer that does not fit.
    pub fn fit(&self, auxiliary: &AuxiliarySettings, number: usize) -> Result<(Layers, Keys, Option<Pruning>), Misfit> {
        let Some(block) = self.wide.get(number - 1).cloned().flatten() else {
            let (head, keys) = auxiliary.fit(&self.network, number)?;
            return Ok((head, keys, None));
        };
        let mut whole = self.network.clone();
        whole.blocks[number - 1] = block.clone();
        if let Some((classifier, _)) = &mut whole.classifier {
            *classifier = Layers::new(block.output, classifier.iter().collect())?;
        }
        let (head, keys) = auxiliary.fit(&whole, number)?;
        let narrow = Layers::new(self.network.blocks[number - 1].output, head.iter().collect())?;
        let Compression { width, training } = self.compression;
        Ok((narrow, keys, Some(Pruning { block, head, training, width })))
    }
}

impl Stage {
    /// The stage as it is trained before it is pruned.
    pub fn wide(&self) -> Option<Self> {
        let Pruning { block, head, .. } = self.pruning.clone()?;
        Some(Self { block, head: Some(head), pruning: None, ..self.clone() })
    }

    /// The stage as it is trained last: fine-tuned, where it is pruned.
    pub fn last_training(&self) -> &Training {
        self.pruning.as_ref().map_or(&self.training, |pruning| &pruning.training)
    }
}

fn channels_of(layer: &mut Layer) -> Option<&mut usize> {
    match layer {
        Layer::Conv { channels, .. } => Some(channels),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::pipeline::{Graph, Kind, Manifest, Recipe};

    fn parse(text: &str) -> Result<Recipe, String> {
        let text =
            format!("[data]\nsource = \"builtin\"\n[network]\nblocks = 2\nwidth = 8\nspace_to_depth = [2]\n{text}");
        Recipe::parse("p", "p", &text, &[]).map_err(|fault| fault.to_string())
    }

    #[test]
    fn the_next_block_reads_what_is_left() {
        let recipe = parse("[auxiliary]\nk = 3\nwidth = 6\n[compression]\nepochs = 7\n").unwrap();
        let [first, second] = &recipe.stages[..] else { panic!("two stages") };
        let wide = first.wide().unwrap();
        assert_eq!((wide.block.output.channels, first.block.output.channels), (8, 4));
        assert_eq!((second.block.input.channels, second.pruning.as_ref().unwrap().block.input.channels), (4, 4));
        assert_eq!((second.wide().unwrap().block.output.channels, second.block.output.channels), (16, 8));
        // The classifiers differ in what reads the block alone.
        let shapes = |layers: &crate::pipeline::Layers| layers.tensors(crate::pipeline::Role::Head, 10);
        let (before, after) = (shapes(wide.head.as_ref().unwrap()), shapes(first.head.as_ref().unwrap()));
        assert_eq!((&before[0].2[..], &after[0].2[..]), (&[6, 8, 3, 3][..], &[6, 4, 3, 3][..]));
        assert_eq!(before[1..], after[1..]);
        assert_eq!((first.training.epochs, first.last_training().epochs), (50, 7));
        assert!((first.last_training().learning_rate - 0.01).abs() < 1e-12);
        assert!(parse("[compression]\nwidth = 1.0\n").unwrap().stages[0].pruning.is_none());
        let slowest = "[training]\nlearning_rate = 1e-9\n";
        assert!(parse(slowest).unwrap().stages[0].pruning.is_none());
        let pruned = parse(&format!("{slowest}[compression]\n")).unwrap();
        assert_eq!(pruned.stages[0].last_training().learning_rate, 1e-9);
    }

    #[test]
    fn a_block_is_a_node_before_it_is_pruned_and_the_settings_of_pruning_do_not_touch_it() {
        let graph =
            |more: &str| Graph::of(&parse(&format!("[features]\nrefresh = 0.0\n[compression]\n{more}")).unwrap(), "f");
        let before = graph("epochs = 5\n");
        let kinds: Vec<(&str, Kind)> = before.nodes().iter().map(|node| (node.id.as_str(), node.kind)).collect();
        let expected = [
            ("stage0", Kind::Images),
            ("stage1.wide", Kind::Wide),
            ("stage1", Kind::Pruned),
            ("stage2.wide", Kind::Wide),
            ("stage2", Kind::Pruned),
        ];
        assert_eq!(kinds, expected);
        assert_eq!(before.nodes()[4].inputs, [2, 3]);
        let after = graph("epochs = 6\n");
        let changes = |at: usize| Manifest::changes(&before.nodes()[at].manifest, &after.nodes()[at].manifest);
        assert!(changes(1).is_empty() && changes(3).is_empty());
        assert_eq!(changes(2), [("compression.epochs".into(), Some("5".into()), Some("6".into()))]);
    }

    #[test]
    fn a_classifier_in_the_place_of_the_last_is_a_node_that_no_other_knows_of() {
        let graph = |more: &str| {
            Graph::of(&parse(&format!("[auxiliary]\nwidth = 8\n[compression]\nepochs = 5\n{more}")).unwrap(), "f")
        };
        let [without, with] = ["", "[compression.classifier]\nwidth = 3\nepochs = 4\n"].map(graph);
        let [node] = &with.nodes()[without.nodes().len()..] else { panic!("one node more") };
        assert_eq!((&node.id[..], node.kind, node.stage), ("classifier", Kind::Classifier, 2));
        // A quarter of the samples gets new views: it reads all stages, and the images, as a third one would.
        let inputs: Vec<&str> = node.inputs.iter().map(|&input| with.nodes()[input].id.as_str()).collect();
        assert_eq!(inputs, ["stage0", "stage1", "stage2"]);
        for (old, new) in without.nodes().iter().zip(with.nodes()) {
            assert_eq!(old.manifest.key(), new.manifest.key(), "{}", old.id);
        }
        let value = |name: &str| node.manifest.value(&format!("compression.classifier.{name}"));
        // Of the pipeline where the table says nothing; widths double with each downsampling, as those of `[auxiliary]` do.
        assert_eq!([value("k"), value("width"), value("epochs")], [Some("2"), Some("6"), Some("4")]);
        assert_eq!([value("learning_rate"), value("batch")], [Some("0.1"), Some("128")]);
    }

    #[test]
    fn the_classifier_of_an_architecture_is_replaced_by_one_of_the_table() {
        let text = |table: &str| {
            format!(
                "[data]\nsource = \"builtin\"\nsize = 64\n[network]\narchitecture = \"vgg11\"\nwidth = 2\nhidden = 5\n\
                 [compression]\nwidth = 1.0\n[compression.classifier]\n{table}"
            )
        };
        let layers = |table: &str| {
            let recipe = Recipe::parse("p", "p", &text(table), &[]).unwrap();
            assert!(recipe.stages.iter().all(|stage| stage.pruning.is_none()));
            recipe.classifier().unwrap().0.to_string()
        };
        assert_eq!(
            layers("layers = [{ avg_pool = 1 }, \"flatten\", { linear = \"classes\" }]\n").matches("linear").count(),
            1
        );
        assert!(layers("k = 2\npadding = 1\n").contains("conv"));
    }

    #[test]
    fn what_cannot_be_pruned_is_said() {
        let says = |text: &str, words: &str| {
            let fault = parse(text).unwrap_err();
            assert!(fault.contains(words), "{fault}");
        };
        says("[compression]\nwidth = 2.0\n", "must lie between");
        says("[compression]\nwide = 0.5\n", "unknown key `compression.wide`");
        says("[compression]\n[training]\nmethod = \"end_to_end\"\n", "`compression` has no meaning");
        let classifier = "[compression]\nwidth = 1.0\n[compression.classifier]\n";
        says(&format!("{classifier}[training]\nmethod = \"decoupled\"\n"), "`compression` has no meaning");
        says(&format!("{classifier}depth = 2\n"), "unknown key `compression.classifier.depth`");
        says(&format!("{classifier}layers = [{{ linear = \"classes\" }}]\n"), "do not fit the last block");
    }
}
