//! Whom TLS trusts: the machine's roots (or what SSL_CERT_FILE names), and, for one registry, what
//! `/etc/docker/certs.d/HOST[:PORT]/*.crt` holds, as Docker has it.
//!
//! Not responsible for client certificates.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::transport::Peer;

/// Where Docker looks for the certificates of single registries.
pub(crate) const DOCKER_CERTS: &str = "/etc/docker/certs.d";

/// The certificates that `directory` holds for one registry.
pub(crate) fn of_host(directory: &Path, peer: &Peer<'_>) -> Option<Vec<CertificateDer<'static>>> {
    let names = [peer.authority(), peer.host.to_owned()];
    let directory = names.iter().map(|name| directory.join(name)).find(|path| path.is_dir())?;
    let files = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    let certificates = files.filter(|path| path.extension().is_some_and(|extension| extension == "crt"));
    Some(certificates.filter_map(|path| fs::read(path).ok()).flat_map(|pem| in_pem(&pem)).collect())
}

/// A client that trusts the machine's roots and `more`.
pub(crate) fn config(more: Vec<CertificateDer<'static>>) -> io::Result<Arc<ClientConfig>> {
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::warn!(%error, "a trusted root can't be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    for certificate in more {
        roots.add(certificate).map_err(io::Error::other)?;
    }
    Ok(with_roots(roots))
}

/// A client that trusts nobody, for a machine whose roots are unusable: every handshake then says why it fails.
pub(crate) fn nobody() -> Arc<ClientConfig> {
    with_roots(RootCertStore::empty())
}

fn with_roots(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has suites for every default version");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Whether a handshake failed for want of somebody who vouches for the other side.
pub(crate) fn is_unknown(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)))
}

fn in_pem(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}
