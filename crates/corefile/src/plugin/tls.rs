//! `tls CERT KEY [CA] { client_auth nocert|request|require|verify_if_given|require_and_verify }`: how TLS is spoken by the
//! server block's listeners of schemes that need it. Clients' certificates aren't asked for by default.

use serde::Serialize;

use super::Settings;
use crate::Stanza;
use crate::reader::{Reader, Set};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tls {
    pub certificate: String,
    pub key: String,
    pub ca: Option<String>,
    pub client_auth: ClientAuth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    Nocert,
    Request,
    Require,
    VerifyIfGiven,
    RequireAndVerify,
}

const OPTIONS: &[&str] = &["client_auth"];
const CLIENT_AUTH: &[(&str, ClientAuth)] = &[
    ("nocert", ClientAuth::Nocert),
    ("request", ClientAuth::Request),
    ("require", ClientAuth::Require),
    ("verify_if_given", ClientAuth::VerifyIfGiven),
    ("require_and_verify", ClientAuth::RequireAndVerify),
];

impl Settings for Tls {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut tls = Tls { certificate: String::new(), key: String::new(), ca: None, client_auth: ClientAuth::Nocert };
        while reader.only_stanza() {
            let arguments = reader.arguments();
            if arguments.len() < 2 {
                reader.missing("a certificate and its key (certificates by ACME aren't supported here)");
            }
            if let Some(further) = arguments.get(3) {
                reader.excess(further, "a certificate, its key and an authority's certificate");
            }
            let mut files =
                arguments.into_iter().take(3).map(|token| reader.file(token)).collect::<Vec<_>>().into_iter();
            tls.certificate.set(files.next().flatten());
            tls.key.set(files.next().flatten());
            tls.ca = files.next().flatten();
            while let Some(option) = reader.option() {
                match option.text.as_str() {
                    "client_auth" => {
                        const EXPECTED: &str = "nocert, request, require, verify_if_given or require_and_verify";
                        let Some(token) = reader.sole(EXPECTED) else { continue };
                        let found = CLIENT_AUTH.iter().find(|(name, _)| *name == token.text).map(|(_, auth)| *auth);
                        tls.client_auth.set(found.or_else(|| reader.bad(token, EXPECTED)));
                    }
                    "keylog" => reader.unsupported(option, "remove it: session keys are told to nobody"),
                    "acme" | "email" | "ca" | "storage" | "ca_root" | "resolver" => {
                        reader.unsupported(option, "name a certificate and its key after tls");
                    }
                    _ => reader.unknown(option, OPTIONS),
                }
            }
        }
        tls
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let auth = CLIENT_AUTH.iter().find(|(_, auth)| *auth == self.client_auth).map_or("nocert", |(name, _)| name);
        let stanza = Stanza::new("tls").with(&self.certificate).with(&self.key).with_all(&self.ca);
        vec![stanza.option("client_auth", auth)]
    }
}
