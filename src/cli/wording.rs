//! How numbers and verdicts are said.

use crate::pipeline::{Graph, Verdict};
pub(super) use crate::size::{magnitude, percent, seconds, words as bytes};
pub(super) use crate::text::class;

/// A verdict in one word and the reasons behind it; `graph` is the one that was planned.
pub(super) fn verdict(verdict: &Verdict, graph: &Graph) -> (&'static str, Vec<String>) {
    match verdict {
        Verdict::Current => ("current", Vec::new()),
        Verdict::Missing => ("missing", Vec::new()),
        Verdict::Partial(progress) => ("partial", vec![progress.clone()]),
        Verdict::ReExtract(reasons) => ("re-extract", reasons.iter().map(|reason| reason.say(graph)).collect()),
        Verdict::Stale(reasons) => ("stale", reasons.iter().map(|reason| reason.say(graph)).collect()),
        Verdict::Waiting(input) => ("waiting", vec![format!("{} comes first", graph.nodes()[*input].title())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Reason;

    #[test]
    fn a_changed_setting_is_given_with_both_values() {
        let change = Reason::Changed { name: "training.epochs".into(), old: Some("5".into()), new: Some("6".into()) };
        assert_eq!(verdict(&Verdict::Stale(vec![change]), &Graph::default()).1, ["training.epochs: 5 -> 6"]);
    }
}
