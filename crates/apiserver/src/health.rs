//! `/livez`, `/readyz`, `/healthz` with their checks, and `/version`. Not responsible for who may ask.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::Inner;
use crate::http::body::Body;
use crate::http::query::Query;
use crate::http::respond;
use crate::registry::Answer;

/// One check: its name and what is wrong.
type Check = (&'static str, Option<String>);

/// A health endpoint, or one check of it.
pub async fn answer(server: &Arc<Inner>, endpoint: &str, check: Option<&str>, query: &Query) -> Answer<Response<Body>> {
    let checks = checks(server, endpoint).await;
    if let Some(name) = check {
        return match checks.iter().find(|(known, _)| *known == name) {
            Some((_, None)) => Ok(respond::text(StatusCode::OK, "ok")),
            Some((_, Some(why))) => {
                Ok(respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {why}")))
            }
            None => Err(Box::new(api::status::Status::no_such_resource())),
        };
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut report = String::new();
    let mut good = true;
    for (name, wrong) in &checks {
        match wrong {
            _ if excluded.contains(name) => report.push_str(&format!("[+]{name} excluded: ok\n")),
            None => report.push_str(&format!("[+]{name} ok\n")),
            Some(_) => {
                // Why is for the log: anybody may ask here.
                report.push_str(&format!("[-]{name} failed: reason withheld\n"));
                good = false;
            }
        }
    }
    for (name, wrong) in checks {
        if let Some(why) = wrong {
            tracing::warn!(endpoint, check = name, why, "a health check failed");
        }
    }
    report.push_str(&format!("{endpoint} check {}\n", if good { "passed" } else { "failed" }));
    Ok(match good {
        true if !query.flag("verbose") => respond::text(StatusCode::OK, "ok"),
        true => respond::text(StatusCode::OK, report),
        false => respond::text(StatusCode::INTERNAL_SERVER_ERROR, report),
    })
}

async fn checks(server: &Arc<Inner>, endpoint: &str) -> Vec<Check> {
    let store = server.registry.store.revision().await.err().map(|error| error.to_string());
    let mut checks = vec![("ping", None), ("store", store)];
    if endpoint == "readyz" {
        let pending = !server.bootstrapped.load(Ordering::Acquire);
        checks.push(("poststarthook/bootstrap", pending.then(|| "not finished".to_owned())));
    }
    checks
}

/// The version that clients adapt to: the Kubernetes minor this server behaves like.
pub fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "36",
        "gitVersion": "v1.36.3",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_arch()),
    })
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
