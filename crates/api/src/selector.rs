//! Label selectors (text and object form) and field selectors: parsing and matching. Not responsible for which field
//! labels a kind has.

use std::collections::BTreeSet;

use serde_json::Value;

mod label_text;

/// Why a selector isn't one, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("unable to parse requirement: {0}")]
    Requirement(String),
    #[error("{0}")]
    Syntax(String),
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
    #[error("invalid selector: '{selector}'; can't understand '{part}'")]
    FieldSyntax { selector: String, part: String },
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
}

/// What one requirement asks of a label's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

/// One label and what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
}

/// Requirements that must all hold. The default one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(LabelSelector { requirements: label_text::parse(text)?, nothing: false })
    }

    /// meta/v1 LabelSelector. Absent selects nothing; an empty object selects everything.
    pub fn from_object(object: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(object) = object.filter(|o| !o.is_null()) else {
            return Ok(LabelSelector { requirements: Vec::new(), nothing: true });
        };
        let mut selector = LabelSelector::from_labels(&object["matchLabels"]);
        for expression in object["matchExpressions"].as_array().into_iter().flatten() {
            let text = |key: &str| expression[key].as_str().unwrap_or_default().to_owned();
            let values = || {
                let values = expression["values"].as_array().into_iter().flatten();
                values.filter_map(Value::as_str).map(str::to_owned).collect()
            };
            let operator = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Operator::In(values()),
                "NotIn" => Operator::NotIn(values()),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError::Operator(other.to_owned())),
            };
            selector.requirements.push(Requirement { key: text("key"), operator });
        }
        Ok(selector)
    }

    /// A plain map, as in a Service's or ReplicationController's `spec.selector`: every pair must be there.
    pub fn from_labels(labels: &Value) -> Self {
        let pairs = labels.as_object().into_iter().flatten();
        let requirements = pairs.map(|(key, value)| {
            let value = value.as_str().unwrap_or_default().to_owned();
            Requirement { key: key.clone(), operator: Operator::In([value].into()) }
        });
        LabelSelector { requirements: requirements.collect(), nothing: false }
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// `labels` is `metadata.labels`, absent or null for none.
    pub fn matches(&self, labels: &Value) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels[&r.key].as_str()))
    }
}

impl std::str::FromStr for LabelSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        LabelSelector::parse(text)
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|v| values.contains(v)),
            Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(bound) => number().is_some_and(|n| n > *bound),
            Operator::LessThan(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

/// `metadata.name=a,spec.type!=b`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub terms: Vec<FieldTerm>,
}

/// One field label and the value it must have, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub label: String,
    pub value: String,
    pub equal: bool,
}

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        let mut parts = split_unescaped(text);
        parts.sort_unstable();
        for part in parts {
            if part.is_empty() {
                continue;
            }
            let mistake = || SelectorError::FieldSyntax { selector: text.to_owned(), part: part.to_owned() };
            let at = part.find(['=', '!']).ok_or_else(mistake)?;
            let (label, rest) = part.split_at(at);
            let (equal, value) = match rest.strip_prefix("!=") {
                Some(value) => (false, value),
                None => (true, rest.strip_prefix("==").or(rest.strip_prefix('=')).ok_or_else(mistake)?),
            };
            terms.push(FieldTerm { label: label.to_owned(), value: unescape(value)?, equal });
        }
        Ok(FieldSelector { terms })
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that a label must have, if the selector fixes it: `metadata.name=x` needs no list.
    pub fn exact(&self, label: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.label == label).map(|t| t.value.as_str())
    }

    /// `value_of` answers with a field's value, empty when absent.
    pub fn matches(&self, mut value_of: impl FnMut(&str) -> String) -> bool {
        self.terms.iter().all(|t| (value_of(&t.label) == t.value) == t.equal)
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Backslash, comma and equals sign may be escaped, and must be in values.
fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::new();
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                Some(other) => return Err(SelectorError::Escape(format!("\\{other}"))),
                None => return Err(SelectorError::Escape("\\".to_owned())),
            },
            '=' => {
                let why = format!("invalid field selector: unescaped character in value: {}", u32::from(character));
                return Err(SelectorError::Syntax(why));
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(selector: &str, labels: Value) -> bool {
        LabelSelector::parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn every_operator() {
        let labels = json!({"app": "a", "tier": "web", "n": "5", "empty": ""});
        for yes in [
            "",
            "app=a",
            "app==a",
            "app!=b",
            "other!=b",
            "app in (a,b)",
            "app notin (b)",
            "missing notin (b)",
            "app",
            "!missing",
            "n>4",
            "n<6",
            "app=a,tier=web",
            "empty=",
            " app = a , tier in ( web ) ",
            "empty in ()",
            "a.io/b notin (x)",
        ] {
            assert!(selects(yes, labels.clone()), "{yes}");
        }
        for no in
            ["app=b", "app!=a", "app in (b)", "app notin (a,b)", "missing", "!app", "n>5", "n<5", "app=a,x", "app>1"]
        {
            assert!(!selects(no, labels.clone()), "{no}");
        }
    }

    #[test]
    fn mistakes_in_upstreams_words() {
        let error = |t: &str| LabelSelector::parse(t).unwrap_err().to_string();
        assert_eq!(error("a=b,"), "found '', expected: identifier after ','");
        assert_eq!(error("a b"), "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt");
        assert_eq!(error("a in b"), "unable to parse requirement: found 'b' expected: '('");
        assert_eq!(error("a in (b"), "unable to parse requirement: found '', expected: ',' or ')'");
        assert_eq!(error("=a"), "found '=', expected: !, identifier, or 'end of string'");
        assert_eq!(error("a=b c"), "found 'c', expected: ',' or 'end of string'");
        assert!(error("a=b/c").contains("Invalid value"), "{}", error("a=b/c"));
        assert!(error("-=b").starts_with("unable to parse requirement: <nil>: Invalid value: \"-\""));
    }

    #[test]
    fn object_form() {
        let object = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "t", "operator": "In", "values": ["x", "y"]}, {"key": "z", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::from_object(Some(&object)).unwrap();
        assert!(selector.matches(&json!({"a": "b", "t": "y"})));
        assert!(!selector.matches(&json!({"a": "b", "t": "y", "z": ""})));
        assert!(LabelSelector::from_object(Some(&json!({}))).unwrap().matches(&Value::Null));
        assert!(!LabelSelector::from_object(None).unwrap().matches(&json!({"a": "b"})));
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Like"}]});
        assert_eq!(
            LabelSelector::from_object(Some(&bad)).unwrap_err().to_string(),
            "\"Like\" is not a valid label selector operator"
        );
    }

    #[test]
    fn field_selectors() {
        let selector = FieldSelector::parse("metadata.name=a,spec.type!=b,x==c\\,d").unwrap();
        assert_eq!(selector.exact("metadata.name"), Some("a"));
        assert_eq!(selector.exact("spec.type"), None);
        let value = |label: &str| match label {
            "metadata.name" => "a".to_owned(),
            "x" => "c,d".to_owned(),
            _ => String::new(),
        };
        assert!(selector.matches(value));
        assert_eq!(FieldSelector::parse("a").unwrap_err().to_string(), "invalid selector: 'a'; can't understand 'a'");
        assert!(FieldSelector::parse("a=b\\x").is_err());
        assert!(FieldSelector::parse("").unwrap().is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,40}") {
            let _ = LabelSelector::parse(&text);
            let _ = FieldSelector::parse(&text);
        }
    }
}
