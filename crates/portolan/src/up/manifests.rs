//! Manifests from files and directories: reading them, naming their mistakes, applying them to the API.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use api::schema::of_kind;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams, ValidationDirective};
use kube::core::GroupVersionKind;
use kube::discovery::Scope;
use kube::{Client, Discovery, ResourceExt};
use serde_json::Value;

use super::three_way;

/// An object and where it was read.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub file: PathBuf,
    pub object: DynamicObject,
}

/// Where kubectl's client-side `apply` remembers what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MANAGER: &str = "portolan";

/// Reads every document of the files, and of the `.yaml`, `.yml` and `.json` files of the directories, in name order.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for path in paths {
        for file in files(path)? {
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            parse(&file, &text, &mut manifests)?;
        }
    }
    Ok(manifests)
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let reading = || format!("cannot read the directory {}", path.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(reading)? {
        let file = entry.with_context(reading)?.path();
        if file.extension().and_then(|e| e.to_str()).is_some_and(|e| matches!(e, "yaml" | "yml" | "json")) {
            files.push(file);
        }
    }
    if files.is_empty() {
        bail!("{} holds no .yaml, .yml or .json file", path.display());
    }
    files.sort();
    Ok(files)
}

fn parse(file: &Path, text: &str, manifests: &mut Vec<Manifest>) -> Result<()> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).with_context(|| format!("{} is no valid YAML", file.display()))?;
    for (number, document) in documents.into_iter().enumerate() {
        let objects = match document {
            Value::Null => continue,
            Value::Object(mut list) if list.get("kind") == Some(&Value::from("List")) => match list.remove("items") {
                Some(Value::Array(items)) => items,
                _ => bail!("{}, document {}: a List needs `items`", file.display(), number + 1),
            },
            one => vec![one],
        };
        for object in objects {
            let object: DynamicObject = serde_json::from_value(object)
                .with_context(|| format!("{}, document {}: not a Kubernetes object", file.display(), number + 1))?;
            let named = object.types.is_some() && (object.metadata.name.is_some());
            if !named {
                bail!("{}, document {}: apiVersion, kind and metadata.name are needed", file.display(), number + 1);
            }
            manifests.push(Manifest { file: file.to_owned(), object });
        }
    }
    Ok(())
}

/// An object as the API has it after it was applied.
#[derive(Clone, Debug)]
pub struct Applied {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// A watch that has come this far shows it. (Numbers, since KEP-5504.)
    pub resource_version: u64,
}

/// Makes the objects, or changes those that are there as `kubectl apply` would, in the order given.
pub async fn apply(client: &Client, manifests: &[Manifest]) -> Result<Vec<Applied>> {
    let discovery = Discovery::new(client.clone()).run().await.context("cannot discover what the API serves")?;
    let mut applied = Vec::new();
    for manifest in manifests {
        let naming = || format!("{}: {}", manifest.file.display(), described(&manifest.object));
        let object = apply_one(client, &discovery, &manifest.object).await.map_err(plain).with_context(naming)?;
        applied.push(Applied {
            kind: manifest.object.types.as_ref().map(|t| t.kind.clone()).unwrap_or_default(),
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            resource_version: object.resource_version().and_then(|v| v.parse().ok()).unwrap_or_default(),
        });
    }
    Ok(applied)
}

/// What the API says against an object, without the client's wrapping of it.
fn plain(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => anyhow::anyhow!("{}", status.message),
        _ => error,
    }
}

async fn apply_one(client: &Client, discovery: &Discovery, object: &DynamicObject) -> Result<DynamicObject> {
    let types = object.types.clone().unwrap_or_default();
    let gvk = GroupVersionKind::try_from(&types).context("apiVersion is malformed")?;
    let Some((resource, capabilities)) = discovery.resolve_gvk(&gvk) else {
        bail!("no kind {} in {} is served", types.kind, types.api_version);
    };
    let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => Api::namespaced_with(client.clone(), &namespace, &resource),
    };
    let wanted = with_last_applied(object)?;
    let Some(live) = api.get_opt(&object.name_any()).await? else {
        return create(client, &api, &wanted).await;
    };
    let last = live.annotations().get(LAST_APPLIED).and_then(|text| serde_json::from_str(text).ok());
    let wanted = serde_json::to_value(wanted).context("cannot encode the object")?;
    let patch = three_way::patch(&last.unwrap_or_default(), &wanted, of_kind(&gvk.group, &gvk.version, &gvk.kind));
    let strict = PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::apply(MANAGER) };
    Ok(api.patch(&object.name_any(), &strict, &Patch::Strategic(&patch)).await?)
}

/// With strict validation, which `Api::create` can't ask for: a misspelt field is a mistake, not nothing.
async fn create(client: &Client, api: &Api<DynamicObject>, object: &DynamicObject) -> Result<DynamicObject> {
    let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let body = serde_json::to_vec(object).context("cannot encode the object")?;
    let request = kube::core::Request::new(api.resource_url()).create(&parameters, body).context("cannot ask")?;
    let (mut head, body) = request.into_parts();
    head.uri = format!("{}&fieldValidation=Strict", head.uri).parse().context("cannot ask")?;
    Ok(client.request(http::Request::from_parts(head, body)).await?)
}

fn described(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("object", |t| t.kind.as_str());
    format!("{kind} {}", object.name_any())
}

/// Remembers what was applied, so that a later apply (ours or kubectl's) knows what it may remove.
fn with_last_applied(object: &DynamicObject) -> Result<DynamicObject> {
    let mut object = object.clone();
    object.annotations_mut().remove(LAST_APPLIED);
    let text = serde_json::to_string(&object).context("cannot encode the object")?;
    object.annotations_mut().insert(LAST_APPLIED.to_owned(), text);
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_name_the_file_and_the_document() {
        let mut found = Vec::new();
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\nkind: Service\n";
        let error = format!("{:#}", parse(Path::new("app.yaml"), text, &mut found).unwrap_err());
        assert!(error.contains("app.yaml, document 2"), "{error}");
        assert_eq!(found.len(), 1);
    }
}
