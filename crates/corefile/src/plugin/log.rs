//! `log [NAMES…] [FORMAT] { class CLASSES… }`: queries are logged, of all names and classes by default. The last of several
//! arguments is a format if it has a brace.

use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::reader::Reader;
use crate::stanza::can_be_written;

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Log {
    /// Domains, as they are written but for the last dot.
    pub names: Vec<String>,
    pub format: String,
    pub classes: Vec<Class>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    All,
    Success,
    Denial,
    Error,
}

const OPTIONS: &[&str] = &["class"];
const CLASSES: &[(&str, Class)] =
    &[("all", Class::All), ("success", Class::Success), ("denial", Class::Denial), ("error", Class::Error)];

const COMMON: &str = concat!(
    "{remote}:{port} - {>id} \"{type} {class} {name} {proto} {size} {>do} {>bufsize}\" ",
    "{rcode} {>rflags} {rsize} {duration}"
);

impl Settings for Vec<Log> {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut rules = Vec::new();
        while reader.stanza() {
            let mut arguments = reader.arguments();
            let mut format = COMMON.to_owned();
            if let [_, .., last] = &arguments[..]
                && last.text.contains('{')
            {
                let combined = format!("{COMMON} \"{{>opcode}}\"");
                format = last.text.replace("{common}", COMMON).replace("{combined}", &combined);
                if !can_be_written(&format) {
                    reader.bad::<()>(last, "a format without a backslash before a quote or at its end");
                }
                arguments.pop();
            }
            if let Some(name) = arguments.iter().find(|name| name.text.contains('{')) {
                reader.bad::<()>(name, "a name; a format needs a name before it, such as . for all");
            }
            let names = arguments.iter().map(|name| qualified(&name.text));
            let names = if arguments.is_empty() { vec![".".to_owned()] } else { names.collect() };
            let mut classes = Vec::new();
            while let Some(option) = reader.option() {
                match option.text.as_str() {
                    "class" => self::classes(reader, &mut classes),
                    _ => reader.unknown(option, OPTIONS),
                }
            }
            if classes.is_empty() {
                classes.push(Class::All);
            }
            classes.sort_unstable();
            classes.dedup();
            rules.push(Log { names, format, classes });
        }
        rules
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let name = |class: &Class| CLASSES.iter().find(|(_, known)| known == class).map_or("all", |(name, _)| name);
        let stanza = |log: &Log| {
            let stanza = Stanza::new("log").with_all(&log.names).with(&log.format);
            stanza.line("class", log.classes.iter().map(name))
        };
        self.iter().map(stanza).collect()
    }
}

fn classes(reader: &mut Reader<'_>, classes: &mut Vec<Class>) {
    for token in reader.some("a class: all, success, denial or error").unwrap_or_default() {
        match CLASSES.iter().find(|(name, _)| *name == token.text) {
            Some((_, class)) => classes.push(*class),
            None => {
                reader.bad::<()>(token, "a class: all, success, denial or error");
            }
        }
    }
}

fn qualified(name: &str) -> String {
    if name.ends_with('.') { name.to_owned() } else { format!("{name}.") }
}
