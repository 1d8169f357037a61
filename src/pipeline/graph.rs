//! The DAG of nodes: what a pipeline makes, and of what.

use super::{Manifest, Method, Recipe};
use std::fmt::Write;
use std::ops::Range;

/// What a node does; what it leaves in its folder follows from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Decodes the images.
    Images,
    /// Trains a block with a classifier on frozen features, and writes its own.
    Block,
    /// Trains all blocks together on the images.
    EndToEnd,
    /// Takes a block from a network that was trained as a whole, and writes its features.
    Depth,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Images, Self::Block, Self::EndToEnd, Self::Depth];

    /// Its name in records.
    pub fn word(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Block => "block",
            Self::EndToEnd => "end_to_end",
            Self::Depth => "depth",
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
    /// The number of the stage whose features it gives: 0 for the images, and for a network that is trained as a whole.
    pub stage: usize,
    /// Indices of the nodes whose output it reads; each is smaller than its own.
    pub inputs: Vec<usize>,
    /// What it depends on beyond them.
    pub manifest: Manifest,
}

impl Node {
    /// The name of the node that trains a whole network.
    pub const NETWORK: &str = "network";

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

    /// What people call it: `images`, `stage 3`, `network`.
    pub fn title(&self) -> String {
        match self.kind {
            Kind::Images => "images".into(),
            Kind::Block | Kind::Depth => format!("stage {}", self.stage),
            Kind::EndToEnd => Self::NETWORK.into(),
        }
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
        graph.add(Node::images(Manifest::of_images(pipeline, files)));
        let count = pipeline.stages.len();
        match pipeline.method {
            Method::Layerwise => {
                for stage in &pipeline.stages {
                    let read: Range<usize> = pipeline.reads(stage.number);
                    let manifest = Manifest::of_stage(pipeline, stage);
                    graph.add(Node::stage(Kind::Block, stage.number, read.collect(), manifest));
                }
            }
            Method::EndToEnd => {
                let manifest = Manifest::of_network(pipeline);
                let network =
                    Node { id: Node::NETWORK.into(), kind: Kind::EndToEnd, stage: 0, inputs: vec![0], manifest };
                let network = graph.add(network);
                for number in 1..=count {
                    // Stage n has the index n + 1, behind the network.
                    let read = pipeline.features.nearest(number)..number;
                    let inputs = read.map(|stage| if stage == 0 { 0 } else { network + stage }).chain([network]);
                    let mut inputs: Vec<usize> = inputs.collect();
                    inputs.sort_unstable();
                    let manifest = Manifest::of_depth(pipeline, number);
                    graph.add(Node::stage(Kind::Depth, number, inputs, manifest));
                }
            }
        }
        graph
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
