//! From method and path to what is asked. Not responsible for whether it may be, nor for doing it.

use api::Resource;
use http::Method;

use super::query::{Query, decode_segment};
use crate::kinds::Kinds;

/// What a path names.
#[derive(Clone, Debug)]
pub enum Route {
    /// `/livez`, `/readyz`, `/healthz`, possibly with a check's name.
    Health {
        endpoint: &'static str,
        check: Option<String>,
    },
    Version,
    Metrics,
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiIndex,
    /// `/openapi/v3/apis/apps/v1`: what follows the index's path.
    OpenApi(String),
    /// `/api`.
    Core,
    /// `/apis`.
    Groups,
    /// `/apis/apps`.
    Group(String),
    /// `/api/v1`, `/apis/apps/v1`: group and version.
    GroupVersion(String, String),
    /// A resource or its objects.
    Resource(Target),
    /// Something that exists nowhere.
    Unknown,
}

/// The resource, object or subresource that a path names.
#[derive(Clone)]
pub struct Target {
    pub resource: &'static Resource,
    pub namespace: Option<String>,
    pub name: Option<String>,
    /// Empty for the object itself.
    pub subresource: &'static str,
    /// The path itself asks for a watch, as paths did before the parameter: `/api/v1/watch/services`.
    pub watch: bool,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Target { namespace, name, subresource, .. } = self;
        write!(f, "{} {namespace:?} {name:?} {subresource:?}", self.resource.qualified())
    }
}

/// What is to be done with a target, in the words of RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub fn text(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }

    /// `None` for methods no resource has.
    pub fn of(method: &Method, target: &Target, query: &Query) -> Option<Verb> {
        let named = target.name.is_some();
        Some(match *method {
            // Of one object only the old path is a watch; the parameter is not looked at, as upstream has it.
            Method::GET | Method::HEAD if target.watch || (!named && query.flag("watch")) => Verb::Watch,
            Method::GET | Method::HEAD if named => Verb::Get,
            Method::GET | Method::HEAD => Verb::List,
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE if named => Verb::Delete,
            Method::DELETE => Verb::DeleteCollection,
            _ => return None,
        })
    }
}

impl Route {
    /// Paths are matched strictly: no empty segments, at most one trailing slash.
    pub fn parse(path: &str, kinds: &Kinds) -> Route {
        let path = path.strip_suffix('/').filter(|p| !p.is_empty()).unwrap_or(path);
        let segments: Vec<String> = path.split('/').skip(1).map(decode_segment).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments[..] {
            ["livez", ref rest @ ..] => health("livez", rest),
            ["readyz", ref rest @ ..] => health("readyz", rest),
            ["healthz", ref rest @ ..] => health("healthz", rest),
            ["version"] => Route::Version,
            ["metrics"] => Route::Metrics,
            ["openapi", "v2"] => Route::OpenApiV2,
            ["openapi", "v3"] => Route::OpenApiIndex,
            ["openapi", "v3", ref rest @ ..] => Route::OpenApi(rest.join("/")),
            ["api"] => Route::Core,
            ["apis"] => Route::Groups,
            ["api", version] => Route::GroupVersion(String::new(), version.to_owned()),
            ["apis", group] => Route::Group(group.to_owned()),
            ["apis", group, version] => Route::GroupVersion(group.to_owned(), version.to_owned()),
            ["api", version, "watch", ref rest @ ..] => watch(resource(kinds, "", version, rest)),
            ["apis", group, version, "watch", ref rest @ ..] if !group.is_empty() => {
                watch(resource(kinds, group, version, rest))
            }
            ["api", version, ref rest @ ..] => resource(kinds, "", version, rest),
            ["apis", group, version, ref rest @ ..] if !group.is_empty() => resource(kinds, group, version, rest),
            _ => Route::Unknown,
        }
    }
}

fn health(endpoint: &'static str, rest: &[&str]) -> Route {
    match rest {
        [] => Route::Health { endpoint, check: None },
        [check] => Route::Health { endpoint, check: Some((*check).to_owned()) },
        _ => Route::Unknown,
    }
}

/// The watch of what a path names.
fn watch(route: Route) -> Route {
    match route {
        Route::Resource(target) if target.subresource.is_empty() => Route::Resource(Target { watch: true, ..target }),
        _ => Route::Unknown,
    }
}

fn resource(kinds: &Kinds, group: &str, version: &str, rest: &[&str]) -> Route {
    if rest.iter().any(|segment| segment.is_empty()) {
        return Route::Unknown;
    }
    let find = |plural: &str| kinds.find(group, version, plural);
    let target = match *rest {
        // A namespace's own subresources share the shape of a namespaced collection; the latter has no such name.
        ["namespaces", namespace, plural, ref rest @ ..] if find(plural).is_some_and(Resource::namespaced) => {
            find(plural).and_then(|resource| within(resource, Some(namespace), rest))
        }
        [plural, ref rest @ ..] => {
            // A namespaced kind is listed and watched across namespaces, but its objects are only reached in theirs.
            find(plural)
                .filter(|resource| !resource.namespaced() || rest.is_empty())
                .and_then(|r| within(r, None, rest))
        }
        [] => None,
    };
    target.map_or(Route::Unknown, Route::Resource)
}

fn within(resource: &'static Resource, namespace: Option<&str>, rest: &[&str]) -> Option<Target> {
    let target = |name: Option<&str>, subresource| {
        let (namespace, name) = (namespace.map(str::to_owned), name.map(str::to_owned));
        Some(Target { resource, namespace, name, subresource, watch: false })
    };
    match *rest {
        [] => target(None, ""),
        [name] => target(Some(name), ""),
        [name, subresource] => target(Some(name), resource.subresource(subresource)?.name),
        _ => None,
    }
}
