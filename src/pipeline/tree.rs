//! The values of a pipeline file, each with the place that it was written at.

use super::Fault;
use super::place::{Place, Source};
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub value: Value,
    pub place: Place,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Number(f64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
}

impl Value {
    /// The value as a user has written it, with the kind where that could be missed.
    pub fn describe(&self) -> String {
        const SHOWN: usize = 60;
        match self {
            Self::Text(text) => {
                let more = if text.chars().nth(SHOWN).is_some() { "…" } else { "" };
                format!("a text, {:?}{more}", text.chars().take(SHOWN).collect::<String>())
            }
            Self::Integer(number) => number.to_string(),
            Self::Number(number) => format!("{number:?}"),
            Self::Boolean(flag) => flag.to_string(),
            Self::List(items) if items.is_empty() => "an empty list".into(),
            Self::List(items) => {
                let more = if items.len() > 4 { ", …" } else { "" };
                let items: Vec<String> = items.iter().take(4).map(|item| item.value.describe()).collect();
                format!("the list [{}{more}]", items.join(", "))
            }
            Self::Table(_) => "a table".into(),
        }
    }

    fn to_toml(&self) -> toml::Value {
        match self {
            Self::Text(text) => toml::Value::String(text.clone()),
            Self::Integer(number) => toml::Value::Integer(*number),
            Self::Number(number) => toml::Value::Float(*number),
            Self::Boolean(flag) => toml::Value::Boolean(*flag),
            Self::List(items) => toml::Value::Array(items.iter().map(|item| item.value.to_toml()).collect()),
            Self::Table(table) => toml::Value::Table(table.to_toml()),
        }
    }
}

/// Keys and values in the order in which they were written.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub place: Place,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub place: Place,
    pub node: Node,
}

/// What is right where a line of `key = value` is no TOML: most often a value of another language.
fn meant(text: &str, offset: usize) -> Option<String> {
    let before = text.get(..offset)?;
    let line = text[before.rfind('\n').map_or(0, |end| end + 1)..].lines().next()?;
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.split('#').next()?.trim());
    let number = || value.parse::<f64>().ok().filter(|number| number.is_finite());
    match value {
        "" => Some(format!("a value is missing after `{key} =`")),
        "True" | "TRUE" | "yes" | "Yes" | "on" => Some(format!("write `{key} = true`")),
        "False" | "FALSE" | "no" | "No" | "off" => Some(format!("write `{key} = false`")),
        "None" | "null" | "none" => Some(format!("leave `{key}` out where it has no value")),
        "NaN" | "NAN" | "Inf" | "Infinity" | "-Infinity" => Some("a finite number is needed".into()),
        _ if number().is_some() => number().map(|number| format!("write `{key} = {number:?}`")),
        // A number and more is no text that lacks its quotes.
        _ if value.split_once(' ').is_some_and(|(first, _)| first.parse::<f64>().is_ok()) => None,
        _ if value.chars().all(|letter| letter.is_alphanumeric() || "./~_-: \\".contains(letter)) => {
            Some(format!("texts are quoted: `{key} = {}`", toml::Value::from(value)))
        }
        _ => None,
    }
}

impl Table {
    /// Reads a TOML text; `name` is what errors call it.
    pub fn parse(name: &str, text: &str) -> Result<Self, Fault> {
        let source = Arc::new(Source { name: name.into(), text: text.into() });
        let at = |offset| Place { source: Arc::clone(&source), offset };
        let parsed = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            let fault = Fault::new(at(offset), error.message().trim().replace('\n', ", "));
            let unreadable = !error.message().contains("duplicate key");
            match meant(text, offset).filter(|_| unreadable) {
                Some(hint) => fault.hint(hint),
                None => fault,
            }
        })?;
        Self::convert(parsed.get_ref(), at(parsed.span().start))
    }

    /// Reads one `--set a.b=value`; a value that is no TOML is taken as a text.
    pub fn parse_override(setting: &str) -> Result<Self, Fault> {
        let name = format!("--set {setting}");
        let Some((key, value)) = setting.split_once('=') else {
            let source = Arc::new(Source { name, text: setting.into() });
            return Err(Fault::new(Place { source, offset: 0 }, "no `=` in it")
                .hint("write `--set key=value`, as in `--set training.epochs=5`"));
        };
        let bare_word = value.starts_with(|first: char| first.is_alphanumeric() || "./~_$".contains(first));
        let quoted = toml::Value::String(value.into());
        Self::parse(&name, setting).or_else(|fault| match bare_word {
            true => Self::parse(&name, &format!("{key} = {quoted}")).map_err(|_| fault),
            false => Err(fault),
        })
    }

    fn convert(table: &DeTable<'_>, place: Place) -> Result<Self, Fault> {
        let at = |offset| Place { offset, ..place.clone() };
        let entries = table
            .iter()
            .map(|(key, value)| {
                let node = Node::convert(value.get_ref(), at(value.span().start))?;
                Ok(Entry { key: key.get_ref().to_string(), place: at(key.span().start), node })
            })
            .collect::<Result<_, Fault>>()?;
        Ok(Self { place, entries })
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// Puts the values of `other` over these, table by table.
    pub fn merge(&mut self, other: Self) {
        for entry in other.entries {
            match self.entries.iter_mut().find(|mine| mine.key == entry.key) {
                None => self.entries.push(entry),
                Some(mine) => match (&mut mine.node.value, entry.node.value) {
                    (Value::Table(mine), Value::Table(theirs)) => mine.merge(theirs),
                    (_, value) => mine.node = Node { value, place: entry.node.place },
                },
            }
        }
    }

    /// The values without their places.
    pub fn to_toml(&self) -> toml::Table {
        self.entries.iter().map(|entry| (entry.key.clone(), entry.node.value.to_toml())).collect()
    }
}

impl Node {
    fn convert(value: &DeValue<'_>, place: Place) -> Result<Self, Fault> {
        let at = |offset| Place { offset, ..place.clone() };
        let value = match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Boolean(flag) => Value::Boolean(*flag),
            DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix())
                .map(Value::Integer)
                .map_err(|_| Fault::new(place.clone(), format!("the number {} is too large", digits.as_str())))?,
            DeValue::Float(digits) => digits
                .as_str()
                .parse()
                .map(Value::Number)
                .map_err(|_| Fault::new(place.clone(), format!("`{}` is no number", digits.as_str())))?,
            DeValue::Datetime(_) => return Err(Fault::new(place, "no setting is a date")),
            DeValue::Array(items) => Value::List(
                items
                    .iter()
                    .map(|item| Self::convert(item.get_ref(), at(item.span().start)))
                    .collect::<Result<_, _>>()?,
            ),
            DeValue::Table(table) => Value::Table(Table::convert(table, place.clone())?),
        };
        Ok(Self { value, place })
    }
}
