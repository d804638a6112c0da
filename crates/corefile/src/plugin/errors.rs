//! `errors [stdout] { stacktrace; consolidate DURATION REGEXP [LEVEL] [show_first] }`: errors are logged; those of a pattern
//! once in a while, with their number, at level `error` by default.

use serde::Serialize;

use super::Settings;
use crate::reader::Reader;
use crate::token::Token;
use crate::{GoDuration, Pattern, Stanza};

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Errors {
    /// Tell where a panic came from.
    pub stacktrace: bool,
    pub consolidate: Vec<Consolidate>,
}

/// Which errors are told together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Consolidate {
    pub period: GoDuration,
    pub pattern: Pattern,
    pub level: Level,
    /// The first of them is told at once.
    pub show_first: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Warning,
    Error,
    Info,
    Debug,
}

const OPTIONS: &[&str] = &["stacktrace", "consolidate"];
const CONSOLIDATE: &str = "a duration, a regular expression, perhaps a level and show_first";
const LEVELS: &[(&str, Level)] =
    &[("warning", Level::Warning), ("error", Level::Error), ("info", Level::Info), ("debug", Level::Debug)];

impl Settings for Errors {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut settings = Errors::default();
        while reader.only_stanza() {
            if let Some(file) = reader.at_most_one("stdout or nothing")
                && file.text != "stdout"
            {
                reader.bad::<()>(file, "stdout, which is the only place for it");
            }
            while let Some(option) = reader.option() {
                match option.text.as_str() {
                    "stacktrace" => settings.stacktrace = true,
                    "consolidate" => settings.consolidate.extend(consolidate(reader)),
                    _ => reader.unknown(option, OPTIONS),
                }
            }
        }
        settings
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let stanza = Stanza::new("errors").flag("stacktrace", self.stacktrace);
        vec![self.consolidate.iter().fold(stanza, |stanza, consolidate| {
            let level = LEVELS.iter().find(|(_, level)| *level == consolidate.level).map_or("error", |(name, _)| name);
            let mut words = vec![consolidate.period.to_string(), consolidate.pattern.to_string(), level.to_owned()];
            words.extend(consolidate.show_first.then(|| "show_first".to_owned()));
            stanza.line("consolidate", words)
        })]
    }
}

fn consolidate(reader: &mut Reader<'_>) -> Option<Consolidate> {
    let arguments = reader.arguments();
    let [period, pattern, options @ ..] = &arguments[..] else {
        reader.missing(CONSOLIDATE);
        return None;
    };
    let period = reader.duration(period, None);
    let pattern = reader.pattern(pattern);
    let (level, show_first) = consolidate_options(reader, options)?;
    Some(Consolidate { period: period?, pattern: pattern?, level, show_first })
}

fn consolidate_options(reader: &mut Reader<'_>, options: &[&Token]) -> Option<(Level, bool)> {
    let (mut level, mut show_first) = (None, false);
    if let Some(further) = options.get(2) {
        reader.excess(further, CONSOLIDATE);
        return None;
    }
    for option in options {
        match LEVELS.iter().find(|(name, _)| *name == option.text) {
            Some((_, found)) if level.is_none() && !show_first => level = Some(*found),
            Some(_) => return reader.bad(option, "show_first, after one level at the most"),
            None if option.text == "show_first" => show_first = true,
            None => return reader.bad(option, "warning, error, info, debug or show_first"),
        }
    }
    Some((level.unwrap_or(Level::Error), show_first))
}
