//! Line charts and bars as inline SVG. Colours are classes, which the style sheet gives for light and dark.

use super::html::escape;
use std::fmt::Write;

/// The picture, in its own units; the page scales it.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 40.0;
/// Colours that the style sheet has.
const COLOURS: usize = 8;
/// Points that are marked, each with a text of its own; more would be a blot.
const MOST_MARKED: usize = 600;

/// A point, and what is said of it.
pub(super) struct Point {
    pub x: f64,
    pub y: f64,
    pub text: String,
}

/// A line, in pieces that are not joined.
pub(super) struct Series {
    pub name: String,
    /// The number of its colour; from 8 on they come again.
    pub colour: usize,
    pub dashed: bool,
    pub pieces: Vec<Vec<Point>>,
}

/// A chart of lines over whole numbers.
pub(super) struct Chart<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    pub series: Vec<Series>,
    /// Where a part begins on the x axis, and what it is called.
    pub parts: Vec<(f64, String)>,
}

impl Chart<'_> {
    /// The figure with its legend; nothing where there is no point.
    pub fn html(mut self) -> Option<String> {
        for piece in self.series.iter_mut().flat_map(|series| &mut series.pieces) {
            piece.retain(|point| point.x.is_finite() && point.y.is_finite());
        }
        self.series.retain(|series| series.pieces.iter().any(|piece| !piece.is_empty()));
        let points = || self.series.iter().flat_map(|series| series.pieces.iter().flatten());
        let (x, y) = (Range::of(points().map(|point| point.x))?, Range::of(points().map(|point| point.y))?);
        let frame = Frame { x: x.with_ends(), y: y.rounded() };
        let marked = points().count() <= MOST_MARKED;
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\"><title>{}</title>\n",
            escape(&self.summary()),
            escape(self.title)
        );
        svg += &frame.axes(self.x, self.y);
        svg += &frame.parts(&self.parts);
        for series in &self.series {
            svg += &frame.line(series, marked);
        }
        let legend: String = self.series.iter().map(legend).collect();
        Some(format!(
            "<figure>{svg}</svg>\n<figcaption>{}<span class=\"legend\">{legend}</span></figcaption></figure>\n",
            escape(self.title)
        ))
    }

    /// What the chart shows, for those who do not see it.
    fn summary(&self) -> String {
        let said = self.series.iter().filter_map(|series| {
            let (first, last) = (series.pieces.iter().flatten().next()?, series.pieces.iter().flatten().last()?);
            Some(format!("{}: from {} to {}", series.name, number(first.y), number(last.y)))
        });
        format!("{}. {}", self.title, said.collect::<Vec<_>>().join("; "))
    }
}

fn legend(series: &Series) -> String {
    let dashed = if series.dashed { " dashed" } else { "" };
    format!(
        "<span><svg class=\"key\" viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path class=\"line c{}{dashed}\" d=\"M0 4H24\"/></svg>{}</span> ",
        series.colour % COLOURS,
        escape(&series.name)
    )
}

/// From the least to the greatest of some numbers.
#[derive(Clone, Copy)]
struct Range {
    low: f64,
    high: f64,
}

impl Range {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let widen = |range: Option<Self>, value: f64| match range {
            None => Some(Self { low: value, high: value }),
            Some(Self { low, high }) => Some(Self { low: low.min(value), high: high.max(value) }),
        };
        values.fold(None, widen)
    }

    /// With room for the points at either end.
    fn with_ends(self) -> Self {
        let more = ((self.high - self.low) * 0.03).max(0.3);
        Self { low: self.low - more, high: self.high + more }
    }

    /// From one tick to another.
    fn rounded(self) -> Self {
        let (low, high) =
            if self.high - self.low < 1e-9 { (self.low - 0.5, self.high + 0.5) } else { (self.low, self.high) };
        let step = step(high - low);
        Self { low: (low / step).floor() * step, high: (high / step).ceil() * step }
    }

    /// Round numbers within it, about five.
    fn ticks(self, least: f64) -> Vec<f64> {
        let step = step(self.high - self.low).max(least);
        let first = (self.low / step - 1e-6).ceil() as i64;
        let last = (self.high / step + 1e-6).floor() as i64;
        (first..=last).map(|at| at as f64 * step).collect()
    }
}

/// 1, 2 or 5 times a power of ten, about a fifth of a length.
fn step(length: f64) -> f64 {
    let rough = length / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|step| *step >= rough).unwrap_or(10.0 * power)
}

/// A number as short as it can be said.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

/// The axes.
struct Frame {
    x: Range,
    y: Range,
}

impl Frame {
    fn across(&self, x: f64) -> f64 {
        LEFT + (x - self.x.low) / (self.x.high - self.x.low) * (WIDTH - LEFT - RIGHT)
    }

    fn down(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - (y - self.y.low) / (self.y.high - self.y.low) * (HEIGHT - TOP - BOTTOM)
    }

    fn axes(&self, x: &str, y: &str) -> String {
        let mut svg = String::new();
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in self.y.ticks(0.0) {
            let at = self.down(tick);
            let _ = writeln!(
                svg,
                "<path class=\"rule\" d=\"M{LEFT} {at:.1}H{right}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                at + 4.0,
                number(tick)
            );
        }
        for tick in self.x.ticks(1.0) {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                self.across(tick),
                bottom + 16.0,
                number(tick)
            );
        }
        let _ = writeln!(
            svg,
            "<text class=\"axis\" x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><text class=\"axis\" x=\"4\" y=\"12\">{}</text>",
            HEIGHT - 6.0,
            escape(x),
            escape(y)
        );
        svg
    }

    fn parts(&self, parts: &[(f64, String)]) -> String {
        let mut svg = String::new();
        // Names that would run into each other are left out, but stay in the texts of the points.
        let wide = (WIDTH - LEFT - RIGHT) / parts.len().max(1) as f64;
        for (from, name) in parts {
            let at = self.across(*from);
            let _ = write!(svg, "<path class=\"rule part\" d=\"M{at:.1} {TOP}V{:.1}\"/>", HEIGHT - BOTTOM);
            if name.chars().count() as f64 * 7.0 < wide {
                let _ = write!(
                    svg,
                    "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    at + 4.0,
                    TOP - 6.0,
                    escape(name)
                );
            }
            svg.push('\n');
        }
        svg
    }

    fn line(&self, series: &Series, marked: bool) -> String {
        let mut svg = String::new();
        let (colour, dashed) = (series.colour % COLOURS, if series.dashed { " dashed" } else { "" });
        for piece in &series.pieces {
            let place = |point: &Point| format!("{:.1} {:.1}", self.across(point.x), self.down(point.y));
            let places: Vec<String> = piece.iter().map(place).collect();
            if places.len() > 1 {
                let _ = writeln!(svg, "<path class=\"line c{colour}{dashed}\" d=\"M{}\"/>", places.join("L"));
            }
            for point in piece.iter().filter(|_| marked || places.len() == 1) {
                let _ = writeln!(
                    svg,
                    "<circle class=\"dot c{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\"><title>{}</title></circle>",
                    self.across(point.x),
                    self.down(point.y),
                    escape(&point.text)
                );
            }
        }
        svg
    }
}

/// A bar in parts: (part's name, its length, that length in words).
pub(super) struct Bar {
    pub name: String,
    pub parts: Vec<(String, f64, String)>,
    /// What stands behind it.
    pub total: String,
}

/// Bars under each other; parts of a name have a colour, which the legend tells. Nothing where all are empty.
pub(super) fn bars(title: &str, bars: &[Bar]) -> Option<String> {
    const STEP: f64 = 24.0;
    const NAME: f64 = 76.0;
    const BEHIND: f64 = 96.0;
    let length = |bar: &Bar| bar.parts.iter().map(|(_, length, _)| length).sum::<f64>();
    let longest = bars.iter().map(length).fold(0.0, f64::max);
    if longest <= 0.0 || !longest.is_finite() {
        return None;
    }
    let mut names: Vec<&str> = Vec::new();
    for (name, ..) in bars.iter().flat_map(|bar| &bar.parts) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let said: Vec<String> = bars.iter().map(|bar| format!("{}: {}", bar.name, bar.total)).collect();
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"{}\"><title>{}</title>\n",
        STEP * bars.len() as f64 + 4.0,
        escape(&format!("{title}. {}", said.join("; "))),
        escape(title)
    );
    for (row, bar) in bars.iter().enumerate() {
        let top = STEP * row as f64 + 4.0;
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            NAME - 6.0,
            top + 13.0,
            escape(&bar.name)
        );
        let mut at = NAME;
        for (name, length, words) in &bar.parts {
            let wide = length / longest * (WIDTH - NAME - BEHIND);
            let colour = names.iter().position(|known| known == name).unwrap_or(0) % COLOURS;
            let _ = write!(
                svg,
                "<rect class=\"bar c{colour}\" x=\"{at:.1}\" y=\"{top:.1}\" width=\"{wide:.1}\" height=\"17\"><title>{}</title></rect>",
                escape(&format!("{}, {name}: {words}", bar.name))
            );
            at += wide;
        }
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", at + 6.0, top + 13.0, escape(&bar.total));
    }
    let key = |(colour, name): (usize, &&str)| {
        let colour = colour % COLOURS;
        format!(
            "<span><svg class=\"key\" viewBox=\"0 0 24 8\" aria-hidden=\"true\"><rect class=\"bar c{colour}\" width=\"24\" height=\"8\"/></svg>{}</span> ",
            escape(name)
        )
    };
    let legend: String = if names.len() > 1 { names.iter().enumerate().map(key).collect() } else { String::new() };
    Some(format!(
        "<figure>{svg}</svg>\n<figcaption>{}<span class=\"legend\">{legend}</span></figcaption></figure>\n",
        escape(title)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        let range = Range { low: 36.2, high: 87.9 }.rounded();
        assert_eq!((range.low, range.high), (20.0, 100.0));
        assert_eq!(range.ticks(0.0), [20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(Range { low: 0.7, high: 4.3 }.ticks(1.0), [1.0, 2.0, 3.0, 4.0]);
        let flat = Range { low: 3.0, high: 3.0 }.rounded();
        assert!(flat.low < 3.0 && flat.high > 3.0);
    }

    #[test]
    fn a_chart_leaves_out_what_is_no_number() {
        let point = |x: f64, y: f64| Point { x, y, text: format!("<{y}>") };
        let series = |points| Series { name: "a<b".into(), colour: 9, dashed: true, pieces: vec![points] };
        let chart =
            |series| Chart { title: "t", x: "x", y: "y", series: vec![series], parts: vec![(0.5, "one".into())] };
        let html = chart(series(vec![point(1.0, 2.0), point(2.0, f64::NAN), point(3.0, 4.0)])).html().unwrap();
        assert_eq!(html.matches("<circle").count(), 2, "{html}");
        assert!(html.contains("&lt;4&gt;") && html.contains("a&lt;b: from 2 to 4") && !html.contains("NaN"), "{html}");
        assert!(html.contains("line c1 dashed") && html.contains(">one</text>"), "{html}");
        assert!(chart(series(vec![point(1.0, f64::INFINITY)])).html().is_none());
    }

    #[test]
    fn bars_are_as_long_as_their_share() {
        let bar = |name: &str, length: f64| Bar {
            name: name.into(),
            parts: vec![("train".into(), length, "some".into())],
            total: format!("{length} s"),
        };
        let html = bars("time", &[bar("a", 1.0), bar("b", 2.0)]).unwrap();
        assert!(html.contains("width=\"154.0\"") && html.contains("width=\"308.0\""), "{html}");
        assert!(bars("time", &[bar("a", 0.0)]).is_none());
    }
}
