//! Asking one place for one repository's manifests and blobs: challenges answered, redirects followed, what may pass in a
//! moment asked again.
//!
//! Not responsible for what the answers contain.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use serde::Deserialize;

use super::challenge::Challenge;
use super::credential::Credential;
use super::endpoint::Endpoint;
use super::error::PullError;
use super::transport::{Answer, Peer, Transport, TransportError, is_loopback};
use crate::reference::Reference;

const REDIRECTS: usize = 5;
/// How often something is asked for when it fails in a way that may pass.
pub(crate) const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A registry may ask for longer; then kubelet's back-off is the better place to wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// Errors and tokens are short.
const LONGEST_WORDS: usize = 64 << 10;

/// What is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    /// `manifests` or `blobs`.
    pub(crate) kind: &'static str,
    /// A tag or a digest.
    pub(crate) what: &'a str,
    pub(crate) accept: &'static str,
    /// The first byte wanted.
    pub(crate) from: u64,
}

pub(crate) struct Session<'a> {
    transport: &'a Transport,
    endpoint: &'a Endpoint,
    reference: &'a Reference,
    credential: Option<&'a Credential>,
    /// What the last challenge was answered with.
    authorization: Mutex<Option<HeaderValue>>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        transport: &'a Transport,
        endpoint: &'a Endpoint,
        reference: &'a Reference,
        credential: Option<&'a Credential>,
    ) -> Self {
        let ready = credential.filter(|credential| !credential.registry_token.is_empty());
        let ready = ready.and_then(|credential| bearer(&credential.registry_token));
        Self { transport, endpoint, reference, credential, authorization: Mutex::new(ready) }
    }

    pub(crate) fn url(&self, ask: &Ask<'_>) -> String {
        self.endpoint.url(self.reference.path(), ask.kind, ask.what)
    }

    /// The answer, when it is a success.
    pub(crate) async fn get(&self, ask: &Ask<'_>) -> Result<Answer, PullError> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let (error, asked_for) = match self.authorized(ask).await {
                Ok(answer) if answer.status.is_success() => return Ok(answer),
                Ok(answer) => {
                    let seconds =
                        answer.header(RETRY_AFTER).and_then(|text| text.parse().ok()).map(Duration::from_secs);
                    (self.refusal(ask, answer).await, seconds)
                }
                Err(error) => (error, None),
            };
            let wait = asked_for.unwrap_or(pause);
            if !error.is_passing() || attempt == ATTEMPTS || wait > LONGEST_PAUSE {
                return Err(error);
            }
            tracing::info!(%error, attempt, "asking a registry again");
            tokio::time::sleep(wait).await;
            (attempt, pause) = (attempt + 1, pause * 2);
        }
    }

    /// Asks, and again when it is challenged: a token may have expired since.
    async fn authorized(&self, ask: &Ask<'_>) -> Result<Answer, PullError> {
        let answer = self.follow(ask).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let Some(challenge) = Challenge::of(&answer.headers) else {
            let plain = !answer.headers.contains_key(http::header::WWW_AUTHENTICATE);
            return if plain { Ok(answer) } else { Err(PullError::Challenge { url: self.url(ask) }) };
        };
        let Some(authorization) = self.authorization_for(&challenge).await? else { return Ok(answer) };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
        self.follow(ask).await
    }

    async fn follow(&self, ask: &Ask<'_>) -> Result<Answer, PullError> {
        let url = self.url(ask);
        let mut uri: Uri = url.parse().map_err(|_| TransportError::Address(url.clone()))?;
        let own = uri.authority().cloned();
        for _ in 0..=REDIRECTS {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(ask.accept));
            if ask.from > 0 {
                let range = HeaderValue::from_str(&format!("bytes={}-", ask.from));
                headers.insert(RANGE, range.map_err(|_| TransportError::Address(url.clone()))?);
            }
            // A storage elsewhere has its own permission in the address, and no business with ours.
            if uri.authority() == own.as_ref()
                && let Some(value) = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
            {
                headers.insert(AUTHORIZATION, value);
            }
            let answer = self.transport.send(Method::GET, &uri, headers, Bytes::new()).await?;
            if !answer.status.is_redirection() || answer.status == StatusCode::NOT_MODIFIED {
                return Ok(answer);
            }
            uri = next(&uri, answer.header(LOCATION).unwrap_or_default())
                .map_err(|(to, problem)| PullError::Redirect { url: url.clone(), to, problem })?;
        }
        Err(PullError::Redirect { url, to: uri.to_string(), problem: "leads on once more: too often" })
    }

    /// None when there is nothing to answer it with.
    async fn authorization_for(&self, challenge: &Challenge) -> Result<Option<HeaderValue>, PullError> {
        match challenge {
            Challenge::Basic => Ok(self.credential.and_then(basic)),
            Challenge::Bearer { realm, service, scope } => {
                self.token(realm, service.as_deref(), scope.as_deref()).await
            }
        }
    }

    /// Gets an access token (Docker's token authentication; RFC 6749, 6, for identity tokens).
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<Option<HeaderValue>, PullError> {
        let failed = |problem| PullError::Token { realm: realm.to_owned(), problem };
        let place: Uri = realm.parse().map_err(|_| failed("is no address"))?;
        let peer = Peer::of(&place).map_err(|_| failed("is no address"))?;
        if !peer.tls && !is_loopback(peer.host) && self.endpoint.base.starts_with("https:") && self.credential.is_some()
        {
            return Err(failed("would get the credentials without TLS"));
        }
        let own_scope = format!("repository:{}:pull", self.reference.path());
        let mut words = vec![("service", service.unwrap_or_default()), ("scope", scope.unwrap_or(&own_scope))];
        words.retain(|(_, value)| !value.is_empty());
        let mut headers = HeaderMap::new();
        let refresh = self.credential.map(|credential| credential.identity_token.as_str()).filter(|t| !t.is_empty());
        let answer = if let Some(refresh) = refresh {
            words.extend([("grant_type", "refresh_token"), ("refresh_token", refresh), ("client_id", "portolan")]);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            self.transport.send(Method::POST, &place, headers, form(&words).into()).await?
        } else {
            if let Some(value) = self.credential.and_then(basic) {
                headers.insert(AUTHORIZATION, value);
            }
            let mark = if place.query().is_some() { '&' } else { '?' };
            let uri = format!("{realm}{mark}{}", form(&words)).parse().map_err(|_| failed("is no address"))?;
            self.transport.send(Method::GET, &uri, headers, Bytes::new()).await?
        };
        let status = answer.status;
        let whole = answer.whole(LONGEST_WORDS).await?;
        if !status.is_success() {
            return Err(self.refused(realm.to_owned(), status, &whole));
        }
        let token: Token = serde_json::from_slice(&whole).map_err(|_| failed("gives no token"))?;
        let token = if token.token.is_empty() { token.access_token } else { token.token };
        bearer(&token).filter(|_| !token.is_empty()).map(Some).ok_or_else(|| failed("gives no token"))
    }

    async fn refusal(&self, ask: &Ask<'_>, answer: Answer) -> PullError {
        let (url, status) = (self.url(ask), answer.status);
        let words = answer.whole(LONGEST_WORDS).await.unwrap_or_default();
        if status == StatusCode::NOT_FOUND {
            let whole = self.reference.to_string();
            let reference = if ask.kind == "manifests" { whole } else { format!("{} of {whole}", ask.what) };
            return PullError::NotFound { reference, url };
        }
        self.refused(url, status, &words)
    }

    fn refused(&self, url: String, status: StatusCode, words: &[u8]) -> PullError {
        let said = said(words);
        if ![StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status) {
            return PullError::Status { url, status, said };
        }
        let shown = match self.credential {
            Some(_) => "the credentials for it were not accepted",
            None => "no credentials for it were found in imagePullSecrets or Docker's configuration",
        };
        PullError::Denied {
            reference: format!("{}/{}", self.reference.host(), self.reference.path()),
            url,
            status,
            said,
            shown,
        }
    }
}

/// Where a redirect leads.
fn next(from: &Uri, location: &str) -> Result<Uri, (String, &'static str)> {
    let refuse = |problem| (location.to_owned(), problem);
    let absolute = if location.starts_with('/') && !location.starts_with("//") {
        let scheme = from.scheme_str().unwrap_or("https");
        format!("{scheme}://{}{location}", from.authority().map_or("", |authority| authority.as_str()))
    } else {
        location.to_owned()
    };
    let uri: Uri = absolute.parse().map_err(|_| refuse("is no address"))?;
    let peer = Peer::of(&uri).map_err(|_| refuse("is no address"))?;
    if !peer.tls && from.scheme_str() == Some("https") {
        return Err(refuse("is without TLS"));
    }
    Ok(uri)
}

fn basic(credential: &Credential) -> Option<HeaderValue> {
    if credential.username.is_empty() && credential.password.is_empty() {
        return None;
    }
    let encoded = STANDARD.encode(format!("{}:{}", credential.username, credential.password));
    secret(&format!("Basic {encoded}"))
}

fn bearer(token: &str) -> Option<HeaderValue> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// `application/x-www-form-urlencoded`.
fn form(words: &[(&str, &str)]) -> String {
    let encode = |text: &str| -> String {
        let one = |byte: u8| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        };
        text.bytes().map(one).collect()
    };
    words.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&")
}

/// A registry's own words (distribution specification, "Error Codes"), as the end of a sentence.
fn said(body: &[u8]) -> String {
    let Ok(errors) = serde_json::from_slice::<Errors>(body) else { return String::new() };
    let one = |problem: &Problem| match (problem.code.as_str(), problem.message.as_str()) {
        ("", message) => message.to_owned(),
        (code, "") => code.to_owned(),
        (code, message) => format!("{code}: {message}"),
    };
    let words: Vec<String> = errors.errors.iter().take(3).map(one).filter(|words| !words.is_empty()).collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_encrypted() {
        let from = |text: &str| text.parse::<Uri>().unwrap();
        let https = from("https://registry.example/v2/a/blobs/x");
        assert_eq!(next(&https, "/storage?a=b").unwrap().to_string(), "https://registry.example/storage?a=b");
        assert_eq!(next(&https, "https://cdn.example/x").unwrap().host(), Some("cdn.example"));
        assert!(next(&https, "http://cdn.example/x").is_err());
        assert!(next(&from("http://localhost:5000/v2/"), "http://cdn.example/x").is_ok());
        for bad in ["", "//other.example/x", "relative", "ftp://x/"] {
            assert!(next(&https, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_are_encoded_and_errors_read() {
        assert_eq!(
            form(&[("scope", "repository:a/b:pull"), ("service", "r")]),
            "scope=repository%3Aa%2Fb%3Apull&service=r"
        );
        assert_eq!(said(br#"{"errors":[{"code":"DENIED","message":"no"},{"message":"x"}]}"#), " (DENIED: no; x)");
        assert_eq!(said(b"<html>"), "");
    }
}
