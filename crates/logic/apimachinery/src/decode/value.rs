//! Values as serde sees them, with what serde_json's own reader leaves out: depth, keys that appear twice, keys
//! that are no text.

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::{borrow::Cow, fmt};

/// A YAML document: keys become text, whole floats whole numbers, as in sigs.k8s.io/yaml.
pub(super) struct Yaml(pub Value);

impl<'de> de::Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut state = State { depth_left: usize::MAX, whole_floats: true, ..State::default() };
        Node(&mut state).deserialize(deserializer).map(Self)
    }
}

/// What is carried along while a value is read.
#[derive(Default)]
pub(super) struct State {
    depth_left: usize,
    whole_floats: bool,
    path: Vec<Step>,
    /// Paths of the keys that appeared twice.
    pub duplicates: Vec<String>,
}

enum Step {
    Key(String),
    Index(usize),
}

const DUPLICATES_MAX: usize = 100;

impl State {
    /// For a value of at most this depth.
    pub fn with_depth(depth_left: usize) -> Self {
        Self { depth_left, ..Self::default() }
    }

    fn note_duplicate(&mut self) {
        if self.duplicates.len() == DUPLICATES_MAX {
            return;
        }
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Index(index) => text.push_str(&format!("[{index}]")),
                Step::Key(key) if text.is_empty() => text.push_str(key),
                Step::Key(key) => {
                    text.push('.');
                    text.push_str(key);
                }
            }
        }
        self.duplicates.push(text);
    }

    fn descend<E: de::Error>(&mut self) -> Result<(), E> {
        self.depth_left = self.depth_left.checked_sub(1).ok_or_else(|| E::custom("exceeded max depth"))?;
        Ok(())
    }
}

/// Reads one value.
pub(super) struct Node<'a>(pub &'a mut State);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if self.0.whole_floats && value.fract() == 0.0 && value.abs() < EXACT {
            return Ok((value as i64).into());
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number is not finite"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.0.descend()?;
        let mut list = Vec::new();
        loop {
            self.0.path.push(Step::Index(list.len()));
            let item = items.next_element_seed(Node(self.0))?;
            self.0.path.pop();
            match item {
                Some(item) => list.push(item),
                None => break,
            }
        }
        self.0.depth_left += 1;
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.0.descend()?;
        let mut map = Map::new();
        while let Some(Key(key)) = entries.next_key()? {
            let key = key.into_owned();
            self.0.path.push(Step::Key(key.clone()));
            if map.contains_key(&key) {
                self.0.note_duplicate();
            }
            let value = entries.next_value_seed(Node(self.0))?;
            self.0.path.pop();
            map.insert(key, value);
        }
        self.0.depth_left += 1;
        Ok(Value::Object(map))
    }
}

/// A key; YAML's numbers and booleans become their text.
struct Key<'a>(Cow<'a, str>);

impl<'de> de::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Key<'de>, E> {
        Ok(Key(value.into()))
    }
    fn visit_str<E>(self, value: &str) -> Result<Key<'de>, E> {
        Ok(Key(value.to_owned().into()))
    }
    fn visit_bool<E>(self, value: bool) -> Result<Key<'de>, E> {
        Ok(Key(value.to_string().into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Key<'de>, E> {
        Ok(Key(value.to_string().into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Key<'de>, E> {
        Ok(Key(value.to_string().into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Key<'de>, E> {
        Ok(Key(value.to_string().into()))
    }
}
