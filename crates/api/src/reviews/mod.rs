//! Questions to the API server about who one is and what one may (authentication.k8s.io/v1, authorization.k8s.io/v1):
//! objects that are answered and never stored.
//!
//! Not responsible for who may do what: so far that is members of system:masters everything, others nothing.

use serde_json::{Value, json};

use crate::resource::{Caller, Resource, Scope, Strategy};
use crate::tree::{map_mut, texts};

const MASTERS: &str = "system:masters";

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
    json!({"userInfo": {"username": caller.user, "groups": caller.groups}})
}

fn may_i(_spec: &Value, caller: &Caller<'_>) -> Value {
    json!({"allowed": caller.groups.iter().any(|group| group == MASTERS)})
}

fn may_they(spec: &Value, _caller: &Caller<'_>) -> Value {
    json!({"allowed": texts(&spec["groups"]).contains(&MASTERS)})
}

fn rules(_spec: &Value, caller: &Caller<'_>) -> Value {
    let all = if caller.groups.iter().any(|group| group == MASTERS) {
        (
            json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]),
            json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]),
        )
    } else {
        (json!([]), json!([]))
    };
    json!({"resourceRules": all.0, "nonResourceRules": all.1, "incomplete": false})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_may_everything_and_others_nothing() {
        let (masters, nobody) = ([MASTERS.to_owned()], []);
        let (admin, other) = (Caller { user: "a", groups: &masters }, Caller { user: "b", groups: &nobody });
        let asked = |resource: &Resource, caller: &Caller<'_>| {
            let mut object = json!({"spec": {"groups": ["x"]}});
            assert!(resource.strategy.answer(&mut object, caller));
            object["status"].clone()
        };
        assert_eq!(asked(&SELF_ACCESS, &admin), json!({"allowed": true}));
        assert_eq!(asked(&SELF_ACCESS, &other), json!({"allowed": false}));
        assert_eq!(asked(&ACCESS, &admin), json!({"allowed": false}));
        assert_eq!(asked(&SELF_SUBJECT, &admin)["userInfo"], json!({"username": "a", "groups": [MASTERS]}));
        assert_eq!(asked(&SELF_RULES, &admin)["resourceRules"][0]["verbs"], json!(["*"]));
        assert_eq!(asked(&SELF_RULES, &other)["resourceRules"], json!([]));
    }
}
