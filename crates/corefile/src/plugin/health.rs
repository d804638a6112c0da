//! `health [ADDRESS] { lameduck DURATION }`: where `/health` answers, `:8080` by default, and for how long the process goes
//! on at its end, 0s by default.

use serde::Serialize;

use super::Settings;
use crate::reader::{Reader, Set};
use crate::{GoDuration, Stanza};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    pub address: String,
    pub lameduck: GoDuration,
}

const OPTIONS: &[&str] = &["lameduck"];

impl Settings for Health {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Health { address: ":8080".into(), lameduck: GoDuration::ZERO };
        while reader.stanza() {
            if let Some(address) = reader.at_most_one("an address") {
                settings.address.set(reader.listen(address));
            }
            while let Some(option) = reader.option() {
                match option.text.as_str() {
                    "lameduck" => {
                        let Some(token) = reader.sole("a duration") else { continue };
                        settings.lameduck.set(reader.duration(token, None));
                    }
                    _ => reader.unknown(option, OPTIONS),
                }
            }
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        vec![Stanza::new("health").with(&self.address).option("lameduck", self.lameduck)]
    }
}
