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

fn may_i(spec: &Value, caller: &Caller<'_>) -> Value {
    let groups: Vec<&str> = caller.groups.iter().map(String::as_str).collect();
    json!({"allowed": allowed(spec, &groups)})
}

fn may_they(spec: &Value, _caller: &Caller<'_>) -> Value {
    json!({"allowed": allowed(spec, &texts(&spec["groups"]))})
}

fn rules(_spec: &Value, caller: &Caller<'_>) -> Value {
    let groups: Vec<&str> = caller.groups.iter().map(String::as_str).collect();
    let (resources, paths) = granted(&groups);
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

/// What members of these groups may: ResourceRules and NonResourceRules.
fn granted(groups: &[&str]) -> (Vec<Value>, Vec<Value>) {
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    if groups.contains(&MASTERS) {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    if groups.contains(&AUTHENTICATED) {
        resources.extend(
            QUESTIONS
                .iter()
                .map(|(group, plurals)| json!({"verbs": ["create"], "apiGroups": [group], "resources": plurals})),
        );
        paths.extend([DISCOVERY, PUBLIC].map(|urls| json!({"verbs": ["get"], "nonResourceURLs": urls})));
    }
    (resources, paths)
}

/// Whether they may do what a SubjectAccessReview's spec asks about.
fn allowed(spec: &Value, groups: &[&str]) -> bool {
    let (resources, paths) = granted(groups);
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let path = &spec["nonResourceAttributes"];
    if path.is_object() {
        let (verb, url) = (word(&path["verb"]), word(&path["path"]));
        return paths.iter().any(|rule| covers(&rule["verbs"], &verb) && covers(&rule["nonResourceURLs"], &url));
    }
    let asked = &spec["resourceAttributes"];
    let (verb, group, mut resource) = (word(&asked["verb"]), word(&asked["group"]), word(&asked["resource"]));
    if let Some(subresource) = asked["subresource"].as_str().filter(|subresource| !subresource.is_empty()) {
        resource = format!("{resource}/{subresource}");
    }
    let fits = |rule: &&Value| {
        covers(&rule["verbs"], &verb) && covers(&rule["apiGroups"], &group) && covers(&rule["resources"], &resource)
    };
    resources.iter().find(fits).is_some()
}

/// `*` is everything, and at the end of a path everything that begins so.
fn covers(patterns: &Value, word: &str) -> bool {
    texts(patterns).iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => word.starts_with(prefix),
        None => *pattern == word,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_may_everything_and_others_ask_about_themselves() {
        let (masters, nobody) = ([MASTERS.to_owned()], [AUTHENTICATED.to_owned()]);
        let admin = Caller { user: "a", groups: &masters, credential: Some("X509SHA256=00") };
        let other = Caller { user: "b", groups: &nobody, credential: None };
        let ask = |resource: &Resource, caller: &Caller<'_>, spec: Value| {
            let mut object = json!({"spec": spec});
            assert!(resource.strategy.answer(&mut object, caller));
            object["status"].clone()
        };
        let asked = |resource: &Resource, caller: &Caller<'_>| ask(resource, caller, json!({}));
        let own = json!({"verb": "create", "group": "authorization.k8s.io", "resource": "selfsubjectrulesreviews"});
        let pods = json!({"verb": "list", "resource": "pods", "namespace": "default"});
        let path = |path: &str| json!({"nonResourceAttributes": {"verb": "get", "path": path}});
        for (spec, others) in [
            (json!({"resourceAttributes": own}), true),
            (json!({"resourceAttributes": pods}), false),
            (path("/apis/apps/v1"), true),
            (path("/metrics"), false),
            (json!({"nonResourceAttributes": {"verb": "post", "path": "/apis"}}), false),
        ] {
            assert_eq!(ask(&SELF_ACCESS, &admin, spec.clone()), json!({"allowed": true}), "{spec}");
            assert_eq!(ask(&SELF_ACCESS, &other, spec.clone()), json!({"allowed": others}), "{spec}");
            let mut theirs = spec;
            theirs["groups"] = json!(["x"]);
            assert_eq!(ask(&ACCESS, &admin, theirs.clone()), json!({"allowed": false}), "{theirs}");
            theirs["groups"] = json!(["x", AUTHENTICATED]);
            assert_eq!(ask(&ACCESS, &admin, theirs.clone()), json!({"allowed": others}), "{theirs}");
        }
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
