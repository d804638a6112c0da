//! TLS for a registry, with a certificate by an authority that was made for it alone.
//!
//! Not responsible for clients' certificates.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

/// What serves under these names or addresses, and the authority's certificate (PEM) by which a client trusts it.
pub(super) fn acceptor(names: &[&str]) -> (TlsAcceptor, String) {
    let key = || KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = key();
    let authority = params.self_signed(&authority_key).expect("an authority");
    let issuer = Issuer::new(params, authority_key);

    let own = key();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names).and_then(|params| params.signed_by(&own, &issuer)).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("the provider has suites for every default version").with_no_client_auth();
    let private = PrivateKeyDer::try_from(own.serialize_der()).expect("a key just made");
    let config = config.with_single_cert(vec![leaf.der().clone()], private).expect("a certificate of this key");
    (TlsAcceptor::from(Arc::new(config)), authority.pem())
}
