//! How numbers and verdicts are said.

use crate::pipeline::{Graph, Verdict};
pub(super) use crate::size::words as bytes;

/// Seconds as a person would say them, such as `3 min 20 s`.
pub(super) fn seconds(value: f64) -> String {
    let whole = value.round() as u64;
    match whole {
        0..=59 => format!("{value:.1} s"),
        60..=3599 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A large number with its thousands, millions and so on in one letter, such as `1.18 M`.
pub(super) fn magnitude(value: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let Some((unit, letter)) = units.into_iter().find(|(unit, _)| value >= *unit) else { return format!("{value:.0}") };
    let scaled = value / unit;
    let digits = if scaled < 10.0 {
        2
    } else if scaled < 100.0 {
        1
    } else {
        0
    };
    format!("{scaled:.digits$} {letter}")
}

/// A percentage with one digit, or a dash.
pub(super) fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.1} %"))
}

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

/// A class as people call it, shortly, with its name where that says nothing.
pub(super) fn class(name: &str, words: Option<&str>) -> String {
    match words.and_then(|words| words.split(',').next()) {
        Some(word) => format!("{word} ({name})"),
        None => name.into(),
    }
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
    fn says_times_as_people_do() {
        assert_eq!(seconds(200.2), "3 min 20 s");
        assert_eq!(seconds(7260.0), "2 h 01 min");
    }

    #[test]
    fn says_large_numbers_with_three_digits() {
        let words = [999.0, 1000.0, 12_345.0, 885_000_000.0, 4.1e12].map(magnitude);
        assert_eq!(words, ["999", "1.00 k", "12.3 k", "885 M", "4.10 T"]);
    }

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
