//! What Go says of a text that isn't JSON: clients have been shown these words for years. Not responsible for parsing.

use crate::field::quoted;

/// The first mistake in a text, in the words of Go's encoding/json; `None` where there is none.
pub fn mistake(text: &[u8]) -> Option<String> {
    match (Reader { rest: text }).document() {
        Ok(()) => None,
        Err(Mistake::End) => Some("unexpected end of JSON input".to_owned()),
        Err(Mistake::Byte(byte, place)) => Some(format!("invalid character {} {place}", shown(byte))),
    }
}

enum Mistake {
    /// The text ends too soon.
    End,
    /// A byte that can't be here, and where that is.
    Byte(u8, String),
}

struct Reader<'t> {
    rest: &'t [u8],
}

impl Reader<'_> {
    fn document(&mut self) -> Result<(), Mistake> {
        // What is open, by the byte that opened it.
        let mut open: Vec<u8> = Vec::new();
        loop {
            if self.value(&mut open)? {
                continue;
            }
            loop {
                let Some(container) = open.last() else { return self.end() };
                match (container, self.word()?) {
                    (b'{', b',') => {
                        let first = self.word()?;
                        self.key(first)?;
                        break;
                    }
                    (b'[', b',') => break,
                    (b'{', b'}') | (b'[', b']') => drop(open.pop()),
                    (b'{', byte) => return bad(byte, "after object key:value pair"),
                    (_, byte) => return bad(byte, "after array element"),
                }
            }
        }
    }

    /// Reads a value, or opens one; answers whether another has to follow at once.
    fn value(&mut self, open: &mut Vec<u8>) -> Result<bool, Mistake> {
        match self.word()? {
            b'{' => match self.word()? {
                b'}' => {}
                first => {
                    self.key(first)?;
                    open.push(b'{');
                    return Ok(true);
                }
            },
            b'[' => {
                self.skip_spaces();
                if self.rest.first() != Some(&b']') {
                    open.push(b'[');
                    return Ok(true);
                }
                self.next()?;
            }
            b'"' => self.string()?,
            first @ (b'-' | b'0'..=b'9') => self.number(first)?,
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            byte => return bad(byte, "looking for beginning of value"),
        }
        Ok(false)
    }

    fn end(&mut self) -> Result<(), Mistake> {
        match self.word() {
            Ok(byte) => bad(byte, "after top-level value"),
            Err(_) => Ok(()),
        }
    }

    /// A key and its colon.
    fn key(&mut self, first: u8) -> Result<(), Mistake> {
        if first != b'"' {
            return bad(first, "looking for beginning of object key string");
        }
        self.string()?;
        match self.word()? {
            b':' => Ok(()),
            byte => bad(byte, "after object key"),
        }
    }

    /// The rest of a string.
    fn string(&mut self) -> Result<(), Mistake> {
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => match self.next()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let byte = self.next()?;
                            if !byte.is_ascii_hexdigit() {
                                return bad(byte, "in \\u hexadecimal character escape");
                            }
                        }
                    }
                    byte => return bad(byte, "in string escape code"),
                },
                byte if byte < 0x20 => return bad(byte, "in string literal"),
                _ => {}
            }
        }
    }

    /// The rest of a number; what follows it is not its concern.
    fn number(&mut self, first: u8) -> Result<(), Mistake> {
        let first = if first == b'-' { self.next()? } else { first };
        match first {
            b'0' => {}
            b'1'..=b'9' => self.skip_digits(),
            byte => return bad(byte, "in numeric literal"),
        }
        if self.rest.first() == Some(&b'.') {
            self.next()?;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.rest.first(), Some(b'e' | b'E')) {
            self.next()?;
            if matches!(self.rest.first(), Some(b'+' | b'-')) {
                self.next()?;
            }
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    /// At least one digit.
    fn digits(&mut self, place: &str) -> Result<(), Mistake> {
        let byte = self.next()?;
        if !byte.is_ascii_digit() {
            return bad(byte, place);
        }
        self.skip_digits();
        Ok(())
    }

    /// The rest of a word of which the first letter is read.
    fn literal(&mut self, word: &str) -> Result<(), Mistake> {
        for expected in word.bytes().skip(1) {
            let byte = self.next()?;
            if byte != expected {
                return bad(byte, &format!("in literal {word} (expecting {})", shown(expected)));
            }
        }
        Ok(())
    }

    fn skip_digits(&mut self) {
        self.rest = after(self.rest, u8::is_ascii_digit);
    }

    fn skip_spaces(&mut self) {
        self.rest = after(self.rest, |byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
    }

    /// The next byte that is no space.
    fn word(&mut self) -> Result<u8, Mistake> {
        self.skip_spaces();
        self.next()
    }

    fn next(&mut self) -> Result<u8, Mistake> {
        let (first, rest) = self.rest.split_first().ok_or(Mistake::End)?;
        self.rest = rest;
        Ok(*first)
    }
}

fn after(text: &[u8], skipped: impl Fn(&u8) -> bool) -> &[u8] {
    let from = text.iter().position(|byte| !skipped(byte)).unwrap_or(text.len());
    &text[from..]
}

fn bad<T>(byte: u8, place: &str) -> Result<T, Mistake> {
    Err(Mistake::Byte(byte, place.to_owned()))
}

/// A byte as Go shows it, which takes it for a character.
fn shown(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        byte => format!("'{}'", quoted(&char::from(byte).to_string()).trim_matches('"')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_mistake_is_named_as_go_names_it() {
        let cases = [
            ("", "unexpected end of JSON input"),
            ("{\"a\":", "unexpected end of JSON input"),
            ("nonsense", "invalid character 'o' in literal null (expecting 'u')"),
            ("spec", "invalid character 's' looking for beginning of value"),
            ("{a: 1}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("01", "invalid character '1' after top-level value"),
            ("-a", "invalid character 'a' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1e+x", "invalid character 'x' in exponent of numeric literal"),
            ("\"\\q\"", "invalid character 'q' in string escape code"),
            ("\"\\u00g0\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
        ];
        for (text, expected) in cases {
            assert_eq!(mistake(text.as_bytes()).as_deref(), Some(expected), "{text}");
        }
        let expected = "invalid character '\\u0081' looking for beginning of value";
        assert_eq!(mistake(&[0x81]).as_deref(), Some(expected));
    }

    #[test]
    fn what_is_json_has_no_mistake() {
        for text in
            ["{}", " [ ] ", "[[],{}]", "{\"a\":{\"b\":[1,-0.5e+3,\"\\u00e9\\n\",null,true,false]}}", "\"x\"", "0"]
        {
            assert_eq!(mistake(text.as_bytes()), None, "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(mistake(deep.as_bytes()).as_deref(), Some("unexpected end of JSON input"));
    }

    /// A mistake is found exactly where there is one, whatever the text: serde_json is the judge.
    #[test]
    fn what_another_parser_refuses_has_a_mistake_and_nothing_else() {
        const PIECES: &[&str] = &[
            "{", "}", "[", "]", ":", ",", "\"", "\"a\"", "\\", "\\u00e", "0", "1", "-", ".", "e", "+", "true", "nul",
            " ", "x",
        ];
        let mut seed = 1_u64;
        let mut accepted = 0;
        for _ in 0..200_000 {
            let mut text = String::new();
            for _ in 0..1 + seed % 9 {
                // Knuth's MMIX numbers; the upper bits are the random ones.
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(PIECES[(seed >> 33) as usize % PIECES.len()]);
            }
            let judged = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            assert_eq!(mistake(text.as_bytes()).is_none(), judged, "{text}");
            accepted += usize::from(judged);
        }
        assert!(accepted > 1000, "{accepted}");
    }
}
