//! `root PATH`: the folder that relative paths of other plugins start from. The last of several counts.

use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::reader::Reader;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Root {
    pub path: String,
}

impl Settings for Root {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Root::default();
        while reader.stanza() {
            if let Some(path) = reader.one("a folder") {
                settings.path.clone_from(&path.text);
            }
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        vec![Stanza::new("root").with(&self.path)]
    }
}
