//! Applying manifests to the API as `kubectl apply` would: all are tried first, and none is applied when one is refused.
//! Kinds that aren't served are left out and named.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, bail};
use api::schema::of_kind;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams, ValidationDirective};
use kube::core::GroupVersionKind;
use kube::discovery::Scope;
use kube::{Client, Discovery, ResourceExt};
use serde_json::Value;

use super::mark::{self, LAST_APPLIED, Mark};
use super::{Manifest, Source};
use crate::up::three_way;

const MANAGER: &str = "portolan";
/// The namespace of what names none.
const NAMESPACE: &str = "default";

/// An object as the API has it after it was applied.
#[derive(Clone, Debug)]
pub struct Applied {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// A watch that has come this far shows it. (Numbers, since KEP-5504.)
    pub resource_version: u64,
    pub change: Change,
    /// Its name among all: what pruning goes by.
    pub identity: String,
}

/// What applying did to an object, in kubectl's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Created,
    Configured,
    Unchanged,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::Created => "created",
            Change::Configured => "configured",
            Change::Unchanged => "unchanged",
        })
    }
}

/// An object that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped(String);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "left out {}", self.0)
    }
}

/// What became of the manifests.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub applied: Vec<Applied>,
    pub skipped: Vec<Skipped>,
}

/// Makes the objects, or changes those that are there: Namespaces first, the others in the order given.
pub async fn apply(client: &Client, manifests: &[Manifest]) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    if manifests.is_empty() {
        return Ok(outcome);
    }
    let discovery = discover(client).await?;
    let mut targets = Vec::new();
    for manifest in manifests {
        match Target::of(client, &discovery, manifest)? {
            Some(target) => targets.push(target),
            None => outcome.skipped.push(skipped(&discovery, manifest)),
        }
    }
    targets.sort_by_key(|target| !target.is_namespace());
    if targets.len() > 1 {
        rehearse(client, &targets).await?;
    }
    for target in &targets {
        let before = outcome.applied.len();
        let applied = target.send(client, Mode::Real).await;
        let applied = applied.map_err(|refusal| refusal.error).with_context(|| match before {
            0 => target.manifest.to_string(),
            _ => format!("{} ({before} of {} objects were applied before it)", target.manifest, targets.len()),
        })?;
        outcome.applied.push(applied);
    }
    Ok(outcome)
}

pub async fn discover(client: &Client) -> Result<Discovery> {
    Discovery::new(client.clone()).run().await.context("cannot discover what the API serves")
}

/// Asks the API about every object without applying any, and fails with everything it has to say.
async fn rehearse(client: &Client, targets: &[Target<'_>]) -> Result<()> {
    let coming: BTreeSet<&str> = targets.iter().filter(|t| t.is_namespace()).map(|t| t.manifest.name()).collect();
    let mut refused = Vec::new();
    for target in targets {
        match target.send(client, Mode::Rehearsal).await {
            Ok(_) => {}
            // Its namespace is among what is applied: only then can it be tried.
            Err(Refusal { no_namespace: true, .. })
                if target.namespace.as_deref().is_some_and(|n| coming.contains(n)) => {}
            Err(refusal) => refused.push(format!("{}: {:#}", target.manifest, refusal.error)),
        }
    }
    match refused.len() {
        0 => Ok(()),
        1 => bail!("{}\nnothing was applied", refused[0]),
        more => bail!("{more} objects are refused, and nothing was applied:\n  {}", refused.join("\n  ")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Rehearsal,
    Real,
}

/// What the API has against an object.
struct Refusal {
    error: anyhow::Error,
    no_namespace: bool,
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        // What the API says, without the client's wrapping of it.
        let Some(kube::Error::Api(status)) = error.downcast_ref::<kube::Error>() else {
            return Refusal { error, no_namespace: false };
        };
        let no_namespace = status.code == 404 && status.details.as_ref().is_some_and(|d| d.kind == "namespaces");
        let hint = if no_namespace { "; add a Namespace to the files" } else { "" };
        Refusal { error: anyhow::anyhow!("{}{hint}", status.message), no_namespace }
    }
}

/// A manifest and where it goes.
struct Target<'a> {
    manifest: &'a Manifest,
    api: Api<DynamicObject>,
    kind: GroupVersionKind,
    /// Nothing for objects that are in no namespace.
    namespace: Option<String>,
}

impl<'a> Target<'a> {
    /// Nothing when the kind isn't served.
    fn of(client: &Client, discovery: &Discovery, manifest: &'a Manifest) -> Result<Option<Self>> {
        let Some(kind) = kind(manifest) else {
            bail!("{manifest}: apiVersion {:?} is malformed; it is VERSION or GROUP/VERSION", manifest.api_version());
        };
        let Some((resource, capabilities)) = discovery.resolve_gvk(&kind) else { return Ok(None) };
        let namespace = match capabilities.scope {
            Scope::Cluster => None,
            Scope::Namespaced => Some(manifest.namespace().unwrap_or(NAMESPACE).to_owned()),
        };
        let api = match &namespace {
            None => Api::all_with(client.clone(), &resource),
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        };
        Ok(Some(Target { manifest, api, kind, namespace }))
    }

    fn is_namespace(&self) -> bool {
        self.kind.group.is_empty() && self.kind.kind == "Namespace"
    }

    async fn send(&self, client: &Client, mode: Mode) -> Result<Applied, Refusal> {
        let namespace = self.namespace.as_deref();
        let identity =
            mark::identity(&self.kind.group, &self.kind.kind, namespace.unwrap_or_default(), self.manifest.name());
        let file = mark::place(&self.manifest.source.file);
        let wanted = mark::marked(&self.manifest.object, namespace, &Mark { object: identity.clone(), file });
        let live = self.api.get_opt(self.manifest.name()).await.map_err(anyhow::Error::new)?;
        let (object, change) = match &live {
            None => (self.create(client, &wanted, mode).await?, Change::Created),
            Some(live) => {
                let object = self.patch(live, &wanted, mode).await?;
                let same = object.resource_version() == live.resource_version();
                (object, if same { Change::Unchanged } else { Change::Configured })
            }
        };
        Ok(Applied {
            kind: self.kind.kind.clone(),
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            resource_version: object.resource_version().and_then(|v| v.parse().ok()).unwrap_or_default(),
            change,
            identity,
        })
    }

    /// Removes what the last apply set and this one doesn't.
    async fn patch(&self, live: &DynamicObject, wanted: &Value, mode: Mode) -> Result<DynamicObject> {
        let last = live.annotations().get(LAST_APPLIED).and_then(|text| serde_json::from_str(text).ok());
        let definition = of_kind(&self.kind.group, &self.kind.version, &self.kind.kind);
        let patch = three_way::patch(&last.unwrap_or_default(), wanted, definition);
        let parameters = PatchParams {
            field_validation: Some(ValidationDirective::Strict),
            dry_run: mode == Mode::Rehearsal,
            ..PatchParams::apply(MANAGER)
        };
        Ok(self.api.patch(self.manifest.name(), &parameters, &Patch::Strategic(&patch)).await?)
    }

    /// With strict validation, which `Api::create` can't ask for: a misspelt field is a mistake, not nothing.
    async fn create(&self, client: &Client, object: &Value, mode: Mode) -> Result<DynamicObject> {
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), dry_run: mode == Mode::Rehearsal };
        let body = serde_json::to_vec(object).context("cannot encode the object")?;
        let request = kube::core::Request::new(self.api.resource_url());
        let request = request.create(&parameters, body).context("cannot ask")?;
        let (mut head, body) = request.into_parts();
        head.uri = format!("{}&fieldValidation=Strict", head.uri).parse().context("cannot ask")?;
        Ok(client.request(http::Request::from_parts(head, body)).await?)
    }
}

/// Nothing when the apiVersion is malformed.
fn kind(manifest: &Manifest) -> Option<GroupVersionKind> {
    let (group, version) = manifest.api_version().split_once('/').unwrap_or(("", manifest.api_version()));
    (!version.contains('/')).then(|| GroupVersionKind::gvk(group, version, manifest.kind()))
}

/// Names the object, and a kind that may be meant.
fn skipped(discovery: &Discovery, manifest: &Manifest) -> Skipped {
    let served = discovery.groups().flat_map(|group| group.recommended_resources());
    let served: Vec<(String, String)> = served.map(|(resource, _)| (resource.kind, resource.api_version)).collect();
    let hint = match near(&served, manifest.kind()) {
        Some((kind, version)) if kind == manifest.kind() => format!("; {kind} is served in {version}"),
        Some((kind, version)) => format!("; is {kind} in {version} meant?"),
        None => String::new(),
    };
    Skipped(format!("{manifest}: no kind {} in {} is served{hint}", manifest.kind(), manifest.api_version()))
}

/// The served kind of that name, or one that differs by a slip of the finger.
fn near<'a>(served: &'a [(String, String)], kind: &str) -> Option<&'a (String, String)> {
    const SLIP: usize = 2;
    let distance = |other: &str| strsim::osa_distance(&other.to_lowercase(), &kind.to_lowercase());
    let close = served.iter().map(|one| (usize::from(one.0 != kind) + distance(&one.0), one));
    close.filter(|(distance, _)| *distance <= SLIP).min_by_key(|(distance, _)| *distance).map(|(_, one)| one)
}

/// Objects that are in the files more than once: the last one counts, and somebody should know.
pub fn repeated(manifests: &[Manifest]) -> Vec<String> {
    let mut seen: std::collections::BTreeMap<String, &Source> = std::collections::BTreeMap::new();
    let mut told = Vec::new();
    for manifest in manifests {
        let group = manifest.api_version().split_once('/').map_or("", |(group, _)| group);
        let namespace = manifest.namespace().unwrap_or(NAMESPACE);
        let identity = mark::identity(group, manifest.kind(), namespace, manifest.name());
        if let Some(first) = seen.insert(identity, &manifest.source) {
            told.push(format!("{manifest} is also in {first}: the last one counts"));
        }
    }
    told
}
