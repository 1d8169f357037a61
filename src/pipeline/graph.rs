//! The DAG of nodes: what a pipeline makes, and of what.

use super::{Kind, Manifest, Probe, ProbeKind, Probed, Recipe, Stage};
use std::fmt::Write;

impl Kind {
    /// What makes a stage that is not taken from a whole network.
    pub fn of(stage: &Stage) -> Self {
        match (&stage.head, &stage.pruning) {
            (None, _) => Self::Scattering,
            (Some(_), None) => Self::Block,
            (Some(_), Some(_)) => Self::Pruned,
        }
    }

    /// What people call a node of this kind and of a stage, made of these settings.
    pub fn title(self, stage: usize, manifest: &Manifest) -> String {
        match self {
            Self::Images => "images".into(),
            Self::Block | Self::Pruned | Self::Depth | Self::Scattering => format!("stage {stage}"),
            Self::Wide => format!("stage {stage}, not pruned"),
            Self::EndToEnd | Self::Decoupled | Self::Imported => Node::NETWORK.into(),
            Self::Classifier => Probe::CLASSIFIER.into(),
            Self::Ensemble => Node::ENSEMBLE.into(),
            Self::Probe => {
                let name = manifest.value("probes.name").unwrap_or(self.word());
                if stage == 0 { format!("{name} of the images") } else { format!("{name} of stage {stage}") }
            }
        }
    }
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name, and that of its folder.
    pub id: String,
    /// What it does.
    pub kind: Kind,
    /// The number of the stage whose features it gives: 0 for the images, and for a network that is trained as a whole. Of
    /// a probe that of the stage it looks at, of an ensemble and a classifier that of the last.
    pub stage: usize,
    /// Indices of the nodes whose output it reads; each is smaller than its own.
    pub inputs: Vec<usize>,
    /// What it depends on beyond them.
    pub manifest: Manifest,
}

impl Node {
    /// The name of the node of a whole network.
    pub const NETWORK: &str = "network";
    /// The name of the node that asks all stages together.
    pub const ENSEMBLE: &str = "ensemble";

    /// The node of the decoded images.
    pub fn images(manifest: Manifest) -> Self {
        Self { id: Self::stage_id(0), kind: Kind::Images, stage: 0, inputs: Vec::new(), manifest }
    }

    /// A node that gives the features of a stage, trained in one way or the other.
    pub fn stage(kind: Kind, stage: usize, inputs: Vec<usize>, manifest: Manifest) -> Self {
        Self { id: Self::stage_id(stage), kind, stage, inputs, manifest }
    }

    /// The name of the node of a stage.
    pub fn stage_id(stage: usize) -> String {
        format!("stage{stage}")
    }

    /// The name of the node of a stage before it is pruned.
    pub fn wide_id(stage: usize) -> String {
        format!("stage{stage}.wide")
    }

    /// What people call it: `images`, `stage 3`, `network`.
    pub fn title(&self) -> String {
        self.kind.title(self.stage, &self.manifest)
    }
}

/// Nodes in an order in which they can be done.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
}

impl Graph {
    /// All that a pipeline makes, where `files` is the fingerprint of its images.
    pub fn of(pipeline: &Recipe, files: &str) -> Self {
        let mut graph = Self::default();
        // The index of the node of each stage.
        let mut at = vec![graph.add(Node::images(Manifest::of_images(pipeline, files)))];
        let whole = pipeline.whole();
        let depths = whole.as_ref().map_or(0, |whole| whole.stages.len());
        if let Some(whole) = &whole {
            let manifest = Manifest::of_network(pipeline, whole);
            let network = Node { id: Node::NETWORK.into(), kind: whole.kind, stage: 0, inputs: at.clone(), manifest };
            let network = graph.add(network);
            for number in 1..=depths {
                let mut inputs = at[pipeline.features.nearest(number)..number].to_vec();
                inputs.push(network);
                inputs.sort_unstable();
                let manifest = Manifest::of_depth(pipeline, number);
                at.push(graph.add(Node::stage(Kind::Depth, number, inputs, manifest)));
            }
        }
        for stage in &pipeline.stages[depths..] {
            let mut inputs = at[pipeline.reads(stage.number)].to_vec();
            if let Some(wide) = stage.wide() {
                let manifest = Manifest::of_wide(pipeline, &wide);
                let node = Node {
                    id: Node::wide_id(stage.number),
                    kind: Kind::Wide,
                    stage: stage.number,
                    inputs: inputs.clone(),
                    manifest,
                };
                inputs.push(graph.add(node));
            }
            let manifest = Manifest::of_stage(pipeline, stage);
            at.push(graph.add(Node::stage(Kind::of(stage), stage.number, inputs, manifest)));
        }
        graph.add_ensemble(pipeline, &at);
        for Probed { probe, stage, .. } in pipeline.probed() {
            let (kind, inputs, manifest) = match &probe.kind {
                ProbeKind::Classifier { layers, keys, training } => {
                    let manifest = Manifest::of_classifier(pipeline, stage, ((layers, keys), training));
                    (Kind::Classifier, pipeline.reads(stage + 1), manifest)
                }
                _ => {
                    let read = pipeline.features.nearest(stage + 1)..stage + 1;
                    (Kind::Probe, read, Manifest::of_probe(pipeline, probe, stage))
                }
            };
            graph.add(Node { id: probe.id(stage), kind, stage, inputs: at[inputs].to_vec(), manifest });
        }
        graph
    }

    /// Adds the ensemble of all stages that classify, where the pipeline wants it.
    fn add_ensemble(&mut self, pipeline: &Recipe, at: &[usize]) {
        let classifying = pipeline.stages.iter().filter(|stage| stage.head.is_some()).map(|stage| stage.number);
        let numbers: Vec<usize> = classifying.collect();
        let (Some(of), Some(&stage)) = (pipeline.ensemble, numbers.last()) else { return };
        let inputs = numbers.iter().map(|&number| at[number]).collect();
        let manifest = Manifest::of_ensemble(of);
        self.add(Node { id: Node::ENSEMBLE.into(), kind: Kind::Ensemble, stage, inputs, manifest });
    }

    /// Adds a node and returns its index.
    ///
    /// # Panics
    /// When an input is not in the graph yet: a graph cannot be built with a cycle.
    pub fn add(&mut self, node: Node) -> usize {
        assert!(node.inputs.iter().all(|&input| input < self.nodes.len()), "a node is added behind what it reads");
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The index of a node that a user names: `stage3`, `3`, `images`, `network`.
    pub fn find(&self, name: &str) -> Option<usize> {
        let number = name.parse().map(Node::stage_id).ok();
        self.nodes.iter().position(|node| {
            node.id == name || number.as_deref() == Some(&node.id) || (node.kind != Kind::Block && node.title() == name)
        })
    }

    /// Which nodes are needed for some of them: themselves, and all that they are made of.
    pub fn needed(&self, wanted: &[usize]) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        wanted.iter().for_each(|&at| needed[at] = true);
        for at in (0..self.nodes.len()).rev() {
            if needed[at] {
                self.nodes[at].inputs.iter().for_each(|&input| needed[input] = true);
            }
        }
        needed
    }

    /// The graph in the language of Graphviz, with a word about each node.
    pub fn dot(&self, name: &str, about: &[String]) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut text = format!("digraph {} {{\n  rankdir = LR;\n  node [shape = box];\n", quoted(name));
        for (node, about) in self.nodes.iter().zip(about) {
            let label = quoted(&format!("{}\n{about}", node.title())).replace('\n', "\\n");
            let _ = writeln!(text, "  {} [label = {label}];", quoted(&node.id));
        }
        for node in &self.nodes {
            for &input in &node.inputs {
                let _ = writeln!(text, "  {} -> {};", quoted(&self.nodes[input].id), quoted(&node.id));
            }
        }
        text + "}\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(text: &str) -> Graph {
        let text = format!("[data]\nsource = \"builtin\"\n[network]\nblocks = 3\nwidth = 4\n{text}");
        Graph::of(&Recipe::parse("p", "p", &text, &[]).unwrap(), "files")
    }

    fn ids(graph: &Graph, of: &[usize]) -> Vec<String> {
        of.iter().map(|&at| graph.nodes()[at].id.clone()).collect()
    }

    #[test]
    fn a_network_that_is_trained_as_a_whole_has_its_depths_as_stages() {
        let graph = graph("[training]\nmethod = \"end_to_end\"\n");
        assert_eq!(ids(&graph, &[0, 1, 2, 3, 4]), ["stage0", "network", "stage1", "stage2", "stage3"]);
        let inputs: Vec<_> = graph.nodes().iter().map(|node| ids(&graph, &node.inputs)).collect();
        let expected: [&[&str]; 5] =
            [&[], &["stage0"], &["stage0", "network"], &["network", "stage1"], &["network", "stage2"]];
        assert_eq!(inputs, expected);
        assert_eq!(
            ["network", "2", "images", "stage9"].map(|name| graph.find(name)),
            [Some(1), Some(3), Some(0), None]
        );
        assert_eq!(graph.needed(&[2]), [true, true, true, false, false]);
    }

    #[test]
    fn blocks_from_a_file_are_depths_of_it_and_the_next_is_trained_on_them() {
        let graph = graph("weights = \"w\"\nimported = 2\n[features]\nrefresh = 0.0\n");
        let kinds: Vec<Kind> = graph.nodes().iter().map(|node| node.kind).collect();
        assert_eq!(kinds, [Kind::Images, Kind::Imported, Kind::Depth, Kind::Depth, Kind::Block]);
        let inputs: Vec<_> = graph.nodes().iter().map(|node| ids(&graph, &node.inputs)).collect();
        let expected: [&[&str]; 5] = [&[], &["stage0"], &["stage0", "network"], &["network", "stage1"], &["stage2"]];
        assert_eq!(inputs, expected);
    }

    #[test]
    fn ensemble_and_probes_read_the_stages_that_they_need() {
        let graph = graph(
            "[ensemble]\n[[probes]]\nkind = \"linear\"\n[[probes]]\nkind = \"neighbours\"\nname = \"nn\"\nstages = [0, 3]\n\
             [features]\nmaterialize = [1]\n",
        );
        let inputs = |name: &str| ids(&graph, &graph.nodes()[graph.find(name).unwrap()].inputs);
        assert_eq!(inputs("ensemble"), ["stage1", "stage2", "stage3"]);
        assert_eq!(inputs("stage1-linear"), ["stage1"]);
        // The features of stage 3 are computed from those of stage 1.
        assert_eq!(inputs("stage3-nn"), ["stage1", "stage2", "stage3"]);
        assert_eq!(inputs("nn of the images"), ["stage0"]);
        assert_eq!(graph.nodes().len(), 4 + 1 + 3 + 2);
    }

    #[test]
    fn a_graph_is_drawn_with_all_its_edges() {
        let graph = graph("[features]\nrefresh = 0.0\n");
        let about: Vec<String> = ["current", "stale", "waiting", "a \"b\""].map(String::from).into();
        let dot = graph.dot("small", &about);
        assert!(dot.starts_with("digraph \"small\" {") && dot.ends_with("}\n"), "{dot}");
        for line in ["\"stage0\" -> \"stage1\";", "\"stage2\" [label = \"stage 2\\nwaiting\"];", "a \\\"b\\\""] {
            assert!(dot.contains(line), "`{line}` is not in:\n{dot}");
        }
        assert_eq!(dot.matches("->").count(), 3);
    }
}
