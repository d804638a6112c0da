//! The endpoint of the node's DNS process: one EndpointSlice per node under the selectorless Service `kube-dns`, hinted
//! to the node itself, ready as the process says.
//!
//! Not responsible for the process (the node's init) nor for the Service.

use std::time::Duration;

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, DnsConfig};

/// Until it answers.
const FAST: Duration = Duration::from_millis(20);
/// Afterwards.
const SLOW: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(200);

/// Publishes until stopped. What was published stays: the node's Lease tells when the node is gone.
pub async fn publish(client: Client, config: Config, dns: DnsConfig, stop: CancellationToken) {
    let api: Api<EndpointSlice> = Api::namespaced(client, &dns.namespace);
    let work = async {
        let mut published: Option<bool> = None;
        let mut failures = 0_u32;
        loop {
            // One missed answer of a process that was ready is not the end: it may be busy.
            let answered = is_ready(&dns).await;
            failures = if answered { 0 } else { failures.saturating_add(1) };
            let ready = answered || (published == Some(true) && failures < 2);
            let mut pause = if answered { SLOW } else { (FAST * failures.min(25)).max(FAST) };
            if published != Some(ready) {
                match write(&api, &config, &dns, ready).await {
                    Ok(()) => published = Some(ready),
                    Err(error) => {
                        tracing::warn!(%error, "cannot publish the DNS endpoint");
                        pause = RETRY;
                    }
                }
            }
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn is_ready(dns: &DnsConfig) -> bool {
    let ask = async {
        let stream = TcpStream::connect(dns.ready).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        let request = http::Request::get("/ready").header("host", dns.ready.to_string());
        let request = request.header("connection", "close").body(Empty::<&'static [u8]>::new()).ok()?;
        let answer = async { sender.send_request(request).await.ok().map(|response| response.status().as_u16()) };
        tokio::pin!(answer, connection);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            _ = &mut connection => answer.await,
        }
    };
    tokio::time::timeout(TIMEOUT, ask).await.ok().flatten() == Some(200)
}

async fn write(api: &Api<EndpointSlice>, config: &Config, dns: &DnsConfig, ready: bool) -> Result<(), kube::Error> {
    for (name, slice) in slices(config, dns, ready) {
        let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(&slice)).await;
        match patched {
            Ok(_) => continue,
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
        let slice: EndpointSlice = serde_json::from_value(slice).map_err(kube::Error::SerdeError)?;
        api.create(&PostParams::default(), &slice).await?;
    }
    Ok(())
}

/// One slice per family; the first has the plain name.
fn slices(config: &Config, dns: &DnsConfig, ready: bool) -> Vec<(String, Value)> {
    let mut families: Vec<(&str, &std::net::IpAddr)> = Vec::new();
    for ip in &config.node_ips {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        if !families.iter().any(|(known, _)| *known == family) {
            families.push((family, ip));
        }
    }
    let named = |index: usize, family: &str| {
        let name = format!("{}-{}", dns.service, config.node_name);
        if index == 0 { name } else { format!("{name}-{}", family.to_lowercase()) }
    };
    let slice = |(index, (family, ip)): (usize, (&str, &std::net::IpAddr))| {
        let name = named(index, family);
        let slice = json!({
            "metadata": {
                "name": name,
                "namespace": dns.namespace,
                "labels": {
                    "kubernetes.io/service-name": dns.service,
                    "endpointslice.kubernetes.io/managed-by": "portolan-node",
                },
            },
            "addressType": family,
            "endpoints": [{
                "addresses": [ip],
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "nodeName": config.node_name,
                "zone": config.labels.get("topology.kubernetes.io/zone"),
                "hints": {"forNodes": [{"name": config.node_name}]},
            }],
            "ports": [
                {"name": "dns", "protocol": "UDP", "port": 53},
                {"name": "dns-tcp", "protocol": "TCP", "port": 53},
                {"name": "metrics", "protocol": "TCP", "port": 9153},
            ],
        });
        (name, slice)
    };
    families.into_iter().enumerate().map(slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeApi;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn the_slice_follows_the_process() {
        let api = FakeApi::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ready = listener.local_addr().unwrap();
        drop(listener);
        let dns = DnsConfig { ready, ..DnsConfig::kube_dns() };
        let config = Config::new("n1", vec!["172.30.0.11".parse().unwrap()], "/nonexistent".into());
        let stop = CancellationToken::new();
        let task = tokio::spawn(publish(api.client(), config, dns, stop.clone()));
        let path = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns-n1";
        let condition = |slice: &Value| slice["endpoints"][0]["conditions"]["ready"].clone();
        let slice = api.until(path, |slice| condition(slice) == json!(false)).await;
        assert_eq!(slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"], "portolan-node");
        assert_eq!(slice["endpoints"][0]["hints"], json!({"forNodes": [{"name": "n1"}]}));
        assert_eq!(slice["ports"].as_array().unwrap().len(), 3);
        let listener = TcpListener::bind(ready).await.unwrap();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK").await.unwrap();
            }
        });
        api.until(path, |slice| condition(slice) == json!(true)).await;
        server.abort();
        api.until(path, |slice| condition(slice) == json!(false)).await;
        stop.cancel();
        task.await.unwrap();
    }
}
