//! The `Status` object: what the API answers when there is no object to answer with. Codes, reasons, messages and details
//! follow upstream's `api/errors`, since clients show and match them. Not responsible for when each is given.

use serde_json::{Map, Value, json};

use crate::field;

/// A resource as messages and details name it: `services`, or `deployments.apps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupResource<'a> {
    pub group: &'a str,
    pub resource: &'a str,
}

impl<'a> GroupResource<'a> {
    pub fn new(group: &'a str, resource: &'a str) -> Self {
        GroupResource { group, resource }
    }
}

impl<'a> From<&'a crate::Resource> for GroupResource<'a> {
    fn from(resource: &'a crate::Resource) -> Self {
        GroupResource { group: resource.group, resource: resource.plural }
    }
}

impl std::fmt::Display for GroupResource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// One detail of a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueInvalid`, `ResourceVersionTooLarge` …; may be empty.
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// What a Status says about its subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource (`services`), except in Invalid, which has the kind (`Service`).
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: u32,
}

/// A `Status`: success or failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u16,
    /// Empty on success.
    pub reason: &'static str,
    pub message: String,
    pub details: Option<Details>,
    /// `metadata.continue` of an expired continue token.
    pub continue_token: String,
}

impl std::error::Error for Status {}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl Status {
    fn failure(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Status { code, reason, message: message.into(), details: None, continue_token: String::new() }
    }

    fn about(mut self, subject: GroupResource<'_>, name: &str) -> Self {
        self.details = Some(Details {
            name: name.to_owned(),
            group: subject.group.to_owned(),
            kind: subject.resource.to_owned(),
            ..Details::default()
        });
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// 200, as a DELETE answers when the object is gone.
    pub fn success(subject: GroupResource<'_>, name: &str, uid: &str) -> Self {
        let mut status = Status::failure(200, "", "").about(subject, name);
        status.details.get_or_insert_default().uid = uid.to_owned();
        status
    }

    pub fn not_found(subject: GroupResource<'_>, name: &str) -> Self {
        Status::failure(404, "NotFound", format!("{subject} {name:?} not found")).about(subject, name)
    }

    /// 404 for a path that leads nowhere.
    pub fn no_such_resource() -> Self {
        let mut status = Status::failure(404, "NotFound", "the server could not find the requested resource");
        status.details = Some(Details::default());
        status
    }

    pub fn already_exists(subject: GroupResource<'_>, name: &str) -> Self {
        Status::failure(409, "AlreadyExists", format!("{subject} {name:?} already exists")).about(subject, name)
    }

    /// 409 with any reason why.
    pub fn conflict(subject: GroupResource<'_>, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {subject} {name:?}: {why}");
        Status::failure(409, "Conflict", message).about(subject, name)
    }

    /// 409 because the resourceVersion given is not the latest.
    pub fn modified(subject: GroupResource<'_>, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Status::conflict(subject, name, why)
    }

    /// 422 with one cause per mistake. `kind` is the Kind here, not the resource.
    pub fn invalid(group: &str, kind: &str, name: &str, mistakes: &[field::Error]) -> Self {
        let qualified = GroupResource::new(group, kind);
        let message = match aggregate(mistakes) {
            Some(all) => format!("{qualified} {name:?} is invalid: {all}"),
            None => format!("{qualified} {name:?} is invalid"),
        };
        let mut status = Status::failure(422, "Invalid", message).about(qualified, name);
        let cause = |m: &field::Error| Cause {
            reason: m.kind.reason().to_owned(),
            message: m.body(),
            field: m.path.to_string(),
        };
        status.details.get_or_insert_default().causes = mistakes.iter().map(cause).collect();
        status
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Status::failure(400, "BadRequest", message)
    }

    /// 400 for a body that can't be read as the kind: upstream's wording around the decoder's error.
    pub fn cannot_handle(kind: &str, version: &str, why: &dyn std::error::Error) -> Self {
        Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
    }

    pub fn unauthorized() -> Self {
        Status::failure(401, "Unauthorized", "Unauthorized")
    }

    pub fn forbidden(subject: GroupResource<'_>, name: &str, why: &str) -> Self {
        let message = match (subject.resource.is_empty() && subject.group.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{subject} is forbidden: {why}"),
            (false, false) => format!("{subject} {name:?} is forbidden: {why}"),
        };
        Status::failure(403, "Forbidden", message).about(subject, name)
    }

    /// 405 for a verb that the resource doesn't have: `action` is `create`, `delete` …
    pub fn method_not_supported(subject: GroupResource<'_>, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind {:?}", subject.to_string());
        Status::failure(405, "MethodNotAllowed", message).about(subject, "")
    }

    /// 405 for an HTTP method that the path doesn't have.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut status = Status::failure(405, "MethodNotAllowed", message);
        status.details = Some(Details::default());
        status
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Status::failure(406, "NotAcceptable", message)
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Status::failure(415, "UnsupportedMediaType", message)
    }

    /// 410: the resourceVersion or continue token asked for has been compacted.
    pub fn expired(message: impl Into<String>) -> Self {
        Status::failure(410, "Expired", message)
    }

    /// 410 for a continue token, with a new one that goes on inconsistently.
    pub fn expired_continue(continue_token: String) -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a \
                       new list without the continue parameter, or use the continue token in this response to retrieve \
                       the remainder of the results. Continuing with the provided token results in an inconsistent list \
                       - objects that were created, modified, or deleted between the time the first chunk was returned \
                       and now may show up in the list.";
        Status { continue_token, ..Status::expired(message) }
    }

    /// 504 for a resourceVersion that isn't reached yet. Clients match the cause.
    pub fn too_large_resource_version(requested: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {requested}, current: {current}");
        let mut status = Status::timeout(&message, 1);
        status.details.get_or_insert_default().causes = vec![Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        }];
        status
    }

    pub fn timeout(message: &str, retry_after_seconds: u32) -> Self {
        Status::failure(504, "Timeout", format!("Timeout: {message}")).retry_after(retry_after_seconds)
    }

    /// 500: an operation that may succeed when tried again.
    pub fn server_timeout(subject: GroupResource<'_>, operation: &str, retry_after_seconds: u32) -> Self {
        let message = format!(
            "The {operation} operation against {subject} could not be completed at this time, please try again."
        );
        Status::failure(500, "ServerTimeout", message).about(subject, operation).retry_after(retry_after_seconds)
    }

    /// 500 for what upstream's storage says without a reason.
    pub fn unclassified(message: impl Into<String>) -> Self {
        Status::failure(500, "", message)
    }

    pub fn internal(why: impl std::fmt::Display) -> Self {
        let why = why.to_string();
        let mut status = Status::failure(500, "InternalError", format!("Internal error occurred: {why}"));
        status.details.get_or_insert_default().causes = vec![Cause { message: why, ..Cause::default() }];
        status
    }

    /// 500 over an open watch, in the error's own words.
    pub fn broken_watch(why: &str) -> Self {
        Status::failure(500, "InternalError", why)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Status::failure(429, "TooManyRequests", message).retry_after(retry_after_seconds)
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Status::failure(503, "ServiceUnavailable", message)
    }

    /// 507 (RFC 4918 §11.5): nothing was written for want of room; kube-apiserver has no reason of its own for it.
    pub fn insufficient_storage(message: impl Into<String>) -> Self {
        Status::failure(507, "InsufficientStorage", message)
    }

    pub fn request_entity_too_large(message: &str) -> Self {
        Status::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
    }

    /// 422 that isn't about one object's fields: a JSON patch that doesn't apply.
    pub fn unprocessable(why: &str) -> Self {
        let message = "the server rejected our request due to an error in our request";
        let mut status = Status::failure(422, "Invalid", message);
        status.details.get_or_insert_default().causes =
            vec![Cause { field: "patch".to_owned(), message: why.to_owned(), ..Cause::default() }];
        status
    }

    /// Adds a cause (NamespaceTerminating, DisruptionBudget …).
    pub fn with_cause(mut self, cause: Cause) -> Self {
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": if self.code < 400 { "Success" } else { "Failure" },
            "code": self.code,
        });
        put(&mut status, "message", &self.message);
        put(&mut status, "reason", self.reason);
        put(&mut status["metadata"], "continue", &self.continue_token);
        if let Some(details) = &self.details {
            status["details"] = details.to_value();
        }
        // A successful delete carries no code.
        if self.code == 200 {
            status.as_object_mut().map(|s| s.remove("code"));
        }
        status
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut details = Value::Object(Map::new());
        put(&mut details, "name", &self.name);
        put(&mut details, "group", &self.group);
        put(&mut details, "kind", &self.kind);
        put(&mut details, "uid", &self.uid);
        if !self.causes.is_empty() {
            details["causes"] = self.causes.iter().map(Cause::to_value).collect();
        }
        if self.retry_after_seconds > 0 {
            details["retryAfterSeconds"] = self.retry_after_seconds.into();
        }
        details
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut cause = Value::Object(Map::new());
        put(&mut cause, "reason", &self.reason);
        put(&mut cause, "message", &self.message);
        put(&mut cause, "field", &self.field);
        cause
    }
}

fn put(object: &mut Value, key: &str, text: &str) {
    if !text.is_empty() {
        object[key] = text.into();
    }
}

/// Several mistakes in one line: repeated ones once, brackets around more than one.
fn aggregate(mistakes: &[field::Error]) -> Option<String> {
    let mut texts: Vec<String> = Vec::new();
    for mistake in mistakes {
        let text = mistake.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.len() {
        0 => None,
        1 => texts.pop(),
        _ => Some(format!("[{}]", texts.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Error, Path};

    const SERVICES: GroupResource<'_> = GroupResource { group: "", resource: "services" };

    #[test]
    fn conflict_says_what_clients_expect() {
        let status = Status::modified(SERVICES, "x");
        assert_eq!(
            status.message,
            "Operation cannot be fulfilled on services \"x\": the object has been modified; please apply your changes \
             to the latest version and try again"
        );
        assert_eq!(status.to_value()["details"], json!({"name": "x", "kind": "services"}));
        assert_eq!(status.to_value()["code"], 409);
    }

    #[test]
    fn invalid_names_the_kind_and_joins_the_mistakes_once_each() {
        let path = Path::new("spec").child("ports").index(0).child("port");
        let one = Error::invalid(&path, 0, "must be between 1 and 65535, inclusive");
        let single = Status::invalid("", "Service", "x", std::slice::from_ref(&one));
        assert_eq!(
            single.message,
            "Service \"x\" is invalid: spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"
        );
        let two = Status::invalid("apps", "Deployment", "d", &[one.clone(), one, Error::required(&path, "")]);
        assert!(two.message.starts_with("Deployment.apps \"d\" is invalid: [spec.ports[0].port: Invalid value: 0"));
        assert!(two.message.ends_with("inclusive, spec.ports[0].port: Required value]"));
        let value = two.to_value();
        assert_eq!(value["details"]["kind"], "Deployment");
        assert_eq!(value["details"]["causes"][2]["reason"], "FieldValueRequired");
        assert_eq!(value["details"]["causes"][0]["field"], "spec.ports[0].port");
    }

    #[test]
    fn success_carries_the_uid_and_no_code() {
        let value = Status::success(GroupResource::new("apps", "deployments"), "d", "u").to_value();
        assert_eq!(
            value,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                   "details": {"name": "d", "group": "apps", "kind": "deployments", "uid": "u"}})
        );
    }

    #[test]
    fn too_large_resource_version_has_the_cause_that_clients_match() {
        let value = Status::too_large_resource_version(9, 5).to_value();
        assert_eq!(value["message"], "Timeout: Too large resource version: 9, current: 5");
        assert_eq!(value["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        assert_eq!(value["details"]["retryAfterSeconds"], 1);
        assert_eq!(value["code"], 504);
    }
}
