//! A parsed document that still has its duplicate keys. Not responsible for schemas.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{DecodeError, MAX_PATH, MAX_PROBLEMS, cut};

pub(super) enum Tree {
    Scalar(Value),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

/// One YAML document, as Kubernetes reads it: YAML 1.1, so `defaultMode: 0644` is octal and `yes` is true.
pub(super) fn from_yaml(bytes: &[u8]) -> Result<Tree, DecodeError> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        strict_booleans: false,
        legacy_octal_numbers: true,
    };
    serde_saphyr::from_slice_with_options(bytes, options).map_err(|e| DecodeError::Yaml(Box::new(e)))
}

impl Tree {
    /// The value, where the last of equal keys wins, and the paths that came more than once.
    pub(super) fn into_value(self) -> (Value, Vec<String>) {
        let mut duplicates = Vec::new();
        let value = self.convert(&mut String::new(), &mut duplicates);
        (value, duplicates)
    }

    fn convert(self, path: &mut String, duplicates: &mut Vec<String>) -> Value {
        let length = path.len();
        match self {
            Tree::Scalar(value) => value,
            Tree::List(elements) => {
                let mut list = Vec::with_capacity(elements.len());
                for (index, element) in elements.into_iter().enumerate() {
                    push_index(path, index);
                    list.push(element.convert(path, duplicates));
                    path.truncate(length);
                }
                Value::Array(list)
            }
            Tree::Map(entries) => {
                let mut map = Map::new();
                for (key, element) in entries {
                    push_key(path, &key);
                    let value = element.convert(path, duplicates);
                    if map.insert(key, value).is_some() && duplicates.len() < MAX_PROBLEMS {
                        let shown = cut(path);
                        if !duplicates.contains(&shown) {
                            duplicates.push(shown);
                        }
                    }
                    path.truncate(length);
                }
                Value::Object(map)
            }
        }
    }

    /// Where each path occurs, counted in keys from the start of the text. Overlong paths have no place.
    pub(super) fn places(&self) -> HashMap<String, Vec<usize>> {
        let mut places = HashMap::new();
        self.collect_places(&mut String::new(), &mut 0, &mut places);
        places
    }

    fn collect_places(&self, path: &mut String, count: &mut usize, places: &mut HashMap<String, Vec<usize>>) {
        let length = path.len();
        match self {
            Tree::Scalar(_) => {}
            Tree::List(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    push_index(path, index);
                    element.collect_places(path, count, places);
                    path.truncate(length);
                }
            }
            Tree::Map(entries) => {
                for (key, element) in entries {
                    *count += 1;
                    if length + key.len() >= MAX_PATH {
                        continue;
                    }
                    push_key(path, key);
                    places.entry(path.clone()).or_default().push(*count);
                    element.collect_places(path, count, places);
                    path.truncate(length);
                }
            }
        }
    }
}

fn push_index(path: &mut String, index: usize) {
    path.push_str(&format!("[{index}]"));
}

fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            list.push(element);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Tree::Map(map))
    }
}
