//! One request from its arrival to its answer: who, what, whether they may, and what is counted about it.
//!
//! Not responsible for connections (`tls`), nor for objects (`objects`).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use api::status::{GroupResource, Status};
use futures::FutureExt;
use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::body::{Body, full};
use super::negotiate::{self, Discovery};
use super::objects::{ObjectRequest, not_acceptable};
use super::query::Query;
use super::respond;
use super::route::{Route, Verb};
use crate::Inner;
use crate::health;
use crate::identity::{Attempt, Identity};
use crate::metrics::Labels;
use crate::registry::{Answer, store_failed};

/// Where a request comes from.
#[derive(Clone)]
pub struct Caller {
    /// `None` is anonymous.
    pub identity: Option<Identity>,
    /// Cancelled when the listener stops; watches end then.
    pub ending: CancellationToken,
}

/// Answers any request; never fails and never panics.
pub async fn answer(server: Arc<Inner>, caller: Caller, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    server.metrics.started();
    let user = caller.identity.as_ref().map_or("system:anonymous", |identity| identity.user.as_str());
    let span = tracing::debug_span!("request", method = %request.method(), uri = %request.uri(), user);
    let head = request.method() == Method::HEAD;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let route = Route::parse(request.uri().path(), &server.registry.kinds);
    let labels = labels(&route, request.method(), &query);
    let (parts, body) = request.into_parts();
    let work = dispatch(&server, &caller, &route, &query, &parts, body);
    let mut response = match AssertUnwindSafe(work).catch_unwind().instrument(span.clone()).await {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => respond::status(&status),
        Err(_) => {
            server.metrics.panicked();
            respond::status(&Status::internal("a request handler panicked; this is a bug in the server"))
        }
    };
    if head {
        *response.body_mut() = full("");
    }
    let (code, took) = (response.status(), started.elapsed());
    span.in_scope(|| tracing::debug!(code = code.as_u16(), took_us = took.as_micros(), "answered"));
    server.metrics.finished(labels, code.as_u16(), took);
    response
}

async fn dispatch(
    server: &Arc<Inner>,
    caller: &Caller,
    route: &Route,
    query: &Query,
    parts: &Parts,
    body: Body,
) -> Answer<Response<Body>> {
    let open = matches!(route, Route::Health { .. } | Route::Version);
    let identity = caller.identity.clone().map(|identity| identity.impersonated(&parts.headers)).transpose()?;
    match &identity {
        _ if open => {}
        Some(identity) if identity.is_master() => {}
        // What they are and may do themselves is told to all users (upstream's role system:basic-user).
        Some(_) if is_about_oneself(route) && parts.method == Method::POST => {}
        // What the API looks like is no secret among its users (upstream's role system:discovery).
        Some(_) if is_discovery(route) && matches!(parts.method, Method::GET | Method::HEAD) => {}
        Some(identity) => return Err(Box::new(refused(identity, route, query, parts))),
        None => return Err(Box::new(Status::unauthorized())),
    }
    if let Route::Resource(target) = route {
        let Some(verb) = Verb::of(&parts.method, target, query) else {
            return Err(Box::new(Status::method_not_allowed()));
        };
        let object = ObjectRequest {
            registry: &server.registry,
            dialer: &server.dialer,
            target,
            verb,
            query,
            headers: &parts.headers,
            caller: api::Caller {
                user: identity.as_ref().map_or("", |identity| identity.user.as_str()),
                groups: identity.as_ref().map_or(&[], |identity| identity.groups.as_slice()),
                credential: identity.as_ref().and_then(|identity| identity.credential.as_deref()),
            },
            ending: caller.ending.clone(),
        };
        return object.answer(body).await;
    }
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        let unknown = matches!(route, Route::Unknown);
        return Err(Box::new(if unknown { Status::no_such_resource() } else { Status::method_not_allowed() }));
    }
    document(server, route, query, parts).await
}

/// Everything that isn't objects.
async fn document(server: &Arc<Inner>, route: &Route, query: &Query, parts: &Parts) -> Answer<Response<Body>> {
    let discovery = |core: bool| match negotiate::discovery(&parts.headers) {
        Ok(Discovery::Aggregated) => Ok(server.discovery.aggregated(core, &parts.headers)),
        Ok(Discovery::Legacy) => Ok(server.discovery.legacy(core)),
        Err(_) => Err(Box::new(not_acceptable())),
    };
    let unknown = || Box::new(Status::no_such_resource());
    match route {
        Route::Health { endpoint, check } => health::answer(server, endpoint, check.as_deref(), query).await,
        Route::Version => Ok(respond::json(StatusCode::OK, &health::version())),
        Route::Metrics => {
            let revision = server.registry.store.revision().await.map_err(store_failed)?;
            let mut response = respond::text(StatusCode::OK, server.metrics.text(revision.0));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
            Ok(response)
        }
        Route::OpenApiV2 => Ok(server.openapi.v2(&parts.headers)),
        Route::OpenApiIndex => Ok(server.openapi.index()),
        Route::OpenApi(path) => server.openapi.document(path, query, &parts.headers).ok_or_else(unknown),
        Route::Core => discovery(true),
        Route::Groups => discovery(false),
        Route::Group(group) => server.discovery.group(group).ok_or_else(unknown),
        Route::GroupVersion(group, version) => server.discovery.group_version(group, version).ok_or_else(unknown),
        Route::Resource(_) | Route::Unknown => Err(unknown()),
    }
}

fn is_about_oneself(route: &Route) -> bool {
    match route {
        Route::Resource(target) => {
            matches!(target.resource.group, "authentication.k8s.io" | "authorization.k8s.io")
                && target.resource.plural.starts_with("selfsubject")
        }
        _ => false,
    }
}

fn is_discovery(route: &Route) -> bool {
    match route {
        Route::Core | Route::Groups | Route::Group(_) | Route::GroupVersion(..) => true,
        Route::OpenApiV2 | Route::OpenApiIndex | Route::OpenApi(_) => true,
        Route::Health { .. } | Route::Version | Route::Metrics | Route::Resource(_) | Route::Unknown => false,
    }
}

fn refused(identity: &Identity, route: &Route, query: &Query, parts: &Parts) -> Status {
    let user = &identity.user;
    match route {
        Route::Resource(target) => {
            let verb = Verb::of(&parts.method, target, query).map_or("proxy", Verb::text);
            let attempt = Attempt {
                verb,
                resource: target.resource,
                subresource: target.subresource,
                namespace: target.namespace.as_deref(),
            };
            let name = target.name.as_deref().unwrap_or_default();
            Status::forbidden(target.resource.into(), name, &attempt.refusal(user))
        }
        _ => {
            let method = parts.method.as_str().to_lowercase();
            let why = format!("User {user:?} cannot {method} path {:?}", parts.uri.path());
            Status::forbidden(GroupResource::new("", ""), "", &why)
        }
    }
}

fn labels(route: &Route, method: &Method, query: &Query) -> Labels {
    let Route::Resource(target) = route else {
        return Labels { verb: if method == Method::GET { "get" } else { "other" }, ..Labels::default() };
    };
    let resource = target.resource;
    Labels {
        verb: Verb::of(method, target, query).map_or("other", Verb::text),
        group: resource.group,
        version: resource.version,
        resource: resource.plural,
        subresource: target.subresource,
    }
}
