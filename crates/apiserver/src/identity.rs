//! Who makes a request, and whether they may: so far only the members of system:masters may do anything.
//!
//! Not responsible for how a client proves who it is (`tls`).

use api::Resource;

use crate::pki::MASTERS;

/// A user with its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
}

impl Identity {
    /// Whoever reaches the server inside the process or over a socket that only its owner can open.
    pub fn trusted() -> Self {
        Identity { user: "system:admin".to_owned(), groups: vec![MASTERS.to_owned()] }
    }

    /// Allowed everything.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }

    /// The user and the groups of a client certificate: its common name and organizations.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        Some(Identity { user, groups })
    }
}

/// What a user asks for, as a refusal names it.
pub struct Attempt<'a> {
    pub verb: &'a str,
    pub resource: &'a Resource,
    pub subresource: &'a str,
    pub namespace: Option<&'a str>,
}

impl Attempt<'_> {
    /// What follows `services is forbidden: `.
    pub fn refusal(&self, user: &str) -> String {
        let (verb, plural, group) = (self.verb, self.resource.plural, self.resource.group);
        let target =
            if self.subresource.is_empty() { plural.to_owned() } else { format!("{plural}/{}", self.subresource) };
        let place = match self.namespace {
            Some(namespace) => format!("in the namespace {namespace:?}"),
            None => "at the cluster scope".to_owned(),
        };
        format!("User {user:?} cannot {verb} resource {target:?} in API group {group:?} {place}")
    }
}
