//! `template CLASS TYPE [ZONES…] { match REGEXPS…; answer|additional|authority RECORDS…; rcode RCODE; ederror CODE [REASON];
//! fallthrough [ZONES…] }`: answers made of the question. Records are templates; of Go's language for these there is what is
//! in `Piece`. By default every name matches, and the response code is NOERROR.

mod text;

use serde::Serialize;

pub use self::text::{Field, Piece, Text};
use super::Settings;
use crate::reader::Reader;
use crate::token::Token;
use crate::{Pattern, Rcode, RecordClass, RecordType, Stanza, Zone};

/// One directive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Template {
    pub class: RecordClass,
    #[serde(rename = "type")]
    pub record_type: RecordType,
    pub zones: Vec<Zone>,
    /// The first that matches the name counts.
    #[serde(rename = "match")]
    pub patterns: Vec<Pattern>,
    pub answer: Vec<Text>,
    pub additional: Vec<Text>,
    pub authority: Vec<Text>,
    pub rcode: Rcode,
    pub ederror: Option<ExtendedError>,
    pub fallthrough: Vec<Zone>,
}

/// RFC 8914.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExtendedError {
    pub code: u16,
    pub reason: String,
}

const OPTIONS: &[&str] = &["match", "answer", "additional", "authority", "rcode", "ederror", "fallthrough"];

impl Settings for Vec<Template> {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut templates = Vec::new();
        while reader.stanza() {
            templates.extend(template(reader));
        }
        templates
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let stanza = |template: &Template| {
            let stanza = Stanza::new("template").with(template.class).with(template.record_type);
            let stanza = stanza.with_all(&template.zones).list("match", &template.patterns);
            let stanza = stanza.list("answer", &template.answer).list("additional", &template.additional);
            let stanza = stanza.list("authority", &template.authority).option("rcode", template.rcode);
            let stanza = match &template.ederror {
                Some(error) => stanza.line("ederror", [error.code.to_string(), error.reason.clone()]),
                None => stanza,
            };
            stanza.list("fallthrough", &template.fallthrough)
        };
        self.iter().map(stanza).collect()
    }
}

fn template(reader: &mut Reader<'_>) -> Option<Template> {
    let class = reader.one("a class and a type of records").and_then(|token| {
        RecordClass::parse(&token.text).or_else(|| reader.bad(token, "a class in capitals, such as IN or ANY"))
    });
    let record_type = class.and_then(|_| reader.one("a type of records")).and_then(|token| {
        RecordType::parse(&token.text).or_else(|| reader.bad(token, "a type of records in capitals, such as A or ANY"))
    });
    let arguments = reader.arguments();
    let mut template = Template {
        class: class.unwrap_or(RecordClass(255)),
        record_type: record_type.unwrap_or(RecordType(255)),
        zones: reader.zones_or_block(&arguments),
        patterns: Vec::new(),
        answer: Vec::new(),
        additional: Vec::new(),
        authority: Vec::new(),
        rcode: Rcode(0),
        ederror: None,
        fallthrough: Vec::new(),
    };
    while let Some(option) = reader.option() {
        read_option(reader, &mut template, option);
    }
    if template.patterns.is_empty() {
        template.patterns.extend(Pattern::parse(".*"));
    }
    Some(template)
}

fn read_option(reader: &mut Reader<'_>, template: &mut Template, option: &Token) {
    match option.text.as_str() {
        "match" => {
            for token in reader.some("regular expressions").unwrap_or_default() {
                template.patterns.extend(reader.pattern(token));
            }
        }
        "answer" => texts(reader, &mut template.answer),
        "additional" => texts(reader, &mut template.additional),
        "authority" => texts(reader, &mut template.authority),
        "rcode" => {
            if let Some(token) = reader.one("a response code") {
                let found = Rcode::parse(&token.text);
                let found = found.or_else(|| reader.bad(token, "a response code in capitals, such as NXDOMAIN"));
                template.rcode = found.unwrap_or(Rcode(0));
            }
        }
        "ederror" => template.ederror = extended_error(reader),
        "fallthrough" => template.fallthrough = reader.fallthrough(),
        "upstream" => {
            reader.left_out(option);
            reader.arguments();
        }
        "var" | "expr" => reader.unsupported(option, "use match: there are no expressions"),
        _ => reader.unknown(option, OPTIONS),
    }
}

fn texts(reader: &mut Reader<'_>, texts: &mut Vec<Text>) {
    for token in reader.some("a record in quotes").unwrap_or_default() {
        match Text::parse(&token.text) {
            Ok(text) => texts.push(text),
            Err(expected) => {
                reader.bad::<()>(token, expected);
            }
        }
    }
}

/// `CODE [REASON]`
fn extended_error(reader: &mut Reader<'_>) -> Option<ExtendedError> {
    let arguments = reader.some("a code of an extended error")?;
    if let Some(further) = arguments.get(2) {
        reader.excess(further, "a code and a reason");
    }
    let code = reader.unsigned(arguments.first()?, 0..=65535)?;
    let reason = arguments.get(1).map_or(String::new(), |token| token.text.clone());
    Some(ExtendedError { code: u16::try_from(code).ok()?, reason })
}
