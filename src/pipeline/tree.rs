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
    /// What a user calls such a value.
    pub fn describe(&self) -> String {
        match self {
            Self::Text(_) => "a text".into(),
            Self::Integer(number) => number.to_string(),
            Self::Number(number) => format!("{number:?}"),
            Self::Boolean(flag) => flag.to_string(),
            Self::List(_) => "a list".into(),
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

impl Table {
    /// Reads a TOML text; `name` is what errors call it.
    pub fn parse(name: &str, text: &str) -> Result<Self, Fault> {
        let source = Arc::new(Source { name: name.into(), text: text.into() });
        let at = |offset| Place { source: Arc::clone(&source), offset };
        let parsed = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            Fault::new(at(offset), error.message().trim().replace('\n', ", "))
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
        let bare_word = value.starts_with(|first: char| first.is_alphanumeric() || "./~_".contains(first));
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
                .map_err(|_| Fault::new(place.clone(), "the number is too large"))?,
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
