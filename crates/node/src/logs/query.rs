//! The query of a log request, as kubelet takes it.

use jiff::Timestamp;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
    pub since_seconds: Option<i64>,
    pub since_time: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("{name}: {value:?} is not valid")]
    Value { name: String, value: String },
    #[error("at most one of sinceTime or sinceSeconds may be specified")]
    TwoSince,
    #[error("the query parameter {0:?} is not supported")]
    Unknown(String),
}

impl LogQuery {
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        let mut parsed = LogQuery::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value);
            let bad = || QueryError::Value { name: name.to_owned(), value: value.clone() };
            let boolean = || match value.as_str() {
                "true" | "1" | "True" | "TRUE" => Ok(true),
                "false" | "0" | "False" | "FALSE" | "" => Ok(false),
                _ => Err(bad()),
            };
            let number = || value.parse::<u64>().map_err(|_| bad());
            match name {
                "follow" => parsed.follow = boolean()?,
                "previous" => parsed.previous = boolean()?,
                "timestamps" => parsed.timestamps = boolean()?,
                "tailLines" => parsed.tail_lines = Some(number()?),
                "limitBytes" => parsed.limit_bytes = Some(number()?),
                "sinceSeconds" => parsed.since_seconds = Some(value.parse().map_err(|_| bad())?),
                "sinceTime" => parsed.since_time = Some(value.parse().map_err(|_| bad())?),
                // Both outputs, which is what is asked for when nothing is said.
                "stream" if value == "All" || value.is_empty() => {}
                // Of the API server, or without meaning here: nobody verifies an agent behind a unix socket.
                "container" | "insecureSkipTLSVerifyBackend" | "pretty" => {}
                other => return Err(QueryError::Unknown(other.to_owned())),
            }
        }
        if parsed.since_seconds.is_some() && parsed.since_time.is_some() {
            return Err(QueryError::TwoSince);
        }
        Ok(parsed)
    }

    /// The first moment that is shown.
    pub fn since(&self, now: Timestamp) -> Option<Timestamp> {
        match self.since_seconds {
            Some(seconds) => Timestamp::from_second(now.as_second().saturating_sub(seconds)).ok(),
            None => self.since_time,
        }
    }
}

/// Undoes percent-encoding; what isn't any stays.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if hex(high).is_some() && hex(low).is_some() => {
                bytes.push(hex(high).unwrap_or(0) * 16 + hex(low).unwrap_or(0));
                rest = after;
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_and_every_mistake() {
        let query = LogQuery::parse("follow=true&previous=false&timestamps=true&tailLines=5&limitBytes=9").unwrap();
        let expected = LogQuery {
            follow: true,
            timestamps: true,
            tail_lines: Some(5),
            limit_bytes: Some(9),
            ..LogQuery::default()
        };
        assert_eq!(query, expected);
        let since = LogQuery::parse("sinceTime=2026-01-02T03%3A04%3A05Z").unwrap();
        assert_eq!(since.since_time, Some("2026-01-02T03:04:05Z".parse().unwrap()));
        let now = Timestamp::from_second(100).unwrap();
        assert_eq!(LogQuery::parse("sinceSeconds=40").unwrap().since(now), Timestamp::from_second(60).ok());
        for bad in [
            "tailLines=-1",
            "follow=maybe",
            "sinceTime=yesterday",
            "sinceSeconds=1&sinceTime=2026-01-02T03:04:05Z",
            "odd=1",
            "stream=Stderr",
        ] {
            assert!(LogQuery::parse(bad).is_err(), "{bad}");
        }
    }
}
