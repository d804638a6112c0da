//! `loop`: notices when queries that are forwarded come back. It has neither arguments nor options.

use serde::Serialize;

use super::Settings;
use crate::reader::Reader;
use crate::{Stanza, Zone};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loop {
    /// Below which the queries are that look for one: the server block's first zone.
    pub zone: Zone,
}

impl Settings for Loop {
    fn read(reader: &mut Reader<'_>) -> Self {
        while reader.only_stanza() {
            reader.nothing();
        }
        Loop { zone: reader.around.zones.first().cloned().unwrap_or_else(Zone::root) }
    }

    fn stanzas(&self) -> Vec<Stanza> {
        vec![Stanza::new("loop")]
    }
}
