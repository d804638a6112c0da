//! `local { localhost_prefix on|off }`: answers for localhost and the loopback (RFC 6761), also for `localhost.` before other
//! domains unless that is off.

use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::reader::{Reader, Set};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Local {
    pub localhost_prefix: bool,
}

const OPTIONS: &[&str] = &["localhost_prefix"];

impl Settings for Local {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Local { localhost_prefix: true };
        while reader.stanza() {
            reader.nothing();
            while let Some(option) = reader.option() {
                match option.text.as_str() {
                    "localhost_prefix" => {
                        let Some(token) = reader.sole("on or off") else { continue };
                        settings.localhost_prefix.set(match token.text.as_str() {
                            "on" => Some(true),
                            "off" => Some(false),
                            _ => reader.bad(token, "on or off"),
                        });
                    }
                    _ => reader.unknown(option, OPTIONS),
                }
            }
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        vec![Stanza::new("local").option("localhost_prefix", if self.localhost_prefix { "on" } else { "off" })]
    }
}
