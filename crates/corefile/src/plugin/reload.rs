//! `reload [INTERVAL] [JITTER]`: how often the Corefile is looked at, 30s by default, 2s at the least, give or take half of
//! the jitter, which is 15s by default, 1s at the least or 0, and at most half of the interval.

use serde::Serialize;

use super::Settings;
use crate::reader::{Reader, Set};
use crate::{GoDuration, Stanza};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reload {
    pub interval: GoDuration,
    pub jitter: GoDuration,
}

impl Settings for Reload {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Reload { interval: GoDuration::from_secs(30), jitter: GoDuration::from_secs(15) };
        while reader.first_stanza() {
            let arguments = reader.arguments();
            if let Some(interval) = arguments.first() {
                settings.interval.set(reader.duration(interval, Some(GoDuration::from_secs(2))));
            }
            if let Some(jitter) = arguments.get(1) {
                let value = reader.duration(jitter, None);
                if value.is_some_and(|value| value != GoDuration::ZERO && value < GoDuration::from_secs(1)) {
                    reader.bad::<()>(jitter, "0s, or a duration of 1s or more");
                }
                settings.jitter.set(value);
            }
            if let Some(further) = arguments.get(2) {
                reader.excess(further, "an interval and a jitter");
            }
        }
        let half = GoDuration::from_nanos(settings.interval.as_nanos() / 2);
        settings.jitter = settings.jitter.min(half);
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        // Half of the shortest interval is the shortest jitter, so what is printed is taken.
        vec![Stanza::new("reload").with(self.interval).with(self.jitter)]
    }
}
