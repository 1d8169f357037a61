//! How numbers and verdicts are said.

use crate::pipeline::{Graph, Verdict};
pub(super) use crate::size::{magnitude, percent, seconds, words as bytes};
pub(super) use crate::text::class;

/// Counts as bars of eight heights; what there is at all has a bar.
pub(super) fn sparkline(counts: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = counts.iter().copied().max().unwrap_or(0).max(1) as f64;
    let bar = |&count: &u64| match count {
        0 => ' ',
        _ => BARS[((count as f64 / most * 8.0).ceil() as usize).clamp(1, 8) - 1],
    };
    counts.iter().map(bar).collect()
}

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
    fn the_largest_count_has_the_highest_bar_and_none_has_no_bar() {
        assert_eq!(sparkline(&[0, 1, 50, 100, 1000]), " ▁▁▁█");
        assert_eq!((sparkline(&[0, 0]), sparkline(&[3, 6])), ("  ".into(), "▄█".into()));
    }

    #[test]
    fn a_changed_setting_is_given_with_both_values() {
        let change = Reason::Changed { name: "training.epochs".into(), old: Some("5".into()), new: Some("6".into()) };
        assert_eq!(verdict(&Verdict::Stale(vec![change]), &Graph::default()).1, ["training.epochs: 5 -> 6"]);
    }
}
