//! Names of images, normalised as docker and containerd do: `busybox` is `docker.io/library/busybox:latest`.
//!
//! Not responsible for whether an image of that name exists.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

const DEFAULT_HOST: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// Images of this host are built in or were loaded, and are never pulled.
const LOCAL_HOST: &str = "portolan.local";
/// The distribution specification's limit for host and path.
const LONGEST_NAME: usize = 255;

/// A normalised name with a tag, a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid image name {0:?}: it is empty")]
    Empty(String),
    #[error("invalid image name {name:?}: {part:?} is not a valid {what}")]
    Part { name: String, what: &'static str, part: String },
    #[error("invalid image name {name:?}: {source}")]
    Digest {
        name: String,
        #[source]
        source: DigestError,
    },
    #[error("invalid image name {0:?}: longer than 255 characters")]
    TooLong(String),
}

impl Reference {
    /// The host, `docker.io` when the name has none.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Host and path.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The name with its digest and without its tag; none when it has no digest.
    pub(crate) fn pinned(&self) -> Option<String> {
        self.digest.as_ref().map(|digest| format!("{}@{digest}", self.repository()))
    }

    /// The same image by this digest alone.
    pub(crate) fn with_digest(&self, digest: &Digest) -> Self {
        Self { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }

    /// Whether only a built-in image can have this name.
    pub fn is_reserved(&self) -> bool {
        self.repository() == crate::builtin::TESTSERVER_REPOSITORY
    }

    /// Whether no registry can have it.
    pub fn is_local(&self) -> bool {
        self.host == LOCAL_HOST
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(name: &str) -> Result<Self, ReferenceError> {
        if name.is_empty() {
            return Err(ReferenceError::Empty(name.to_owned()));
        }
        let part = |what, part: &str| ReferenceError::Part { name: name.to_owned(), what, part: part.to_owned() };
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) => {
                let digest =
                    digest.parse().map_err(|source| ReferenceError::Digest { name: name.to_owned(), source })?;
                (rest, Some(digest))
            }
            None => (name, None),
        };
        // A colon after the last slash starts a tag; one before it belongs to the host's port.
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => (rest, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(part("tag", tag));
        }
        let (host, path) = match rest.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (first, path),
            _ => (DEFAULT_HOST, rest),
        };
        let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
        if !is_host(host) {
            return Err(part("host", host));
        }
        let official = host == DEFAULT_HOST && !path.contains('/');
        let path = if official { format!("library/{path}") } else { path.to_owned() };
        if let Some(bad) = path.split('/').find(|component| !is_path_component(component)) {
            return Err(part("path component", bad));
        }
        if host.len() + 1 + path.len() > LONGEST_NAME {
            return Err(ReferenceError::TooLong(name.to_owned()));
        }
        let tag = tag.or(digest.is_none().then_some(DEFAULT_TAG)).map(str::to_owned);
        Ok(Self { host: host.to_owned(), path, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.').all(label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Lowercase letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_path_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = |byte: Option<&u8>| byte.is_some_and(alphanumeric);
    ends(bytes.first())
        && ends(bytes.last())
        && bytes
            .split(alphanumeric)
            .all(|between| matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        let hash = "a".repeat(64);
        for (given, normal) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("me/app", "docker.io/me/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("registry.k8s.io/e2e-test-images/agnhost:2.53", "registry.k8s.io/e2e-test-images/agnhost:2.53"),
            ("portolan.local/testserver", "portolan.local/testserver:latest"),
        ] {
            assert_eq!(given.parse::<Reference>().unwrap().to_string(), normal);
            assert_eq!(normal.parse::<Reference>().unwrap().to_string(), normal);
        }
        let pinned = format!("app@sha256:{hash}").parse::<Reference>().unwrap();
        assert_eq!(pinned.to_string(), format!("docker.io/library/app@sha256:{hash}"));
        assert_eq!(pinned.tag(), None);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            "UPPER",
            "a/../b",
            "/a",
            "a//b",
            "a:",
            "a:tag with space",
            "-a",
            "a.",
            "a___b",
            "h.io:x/a",
            "a@sha256:1",
            "..",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        assert!("a--b/c__d.e_f".parse::<Reference>().is_ok());
    }
}
