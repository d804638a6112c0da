//! The cluster's certificates: an authority made on first start, a server certificate, an administrator's certificate.
//!
//! Files are PEM and readable by their owner only. Not responsible for TLS connections (`tls`), nor for who may do what.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

const CA_YEARS: i16 = 10;
const LEAF_YEARS: i16 = 1;

/// The group whose members may do everything.
pub const MASTERS: &str = "system:masters";

/// Why certificates couldn't be read or made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("{step} {path}")]
    File { step: &'static str, path: PathBuf, source: io::Error },
    #[error("the authority in {path} has one of its two files only")]
    Half { path: PathBuf },
    #[error("{step}")]
    Certificate { step: &'static str, source: rcgen::Error },
}

/// What the server certificate is valid for, beyond the names it always has.
#[derive(Clone, Debug, Default)]
pub struct ServerNames {
    pub addresses: Vec<IpAddr>,
    pub names: Vec<String>,
    pub cluster_domain: String,
}

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub struct Leaf {
    pub certificate: String,
    pub key: String,
}

/// The authority with the leaves that this start issued.
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    ca: String,
    pub server: Leaf,
    pub admin: Leaf,
}

impl Pki {
    /// Reads the authority in a directory, or makes one there, and issues new leaves. Leaves are cheap, so every start
    /// renews them: earlier ones stay valid until they expire.
    pub fn open(directory: &Path, names: &ServerNames) -> Result<Self, PkiError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| PkiError::File {
            step: "creating",
            path: directory.to_owned(),
            source,
        })?;
        let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
        let ca = match (read(&certificate)?, read(&key)?) {
            (Some(certificate), Some(key)) => Leaf { certificate, key },
            (None, None) => {
                let made = authority()?;
                write(&key, &made.key)?;
                write(&certificate, &made.certificate)?;
                made
            }
            _ => return Err(PkiError::Half { path: directory.to_owned() }),
        };
        let pki = Pki::issue(ca, names)?;
        for (name, leaf) in [("apiserver", &pki.server), ("admin", &pki.admin)] {
            write(&directory.join(format!("{name}.crt")), &leaf.certificate)?;
            write(&directory.join(format!("{name}.key")), &leaf.key)?;
        }
        Ok(pki)
    }

    /// An authority that ends with the process.
    pub fn in_memory(names: &ServerNames) -> Result<Self, PkiError> {
        Pki::issue(authority()?, names)
    }

    fn issue(ca: Leaf, names: &ServerNames) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(&ca.key).map_err(failed("reading the authority's key"))?;
        let issuer = Issuer::from_ca_cert_pem(&ca.certificate, key).map_err(failed("reading the authority"))?;
        let server = leaf(&issuer, server_params(names)?)?;
        let admin = leaf(&issuer, client_params("kubernetes-admin", &[MASTERS])?)?;
        Ok(Pki { issuer, ca: ca.certificate, server, admin })
    }

    /// The authority's certificate, PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// A certificate for a user in groups.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Leaf, PkiError> {
        leaf(&self.issuer, client_params(user, groups)?)
    }

    /// The administrator's kubeconfig for a server at `url`.
    pub fn kubeconfig(&self, cluster: &str, url: &str) -> String {
        self.kubeconfig_for(cluster, url, "kubernetes-admin", &self.admin)
    }

    /// A kubeconfig for any user.
    pub fn kubeconfig_for(&self, cluster: &str, url: &str, user: &str, leaf: &Leaf) -> String {
        let [ca, certificate, key] = [&self.ca, &leaf.certificate, &leaf.key].map(|pem| STANDARD.encode(pem));
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: {cluster}\n  cluster:\n    server: {url}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n    client-certificate-data: \
             {certificate}\n    client-key-data: {key}\ncontexts:\n- name: {user}@{cluster}\n  context:\n    cluster: \
             {cluster}\n    user: {user}\ncurrent-context: {user}@{cluster}\npreferences: {{}}\n"
        )
    }
}

/// Writes text so that only its owner can ever read it.
pub fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    let failed = |step| move |source| PkiError::File { step, path: path.to_owned(), source };
    let temporary = path.with_extension("new");
    // A leftover of a killed start could have other permissions.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replacing")(error)),
        _ => {}
    }
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(failed("creating"))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("writing"))?;
    fs::rename(&temporary, path).map_err(failed("putting in place"))
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { step: "reading", path: path.to_owned(), source }),
    }
}

fn failed(step: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Certificate { step, source }
}

fn authority() -> Result<Leaf, PkiError> {
    let key = KeyPair::generate().map_err(failed("making the authority's key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("kubernetes", &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    valid_for(&mut params, CA_YEARS);
    let certificate = params.self_signed(&key).map_err(failed("signing the authority"))?;
    Ok(Leaf { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn leaf(issuer: &Issuer<'static, KeyPair>, mut params: CertificateParams) -> Result<Leaf, PkiError> {
    let key = KeyPair::generate().map_err(failed("making a key"))?;
    valid_for(&mut params, LEAF_YEARS);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let certificate = params.signed_by(&key, issuer).map_err(failed("signing a certificate"))?;
    Ok(Leaf { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn server_params(names: &ServerNames) -> Result<CertificateParams, PkiError> {
    let mut dns: Vec<String> =
        ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).to_vec();
    dns.push(format!("kubernetes.default.svc.{}", names.cluster_domain));
    dns.extend(names.names.iter().cloned());
    let mut params = CertificateParams::new(dns).map_err(failed("naming the server"))?;
    let addresses = names.addresses.iter().copied().chain([IpAddr::from([127, 0, 0, 1])]);
    for address in addresses.map(SanType::IpAddress) {
        if !params.subject_alt_names.contains(&address) {
            params.subject_alt_names.push(address);
        }
    }
    params.distinguished_name = subject("kube-apiserver", &[]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn client_params(user: &str, groups: &[&str]) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(user, groups);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn subject(name: &str, groups: &[&str]) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    groups.iter().for_each(|group| subject.push(DnType::OrganizationName, *group));
    subject.push(DnType::CommonName, name);
    subject
}

/// From yesterday, so that clocks a little apart agree, to some years from now.
fn valid_for(params: &mut CertificateParams, years: i16) {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let (yesterday, end) = (today.yesterday().unwrap_or(today), today);
    let day = |date: jiff::civil::Date, years: i16| {
        // The 29th of February has no date in most years; the 28th serves.
        let day = if date.month() == 2 { date.day().min(28) } else { date.day() };
        rcgen::date_time_ymd(i32::from(date.year() + years), date.month() as u8, day as u8)
    };
    params.not_before = day(yesterday, 0);
    params.not_after = day(end, years);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_start_keeps_the_authority_and_files_are_private() {
        let directory = std::env::temp_dir().join(format!("apiserver-pki-{}", std::process::id()));
        let names = ServerNames { cluster_domain: "cluster.local".into(), ..ServerNames::default() };
        let first = Pki::open(&directory, &names).unwrap();
        let second = Pki::open(&directory, &names).unwrap();
        assert_eq!(first.ca(), second.ca());
        for file in fs::read_dir(&directory).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        }
        fs::remove_file(directory.join("ca.key")).unwrap();
        assert!(matches!(Pki::open(&directory, &names), Err(PkiError::Half { .. })));
        fs::remove_dir_all(&directory).unwrap();
    }
}
