//! Who makes a request, as whom, and whether they may: so far only the members of system:masters may do anything.
//!
//! Not responsible for how a client proves who it is (`tls`).

use api::Resource;
use api::status::{GroupResource, Status};
use http::HeaderMap;
use sha2::{Digest, Sha256};

use crate::pki::MASTERS;

/// The group of everybody who is somebody.
const AUTHENTICATED: &str = "system:authenticated";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// A user with its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
    /// What it was known by, where that was a certificate: `X509SHA256=` and its hash.
    pub credential: Option<String>,
}

impl Identity {
    pub fn new(user: &str, groups: Vec<String>) -> Self {
        Identity { user: user.to_owned(), groups, credential: None }
    }

    /// Whoever reaches the server inside the process or over a socket that only its owner can open.
    pub fn trusted() -> Self {
        Identity::new("system:admin", vec![MASTERS.to_owned(), AUTHENTICATED.to_owned()])
    }

    /// Allowed everything.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }

    /// The user and the groups of a client certificate: its common name and organizations.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?;
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        let hash: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
        let credential = Some(format!("X509SHA256={hash}"));
        Some(Identity { credential, ..Identity::new(user, groups) }.authenticated())
    }

    /// Whom a request is made as: its `Impersonate-User` and `-Group`, which only who may do everything can use.
    pub fn impersonated(self, headers: &HeaderMap) -> Result<Self, Box<Status>> {
        let texts = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
        };
        let (users, mut groups) = (texts("impersonate-user"), texts("impersonate-group"));
        let others = headers
            .keys()
            .any(|name| name.as_str() == "impersonate-uid" || name.as_str().starts_with("impersonate-extra-"));
        let Some(user) = users.into_iter().next().filter(|user| !user.is_empty()) else {
            return match groups.is_empty() && !others {
                true => Ok(self),
                false => Err(Box::new(Status::internal(
                    "groups, a uid or extras are asked for without impersonating a user",
                ))),
            };
        };
        if !self.is_master() {
            let who = &self.user;
            let why =
                format!("User {who:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope");
            return Err(Box::new(Status::forbidden(GroupResource::new("", "users"), &user, &why)));
        }
        if groups.is_empty()
            && let Some((namespace, _)) = user.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'))
        {
            groups.extend(["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]);
        }
        let identity = Identity::new(&user, groups);
        Ok(if identity.user == "system:anonymous" { identity } else { identity.authenticated() })
    }

    fn authenticated(mut self) -> Self {
        if !self.groups.iter().any(|group| group == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
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

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn masters_act_as_others_and_nobody_else_does() {
        let nobody = Identity::trusted().impersonated(&headers(&[("impersonate-user", "nobody")])).unwrap();
        assert_eq!((nobody.user.as_str(), nobody.groups.as_slice()), ("nobody", &[AUTHENTICATED.to_owned()][..]));
        let refused = nobody.impersonated(&headers(&[("impersonate-user", "root")])).unwrap_err();
        assert_eq!(refused.code, 403);
        let named = headers(&[("impersonate-user", "root"), ("impersonate-group", MASTERS)]);
        assert!(Identity::trusted().impersonated(&named).unwrap().is_master());
        let robot = headers(&[("impersonate-user", "system:serviceaccount:a:robot")]);
        let groups = Identity::trusted().impersonated(&robot).unwrap().groups;
        assert_eq!(groups, ["system:serviceaccounts", "system:serviceaccounts:a", AUTHENTICATED]);
        assert_eq!(Identity::trusted().impersonated(&headers(&[])).unwrap(), Identity::trusted());
        assert!(Identity::trusted().impersonated(&headers(&[("impersonate-group", "a")])).is_err());
    }
}
