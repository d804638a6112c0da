//! `bufsize [SIZE]`: the most octets of a UDP message, 1232 by default, from 512 to 4096. It lowers what a query offers.

use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::reader::Reader;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bufsize {
    pub size: u16,
}

impl Settings for Bufsize {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Bufsize { size: 1232 };
        while reader.first_stanza() {
            if let Some(token) = reader.at_most_one("a size") {
                settings.size = reader.number(token, 512..=4096).map_or(1232, |size| size as u16);
            }
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        vec![Stanza::new("bufsize").with(self.size)]
    }
}
