//! `file FILE [ZONES…] { reload DURATION; reload_by_mtime; fallthrough [ZONES…] }`: zones of a zone file, which is looked at
//! each minute by default (0s: never). Options hold for all of a server block's files that come after.

use serde::Serialize;

use super::Settings;
use crate::reader::{Reader, Set};
use crate::{GoDuration, Stanza, Zone};

/// All directives of a server block.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Files {
    pub files: Vec<File>,
    pub fallthrough: Vec<Zone>,
}

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct File {
    pub file: String,
    pub zones: Vec<Zone>,
    pub reload: GoDuration,
    /// Read again when the file is newer, and not when its SOA's serial is.
    pub reload_by_mtime: bool,
}

const OPTIONS: &[&str] = &["reload", "reload_by_mtime", "fallthrough"];

impl Settings for Files {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Files::default();
        let (mut reload, mut reload_by_mtime) = (GoDuration::from_secs(60), false);
        let mut tokens = Vec::new();
        while reader.stanza() {
            let Some(token) = reader.one("a zone file") else { continue };
            tokens.push(token);
            let arguments = reader.arguments();
            let (file, zones) = (token.text.clone(), reader.zones_or_block(&arguments));
            while let Some(option) = reader.option() {
                match option.text.as_str() {
                    "reload" => {
                        let Some(token) = reader.first("a duration") else { continue };
                        reload.set(reader.duration(token, None));
                    }
                    "reload_by_mtime" => reload_by_mtime = true,
                    "fallthrough" => settings.fallthrough = reader.fallthrough(),
                    "upstream" => {
                        reader.left_out(option);
                        reader.arguments();
                    }
                    _ => reader.unknown(option, OPTIONS),
                }
            }
            settings.files.push(File { file, zones, reload, reload_by_mtime });
        }
        // A file that is looked at again may come later.
        tokens.into_iter().for_each(|token| reader.look(token, reload == GoDuration::ZERO));
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let stanza = |file: &File| {
            let stanza = Stanza::new("file").with(&file.file).with_all(&file.zones).option("reload", file.reload);
            stanza.flag("reload_by_mtime", file.reload_by_mtime).list("fallthrough", &self.fallthrough)
        };
        self.files.iter().map(stanza).collect()
    }
}
