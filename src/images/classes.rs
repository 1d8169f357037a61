//! The 1000 classes of ILSVRC 2012: their WordNet ids, their numbers in the devkit, and words for people.

use std::sync::OnceLock;

/// A class.
#[derive(Debug)]
pub(super) struct Class {
    pub wnid: &'static str,
    /// The number that the devkit's files have for it, from 1.
    pub devkit: usize,
    pub words: &'static str,
}

/// The classes in the order of labels: sorted by their ids.
pub(super) fn all() -> &'static [Class] {
    static ALL: OnceLock<Vec<Class>> = OnceLock::new();
    ALL.get_or_init(|| include_str!("classes.txt").lines().filter_map(read).collect())
}

fn read(line: &'static str) -> Option<Class> {
    let (wnid, rest) = line.split_once(' ')?;
    let (devkit, words) = rest.split_once(' ')?;
    is_wnid(wnid).then_some(Class { wnid, devkit: devkit.parse().ok()?, words })
}

/// The class of an id.
pub(super) fn by_wnid(wnid: &str) -> Option<&'static Class> {
    all().binary_search_by_key(&wnid, |class| class.wnid).ok().map(|at| &all()[at])
}

/// What people call the class of an id of ILSVRC 2012.
pub fn words(wnid: &str) -> Option<&'static str> {
    by_wnid(wnid).map(|class| class.words)
}

/// The class of a number of the devkit.
pub(super) fn by_devkit(number: usize) -> Option<&'static Class> {
    static ORDER: OnceLock<Vec<usize>> = OnceLock::new();
    let order = ORDER.get_or_init(|| {
        let mut order: Vec<usize> = (0..all().len()).collect();
        order.sort_by_key(|&at| all()[at].devkit);
        order
    });
    Some(&all()[*order.get(number.checked_sub(1)?)?])
}

/// Whether a text is a WordNet id as data sets have them: `n` and eight digits.
pub(super) fn is_wnid(text: &str) -> bool {
    text.len() == 9 && text.starts_with('n') && text[1..].bytes().all(|digit| digit.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_whole_and_right_where_sources_name_a_class() {
        assert_eq!(all().len(), 1000);
        assert!(all().is_sorted_by(|a, b| a.wnid < b.wnid));
        let mut numbers: Vec<usize> = all().iter().map(|class| class.devkit).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
        assert_eq!((all()[0].wnid, all()[0].words), ("n01440764", "tench, Tinca tinca"));
        assert_eq!(by_devkit(1).unwrap().wnid, "n02119789");
        // The class of the first validation image.
        let first = by_devkit(490).unwrap();
        assert_eq!((first.wnid, all().iter().position(|class| class.wnid == first.wnid)), ("n01751748", Some(65)));
        assert_eq!(by_wnid("n02119789").unwrap().words, "kit fox, Vulpes macrotis");
        assert!(by_devkit(0).is_none() && by_devkit(1001).is_none() && by_wnid("n00000000").is_none());
    }
}
