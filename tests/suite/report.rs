//! `greedy report`: one page that is whole, harmless, the same for the same records, and never stopped by what is missing.

use crate::interruption::kill_after_three_epochs;
use crate::space::{SMALL, Space};
use roxmltree::{Document, Node, ParsingOptions};

/// The page of some arguments, taken apart: it has to be well-formed, and to ask for nothing from elsewhere.
#[track_caller]
fn page(space: &Space, arguments: &str) -> String {
    space.run(&format!("report {arguments} --to page.html")).ok();
    let text = std::fs::read_to_string(space.path("page.html")).unwrap();
    let document = parse(&text);
    let ids: Vec<&str> = document.descendants().filter_map(|node| node.attribute("id")).collect();
    for node in document.descendants().filter(Node::is_element) {
        for attribute in node.attributes() {
            let (name, value) = (attribute.name(), attribute.value());
            assert!(!name.starts_with("on"), "<{}> has `{name}`", node.tag_name().name());
            match name {
                "href" if value.starts_with('#') => assert!(ids.contains(&&value[1..]), "{value} leads nowhere"),
                "href" | "src" => assert!(value.starts_with("data:"), "{name} = {value:.60}"),
                _ => assert!(!value.contains("url("), "{name} = {value:.60}"),
            }
        }
        match node.tag_name().name() {
            "img" => assert!(!node.attribute("alt").unwrap().is_empty()),
            "svg" => assert!(node.attribute("aria-label").is_some() || node.attribute("aria-hidden").is_some()),
            _ => {}
        }
    }
    assert_eq!(document.descendants().filter(|node| node.has_tag_name("script")).count(), 1, "only our own");
    assert!(!text.contains("http://") && !text.contains("https://"));
    assert!(!text.contains(space.path("").to_str().unwrap()), "it names a place of this machine");
    text
}

fn parse(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).unwrap_or_else(|e| panic!("not well-formed: {e}"))
}

/// All that is to be read in a section of the page.
fn section(text: &str, id: &str) -> String {
    let document = parse(text);
    let found = document.descendants().find(|node| node.attribute("id") == Some(id)).unwrap();
    found.descendants().filter_map(|node| node.text()).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_same_records_give_the_same_page_wherever_they_lie() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let first = page(&space, "cache");
    std::fs::rename(space.path("cache"), space.path("moved")).unwrap();
    assert!(first == page(&space, "moved"), "the page depends on the place");
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(space.path("moved/stage2/record.json")).unwrap()).unwrap();
    let accuracy = format!("{:.1} %", record["figures"]["accuracy"].as_f64().unwrap());
    let nodes = section(&first, "p0-nodes");
    for word in ["images", "stage 1", "stage 2", "finished", "6 × 16 × 16", &accuracy] {
        assert!(nodes.contains(word), "`{word}` is not in: {nodes}");
    }
    assert!(section(&first, "p0-epochs").contains("stage 2, epoch 3: validation accuracy"));
    assert!(section(&first, "depth").contains("small, stage 2: ensemble"));
    assert!(section(&first, "p0-confusion").contains("over 100 validation images"));
    assert!(section(&first, "p0-origin").contains("training.learning_rate"));
    // Three images and their maps at two depths, and cards of answers that are wrong or right.
    let pictures = |id: &str| {
        let document = parse(&first);
        let found = document.descendants().find(|node| node.attribute("id") == Some(id)).unwrap();
        found.descendants().filter(|node| node.has_tag_name("img")).count()
    };
    assert_eq!(pictures("p0-maps"), 9);
    assert!((13..=24).contains(&pictures("p0-answers")), "{}", pictures("p0-answers"));
}

#[test]
fn the_confusion_matrix_counts_every_validation_image_once() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let text = page(&space, "cache");
    let document = parse(&text);
    let cells =
        document.descendants().filter(|node| node.attribute("class").is_some_and(|class| class.starts_with("cell ")));
    let count = |node: Node<'_, '_>| {
        let title = node.first_element_child().unwrap().text().unwrap().to_string();
        title.rsplit_once(": ").unwrap().1.split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    let (mut all, mut right) = (0, 0);
    for cell in cells {
        all += count(cell);
        right += if cell.attribute("class") == Some("cell right") { count(cell) } else { 0 };
    }
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(space.path("cache/stage2/record.json")).unwrap()).unwrap();
    assert_eq!((all, right as f64), (100, record["figures"]["accuracy"].as_f64().unwrap()));
}

#[test]
fn hostile_names_of_classes_stay_names() {
    let space = Space::with_photos();
    let hostile = ["<script>alert(1)<", "\"onload='alert(2)' & \u{1b}[31m\u{202e}"];
    for split in ["train", "val"] {
        for (class, name) in ["a", "b"].iter().zip(hostile) {
            let place = |name: &str| space.path(&format!("photos/{split}/{name}"));
            std::fs::rename(place(class), place(name)).unwrap();
        }
    }
    space.run("run photos.toml --set name=\"<b>bold&\"").ok();
    let text = page(&space, "cache");
    assert!(text.contains("&lt;script&gt;alert(1)&lt;") && text.contains("&lt;b&gt;bold&amp;"), "the names are shown");
    assert!(!text.contains("<script>alert") && !text.contains(['\u{1b}', '\u{202e}']));
}

#[test]
fn what_is_not_there_yet_is_said_in_a_line() {
    let space = Space::new();
    let text = page(&space, "small.toml");
    assert!(section(&text, "p0-nodes").contains("missing"), "nothing has been run");
    assert!(section(&text, "depth").contains("No stage has been trained"));
    space.run("run small.toml stage1").ok();
    kill_after_three_epochs(&space, "run small.toml --set stage.2.training.epochs=300", "cache/stage2/checkpoint");
    for subject in ["small.toml --set stage.2.training.epochs=300", "cache"] {
        let text = page(&space, subject);
        let nodes = section(&text, "p0-nodes");
        assert!(nodes.contains("trained for ") && nodes.contains("of 300 epochs"), "{nodes}");
        let epochs = section(&text, "p0-epochs");
        assert!(
            epochs.contains("stage 2 is not trained to its end") && epochs.contains("stage 2, epoch 2: "),
            "{epochs}"
        );
        assert!(section(&text, "p0-confusion").contains("By the classifier of stage 1"));
        assert!(section(&text, "p0-maps").contains("not cached or not written yet: stage 2"));
    }
}

#[test]
fn stages_without_features_or_images_and_damaged_ones_do_not_stop_it() {
    let space = Space::new();
    space.run("run small.toml --set features.materialize=[2]").ok();
    let text = page(&space, "cache");
    assert!(section(&text, "p0-dead").contains("stage 1 caches no features"));
    assert!(section(&text, "p0-maps").contains("stage 2: 6 x 16 x 16"), "{}", section(&text, "p0-maps"));
    std::fs::remove_dir_all(space.path("cache/stage0")).unwrap();
    let text = page(&space, "cache");
    assert!(section(&text, "p0-answers").contains("The images cannot be shown"));
    assert!(section(&text, "p0-maps").contains("stage 2: 6 x 16 x 16"));
    space.write("cache/stage2/val/features/c/0/0/0/0/0", "damaged");
    space.write("cache/stage2/val/logits/c/0/0", "damaged");
    space.write("cache/stage1/record.json", "damaged");
    space.write("cache/stage1/spare/record.json", "damaged");
    let text = page(&space, "cache");
    let nodes = section(&text, "p0-nodes");
    assert!(nodes.contains("trouble") && nodes.contains("is no record of this program"), "{nodes}");
    assert!(section(&text, "p0-maps").contains("damaged") && section(&text, "p0-confusion").contains("damaged"));
    page(&space, "cache/stage2");
}

#[test]
fn several_pipelines_of_any_kind_stand_side_by_side() {
    let space = Space::new();
    space.run("run small.toml").ok();
    space.run("run small.toml --cache whole --set training.method=end_to_end --set name=whole").ok();
    space.run("run small.toml --cache other --set seed=2").ok();
    let text = page(&space, "cache whole other");
    for (id, title) in [("p0", "small (cache)"), ("p1", "whole"), ("p2", "small (other)")] {
        assert!(section(&text, id).contains(title), "{title}");
    }
    let depth = section(&text, "depth");
    let shown = |text: &str| depth.matches(text).count();
    let [layerwise, whole] = ["small (other), stage 2: accuracy", "whole, stage 2: accuracy"].map(shown);
    assert!(whole > 0 && whole == layerwise, "{depth}");
    assert!(depth.contains("small (other), ensemble") && !depth.contains("whole, ensemble"), "{depth}");
    assert!(section(&text, "p1-nodes").contains("network"));
    assert!(section(&text, "p1-confusion").contains("By the classifier of "));
    // Before its depths are made, the network stands for itself.
    space.run("run small.toml network --cache begun --set training.method=end_to_end --set name=begun").ok();
    assert!(section(&page(&space, "begun"), "depth").contains("begun, end to end: accuracy"));
}

#[test]
fn probes_stand_by_depth_and_an_ensemble_among_the_nodes() {
    let space = Space::new();
    let more = "[ensemble]\n[[probes]]\nkind = \"contraction\"\n[[probes]]\nkind = \"neighbours\"\n";
    space.write("probed.toml", format!("{SMALL}{more}"));
    space.run("run probed.toml").ok();
    let text = page(&space, "probed.toml");
    let probes = section(&text, "p0-probes");
    for word in ["neighbours, depth 2: accuracy", "contraction, depth 1: ratio", "within", "stage 1"] {
        assert!(probes.contains(word), "`{word}` is not in: {probes}");
    }
    let nodes = section(&text, "p0-nodes");
    assert!(nodes.contains("ensemble") && nodes.contains("contraction of stage 2"), "{nodes}");
    assert!(section(&text, "p0-confusion").contains("By the classifier of stage 2"));
    assert!(section(&page(&space, "small.toml"), "p0-probes").contains("no probes"));
}

#[test]
fn only_a_report_is_written_over() {
    let space = Space::new();
    space.run("run small.toml stage1").ok();
    space.write("thesis.html", "<!DOCTYPE html>\n<p>years of work</p>");
    space.run("report cache --to thesis.html").fails(2, &["`thesis.html` is there", "hint:", "--force"]);
    assert!(std::fs::read_to_string(space.path("thesis.html")).unwrap().contains("years of work"));
    space.run("report cache --dry-run").ok();
    assert!(!space.path("report.html").exists());
    let quiet = space.run("report").ok();
    assert!(quiet.stdout.is_empty() && quiet.stderr.contains("report.html"), "{}", quiet.stderr);
    space.run("report cache").ok();
    space.run("report cache --to thesis.html --force").ok();
    space.run("report nowhere").fails(2, &["nowhere", "hint:"]);
}
