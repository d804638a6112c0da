//! `any`: a short answer to queries for all types (RFC 8482). It has neither arguments nor options.

use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::reader::Reader;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Any {}

impl Settings for Any {
    fn read(reader: &mut Reader<'_>) -> Self {
        while reader.first_stanza() {
            reader.nothing();
            while let Some(option) = reader.option() {
                reader.unknown(option, &[]);
            }
        }
        Any {}
    }

    fn stanzas(&self) -> Vec<Stanza> {
        vec![Stanza::new("any")]
    }
}
