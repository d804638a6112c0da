//! Credentials for registries: Docker's configuration documents, and which of their entries are meant for an image, by
//! kubelet's rules.
//!
//! Not responsible for where the documents come from, nor for running the helpers they name.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use crate::reference::Reference;

/// Docker Hub's entry, by the name that Docker gives it.
const DOCKER_HUB: &str = "index.docker.io";
/// A helper's answer whose secret is an identity token has this for a user name (docker-credential-helpers).
const TOKEN_USER: &str = "<token>";

/// What a registry is shown.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credential {
    pub username: String,
    pub password: String,
    /// Exchanged for an access token (OAuth 2 refresh token).
    pub identity_token: String,
    /// Sent as it is.
    pub registry_token: String,
}

/// A document that holds credentials.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Keyring {
    /// By host and path, without a scheme.
    entries: BTreeMap<String, Credential>,
    /// Names of `docker-credential-NAME` programs, by host.
    helpers: BTreeMap<String, String>,
    /// Asked for hosts that have no helper of their own.
    store: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("it is not JSON as Docker writes it: {0}")]
    Json(#[from] serde_json::Error),
    #[error("its entry for {0:?} has an \"auth\" that is not the base64 of USER:PASSWORD")]
    Auth(String),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl Keyring {
    /// A Secret of type `kubernetes.io/dockerconfigjson`: the entries alone.
    pub(crate) fn from_secret(document: &[u8]) -> Result<Self, KeyringError> {
        let document: Document = serde_json::from_slice(document)?;
        Self::from_entries(document.auths)
    }

    /// A `config.json` of this machine.
    pub(crate) fn from_config(document: &[u8]) -> Result<Self, KeyringError> {
        let document: Document = serde_json::from_slice(document)?;
        let mut keyring = Self::from_entries(document.auths)?;
        keyring.helpers = document.helpers;
        keyring.store = document.store.filter(|store| !store.is_empty());
        Ok(keyring)
    }

    /// A `.dockercfg`, or a Secret of type `kubernetes.io/dockercfg`: the entries alone.
    pub(crate) fn from_legacy(document: &[u8]) -> Result<Self, KeyringError> {
        Self::from_entries(serde_json::from_slice(document)?)
    }

    fn from_entries(entries: BTreeMap<String, Entry>) -> Result<Self, KeyringError> {
        let mut known = BTreeMap::new();
        for (name, entry) in entries {
            let (mut username, mut password) = (entry.username, entry.password);
            if !entry.auth.is_empty() {
                let decoded = user_and_password(&entry.auth).ok_or_else(|| KeyringError::Auth(name.clone()))?;
                (username, password) = decoded;
            }
            let (identity_token, registry_token) = (entry.identitytoken, entry.registrytoken);
            let credential = Credential { username, password, identity_token, registry_token };
            // Docker leaves an empty entry where a helper has the secret.
            if credential != Credential::default() {
                known.insert(place(&name), credential);
            }
        }
        Ok(Self { entries: known, ..Self::default() })
    }

    /// What to show for an image, the most specific entry first.
    pub(crate) fn lookup(&self, reference: &Reference) -> Vec<Credential> {
        let image = format!("{}/{}", reference.host(), reference.path());
        let mut found = Vec::new();
        for (place, credential) in self.entries.iter().rev() {
            let hub = place.split('/').next() == Some(DOCKER_HUB) && reference.host() == "docker.io";
            if (hub || matches(place, &image)) && !found.contains(credential) {
                found.push(credential.clone());
            }
        }
        found
    }

    /// The program to ask, and what to ask it for.
    pub(crate) fn helper(&self, reference: &Reference) -> Option<(String, String)> {
        let hub = "https://index.docker.io/v1/";
        let host = if reference.host() == "docker.io" { hub } else { reference.host() };
        let own = self.helpers.iter().find(|(name, _)| *name == host || place(name) == place(host));
        let name = own.map(|(_, helper)| helper).or(self.store.as_ref())?;
        Some((name.clone(), host.to_owned()))
    }
}

impl Credential {
    /// As a helper gives it.
    pub(crate) fn of_helper(username: String, secret: String) -> Self {
        if username == TOKEN_USER {
            return Self { identity_token: secret, ..Self::default() };
        }
        Self { username, password: secret, ..Self::default() }
    }
}

/// Secrets appear in no log.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

fn user_and_password(auth: &str) -> Option<(String, String)> {
    // Some tools leave the padding out.
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decoded = GeneralPurpose::new(&STANDARD, config).decode(auth.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// An entry's name without its scheme and the API version that Docker's old names end with.
fn place(name: &str) -> String {
    let name = name.split_once("://").map_or(name, |(_, rest)| rest);
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    let path = path
        .strip_prefix("v1")
        .or_else(|| path.strip_prefix("v2"))
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        .unwrap_or(path);
    let path = path.trim_matches('/');
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}

/// kubelet's comparison: equal ports, as many labels, each by its pattern, and the path a prefix.
fn matches(place: &str, image: &str) -> bool {
    let split = |text: &str| {
        let (host, path) =
            text.split_once('/').map_or((text, String::new()), |(host, path)| (host, format!("/{path}")));
        let (name, port) = host.split_once(':').unwrap_or((host, ""));
        (name.to_owned(), port.to_owned(), path)
    };
    let ((pattern, pattern_port, prefix), (host, port, path)) = (split(place), split(image));
    let (patterns, labels): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), host.split('.').collect());
    pattern_port == port
        && patterns.len() == labels.len()
        && patterns.iter().zip(&labels).all(|(pattern, label)| glob(pattern.as_bytes(), label.as_bytes()))
        && path.starts_with(&prefix)
}

/// `*` is any text, `?` any character.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        (Some((b'?', rest)), Some((_, text))) => glob(rest, text),
        (Some((wanted, rest)), Some((found, text))) => wanted == found && glob(rest, text),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(keyring: &Keyring, image: &str) -> Vec<String> {
        keyring.lookup(&image.parse().unwrap()).into_iter().map(|credential| credential.username).collect()
    }

    #[test]
    fn entries_are_found_by_kubelets_rules() {
        let document = serde_json::json!({"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "registry.example": {"username": "host", "password": "p"},
            "registry.example/team": {"username": "team", "password": "p"},
            "registry.example:5000": {"username": "port", "password": "p"},
            "*.wild.example": {"username": "wild", "password": "p"},
            "empty.example": {},
        }});
        let keyring = Keyring::from_secret(document.to_string().as_bytes()).unwrap();
        let table: [(&str, &[&str]); 9] = [
            ("nginx", &["hub"]),
            ("me/app:1", &["hub"]),
            ("registry.example/app", &["host"]),
            ("registry.example/team/app", &["team", "host"]),
            ("registry.example:5000/team/app", &["port"]),
            ("a.wild.example/app", &["wild"]),
            ("a.b.wild.example/app", &[]),
            ("empty.example/app", &[]),
            ("other.example/app", &[]),
        ];
        for (image, expected) in table {
            assert_eq!(users(&keyring, image), expected, "{image}");
        }
        assert_eq!(keyring.lookup(&"nginx".parse().unwrap())[0].password, "pw");
    }

    #[test]
    fn the_older_form_helpers_and_what_is_malformed() {
        let legacy = Keyring::from_legacy(br#"{"registry.example": {"auth": "dTpwOnE", "email": "x"}}"#).unwrap();
        assert_eq!(legacy.lookup(&"registry.example/a".parse().unwrap())[0].password, "p:q");
        let config =
            br#"{"credsStore": "all", "credHelpers": {"gcr.example": "gcloud"}, "auths": {"gcr.example": {}}}"#;
        assert_eq!(Keyring::from_secret(config).unwrap().helper(&"docker.io/library/web".parse().unwrap()), None);
        let keyring = Keyring::from_config(config).unwrap();
        let helper = |image: &str| keyring.helper(&image.parse().unwrap());
        assert_eq!(helper("gcr.example/a"), Some(("gcloud".into(), "gcr.example".into())));
        assert_eq!(helper("nginx"), Some(("all".into(), "https://index.docker.io/v1/".into())));
        assert_eq!(Credential::of_helper("<token>".into(), "t".into()).identity_token, "t");
        for bad in [&b"7"[..], br#"{"auths": {"a": {"auth": "!"}}}"#, br#"{"auths": {"a": {"auth": "bm9jb2xvbg=="}}}"#]
        {
            assert!(Keyring::from_config(bad).is_err());
        }
    }
}
