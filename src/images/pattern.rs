//! Patterns of file names: `{0000..1023}`, `{train,val}`, `*`, `?` and `[0-9]`.

use crate::error::{Error, Result};
use crate::text::{shown, shown_name};
use std::fs;
use std::path::{Path, PathBuf};

/// Names that braces may stand for at most.
const MOST: usize = 1 << 20;

/// The files that a pattern stands for, in order; only the last part of a path may hold `*`, `?` and `[`.
///
/// # Errors
/// When a file that is named is missing, a folder cannot be read, or nothing fits.
pub(super) fn files(pattern: &Path) -> Result<Vec<PathBuf>> {
    let fault = |fault: &str| Error::failed(format!("`{}`: {fault}", shown(pattern)));
    let text = pattern.to_str().ok_or_else(|| fault("a pattern must be UTF-8"))?;
    let mut all = Vec::new();
    for name in expanded(text).ok_or_else(|| fault("its braces cannot be read, or stand for too many names"))? {
        let path = PathBuf::from(&name);
        let last = path.file_name().map(shown_name).unwrap_or_default();
        if !last.contains(['*', '?', '[']) {
            if !path.is_file() {
                return Err(Error::failed(format!("`{}` is missing; the pattern names it", shown(&path))));
            }
            all.push(path);
            continue;
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let entries = fs::read_dir(folder).map_err(|e| Error::io("read folder", folder, &e))?;
        let names = entries.flatten().map(|entry| entry.file_name());
        let letters: Vec<char> = last.chars().collect();
        let fitting =
            names.filter(|name| name.to_str().is_some_and(|name| fits(&letters, &name.chars().collect::<Vec<_>>())));
        let mut found: Vec<PathBuf> = fitting.map(|name| folder.join(name)).filter(|path| path.is_file()).collect();
        found.sort();
        all.extend(found);
    }
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|path| seen.insert(path.clone()));
    if all.is_empty() { Err(fault("no file fits the pattern")) } else { Ok(all) }
}

/// All that braces stand for.
fn expanded(text: &str) -> Option<Vec<String>> {
    let Some(open) = text.find('{') else { return (!text.contains('}')).then(|| vec![text.to_string()]) };
    let close = open + text[open..].find('}')?;
    let (before, inside, after) = (&text[..open], &text[open + 1..close], &text[close + 1..]);
    let choices = match inside.split_once("..") {
        Some((first, last)) => range(first, last)?,
        None => inside.split(',').map(str::to_string).collect(),
    };
    let rest = expanded(after)?;
    if choices.len().saturating_mul(rest.len()) > MOST {
        return None;
    }
    Some(choices.iter().flat_map(|choice| rest.iter().map(move |rest| format!("{before}{choice}{rest}"))).collect())
}

fn range(first: &str, last: &str) -> Option<Vec<String>> {
    let width = if first.starts_with('0') || last.starts_with('0') { first.len().max(last.len()) } else { 0 };
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    let count = last.checked_sub(first)?;
    (count < MOST).then(|| (first..=last).map(|number| format!("{number:0width$}")).collect())
}

/// Whether a name fits a pattern without braces.
fn fits(pattern: &[char], name: &[char]) -> bool {
    // The place in the pattern behind the last `*`, and how much of the name that stands for.
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < name.len() {
        match one(&pattern[at..], name[from]) {
            Some(length) => (at, from) = (at + length, from + 1),
            None if pattern.get(at) == Some(&'*') => {
                star = Some((at + 1, from));
                at += 1;
            }
            None => {
                let Some((behind, taken)) = star else { return false };
                star = Some((behind, taken + 1));
                (at, from) = (behind, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|&letter| letter == '*')
}

/// The length of the part of a pattern that a letter fits.
fn one(pattern: &[char], letter: char) -> Option<usize> {
    match pattern {
        ['*', ..] | [] => None,
        ['?', ..] => Some(1),
        ['[', class @ ..] => {
            let end = class.iter().skip(1).position(|&c| c == ']')? + 1;
            let within = &class[..end];
            let ranges = within.windows(3).any(|part| part[1] == '-' && (part[0]..=part[2]).contains(&letter));
            (ranges || within.contains(&letter)).then_some(end + 2)
        }
        [own, ..] => (*own == letter).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_stand_for_all_their_names_in_order() {
        let all = |text| expanded(text).unwrap();
        assert_eq!(all("a-{08..11}.tar"), ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]);
        assert_eq!(all("{train,val}-{0..1}"), ["train-0", "train-1", "val-0", "val-1"]);
        assert_eq!(all("plain.tar"), ["plain.tar"]);
        for wrong in ["{", "}", "a}b", "{3..1}", "{a..b}", "{0..99999999}", "{0..9999}{0..9999}"] {
            assert!(expanded(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn stars_and_classes_fit_what_they_do_in_a_shell() {
        let fit =
            |pattern: &str, name: &str| fits(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>());
        for (pattern, name) in
            [("*", ""), ("*.tar", "a.tar"), ("a*b*c", "aXbYbZc"), ("v-?[0-9].tar", "v-x7.tar"), ("**", "x")]
        {
            assert!(fit(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("*.tar", "a.tar.gz"), ("?", ""), ("[0-9]", "x"), ("a", "ab"), ("[", "["), ("a*b", "ac")]
        {
            assert!(!fit(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_file_that_a_pattern_names_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a-00.tar", "a-01.tar", "b.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = |pattern: &str| files(&folder.path().join(pattern));
        assert_eq!(found("a-{00..01}.tar").unwrap().len(), 2);
        assert_eq!(found("{a-*,*-01}.tar").unwrap().len(), 2);
        assert!(found("a-{00..02}.tar").unwrap_err().to_string().contains("a-02.tar` is missing"));
        assert!(found("*.zip").unwrap_err().to_string().contains("no file fits"));
    }
}
