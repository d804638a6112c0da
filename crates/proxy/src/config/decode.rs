//! Reads a `KubeProxyConfiguration`. Strictly at first, as kube-proxy does: what is unknown or there twice is named with
//! its line, and then left out. Not responsible for whether the values make sense.

use serde_json::{Map, Value};

use super::file::{API_VERSION, KIND, KubeProxyConfiguration};

/// A configuration has three levels. Deeper text is no configuration, and not worth its memory.
const DEEPEST: usize = 16;

/// What was read, and what in the file was not understood.
#[derive(Debug)]
pub struct Decoded {
    pub config: KubeProxyConfiguration,
    pub warnings: Vec<StrictError>,
}

/// What makes strict decoding fail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrictError {
    #[error("line {line}: unknown field \"{path}\"")]
    UnknownField { path: String, line: usize },
    #[error("line {line}: key \"{key}\" already set in map")]
    Duplicate { key: String, line: usize },
}

#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("failed to decode: couldn't get version/kind")]
    Yaml(#[source] Box<serde_saphyr::Error>),
    #[error("failed to decode: Object 'Kind' is missing")]
    NoKind,
    #[error("failed to decode: Object 'apiVersion' is missing")]
    NoVersion,
    #[error("failed to decode: no kind \"{kind}\" is registered for version \"{version}\"; {KIND} of {API_VERSION} is")]
    WrongKind { kind: String, version: String },
    #[error("failed to decode: line {line}: {path}")]
    Field {
        path: String,
        line: usize,
        #[source]
        source: serde_json::Error,
    },
    #[error("failed to decode")]
    Whole(#[source] serde_json::Error),
}

/// Reads a file's text, and sets the defaults of what it leaves out.
pub fn decode(text: &str) -> Result<Decoded, DecodeError> {
    let (document, mut warnings) = parse(text)?;
    let Value::Object(mut map) = document else { return Err(DecodeError::NoKind) };
    // A null is a field left out.
    drop_nulls(&mut map);
    check_kind(&map)?;
    let mut paths = Vec::new();
    unknown(&map, &every_field(), "", &mut paths);
    for path in paths {
        let line = line_of(text, &path);
        remove(&mut map, &path);
        warnings.push(StrictError::UnknownField { path: path.join("."), line });
    }
    let mut config = from_map(map, text)?;
    config.set_defaults();
    Ok(Decoded { config, warnings })
}

/// The document, where the last of equal keys wins, and a word about the first key that comes twice.
fn parse(text: &str) -> Result<(Value, Vec<StrictError>), DecodeError> {
    let strict = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEEPEST },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: false,
        legacy_octal_numbers: true,
    };
    let refused = match serde_saphyr::from_str_with_options(text, strict) {
        Ok(document) => return Ok((document, Vec::new())),
        Err(refused) => refused,
    };
    let line = refused.location().and_then(|l| usize::try_from(l.line()).ok()).unwrap_or(1);
    let serde_saphyr::Error::DuplicateMappingKey { key, .. } = refused.without_snippet() else {
        return Err(DecodeError::Yaml(Box::new(refused)));
    };
    let duplicate = StrictError::Duplicate { key: key.clone().unwrap_or_default(), line };
    let lenient = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: DEEPEST },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        strict_booleans: false,
        legacy_octal_numbers: true,
    };
    let document = serde_saphyr::from_str_with_options(text, lenient).map_err(|e| DecodeError::Yaml(Box::new(e)))?;
    Ok((document, vec![duplicate]))
}

fn drop_nulls(map: &mut Map<String, Value>) {
    map.retain(|_, value| !value.is_null());
    for value in map.values_mut() {
        if let Value::Object(inner) = value {
            drop_nulls(inner);
        }
    }
}

fn check_kind(map: &Map<String, Value>) -> Result<(), DecodeError> {
    let text = |key| map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, version) = (text("kind"), text("apiVersion"));
    if kind.is_empty() {
        return Err(DecodeError::NoKind);
    }
    if version.is_empty() {
        return Err(DecodeError::NoVersion);
    }
    if kind != KIND || version != API_VERSION {
        return Err(DecodeError::WrongKind { kind, version });
    }
    Ok(())
}

/// A configuration in which every field shows.
fn every_field() -> Value {
    let mut config = KubeProxyConfiguration { windows_run_as_service: true, ..KubeProxyConfiguration::default() };
    config.logging.vmodule.push(super::file::VerbosityOfFiles::default());
    config.logging.options.text.split_stream = true;
    config.logging.options.json.split_stream = true;
    // A map of anybody's keys: a null has no fields to compare with.
    let mut value = serde_json::to_value(config).unwrap_or_default();
    if let Value::Object(map) = &mut value {
        map.insert("featureGates".to_owned(), Value::Null);
    }
    value
}

fn unknown(map: &Map<String, Value>, known: &Value, parent: &str, found: &mut Vec<Vec<String>>) {
    let Value::Object(known) = known else { return };
    let path = |key: &str| {
        let names = parent.split('.').filter(|name| !name.is_empty()).map(str::to_owned);
        names.chain([key.to_owned()]).collect::<Vec<_>>()
    };
    for (key, value) in map {
        match (known.get(key), value) {
            (None, _) => found.push(path(key)),
            (Some(inner), Value::Object(value)) => unknown(value, inner, &path(key).join("."), found),
            _ => {}
        }
    }
}

fn remove(map: &mut Map<String, Value>, path: &[String]) {
    match path {
        [] => {}
        [last] => {
            map.remove(last);
        }
        [first, rest @ ..] => {
            if let Some(Value::Object(inner)) = map.get_mut(first) {
                remove(inner, rest);
            }
        }
    }
}

/// Decodes, and finds the field at fault if there is one.
fn from_map(map: Map<String, Value>, text: &str) -> Result<KubeProxyConfiguration, DecodeError> {
    let whole = match serde_json::from_value(Value::Object(map.clone())) {
        Ok(config) => return Ok(config),
        Err(whole) => whole,
    };
    let alone = |value: Value| serde_json::from_value::<KubeProxyConfiguration>(value).err();
    for (key, value) in map {
        let wrap = |inner: Value| Value::Object(Map::from_iter([(key.clone(), inner)]));
        let Some(source) = alone(wrap(value.clone())) else { continue };
        if let Value::Object(fields) = value {
            for (field, value) in fields {
                let inner = Value::Object(Map::from_iter([(field.clone(), value)]));
                if let Some(source) = alone(wrap(inner)) {
                    let line = line_of(text, &[key.clone(), field.clone()]);
                    return Err(DecodeError::Field { path: format!("{key}.{field}"), line, source });
                }
            }
        }
        let line = line_of(text, std::slice::from_ref(&key));
        return Err(DecodeError::Field { path: key, line, source });
    }
    Err(DecodeError::Whole(whole))
}

/// The line a field is named in, found by looking for its parents first. The last line if it is spelled in a way that
/// nobody spells it.
fn line_of(text: &str, path: &[String]) -> usize {
    let mut from = 0;
    for name in path {
        match find_key(&text[from..], name) {
            Some(at) => from += at + name.len(),
            None => return text.lines().count(),
        }
    }
    1 + text[..from].bytes().filter(|byte| *byte == b'\n').count()
}

/// Where `name` stands as a key: at the beginning of something, with a colon after it, in no comment.
fn find_key(text: &str, name: &str) -> Option<usize> {
    text.match_indices(name).map(|(at, _)| at).find(|at| {
        let line = &text[text[..*at].rfind('\n').map_or(0, |newline| newline + 1)..*at];
        let before = line.trim_end_matches(['"', '\'']).chars().next_back();
        let after = text[at + name.len()..].trim_start_matches(['"', '\'']).trim_start_matches(' ');
        before.is_none_or(|c| matches!(c, ' ' | '{' | ',' | '-'))
            && after.starts_with(':')
            && !line.trim_start().starts_with('#')
    })
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    fn of(rest: &str) -> Result<Decoded, DecodeError> {
        decode(&format!("{HEAD}{rest}"))
    }

    #[test]
    fn what_is_unknown_is_named_with_its_line_and_left_out() {
        let decoded =
            of("# bogus: none\nmode: ipvs\nbogus: 1\nconntrack:\n  min: 7\n  bogus: 2\nlogging: {options: {text: {x: 1}}}\n")
                .unwrap();
        let mut said: Vec<_> = decoded.warnings.iter().map(ToString::to_string).collect();
        said.sort();
        let expected = [
            r#"line 5: unknown field "bogus""#,
            r#"line 8: unknown field "conntrack.bogus""#,
            r#"line 9: unknown field "logging.options.text.x""#,
        ];
        assert_eq!(said, expected);
        assert_eq!((decoded.config.mode.as_str(), decoded.config.conntrack.min), ("ipvs", Some(7)));
    }

    #[test]
    fn the_last_of_equal_keys_wins_with_a_warning() {
        let decoded = of("mode: nftables\nmode: iptables\n").unwrap();
        assert!(matches!(&decoded.warnings[..], [StrictError::Duplicate { key, line: 4 }] if key == "mode"));
        assert_eq!(decoded.config.mode, "iptables");
    }

    #[test]
    fn nulls_and_gates_of_any_name_are_understood() {
        let decoded = of("conntrack: {maxPerCore: null, min: 0}\nfeatureGates: {Anything: true}\n").unwrap();
        assert!(decoded.warnings.is_empty(), "{:?}", decoded.warnings);
        assert_eq!((decoded.config.conntrack.max_per_core, decoded.config.conntrack.min), (Some(32_768), Some(0)));
        assert!(decoded.config.feature_gates["Anything"]);
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named() {
        for (text, path, line, why) in [
            ("\nconfigSyncPeriod: 90", "configSyncPeriod", 4, "expected a string"),
            ("conntrack:\n  udpTimeout: 1d", "conntrack.udpTimeout", 4, "unknown unit"),
            ("conntrack: 5", "conntrack", 3, "invalid type: integer `5`"),
            ("oomScoreAdj: abc", "oomScoreAdj", 3, "expected i32"),
        ] {
            let error = of(text).unwrap_err();
            assert_eq!(error.to_string(), format!("failed to decode: line {line}: {path}"));
            assert!(error.source().unwrap().to_string().contains(why), "{error:?}");
        }
    }

    #[test]
    fn other_kinds_are_refused() {
        for text in ["", "kind: KubeProxyConfiguration", "apiVersion: v1\nkind: Pod", "{a", "- a"] {
            let error = decode(text).unwrap_err().to_string();
            assert!(error.starts_with("failed to decode: "), "{error}");
        }
        let later = decode("apiVersion: kubeproxy.config.k8s.io/v1\nkind: KubeProxyConfiguration").unwrap_err();
        let said = "no kind \"KubeProxyConfiguration\" is registered for version \"kubeproxy.config.k8s.io/v1\"";
        assert!(later.to_string().contains(said), "{later}");
    }
}
