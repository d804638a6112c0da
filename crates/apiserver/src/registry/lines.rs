//! Encoded watch events that several watchers want in the same form, so that one of them encodes for all. Not
//! responsible for what a line says.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use api::Resource;
use bytes::Bytes;
use store::{Key, Revision};

/// How many lines are kept: watchers are seldom further apart.
const KEPT: usize = 128;
/// A longer line is not kept.
const LONGEST: usize = 64 * 1024;

/// The latest lines of watchers that see everything of their kind as it is.
#[derive(Default)]
pub struct Lines(Mutex<VecDeque<(Name, Bytes)>>);

/// What a line is about. One key may be served as several kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub revision: Revision,
    pub key: Key,
    pub group: &'static str,
    pub kind: &'static str,
}

impl Name {
    pub fn new(resource: &'static Resource, revision: Revision, key: &Key) -> Self {
        Name { revision, key: key.clone(), group: resource.group, kind: resource.kind }
    }
}

impl Lines {
    pub fn get(&self, name: &Name) -> Option<Bytes> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().find(|(kept, _)| kept == name).map(|(_, line)| line.clone())
    }

    pub fn keep(&self, name: Name, line: &Bytes) {
        if line.len() > LONGEST {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((name, line.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(revision: i64) -> Name {
        Name { revision: Revision(revision), key: "/registry/pods/a/b".into(), group: "", kind: "Pod" }
    }

    #[test]
    fn the_latest_lines_are_kept_if_they_are_short() {
        let lines = Lines::default();
        for revision in 0..200 {
            lines.keep(name(revision), &Bytes::from(revision.to_string()));
        }
        lines.keep(name(200), &Bytes::from(vec![b'x'; LONGEST + 1]));
        assert_eq!(lines.get(&name(199)).unwrap(), "199");
        assert_eq!(lines.get(&name(199 - KEPT as i64 + 1)).unwrap(), "72");
        assert!(lines.get(&name(71)).is_none() && lines.get(&name(200)).is_none());
        let other = Name { kind: "Event", ..name(199) };
        assert!(lines.get(&other).is_none(), "another kind's line is another");
    }
}
