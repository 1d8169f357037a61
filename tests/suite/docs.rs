//! README and the pages in docs: their links lead somewhere, and their commands are ones of this program.

use crate::space::Space;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Lists of commands, commands with something left out, and with a word that stands for others.
fn is_pattern(command: &str) -> bool {
    command.contains(['·', '…'])
        || command
            .split_whitespace()
            .any(|word| word.len() > 2 && word == word.to_uppercase() && word.chars().all(|c| c.is_ascii_uppercase()))
}

/// README and every page, with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let markdown = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let all = markdown.chain([root().join("README.md")]);
    all.map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The commands of a page, without what follows a `#`: lines of code blocks, and words in backquotes.
fn commands(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            found.push(line.strip_prefix("$ ").unwrap_or(line).to_string());
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_string));
        }
    }
    found.retain(|command| command.starts_with("greedy "));
    found.into_iter().map(|command| command.split('#').next().unwrap_or_default().trim().to_string()).collect()
}

#[test]
fn the_readme_is_short_and_every_link_leads_somewhere() {
    for (path, text) in pages() {
        let at = |link: &str| path.parent().unwrap().join(link.split('#').next().unwrap_or_default());
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(link.starts_with("http") || at(link).exists(), "{} links to {link}", path.display());
        }
        let readme = path.ends_with("README.md");
        assert!(!readme || text.len() <= 6000, "README.md has {} bytes", text.len());
        assert!(readme || text.lines().next().is_some_and(|line| line.starts_with("# ")), "{}", path.display());
    }
}

/// The help that the program gives behind these words; what stands before `--help` must be known, or it is refused.
fn help(words: &[&str]) -> Result<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_greedy")).args(words).arg("--help").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Whether the program knows all words of a command.
fn understood(command: &str) -> Result<(), String> {
    let command = command.split(['>', '#', '|']).next().unwrap_or_default();
    let words: Vec<&str> = command.split_whitespace().skip(1).map(|word| word.trim_matches('"')).collect();
    help(&words).map(drop)
}

#[test]
fn the_commands_of_the_pages_are_understood() {
    let mut seen = 0;
    for (path, text) in pages() {
        for command in commands(&text) {
            if !is_pattern(&command) {
                if let Err(fault) = understood(&command) {
                    panic!("{}: `{command}`: {fault}", path.display());
                }
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "only {seen} commands were found");
}

#[test]
fn the_commands_of_the_readme_work_as_written() {
    let space = Space::new();
    std::os::unix::fs::symlink(root().join("pipelines"), space.path("pipelines")).unwrap();
    let small = "--set data.train_images=200 --set data.val_images=50 --set training.epochs=1 --set network.width=8";
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let own = |command: &String| !is_pattern(command) && !command.contains("birds");
    let mut ran = 0;
    for command in commands(&readme).iter().filter(|command| own(command)) {
        let arguments = command.strip_prefix("greedy ").unwrap_or_default();
        let reads_pipeline = arguments.starts_with("run ") || arguments.starts_with("status ");
        space.run(&if reads_pipeline { format!("{arguments} {small}") } else { arguments.into() }).ok();
        ran += 1;
    }
    assert!(ran >= 3, "only {ran} commands were found");
    let birds = readme.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let image = std::fs::read(root().join("tests/fixtures/images/rgba.png")).unwrap();
    for place in ["train/wren/1.png", "train/crow/2.png", "val/wren/3.png", "val/crow/4.png"] {
        space.write(&format!("birds/{place}"), &image);
    }
    space.write("birds.toml", birds.replace("~/birds", "birds"));
    space.run("run birds.toml --dry-run").ok();
}

#[test]
fn the_examples_of_every_help_are_understood() {
    let list = help(&[]).unwrap();
    let names = list.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let names: Vec<&str> =
        names.take_while(|line| !line.is_empty()).filter_map(|line| line.get(2..14)).map(str::trim).collect();
    let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty() && *name != "help").collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        let help = help(&[name]).unwrap();
        let examples: Vec<&str> = help.lines().map(str::trim).filter(|line| line.starts_with("greedy ")).collect();
        assert!(!examples.is_empty(), "`greedy help {name}` has no example");
        for example in examples {
            assert_eq!(understood(example), Ok(()), "`{example}`");
        }
    }
}

#[test]
fn every_page_is_reached_from_the_readme() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for (path, _) in pages() {
        let name = Path::new("docs").join(path.file_name().unwrap());
        assert!(path.ends_with("README.md") || readme.contains(&format!("({})", name.display())), "{}", name.display());
    }
}
