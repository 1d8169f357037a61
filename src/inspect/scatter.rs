//! Samples in a plane, coloured by class, as an SVG page that any browser shows.

use super::pca::Components;
use super::picture::Colour;
use std::fmt::Write;

/// The mark by which a file of this program is known.
pub(super) const MARK: &str = "<!-- greedy inspect -->";
/// Classes that a legend names.
const MOST_NAMED: usize = 20;
/// The plane, in pixels, with the room around it.
const SIDE: f64 = 640.0;
const MARGIN: f64 = 50.0;
const LEGEND: f64 = 200.0;

/// A plot of samples along their first two principal components. Each has its class as a tooltip; where there are at most
/// twenty classes a legend names them. `marked` is the row of a sample with a ring around it.
pub fn scatter(
    components: &Components,
    labels: &[u32],
    classes: &[String],
    (title, marked): (&str, Option<usize>),
) -> String {
    let named = classes.len() <= MOST_NAMED;
    let width = 2.0 * MARGIN + SIDE + if named { LEGEND } else { 0.0 };
    let height = 2.0 * MARGIN + SIDE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n{MARK}\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut text = |x: f64, y: f64, attributes: &str, words: &str| {
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{}</text>", escaped(words));
    };
    let middle = MARGIN + SIDE / 2.0;
    text(middle, MARGIN - 20.0, "text-anchor=\"middle\" font-size=\"15\"", title);
    let axis = |c: usize| format!("component {} ({:.0} % of the variance)", c + 1, 100.0 * components.shares[c]);
    text(middle, MARGIN + SIDE + 30.0, "text-anchor=\"middle\"", &axis(0));
    let upright = format!("text-anchor=\"middle\" transform=\"rotate(-90 25 {middle})\"");
    text(25.0, middle, &upright, &axis(1));
    let _ = writeln!(
        svg,
        "<rect x=\"{MARGIN}\" y=\"{MARGIN}\" width=\"{SIDE}\" height=\"{SIDE}\" fill=\"none\" stroke=\"#999\"/>"
    );
    let (x, y) = (Axis::of(components, 0), Axis::of(components, 1));
    let place = |row: usize| {
        let [a, b] = components.places[row];
        (x.at(a), 2.0 * MARGIN + SIDE - y.at(b))
    };
    let name = |label: u32| classes.get(label as usize).map_or("?", String::as_str);
    for (row, &label) in labels.iter().enumerate().take(components.places.len()) {
        let ((x, y), [r, g, b]) = (place(row), colour(label as usize, classes.len()));
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\" fill=\"rgb({r},{g},{b})\" fill-opacity=\"0.75\"><title>{}</title></circle>",
            escaped(name(label))
        );
    }
    if let Some((x, y)) = marked.filter(|&row| row < components.places.len()).map(place) {
        let _ = writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"8\" fill=\"none\" stroke=\"black\" stroke-width=\"2\"/>"
        );
    }
    if named {
        for (at, class) in classes.iter().enumerate() {
            let ([r, g, b], top) = (colour(at, classes.len()), MARGIN + 8.0 + 22.0 * at as f64);
            let left = 2.0 * MARGIN + SIDE - 20.0;
            let _ = writeln!(
                svg,
                "<circle cx=\"{left}\" cy=\"{top}\" r=\"5\" fill=\"rgb({r},{g},{b})\"/><text x=\"{}\" y=\"{}\">{}</text>",
                left + 12.0,
                top + 4.5,
                escaped(&shortened(class))
            );
        }
    }
    svg += "</svg>\n";
    svg
}

/// Where the values of a component lie between the edges of the plane.
struct Axis {
    least: f64,
    scale: f64,
}

impl Axis {
    fn of(components: &Components, axis: usize) -> Self {
        let values = || components.places.iter().map(|place| place[axis]);
        let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        let room = 0.04 * SIDE;
        let scale = if most > least { (SIDE - 2.0 * room) / (most - least) } else { 0.0 };
        Self { least, scale }
    }

    fn at(&self, value: f64) -> f64 {
        let place = if self.scale > 0.0 { 0.04 * SIDE + (value - self.least) * self.scale } else { SIDE / 2.0 };
        MARGIN + place
    }
}

/// Colours that differ as much as so many can: around the circle of hues, of three shades in turn.
fn colour(class: usize, classes: usize) -> Colour {
    let hue = class as f64 / classes.max(1) as f64 * 6.0;
    let (value, saturation) = [(0.82, 0.85), (0.55, 0.9), (0.95, 0.6)][class % 3];
    let channel = |shift: f64| {
        let part = ((hue + shift) % 6.0 - 3.0).abs() - 1.0;
        (255.0 * value * (1.0 - saturation * (1.0 - part.clamp(0.0, 1.0)))).round() as u8
    };
    [channel(0.0), channel(4.0), channel(2.0)]
}

/// A name that fits the legend.
fn shortened(name: &str) -> String {
    const MOST: usize = 24;
    if name.chars().count() <= MOST { name.to_string() } else { name.chars().take(MOST - 1).chain(['…']).collect() }
}

/// A text in XML.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            // Characters that XML does not allow.
            _ if letter.is_control() => out.push(' '),
            _ => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_a_point_in_the_plane_and_names_are_escaped() {
        let components = Components { places: vec![[0.0, 0.0], [1.0, 2.0], [0.5, 1.0]], shares: [0.7, 0.2] };
        let classes = ["a<b".to_string(), "c\"d\u{7}".to_string()];
        let svg = scatter(&components, &[0, 1, 1], &classes, ("t & u", Some(1)));
        assert_eq!(svg.matches("<title>").count(), 3);
        assert!(svg.contains("<title>a&lt;b</title>") && svg.contains("c&quot;d </text>") && svg.contains("t &amp; u"));
        assert!(svg.contains("component 1 (70 % of the variance)") && !svg.contains('\u{7}'));
        // The first two lie at opposite corners, the third in the middle; the second has a ring.
        for point in
            ["cx=\"75.6\" cy=\"664.4\" r=\"3.2\"", "cx=\"664.4\" cy=\"75.6\" r=\"8\"", "cx=\"370.0\" cy=\"370.0\""]
        {
            assert!(svg.contains(point), "{point} in {svg}");
        }
        let many: Vec<String> = (0..1000).map(|at| at.to_string()).collect();
        assert_eq!(scatter(&components, &[0, 1, 999], &many, ("", None)).matches("<text").count(), 3);
    }

    #[test]
    fn twenty_classes_have_twenty_colours() {
        let mut colours: Vec<Colour> = (0..20).map(|at| colour(at, 20)).collect();
        colours.sort();
        colours.dedup();
        assert_eq!(colours.len(), 20);
    }
}
