//! `chaos [VERSION] [AUTHORS…]`: what TXT queries of class CH for `version.bind` and `authors.bind` are answered.

use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::reader::Reader;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Chaos {
    /// This program's own if there is none. Up to 255 octets.
    pub version: Option<String>,
    /// This program's own if there are none.
    pub authors: Vec<String>,
}

impl Settings for Chaos {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Chaos::default();
        while reader.first_stanza() {
            let mut words = reader.arguments().into_iter().map(|word| trimmed(&word.text));
            settings.version = words.next();
            settings.authors = words.collect();
            settings.authors.sort();
            settings.authors.dedup();
            while let Some(option) = reader.option() {
                reader.unknown(option, &[]);
            }
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        vec![Stanza::new("chaos").with_all(&self.version).with_all(&self.authors)]
    }
}

/// As much as fits into a string of DNS.
fn trimmed(text: &str) -> String {
    let end = text.floor_char_boundary(255);
    text[..end].to_owned()
}
