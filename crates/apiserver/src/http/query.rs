//! A request's query parameters. Not responsible for what they mean to a verb.

/// Decoded pairs in their order.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }

    /// The first value of a parameter.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Like `first`, but empty means absent, as Go's url.Values.Get has it.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.first(name).filter(|value| !value.is_empty())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A boolean the way Kubernetes reads one: present is true unless it says `false` or `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.first(name).is_some_and(|value| !matches!(value, "false" | "0"))
    }
}

/// Percent-decoding with `+` for a space; what isn't UTF-8 is replaced.
fn decode(text: &str) -> String {
    unescape(text, true)
}

/// One path segment.
pub fn decode_segment(text: &str) -> String {
    unescape(text, false)
}

fn unescape(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (byte, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
                continue;
            }
            (b'+', _) if plus => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_flags_read_as_upstream_reads_them() {
        let query = Query::parse("labelSelector=app%3Dweb%2Ctier+in+%28a%29&watch&allowWatchBookmarks=0&x=%zz");
        assert_eq!(query.first("labelSelector"), Some("app=web,tier in (a)"));
        assert!(query.flag("watch") && !query.flag("allowWatchBookmarks") && !query.flag("absent"));
        assert_eq!(query.first("x"), Some("%zz"));
    }
}
