//! The objects benchmarks create, and creating many of them.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use http::Request;
use kube::Client;
use serde_json::{Value, json};

/// Writes in flight at once where there are many.
const PARALLEL: usize = 64;

pub const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
pub const PODS: &str = "/api/v1/namespaces/default/pods";

/// A Service without a selector; its address is the API server's choice unless given.
pub fn service(name: &str, address: Option<&str>) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"name": "p", "port": 80, "protocol": "TCP"}]}
    });
    if let Some(address) = address {
        service["spec"]["clusterIP"] = address.into();
    }
    service
}

/// The one EndpointSlice of a Service.
pub fn slice(service: &str, addresses: &[String]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": "elsewhere"}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": slice_name(service), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "p", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints
    })
}

pub fn slice_name(service: &str) -> String {
    format!("{service}-1")
}

/// An address of its own for each endpoint of each Service, and again for each variant.
pub fn endpoint(service: usize, endpoint: usize, variant: usize) -> String {
    let number = service * 64 + endpoint;
    format!("{}.{}.{}.{}", 20 + variant, number / 65_536 % 256, number / 256 % 256, number % 256)
}

/// Creates objects, many at once.
pub async fn create_all(client: &Client, objects: impl IntoIterator<Item = (&'static str, Value)>) -> Result<()> {
    futures::stream::iter(objects)
        .map(|(path, object)| async move { create(client, path, &object).await.map(drop) })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

pub async fn create(client: &Client, path: &str, object: &Value) -> Result<Value> {
    send(client, "POST", path, object).await
}

/// Replaces an object, whatever its revision.
pub async fn replace(client: &Client, path: &str, object: &Value) -> Result<Value> {
    let name = object["metadata"]["name"].as_str().context("an object without a name")?;
    send(client, "PUT", &format!("{path}/{name}"), object).await
}

pub async fn delete(client: &Client, path: &str, name: &str) -> Result<Value> {
    send(client, "DELETE", &format!("{path}/{name}"), &json!({})).await
}

async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Result<Value> {
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
    let request = request.body(body.to_string().into_bytes()).context("a request")?;
    client.request(request).await.with_context(|| format!("{method} {path}"))
}
