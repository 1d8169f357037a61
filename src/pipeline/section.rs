//! Strict reading of one table: every key is asked for once, with its type and range, and what is left over is an error.

use super::Fault;
use super::place::Place;
use super::tree::{Node, Table, Value};
use std::fmt::{Debug, Display};
use std::ops::RangeInclusive;

/// A table that is being read. A table that is not there reads as an empty one.
pub(super) struct Section<'a> {
    path: String,
    table: Option<&'a Table>,
    place: Place,
    known: Vec<String>,
}

/// What other programs call a key, and its name here.
const ELSEWHERE: [(&str, &str); 12] = [
    ("lr", "learning_rate"),
    ("batch_size", "batch"),
    ("wd", "weight_decay"),
    ("num_epochs", "epochs"),
    ("gamma", "decay"),
    ("step_size", "decay_every"),
    ("image_size", "size"),
    ("img_size", "size"),
    ("root", "path"),
    ("hflip", "flip"),
    ("num_layers", "blocks"),
    ("channels", "width"),
];

/// A type that settings can have.
pub(super) trait Setting: Sized {
    /// What the value must be, for errors.
    const EXPECTED: &'static str;

    /// What a list of such values is, for errors.
    const EXPECTED_LIST: &'static str = "a list of other values";

    /// What a value in a range is, for errors that say the range.
    const EXPECTED_WITHIN: &'static str = "a number";

    /// The value, if the node has the type.
    fn read(node: &Node) -> Option<Self>;

    /// What may have been meant by another value, as it is to be written.
    fn meant(_: &Value) -> Option<String> {
        None
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "a text";
    fn read(node: &Node) -> Option<Self> {
        if let Value::Text(text) = &node.value { Some(text.clone()) } else { None }
    }
    fn meant(value: &Value) -> Option<String> {
        matches!(value, Value::Integer(_) | Value::Number(_) | Value::Boolean(_))
            .then(|| format!("\"{}\"", value.describe()))
    }
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";
    fn read(node: &Node) -> Option<Self> {
        if let Value::Boolean(flag) = node.value { Some(flag) } else { None }
    }
    fn meant(value: &Value) -> Option<String> {
        let written = if let Value::Text(text) = value { text.to_lowercase() } else { value.describe() };
        match written.as_str() {
            "true" | "yes" | "on" | "1" => Some("true".into()),
            "false" | "no" | "off" | "0" => Some("false".into()),
            _ => None,
        }
    }
}

impl Setting for u64 {
    const EXPECTED: &'static str = "a whole number, 0 or more";
    const EXPECTED_LIST: &'static str = "a list of whole numbers";
    const EXPECTED_WITHIN: &'static str = "a whole number";
    fn read(node: &Node) -> Option<Self> {
        if let Value::Integer(number) = node.value { number.try_into().ok() } else { None }
    }
    fn meant(value: &Value) -> Option<String> {
        let number = written_number(value)?;
        ((0.0..9e15).contains(&number) && number.fract() == 0.0).then(|| format!("{number:.0}"))
    }
}

impl Setting for usize {
    const EXPECTED: &'static str = u64::EXPECTED;
    const EXPECTED_LIST: &'static str = u64::EXPECTED_LIST;
    const EXPECTED_WITHIN: &'static str = u64::EXPECTED_WITHIN;
    fn read(node: &Node) -> Option<Self> {
        u64::read(node)?.try_into().ok()
    }
    fn meant(value: &Value) -> Option<String> {
        u64::meant(value)
    }
}

impl Setting for f64 {
    const EXPECTED: &'static str = "a number that is finite";
    const EXPECTED_LIST: &'static str = "a list of numbers that are finite";
    fn read(node: &Node) -> Option<Self> {
        match node.value {
            Value::Integer(number) => Some(number as f64),
            Value::Number(number) if number.is_finite() => Some(number),
            _ => None,
        }
    }
    fn meant(value: &Value) -> Option<String> {
        written_number(value).map(|number| format!("{number:?}"))
    }
}

/// The number that a text or a number stands for.
fn written_number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Text(text) => text.trim().replace(',', ".").parse().ok()?,
        Value::Number(number) => *number,
        _ => return None,
    };
    f64::is_finite(number).then_some(number)
}

impl<T: Setting> Setting for Vec<T> {
    const EXPECTED: &'static str = T::EXPECTED_LIST;
    fn read(node: &Node) -> Option<Self> {
        if let Value::List(items) = &node.value { items.iter().map(T::read).collect() } else { None }
    }
}

impl<'a> Section<'a> {
    /// Begins with the whole file.
    pub fn root(table: &'a Table) -> Self {
        Self { path: String::new(), table: Some(table), place: table.place.clone(), known: Vec::new() }
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    fn node(&mut self, key: &str) -> Option<&'a Node> {
        self.known.push(key.into());
        self.table?.get(key)
    }

    /// The place of a key's value, or of the table where the key is missing.
    pub fn place(&self, key: &str) -> Place {
        self.table.and_then(|table| table.get(key)).map_or_else(|| self.place.clone(), |node| node.place.clone())
    }

    /// A fault at a key's value.
    pub fn fault(&self, key: &str, message: impl Display) -> Fault {
        Fault::new(self.place(key), format!("`{}` {message}", self.full(key)))
    }

    /// Whether the table itself is written.
    pub fn is_there(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the key is written.
    pub fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.get(key).is_some())
    }

    /// The keys that are written here.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.table.into_iter().flat_map(|table| table.entries.iter().map(|entry| entry.key.as_str()))
    }

    /// The table under a key.
    pub fn section(&mut self, key: &str) -> Result<Section<'a>, Fault> {
        let path = self.full(key);
        let found = self.node(key);
        let table = match found.map(|node| &node.value) {
            None => None,
            Some(Value::Table(table)) => Some(table),
            Some(other) => return Err(self.fault(key, format!("must be a table, not {}", other.describe()))),
        };
        Ok(Section { path, place: self.place(key), table, known: Vec::new() })
    }

    /// The items of a list under a key that may be missing.
    pub fn list(&mut self, key: &str) -> Result<Option<&'a [Node]>, Fault> {
        match self.node(key).map(|node| &node.value) {
            None => Ok(None),
            Some(Value::List(items)) => Ok(Some(items)),
            Some(other) => Err(self.fault(key, format!("must be a list, not {}", other.describe()))),
        }
    }

    /// A table that is an item of a list; `path` is what errors call it.
    pub fn item(path: String, table: &'a Table, place: Place) -> Self {
        Self { path, place, table: Some(table), known: Vec::new() }
    }

    /// The value of a key that may be missing.
    pub fn optional<T: Setting>(&mut self, key: &str) -> Result<Option<T>, Fault> {
        self.optional_as(key, T::EXPECTED)
    }

    /// The value of a key that may be missing; errors say what it must be.
    pub fn optional_as<T: Setting>(&mut self, key: &str, expected: &str) -> Result<Option<T>, Fault> {
        let Some(node) = self.node(key) else { return Ok(None) };
        if let Some(value) = T::read(node) {
            return Ok(Some(value));
        }
        let fault = self.fault(key, format!("must be {expected}, not {}", node.value.describe()));
        Err(match T::meant(&node.value) {
            Some(meant) => fault.hint(format!("write `{key} = {meant}`")),
            None => fault,
        })
    }

    /// The value of a key, or a default.
    pub fn get<T: Setting>(&mut self, key: &str, default: T) -> Result<T, Fault> {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    /// A value that must lie in a range.
    pub fn within<T>(&mut self, key: &str, default: T, range: RangeInclusive<T>) -> Result<T, Fault>
    where
        T: Setting + PartialOrd + Debug,
    {
        let (least, most) = (range.start(), range.end());
        let expected = format!("{} between {least:?} and {most:?}", T::EXPECTED_WITHIN);
        let value = self.optional_as(key, &expected)?.unwrap_or(default);
        if range.contains(&value) {
            return Ok(value);
        }
        Err(self.fault(key, format!("is {value:?}, but must lie between {least:?} and {most:?}")))
    }

    /// One of several words.
    pub fn choice<T: Copy>(&mut self, key: &str, default: T, choices: &[(&str, T)]) -> Result<T, Fault> {
        let Some(word) = self.optional::<String>(key)? else { return Ok(default) };
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == word) {
            return Ok(*value);
        }
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let fault = self.fault(key, format!("is \"{word}\", but must be one of {}", names.join(", ")));
        Err(fault.suggest_like(&word, choices.iter().map(|(name, _)| *name)))
    }

    /// Ends the reading: a key that nobody asked for is an error.
    pub fn finish(self) -> Result<(), Fault> {
        let Some(table) = self.table else { return Ok(()) };
        let unknown = table.entries.iter().find(|entry| !self.known.contains(&entry.key));
        unknown.map_or(Ok(()), |entry| {
            let fault = Fault::new(entry.place.clone(), format!("unknown key `{}`", self.full(&entry.key)));
            let elsewhere =
                ELSEWHERE.iter().find(|(other, own)| *other == entry.key && self.known.iter().any(|key| key == own));
            if let Some((_, own)) = elsewhere {
                return Err(fault.hint(format!("here it is `{}`", self.full(own))));
            }
            let known: Vec<String> = self.known.iter().map(|key| self.full(key)).collect();
            Err(fault.suggest(&self.full(&entry.key), known.iter().map(String::as_str)))
        })
    }
}
