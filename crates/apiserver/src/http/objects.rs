//! Requests about objects: from verb and parameters to the registry, and its answers into responses.
//!
//! Not responsible for routing or permission (`serve`), nor for what a verb does (`registry`).

use std::sync::Arc;

use api::decode::Mode;
use api::field::{self, Path};
use api::status::{GroupResource, Status};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use serde_json::Value;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_util::sync::CancellationToken;

use super::body::{self, Body};
use super::decode::{self, Expected};
use super::negotiate::{self, Form};
use super::query::Query;
use super::render::{Include, Renderer};
use super::respond;
use super::route::{Target, Verb};
use crate::logs::{self, NodeDialer};
use crate::registry::{Answer, DeleteOptions, Deleted, ListOptions, Patch, Registry, Scene, WatchOptions};

const DELETE_OPTIONS: Expected = Expected {
    group: "",
    version: "v1",
    kind: "DeleteOptions",
    definition: "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
};

/// Objects that a DELETE answers with, where others get a Status (upstream's ReturnDeletedObject).
const RETURNED: &[&str] = &["pods", "resourcequotas", "services", "serviceaccounts"];

/// From here on, applying a patch may hold up other requests.
const BIG_BODY: usize = 64 * 1024;

/// One request about objects.
pub struct ObjectRequest<'a> {
    pub registry: &'a Registry,
    pub dialer: &'a Arc<dyn NodeDialer>,
    pub target: &'a Target,
    pub verb: Verb,
    pub query: &'a Query,
    pub headers: &'a HeaderMap,
    pub caller: api::Caller<'a>,
    pub ending: CancellationToken,
}

impl ObjectRequest<'_> {
    /// Carries the request out.
    pub async fn answer(&self, body: Body) -> Answer<Response<Body>> {
        let allowed = match self.target.resource.subresource(self.target.subresource) {
            Some(subresource) => subresource.verbs,
            None => self.target.resource.verbs,
        };
        let of_object = matches!(self.verb, Verb::Update | Verb::Patch) || !self.target.subresource.is_empty();
        let shape = match self.verb {
            Verb::Create | Verb::Update | Verb::Patch => self.target.name.is_some() == of_object,
            _ => true,
        };
        if !shape || !allowed.contains(&self.verb.text()) {
            return Err(Box::new(Status::method_not_allowed()));
        }
        let mut warnings: Vec<String> =
            self.target.resource.strategy.deprecation().map(str::to_owned).into_iter().collect();
        let answered = match self.verb {
            Verb::Get => self.get().await,
            Verb::List => self.list().await,
            Verb::Watch => self.watch().await,
            Verb::Create => self.write("CreateOptions", body, &mut warnings).await,
            Verb::Update => self.write("UpdateOptions", body, &mut warnings).await,
            Verb::Patch => self.write("PatchOptions", body, &mut warnings).await,
            Verb::Delete | Verb::DeleteCollection => self.write("DeleteOptions", body, &mut warnings).await,
        };
        // Who is refused is warned as well.
        let mut response = answered.unwrap_or_else(|status| respond::status(&status));
        respond::warn(response.headers_mut(), &warnings);
        Ok(response)
    }

    /// A request that changes something; `options` is what upstream calls its parameters.
    async fn write(&self, options: &str, body: Body, warnings: &mut Vec<String>) -> Answer<Response<Body>> {
        let mut scene = self.scene(options)?;
        let body = body::read(body).await?;
        let answered = match self.verb {
            Verb::Create => self.create(&mut scene, body).await,
            Verb::Update => self.update(&mut scene, body).await,
            Verb::Patch => self.patch(&mut scene, body).await,
            Verb::DeleteCollection => self.delete_collection(&mut scene, body).await,
            _ => self.delete(&mut scene, body).await,
        };
        warnings.append(&mut scene.warnings);
        answered
    }

    async fn get(&self) -> Answer<Response<Body>> {
        match self.target.subresource {
            "log" => logs::log(self.dialer, &self.registry.get(self.target, None).await?, self.query).await,
            "scale" => self.object(StatusCode::OK, self.registry.scale(&self.scene("")?).await?),
            _ => {
                let object = self.registry.get(self.target, self.query.text("resourceVersion")).await?;
                self.object(StatusCode::OK, object)
            }
        }
    }

    async fn list(&self) -> Answer<Response<Body>> {
        let renderer = self.renderer()?;
        let options = ListOptions::parse(self.query, self.target.resource, false)?;
        let listed = self.registry.list(self.target, &options).await?;
        Ok(respond::maybe_gzip(self.headers, StatusCode::OK, "application/json", renderer.list(&listed)))
    }

    async fn watch(&self) -> Answer<Response<Body>> {
        let mut list = ListOptions::parse(self.query, self.target.resource, true)?;
        if let Some(name) = &self.target.name {
            // The old path of one object is a watch of the collection that selects it.
            list.selection.select_name(name);
        }
        let options = WatchOptions { list, renderer: self.renderer()?, ending: self.ending.clone() };
        let stream = self.registry.watch(self.target, options).await?;
        let mut response = Response::new(body::stream(stream.into_chunks()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        Ok(response)
    }

    async fn create(&self, scene: &mut Scene<'_>, body: Bytes) -> Answer<Response<Body>> {
        let decoded = decode::object(self.headers, &body, self.expected(), self.mode()?)?;
        scene.warnings = decoded.problems;
        let strategy = self.target.resource.strategy;
        match self.target.subresource {
            "" => {
                let mut object = decoded.object;
                if strategy.answer(&mut object, &self.caller) {
                    return self.object(StatusCode::CREATED, object);
                }
                strategy.to_stored(&mut object);
                let created = self.registry.create(scene, object).await?;
                self.object(StatusCode::CREATED, created)
            }
            "binding" => {
                self.registry.bind(scene, &decoded.object).await?;
                Ok(respond::json(StatusCode::CREATED, &done(StatusCode::CREATED)))
            }
            _ => Err(Box::new(Status::method_not_allowed())),
        }
    }

    async fn update(&self, scene: &mut Scene<'_>, body: Bytes) -> Answer<Response<Body>> {
        let decoded = decode::object(self.headers, &body, self.expected(), self.mode()?)?;
        scene.warnings = decoded.problems;
        let (object, created) = match self.target.subresource {
            "scale" => {
                let wanted = decoded.object;
                (self.registry.rescale(scene, &|_| Ok((wanted.clone(), Vec::new()))).await?, false)
            }
            _ => {
                let mut object = decoded.object;
                self.target.resource.strategy.to_stored(&mut object);
                self.registry.update(scene, object).await?
            }
        };
        let code = if created { StatusCode::CREATED } else { StatusCode::OK };
        self.object(code, object)
    }

    async fn patch(&self, scene: &mut Scene<'_>, body: Bytes) -> Answer<Response<Body>> {
        let patch = Patch::parse(decode::media_type(self.headers), &body)?;
        let (expected, mode) = (self.expected(), self.mode()?);
        let strategy = self.target.resource.strategy;
        let make = |object: &Value| {
            let mut served = object.clone();
            strategy.to_served(&mut served);
            let (mut patched, warnings) = beside(body.len(), || patch.apply(&served, expected, mode))?;
            strategy.to_stored(&mut patched);
            Ok((patched, warnings))
        };
        let object = match self.target.subresource {
            "scale" => self.registry.rescale(scene, &make).await?,
            _ => self.registry.patch(scene, &make).await?,
        };
        self.object(StatusCode::OK, object)
    }

    async fn delete(&self, scene: &mut Scene<'_>, body: Bytes) -> Answer<Response<Body>> {
        let options = self.deletion(scene, &body)?;
        let name = scene.name()?.to_owned();
        match self.registry.delete(scene, &name, &options).await? {
            Deleted::Going(object) => self.object(StatusCode::OK, object),
            Deleted::Gone(object) if RETURNED.contains(&self.target.resource.plural) => {
                self.object(StatusCode::OK, object)
            }
            Deleted::Gone(object) => {
                let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
                let subject = GroupResource::from(self.target.resource);
                Ok(respond::json(StatusCode::OK, &Status::success(subject, &name, uid).to_value()))
            }
        }
    }

    async fn delete_collection(&self, scene: &mut Scene<'_>, body: Bytes) -> Answer<Response<Body>> {
        let options = self.deletion(scene, &body)?;
        let selection = ListOptions::parse(self.query, self.target.resource, false)?;
        let deleted = self.registry.delete_collection(scene, &selection, &options).await?;
        let list = self.renderer()?.list(&deleted);
        Ok(respond::maybe_gzip(self.headers, StatusCode::OK, "application/json", list))
    }

    /// DeleteOptions are the body's, else the parameters'.
    fn deletion(&self, scene: &mut Scene<'_>, body: &[u8]) -> Answer<DeleteOptions> {
        let value = if body.is_empty() {
            self.delete_parameters()?
        } else {
            // The options may come in the group of the object they are about.
            let mut expected = DELETE_OPTIONS;
            let named = serde_json::from_slice::<Value>(body).ok();
            if named.is_some_and(|v| v["apiVersion"] == self.target.resource.api_version()) {
                (expected.group, expected.version) = (self.target.resource.group, self.target.resource.version);
            }
            decode::object(self.headers, body, expected, Mode::Ignore)?.object
        };
        if let Some(values) = value["dryRun"].as_array().filter(|values| !values.is_empty()) {
            let texts: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            scene.dry_run = dry_run(&texts, "DeleteOptions")?;
        }
        DeleteOptions::parse(&value)
    }

    fn delete_parameters(&self) -> Answer<Value> {
        let mut options = serde_json::json!({});
        if let Some(grace) = self.query.text("gracePeriodSeconds") {
            let parsed: i64 = grace
                .parse()
                .map_err(|error| Box::new(Status::bad_request(format!("gracePeriodSeconds {grace:?}: {error}"))))?;
            options["gracePeriodSeconds"] = parsed.into();
        }
        if let Some(policy) = self.query.text("propagationPolicy") {
            options["propagationPolicy"] = policy.into();
        }
        if self.query.first("orphanDependents").is_some() {
            options["orphanDependents"] = self.query.flag("orphanDependents").into();
        }
        Ok(options)
    }

    /// The circumstances of a write; `options` is what upstream calls its parameters.
    fn scene(&self, options: &str) -> Answer<Scene<'_>> {
        let values: Vec<&str> = self.query.all("dryRun").filter(|value| !value.is_empty()).collect();
        let dry_run = dry_run(&values, options)?;
        let manager = self.query.text("fieldManager").unwrap_or_default();
        if manager.len() > 128 {
            let mistake = field::Error::too_long(&Path::new("fieldManager"), 128);
            return Err(Box::new(Status::invalid("meta.k8s.io", options, "", &[mistake])));
        }
        Ok(Scene { target: self.target, now: Timestamp::now(), dry_run, warnings: Vec::new() })
    }

    fn mode(&self) -> Answer<Mode> {
        match self.query.text("fieldValidation") {
            None | Some("Warn") => Ok(Mode::Warn),
            Some("Ignore") => Ok(Mode::Ignore),
            Some("Strict") => Ok(Mode::Strict),
            Some(other) => {
                let supported = &["", "Ignore", "Strict", "Warn"];
                let mistake = field::Error::not_supported(&Path::new("fieldValidation"), other, supported);
                Err(Box::new(Status::invalid("meta.k8s.io", "CreateOptions", "", &[mistake])))
            }
        }
    }

    /// What a body of this request is.
    fn expected(&self) -> Expected {
        let resource = self.target.resource;
        let own = Expected {
            group: resource.group,
            version: resource.version,
            kind: resource.kind,
            definition: resource.definition,
        };
        let Some(subresource) = resource.subresource(self.target.subresource) else { return own };
        let (group, version, kind) = subresource.kind;
        let definition = match kind {
            "Scale" => "io.k8s.api.autoscaling.v1.Scale",
            "Binding" => "io.k8s.api.core.v1.Binding",
            _ => return own,
        };
        Expected { group, version, kind, definition }
    }

    fn renderer(&self) -> Answer<Renderer> {
        let form = negotiate::form(self.headers).map_err(|_| Box::new(not_acceptable()))?;
        let include = match form {
            Form::Table(_) => Include::parse(self.query.text("includeObject"))?,
            Form::Object | Form::Metadata => Include::default(),
        };
        Ok(Renderer { resource: self.target.resource, form, include, now: Timestamp::now() })
    }

    fn object(&self, code: StatusCode, object: Value) -> Answer<Response<Body>> {
        // A Scale has no columns of its own.
        let shown = match self.target.subresource {
            "" | "status" => self.renderer()?.object(object),
            _ => object,
        };
        let content = match self.query.flag("pretty") {
            true => serde_json::to_vec_pretty(&shown).unwrap_or_default(),
            false => shown.to_string().into_bytes(),
        };
        Ok(respond::maybe_gzip(self.headers, code, "application/json", content))
    }
}

/// 406, naming what is served.
pub fn not_acceptable() -> Status {
    Status::not_acceptable(&["application/json"])
}

fn dry_run(values: &[&str], options: &str) -> Answer<bool> {
    match values.iter().find(|value| **value != "All") {
        None => Ok(!values.is_empty()),
        Some(_) => {
            let mistake = field::Error::not_supported(&Path::new("dryRun"), values.to_vec(), &["All"]);
            Err(Box::new(Status::invalid("meta.k8s.io", options, "", &[mistake])))
        }
    }
}

/// Does what takes the longer the bigger a body is: for a big one beside the other requests of this thread, where the
/// runtime has more than one.
fn beside<T>(body: usize, work: impl FnOnce() -> T) -> T {
    let several = Handle::try_current().is_ok_and(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread);
    if body > BIG_BODY && several { tokio::task::block_in_place(work) } else { work() }
}

fn done(code: StatusCode) -> Value {
    serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16()})
}
