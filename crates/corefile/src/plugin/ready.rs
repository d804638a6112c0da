//! `ready [ADDRESS] { monitor until-ready|continuously }`: where `/ready` answers, `:8181` by default, and whether a plugin
//! that was ready is asked again; by default it isn't.

use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::reader::{Reader, Set};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    pub address: String,
    pub monitor: Monitor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Monitor {
    UntilReady,
    Continuously,
}

const OPTIONS: &[&str] = &["monitor"];

impl Settings for Ready {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Ready { address: ":8181".into(), monitor: Monitor::UntilReady };
        while reader.only_stanza() {
            if let Some(address) = reader.at_most_one("an address") {
                settings.address.set(reader.listen(address));
            }
            while let Some(option) = reader.option() {
                match option.text.as_str() {
                    "monitor" => {
                        let Some(token) = reader.sole("until-ready or continuously") else { continue };
                        settings.monitor.set(match token.text.as_str() {
                            "until-ready" => Some(Monitor::UntilReady),
                            "continuously" => Some(Monitor::Continuously),
                            _ => reader.bad(token, "until-ready or continuously"),
                        });
                    }
                    _ => reader.unknown(option, OPTIONS),
                }
            }
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let monitor = match self.monitor {
            Monitor::UntilReady => "until-ready",
            Monitor::Continuously => "continuously",
        };
        vec![Stanza::new("ready").with(&self.address).option("monitor", monitor)]
    }
}
