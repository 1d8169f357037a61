//! Modules import only those above them, as the crate's documentation promises.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module may import; those in `BASE` serve all but `pipeline`, `cuda` and `ops`.
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("pipeline", &[]),
    ("cuda", &[]),
    ("ops", &["cuda"]),
    ("images", &["pipeline"]),
    ("network", &["pipeline", "ops"]),
    ("features", &["images", "network", "ops", "pipeline"]),
    ("training", &["features", "network", "ops", "pipeline"]),
    ("bench", &["training", "features", "network", "ops", "images", "pipeline"]),
    ("run", &["bench", "training", "features", "network", "ops", "images", "pipeline"]),
    ("inspect", &["run", "features", "pipeline"]),
    ("cli", &["bench", "inspect", "run", "training", "features", "network", "ops", "images", "pipeline"]),
];
const BASE: [&str; 8] = ["disk", "error", "lock", "progress", "random", "room", "size", "faults"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// The modules of the crate that a file imports or names.
fn imported(text: &str) -> Vec<String> {
    let names = text.match_indices("crate::").filter(|(at, _)| !text[..*at].ends_with("::"));
    let name = |at: usize| text[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found: Vec<String> =
        names.map(|(at, word)| name(at + word.len())).filter(|name| !name.is_empty()).collect();
    assert!(!text.contains("crate::{"), "write one `use` a module, so that this test sees it");
    found.sort();
    found.dedup();
    found
}

#[test]
fn imports_point_upwards_only() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let allowed: HashMap<&str, &[&str]> = MAY_IMPORT.into_iter().collect();
    let mut looked_at = 0;
    for (module, may) in &allowed {
        for path in sources(&source.join(module)) {
            let text = fs::read_to_string(&path).unwrap();
            for name in imported(&text) {
                let base = BASE.contains(&name.as_str()) && !matches!(*module, "pipeline" | "ops" | "cuda");
                let fine = name == *module || base || may.contains(&name.as_str());
                assert!(fine, "{} imports `{name}`", path.display());
            }
            looked_at += 1;
        }
    }
    assert!(looked_at > 40, "only {looked_at} files were found");
}

#[test]
fn the_base_modules_import_each_other_only() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for module in BASE {
        let text = fs::read_to_string(source.join(format!("{module}.rs"))).unwrap();
        for name in imported(&text) {
            assert!(BASE.contains(&name.as_str()), "{module}.rs imports `{name}`");
        }
    }
}

#[test]
fn every_folder_has_its_rule_and_only_features_names_zarrs() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(&source).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        let known = MAY_IMPORT.iter().any(|(module, _)| *module == name);
        assert_eq!(path.is_dir(), known, "{}", path.display());
        for file in if path.is_dir() { sources(&path) } else { vec![path] } {
            let text = fs::read_to_string(&file).unwrap();
            let opening = if file.extension().is_none_or(|end| end != "rs") { "// " } else { "//!" };
            assert!(text.starts_with(opening), "{} does not open with what it holds", file.display());
            assert!(name == "features" || !text.contains("zarrs::"), "{} names zarrs", file.display());
            assert!(name == "cli" || !text.contains("println!"), "{} prints", file.display());
        }
    }
}
