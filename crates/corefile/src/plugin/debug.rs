//! `debug`: the log says more, and a panic ends the process. It has neither arguments nor options.

use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::reader::Reader;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Debug {}

impl Settings for Debug {
    fn read(reader: &mut Reader<'_>) -> Self {
        while reader.stanza() {
            reader.nothing();
        }
        Debug {}
    }

    fn stanzas(&self) -> Vec<Stanza> {
        vec![Stanza::new("debug")]
    }
}
