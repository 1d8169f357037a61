//! The plan: from what was seen on the disk to a verdict for each node. It is total, and touches nothing.

use super::{Graph, Kind, Manifest, Node};

/// What was seen of a node on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it was made of.
    pub manifest: Manifest,
    /// The outputs of its inputs that it read, as hashes.
    pub inputs: Vec<String>,
    /// The hash of its output; absent until it is finished.
    pub output: Option<String>,
    /// How far it is, in words, while it is not finished.
    pub progress: String,
}

/// Why a node has to be redone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A setting changed, appeared or went.
    Changed {
        /// Its name.
        name: String,
        /// Its value when the node was made.
        old: Option<String>,
        /// Its value now.
        new: Option<String>,
    },
    /// The output of an input, given by its index, is not what the node was made of.
    Input(usize),
}

impl Reason {
    /// The reason in words; `graph` is the one that was planned.
    pub fn say(&self, graph: &Graph) -> String {
        match self {
            Self::Changed { name, old: Some(old), new: Some(new) } => changed(name, old, new),
            Self::Changed { name, old: None, new } => format!("{name}: new, {}", new.as_deref().unwrap_or_default()),
            Self::Changed { name, old, new: None } => {
                format!("{name}: gone, was {}", old.as_deref().unwrap_or_default())
            }
            Self::Input(at) => {
                let input = &graph.nodes()[*at];
                let what = if input.kind.is_network() || input.kind == Kind::Wide { "weights" } else { "features" };
                format!("the {what} of {} are not those it was made of", input.title())
            }
        }
    }
}

/// What comes before the hash of names and times in the fingerprint of image files.
pub const NAMES_AND_TIMES: &str = ", names and times ";

/// A setting with both values. Of image files people know number and bytes; their hash says only that something is
/// different.
fn changed(name: &str, old: &str, new: &str) -> String {
    match (old.split_once(NAMES_AND_TIMES), new.split_once(NAMES_AND_TIMES)) {
        (Some((old, _)), Some((new, _))) if old == new => format!("{name}: {new} as before, but other names or times"),
        (Some((old, _)), Some((new, _))) => format!("{name}: {old} -> {new}"),
        _ => format!("{name}: {old} -> {new}"),
    }
}

/// What is to be done about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Current,
    /// All of it: there is nothing yet.
    Missing,
    /// What is left of it.
    Partial(String),
    /// Its output has to be written again; what it learned stays.
    ReExtract(Vec<Reason>),
    /// All of it, because something changed.
    Stale(Vec<Reason>),
    /// An input, given by its index, has to be done first; whether this node then is current depends on what comes out.
    Waiting(usize),
}

/// Decides about every node of a graph from what was seen of it.
///
/// A node is `Current` exactly when it is finished, its manifest is the one seen, and all its inputs are current
/// with the outputs that it read.
pub fn plan(graph: &Graph, seen: &[Option<Seen>]) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = Vec::with_capacity(graph.nodes().len());
    for (node, own) in graph.nodes().iter().zip(seen) {
        let verdict = judge(node, own.as_ref(), seen, &verdicts);
        verdicts.push(verdict);
    }
    verdicts
}

fn judge(node: &Node, own: Option<&Seen>, seen: &[Option<Seen>], earlier: &[Verdict]) -> Verdict {
    let undone = node.inputs.iter().find(|&&input| earlier[input] != Verdict::Current);
    let Some(own) = own else {
        return undone.map_or(Verdict::Missing, |&input| Verdict::Waiting(input));
    };
    let mut reasons: Vec<Reason> = own
        .manifest
        .changes(&node.manifest)
        .into_iter()
        .map(|(name, old, new)| Reason::Changed { name, old, new })
        .collect();
    if undone.is_none() {
        let output = |input: usize| seen[input].as_ref().and_then(|seen| seen.output.as_ref());
        let changed = node.inputs.iter().enumerate().filter(|&(at, &input)| own.inputs.get(at) != output(input));
        reasons.extend(changed.map(|(_, &input)| Reason::Input(input)));
    }
    let storage = |reason: &Reason| matches!(reason, Reason::Changed { name, .. } if Manifest::is_storage(name));
    match undone {
        Some(&input) if reasons.iter().all(storage) => Verdict::Waiting(input),
        _ if reasons.is_empty() && own.output.is_some() => Verdict::Current,
        _ if reasons.is_empty() => Verdict::Partial(own.progress.clone()),
        _ if reasons.iter().all(storage) => Verdict::ReExtract(reasons),
        _ => Verdict::Stale(reasons),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn manifest(value: u8) -> Manifest {
        Manifest::new([("setting".to_string(), value.to_string())])
    }

    /// A random graph in which every stage is finished and current.
    fn finished() -> impl Strategy<Value = (Graph, Vec<Option<Seen>>)> {
        prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..3), 1..10).prop_map(|parents| {
            let mut graph = Graph::default();
            let mut seen = Vec::new();
            for (own, chosen) in parents.into_iter().enumerate() {
                let mut parents: Vec<usize> = chosen.iter().filter(|_| own > 0).map(|c| c.index(own.max(1))).collect();
                parents.sort_unstable();
                parents.dedup();
                let inputs = parents.iter().map(|parent| format!("output {parent}")).collect();
                graph.add(Node::stage(Kind::Block, own, parents, manifest(0)));
                let output = Some(format!("output {own}"));
                seen.push(Some(Seen { manifest: manifest(0), inputs, output, progress: String::new() }));
            }
            (graph, seen)
        })
    }

    /// The graph with another manifest at some nodes.
    fn changed(graph: &Graph, at: &[usize]) -> Graph {
        let mut other = Graph::default();
        for (index, node) in graph.nodes().iter().enumerate() {
            let manifest = if at.contains(&index) { manifest(1) } else { node.manifest.clone() };
            other.add(Node { manifest, ..node.clone() });
        }
        other
    }

    fn descends(graph: &Graph, from: usize, node: usize) -> bool {
        graph.nodes()[node].inputs.iter().any(|&input| input == from || descends(graph, from, input))
    }

    proptest! {
        #[test]
        fn nothing_is_done_where_nothing_changed((graph, seen) in finished()) {
            prop_assert!(plan(&graph, &seen).iter().all(|verdict| *verdict == Verdict::Current));
        }

        #[test]
        fn a_change_touches_its_stage_and_what_descends_from_it(
            (graph, seen) in finished(), at in any::<prop::sample::Index>(),
        ) {
            let at = at.index(graph.nodes().len());
            let graph = changed(&graph, &[at]);
            for (node, verdict) in plan(&graph, &seen).iter().enumerate() {
                match verdict {
                    Verdict::Stale(reasons) => {
                        prop_assert_eq!(node, at);
                        let change =
                            Reason::Changed { name: "setting".into(), old: Some("0".into()), new: Some("1".into()) };
                        prop_assert_eq!(reasons, &vec![change]);
                    }
                    Verdict::Waiting(_) => prop_assert!(descends(&graph, at, node)),
                    Verdict::Current => prop_assert!(node != at && !descends(&graph, at, node)),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }

        #[test]
        fn the_same_output_again_leaves_the_rest_current(
            (graph, mut seen) in finished(), at in any::<prop::sample::Index>(), same in any::<bool>(),
        ) {
            let at = at.index(graph.nodes().len());
            let graph = changed(&graph, &[at]);
            let redone = seen[at].as_mut().unwrap();
            redone.manifest = manifest(1);
            if !same {
                redone.output = Some("another".into());
            }
            let verdicts = plan(&graph, &seen);
            let children = |node: usize| graph.nodes()[node].inputs.contains(&at);
            for (node, verdict) in verdicts.iter().enumerate() {
                if !same && children(node) {
                    prop_assert!(*verdict != Verdict::Current);
                } else if same {
                    prop_assert_eq!(verdict, &Verdict::Current);
                }
            }
        }

        #[test]
        fn doing_the_first_undone_stage_again_and_again_ends_with_all_current(
            (graph, mut seen) in finished(), lost in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
            altered in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let count = graph.nodes().len();
            lost.iter().for_each(|at| seen[at.index(count)] = None);
            let indices: Vec<usize> = altered.iter().map(|at| at.index(count)).collect();
            let graph = changed(&graph, &indices);
            for round in 0..=count {
                let verdicts = plan(&graph, &seen);
                let Some(next) = verdicts.iter().position(|verdict| *verdict != Verdict::Current) else { return Ok(()) };
                prop_assert!(round < count, "a stage was done twice");
                prop_assert!(!matches!(verdicts[next], Verdict::Waiting(_)));
                let output = |parent: &usize| seen[*parent].as_ref().unwrap().output.clone().unwrap();
                let inputs = graph.nodes()[next].inputs.iter().map(output).collect();
                let manifest = graph.nodes()[next].manifest.clone();
                let output = Some(format!("redone {next}"));
                seen[next] = Some(Seen { manifest, inputs, output, progress: String::new() });
            }
        }
    }

    #[test]
    fn a_storage_setting_alone_does_not_train_again() {
        let old = Manifest::new([("features.dtype".to_string(), "f16".to_string())]);
        let new = Manifest::new([("features.dtype".to_string(), "f32".to_string())]);
        let mut graph = Graph::default();
        graph.add(Node::stage(Kind::Block, 1, Vec::new(), new));
        let seen = Seen { manifest: old, inputs: vec![], output: Some("a".into()), progress: String::new() };
        assert!(matches!(plan(&graph, &[Some(seen)])[0], Verdict::ReExtract(_)));
    }
}
