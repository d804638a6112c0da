//! Domain names: labels in wire form, compared without case (RFC 1035 section 2.3.3, RFC 4343).

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// RFC 1035 section 2.3.4: a label's and a name's most octets, the name's counted as on the wire.
const LABEL_MAX: usize = 63;
const NAME_MAX: usize = 255;

/// A name without compression, its final zero octet left out, in the case it came in.
#[derive(Clone, Debug, Default)]
pub struct Name(Vec<u8>);

impl Name {
    /// The root.
    pub fn root() -> Self {
        Name::default()
    }

    /// Reads the presentation form; a final dot may be left out. `None` when a label or the whole is too long or empty.
    /// Escapes are not understood: no name of ours has any.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut name = Name::default();
        for label in text.split('.').filter(|_| !text.is_empty()) {
            name.push(label.as_bytes())?;
        }
        Some(name)
    }

    /// Appends a label at the root's end.
    pub fn push(&mut self, label: &[u8]) -> Option<()> {
        if label.is_empty() || label.len() > LABEL_MAX || self.0.len() + label.len() + 2 > NAME_MAX {
            return None;
        }
        self.0.push(label.len() as u8);
        self.0.extend_from_slice(label);
        Some(())
    }

    /// This name below another.
    pub fn under(&self, parent: &Name) -> Option<Name> {
        let joined = [self.0.as_slice(), parent.0.as_slice()].concat();
        (joined.len() < NAME_MAX).then_some(Name(joined))
    }

    /// The labels, the root's end last.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first()?;
            let (label, tail) = tail.split_at_checked(usize::from(*length))?;
            rest = tail;
            Some(label)
        })
    }

    /// How many labels it has.
    pub fn depth(&self) -> usize {
        self.labels().count()
    }

    /// Whether the name is the zone's or below it.
    pub fn is_in(&self, zone: &Name) -> bool {
        let Some(split) = self.0.len().checked_sub(zone.0.len()) else { return false };
        let mut at = 0;
        while at < split {
            at += 1 + usize::from(self.0[at]);
        }
        at == split && self.0[split..].eq_ignore_ascii_case(&zone.0)
    }

    /// The labels below `zone` when the name lies in it, in lower case, those nearest to the zone first.
    pub fn below(&self, zone: &Name) -> Option<Vec<String>> {
        let own: Vec<&[u8]> = self.labels().collect();
        let zone: Vec<&[u8]> = zone.labels().collect();
        let split = own.len().checked_sub(zone.len())?;
        let (relative, suffix) = own.split_at(split);
        let same = suffix.iter().zip(&zone).all(|(a, b)| a.eq_ignore_ascii_case(b));
        same.then(|| relative.iter().rev().map(|l| String::from_utf8_lossy(l).to_ascii_lowercase()).collect())
    }

    /// Octets on the wire, the final zero included.
    pub fn wire_len(&self) -> usize {
        self.0.len() + 1
    }

    /// The wire form without the final zero.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_ascii_lowercase().hash(state);
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Name::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no domain name")))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for label in self.labels() {
            for byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", *byte as char)?,
                    0x21..=0x7e => write!(f, "{}", *byte as char)?,
                    other => write!(f, "\\{other:03}")?,
                }
            }
            f.write_str(".")?;
        }
        if self.0.is_empty() { f.write_str(".") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_compare_without_case_and_keep_theirs() {
        let (upper, lower) = (Name::parse("MyApp.Default.").unwrap(), Name::parse("myapp.default").unwrap());
        assert_eq!(upper, lower);
        assert_eq!(upper.to_string(), "MyApp.Default.");
        let zone = Name::parse("default").unwrap();
        assert_eq!(upper.below(&zone), Some(vec!["myapp".to_owned()]));
        assert_eq!(upper.below(&Name::parse("other").unwrap()), None);
        assert_eq!(zone.below(&upper), None);
        assert!(upper.is_in(&zone) && zone.is_in(&zone) && zone.is_in(&Name::root()) && !zone.is_in(&upper));
        assert!(!Name::parse("mydefault").unwrap().is_in(&zone), "half a label is none");
    }

    #[test]
    fn what_is_too_long_is_no_name() {
        assert!(Name::parse(&"a".repeat(64)).is_none());
        assert!(Name::parse(&["a".repeat(63).as_str(); 4].join(".")).is_none());
        assert!(Name::parse(&["a".repeat(61).as_str(); 4].join(".")).is_some());
        assert!(Name::parse("a..b").is_none());
        assert_eq!(Name::parse(".").unwrap(), Name::root());
    }
}
