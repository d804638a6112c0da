//! `cancel [DURATION]`: how long a query may take, 5001ms by default, more than nothing.

use serde::Serialize;

use super::Settings;
use crate::reader::{Reader, Set};
use crate::{GoDuration, Stanza};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cancel {
    pub timeout: GoDuration,
}

const DEFAULT: GoDuration = GoDuration::from_millis(5001);

impl Settings for Cancel {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Cancel { timeout: DEFAULT };
        while reader.stanza() {
            settings.timeout = DEFAULT;
            if let Some(token) = reader.at_most_one("a duration") {
                match reader.duration(token, None) {
                    Some(timeout) if timeout <= GoDuration::ZERO => {
                        settings.timeout.set(reader.bad(token, "a duration above 0s"));
                    }
                    timeout => settings.timeout.set(timeout),
                }
            }
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        vec![Stanza::new("cancel").with(self.timeout)]
    }
}
