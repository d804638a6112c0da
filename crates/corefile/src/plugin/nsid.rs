//! `nsid [WORDS…]`: what the server calls itself (RFC 5001); the machine's name by default.

use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::reader::Reader;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Nsid {
    /// The machine's name if there is none.
    pub data: Option<String>,
}

impl Settings for Nsid {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Nsid::default();
        while reader.only_stanza() {
            let words: Vec<&str> = reader.arguments().into_iter().map(|word| word.text.as_str()).collect();
            settings.data = (!words.is_empty()).then(|| words.join(" "));
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        vec![Stanza::new("nsid").with_all(self.data.iter().flat_map(|data| data.split(' ')))]
    }
}
