//! Continue tokens of paginated lists, in upstream's form, so that they survive a change of servers.

use api::go_json;
use api::status::Status;
use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::Answer;

/// Where a list goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Token {
    v: String,
    /// The revision of the first page; −1 goes on with whatever is there now.
    pub rv: i64,
    /// The first key of the next page, without the collection's prefix.
    pub start: String,
}

const VERSION: &str = "meta.k8s.io/v1";

/// As Go reads it: whatever the last character's spare bits are.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

impl Token {
    /// Goes on after a key.
    pub fn after(revision: i64, key: &str, prefix: &str) -> Self {
        let start = format!("{}\0", key.strip_prefix(prefix).unwrap_or(key));
        Token { v: VERSION.to_owned(), rv: revision, start }
    }

    /// The same place, at whatever revision is current then.
    pub fn inconsistent(&self) -> Self {
        Token { rv: -1, ..self.clone() }
    }

    pub fn encode(&self) -> String {
        // Three plain fields always serialize.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub fn decode(text: &str) -> Answer<Self> {
        let bad = |why: &str| {
            Box::new(Status::bad_request(format!("invalid continue token: continue key is not valid: {why}")))
        };
        let bytes = LENIENT.decode(text.trim_end_matches('=')).map_err(|error| bad(&error.to_string()))?;
        let token: Token = serde_json::from_slice(&bytes)
            .map_err(|error| bad(&go_json::mistake(&bytes).unwrap_or_else(|| error.to_string())))?;
        if token.v != VERSION {
            return Err(bad(&format!("server does not recognize this encoded version {}", token.v)));
        }
        if token.rv == 0 {
            return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if token.start.is_empty() {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
        }
        // A forged start must not lead out of the collection.
        if token.start.starts_with('/') || token.start.split('/').any(|part| part == "..") {
            return Err(bad(&token.start));
        }
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_forgeries_do_not_leave_the_collection() {
        let token = Token::after(7, "/registry/services/default/a", "/registry/services/");
        assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        assert_eq!(token.start, "default/a\0");
        for start in ["../secrets/", "/x", "a/../../b"] {
            let forged = Token { start: start.to_owned(), ..token.clone() };
            assert_eq!(Token::decode(&forged.encode()).unwrap_err().code, 400, "{start}");
        }
        assert!(Token::decode("%%").is_err());
        let why = "invalid continue token: continue key is not valid: invalid character '\\u0081' looking for beginning \
                   of value";
        assert_eq!(Token::decode("garbage").unwrap_err().message, why);
    }
}
