//! Questions to the API server about who one is and what one may (authentication.k8s.io/v1, authorization.k8s.io/v1):
//! objects that are answered and never stored.
//!
//! Not responsible for who may do what: so far that is members of system:masters everything, others what every user may.

use serde_json::{Value, json};

use crate::resource::{Caller, Resource, Scope, Strategy};
use crate::tree::{map_mut, texts};

const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";
/// Under which name a user is told what it was known by.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// What every user may ask about itself (upstream's role system:basic-user): group and plurals.
const QUESTIONS: &[(&str, &[&str])] = &[
    ("authentication.k8s.io", &["selfsubjectreviews"]),
    ("authorization.k8s.io", &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
];
/// What every user may read (system:public-info-viewer, system:discovery).
const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];
const DISCOVERY: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
];

macro_rules! review {
    ($name:ident, $group:literal, $package:literal, $kind:literal, $plural:literal, $singular:literal, $answer:expr) => {
        pub static $name: Resource = Resource {
            group: $group,
            version: "v1",
            kind: $kind,
            plural: $plural,
            singular: $singular,
            short_names: &[],
            categories: &[],
            scope: Scope::Cluster,
            verbs: &["create"],
            subresources: &[],
            definition: concat!("io.k8s.api.", $package, ".v1.", $kind),
            strategy: &Review($answer),
        };
    };
}

review!(
    SELF_SUBJECT,
    "authentication.k8s.io",
    "authentication",
    "SelfSubjectReview",
    "selfsubjectreviews",
    "selfsubjectreview",
    who
);
review!(
    SELF_ACCESS,
    "authorization.k8s.io",
    "authorization",
    "SelfSubjectAccessReview",
    "selfsubjectaccessreviews",
    "selfsubjectaccessreview",
    may_i
);
review!(
    SELF_RULES,
    "authorization.k8s.io",
    "authorization",
    "SelfSubjectRulesReview",
    "selfsubjectrulesreviews",
    "selfsubjectrulesreview",
    rules
);
review!(
    ACCESS,
    "authorization.k8s.io",
    "authorization",
    "SubjectAccessReview",
    "subjectaccessreviews",
    "subjectaccessreview",
    may_they
);

/// The status of a question, by its spec and who asks.
struct Review(fn(&Value, &Caller<'_>) -> Value);

impl Strategy for Review {
    fn answer(&self, object: &mut Value, caller: &Caller<'_>) -> bool {
        let status = (self.0)(&object["spec"], caller);
        map_mut(object).insert("status".to_owned(), status);
        true
    }

    /// Questions have no names.
    fn validate_name(&self, _name: &str, _prefix: bool) -> Vec<String> {
        Vec::new()
    }
}

fn who(_spec: &Value, caller: &Caller<'_>) -> Value {
    let mut info = json!({"username": caller.user, "groups": caller.groups});
    if let Some(credential) = caller.credential {
        info["extra"] = json!({CREDENTIAL: [credential]});
    }
    json!({"userInfo": info})
}

fn may_i(_spec: &Value, caller: &Caller<'_>) -> Value {
    json!({"allowed": caller.groups.iter().any(|group| group == MASTERS)})
}

fn may_they(spec: &Value, _caller: &Caller<'_>) -> Value {
    json!({"allowed": texts(&spec["groups"]).contains(&MASTERS)})
}

fn rules(_spec: &Value, caller: &Caller<'_>) -> Value {
    let is = |name: &str| caller.groups.iter().any(|group| group == name);
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    if is(MASTERS) {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    if is(AUTHENTICATED) {
        resources.extend(
            QUESTIONS
                .iter()
                .map(|(group, plurals)| json!({"verbs": ["create"], "apiGroups": [group], "resources": plurals})),
        );
        paths.extend([DISCOVERY, PUBLIC].map(|urls| json!({"verbs": ["get"], "nonResourceURLs": urls})));
    }
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_may_everything_and_others_ask_about_themselves() {
        let (masters, nobody) = ([MASTERS.to_owned()], [AUTHENTICATED.to_owned()]);
        let admin = Caller { user: "a", groups: &masters, credential: Some("X509SHA256=00") };
        let other = Caller { user: "b", groups: &nobody, credential: None };
        let asked = |resource: &Resource, caller: &Caller<'_>| {
            let mut object = json!({"spec": {"groups": ["x"]}});
            assert!(resource.strategy.answer(&mut object, caller));
            object["status"].clone()
        };
        assert_eq!(asked(&SELF_ACCESS, &admin), json!({"allowed": true}));
        assert_eq!(asked(&SELF_ACCESS, &other), json!({"allowed": false}));
        assert_eq!(asked(&ACCESS, &admin), json!({"allowed": false}));
        let known = json!({"username": "a", "groups": [MASTERS], "extra": {CREDENTIAL: ["X509SHA256=00"]}});
        assert_eq!(asked(&SELF_SUBJECT, &admin)["userInfo"], known);
        assert_eq!(asked(&SELF_RULES, &admin)["resourceRules"][0]["verbs"], json!(["*"]));
        let own = json!([
            {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
            {"verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
             "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]},
        ]);
        assert_eq!(asked(&SELF_RULES, &other)["resourceRules"], own);
        assert_eq!(asked(&SELF_RULES, &other)["nonResourceRules"][0]["verbs"], json!(["get"]));
    }
}
