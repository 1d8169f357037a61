//! Modules import only those above them, as the crate's documentation promises.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module may import; those in `BASE` serve all but `pipeline`, `cuda` and `ops`.
const MAY_IMPORT: [(&str, &[&str]); 14] = [
    ("pipeline", &[]),
    ("cuda", &[]),
    ("ops", &["cuda"]),
    ("images", &["pipeline"]),
    ("network", &["pipeline", "ops"]),
    ("features", &["images", "network", "ops", "pipeline"]),
    ("training", &["features", "network", "ops", "pipeline"]),
    ("probes", &["features", "ops", "pipeline"]),
    ("bench", &["probes", "training", "features", "network", "ops", "images", "pipeline"]),
    ("run", &["bench", "probes", "training", "features", "network", "ops", "images", "pipeline"]),
    ("inspect", &["run", "training", "features", "ops", "pipeline"]),
    ("report", &["inspect", "run", "features", "pipeline"]),
    ("export", &["inspect", "run", "features", "network", "pipeline"]),
    (
        "cli",
        &[
            "bench", "export", "report", "inspect", "run", "training", "features", "network", "ops", "images",
            "pipeline",
        ],
    ),
];
const BASE: [&str; 10] = ["disk", "error", "lock", "progress", "random", "room", "size", "temporary", "text", "faults"];

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
            let may_print = name == "cli" || file.components().any(|part| part.as_os_str() == "tests");
            assert!(may_print || !text.contains("println!"), "{} prints", file.display());
        }
    }
}

/// The files of a folder that a file imports, by the names that its folder hands on.
fn neighbours(text: &str, folder: &Path, exported: &HashMap<String, String>) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let text = &code.collect::<Vec<_>>().join("\n");
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, word) in text.match_indices("super::") {
        if text[..at].ends_with("super::") {
            continue;
        }
        let rest = &text[at + word.len()..];
        let list = match rest.strip_prefix('{') {
            Some(rest) => rest.split('}').next().unwrap_or_default(),
            None => rest.split(|c: char| !is_name(c)).next().unwrap_or_default(),
        };
        for name in list.split(',') {
            let name: String = name.trim().chars().take_while(|&c| is_name(c)).collect();
            let file = if folder.join(format!("{name}.rs")).is_file() { Some(&name) } else { exported.get(&name) };
            found.extend(file.cloned());
        }
    }
    found
}

/// What the `mod.rs` of a folder hands on, and from which file.
fn exported(folder: &Path) -> HashMap<String, String> {
    let text = fs::read_to_string(folder.join("mod.rs")).unwrap_or_default();
    let mut all = HashMap::new();
    for line in text.split(';').filter_map(|statement| statement.split("use ").nth(1)) {
        let Some((file, names)) = line.split_once("::") else { continue };
        for name in names.trim_matches(['{', '}', '\n', ' ']).split(',') {
            let name = name.split(" as ").last().unwrap_or_default().trim();
            all.insert(name.to_string(), file.trim().to_string());
        }
    }
    all
}

/// A file and those that it leads to, back to itself; nothing where there is no way back.
fn circle(of: &str, imports: &HashMap<String, Vec<String>>) -> Option<Vec<String>> {
    let mut ways = vec![vec![of.to_string()]];
    let mut seen = Vec::new();
    while let Some(way) = ways.pop() {
        for next in imports.get(way.last()?).into_iter().flatten() {
            if next == of {
                return Some(way);
            }
            if !seen.contains(next) {
                seen.push(next.clone());
                ways.push(way.iter().chain([next]).cloned().collect());
            }
        }
    }
    None
}

#[test]
fn no_files_of_a_folder_import_each_other_in_a_circle() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut looked_at = 0;
    for (module, _) in MAY_IMPORT {
        let folder = source.join(module);
        let exported = exported(&folder);
        let mut imports = HashMap::new();
        for path in sources(&folder).into_iter().filter(|path| path.parent() == Some(&folder)) {
            let name = path.file_stem().unwrap().to_str().unwrap().to_string();
            let mut found = neighbours(&fs::read_to_string(&path).unwrap(), &folder, &exported);
            found.retain(|other| *other != name);
            imports.insert(name, found);
        }
        imports.remove("mod");
        for name in imports.keys() {
            assert_eq!(circle(name, &imports), None, "in src/{module}");
            looked_at += 1;
        }
    }
    assert!(looked_at > 80, "only {looked_at} files were found");
    // The files beside the folders, whose names are said in full.
    let text = |name: &str| fs::read_to_string(source.join(format!("{name}.rs"))).unwrap();
    let own = |name: &str| imported(text(name).split("#[cfg(test)]\nmod tests").next().unwrap());
    let named = |name: &&str| (name.to_string(), own(name).into_iter().filter(|other| other != name).collect());
    let imports: HashMap<String, Vec<String>> = BASE.iter().filter(|name| **name != "faults").map(named).collect();
    BASE.iter().for_each(|name| assert_eq!(circle(name, &imports), None, "beside the folders"));
}
