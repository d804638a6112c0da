//! `minimal`: answers without the authority and additional sections that nobody needs. It has neither arguments nor options.

use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::reader::Reader;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Minimal {}

impl Settings for Minimal {
    fn read(reader: &mut Reader<'_>) -> Self {
        while reader.stanza() {
            reader.nothing();
        }
        Minimal {}
    }

    fn stanzas(&self) -> Vec<Stanza> {
        vec![Stanza::new("minimal")]
    }
}
