//! Registries that are hard to reach: by TLS of an authority of their own, through a proxy, by an identity token, and one
//! that dies on the way.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use testkit::WebProxy;
use testkit::registry::{Access, Mishap, Registry, digest};

use super::tests::{Machine, NOTHING, image, until};
use super::*;

/// A registry with TLS on loopback, and the name of an image in it. The machine is told that it has TLS.
fn private(machine: &mut Machine) -> (Registry, String, String) {
    let (registry, authority) = Registry::start_tls(&["registry.test", "127.0.0.1"]);
    registry.push("app", "1", &image("a"));
    let host = registry.host();
    machine.settings.mirrors = vec![format!("{host}=https://{host}").parse().unwrap()];
    (registry, format!("{host}/app:1"), authority)
}

fn trust(machine: &Machine, host: &str, authority: &str) {
    let directory = machine.data.path().join("certs.d").join(host);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("ca.crt"), authority).unwrap();
}

#[tokio::test]
async fn a_registry_is_trusted_by_its_own_authority_alone() {
    let mut machine = Machine::new();
    let (registry, name, authority) = private(&mut machine);
    let error = machine.pull(&name).await.unwrap_err();
    assert!(matches!(&*error, PullError::Transport(TransportError::Untrusted { .. })), "{error}");
    let place = format!("certs.d/{}/ca.crt", registry.host());
    assert!(error.to_string().contains("doesn't trust") && error.to_string().contains(&place), "{error}");

    let (_other, strange) = Registry::start_tls(&["127.0.0.1"]);
    trust(&machine, &registry.host(), &strange);
    let error = machine.pull(&name).await.unwrap_err();
    assert!(matches!(&*error, PullError::Transport(TransportError::Tls { .. } | TransportError::Untrusted { .. })));
    assert_eq!((registry.requests().len(), machine.left()), (0, NOTHING), "nothing was asked");

    trust(&machine, &registry.host(), &authority);
    machine.pull(&name).await.unwrap();
}

#[tokio::test]
async fn an_identity_token_is_exchanged_and_a_wrong_one_denied() {
    let (machine, registry) = (Machine::new(), Registry::start());
    registry.push("app", "1", &image("a"));
    registry.require(Access::Identity { token: "long-lived".into() });
    let with = |token: &str| {
        let document = json!({"auths": {registry.host(): {"identitytoken": token}}}).to_string();
        PullSecret { name: "identity".to_owned(), legacy: false, document }
    };
    let name = format!("{}/app:1", registry.host());
    let error = machine.pull_with(&name, &[with("stale")]).await.unwrap_err().to_string();
    assert!(error.contains("not accepted"), "{error}");
    machine.pull_with(&name, &[with("long-lived")]).await.unwrap();
    assert!(registry.requests().contains(&"POST /token".to_owned()), "{:?}", registry.requests());
}

#[tokio::test]
async fn what_a_proxy_leads_to_is_encrypted_for_the_registry_alone() {
    let mut machine = Machine::new();
    let (registry, _, authority) = private(&mut machine);
    let proxy = WebProxy::start(Some(registry.address()));
    machine.variables = [("HTTPS_PROXY", proxy.url()), ("HTTP_PROXY", proxy.url())].into();
    trust(&machine, "registry.test", &authority);
    machine.pull("registry.test/app:1").await.unwrap();
    let asked = proxy.asked();
    let right = format!("CONNECT registry.test:443 HTTP/1.1 Proxy-Authorization: Basic {}", STANDARD.encode("me:pw"));
    assert!(!asked.is_empty() && asked.iter().all(|asked| *asked == right), "{asked:?}");

    // Without TLS the proxy is told the whole address.
    let plain = Registry::start();
    plain.push("app", "1", &image("plain"));
    let proxy = WebProxy::start(Some(plain.address()));
    machine.variables = [("HTTP_PROXY", proxy.url())].into();
    machine.settings.mirrors = vec!["plain.test=http://plain.test".parse().unwrap()];
    machine.pull("plain.test/app:1").await.unwrap();
    assert!(proxy.asked()[0].starts_with("GET http://plain.test/v2/app/manifests/1 HTTP/1.1"), "{:?}", proxy.asked());

    let closed = WebProxy::start(None);
    machine.variables = [("HTTPS_PROXY", closed.url())].into();
    let error = machine.pull("registry.test/other:1").await.unwrap_err().to_string();
    assert!(error.contains("gives no way to registry.test:443") && error.contains("403 Not From Here"), "{error}");
}

#[tokio::test]
async fn a_registry_that_dies_in_a_layer_leaves_nothing_half_and_the_next_try_goes_on() {
    let (machine, registry) = (Machine::new(), Registry::start());
    let image = image("a");
    registry.push("app", "1", &image);
    let large = digest(&image.layers[1]);
    registry.go_wrong(&large, &[Mishap::Hold]);
    let (address, name, puller) = (registry.address(), format!("{}/app:1", registry.host()), machine.puller());
    let half = image.layers[1].len() as u64 / 2;
    let part = machine.data.path().join("images/downloads").join(large.trim_start_matches("sha256:"));
    let dies = async {
        until(|| std::fs::metadata(&part).is_ok_and(|file| file.len() == half)).await;
        tokio::task::spawn_blocking(move || drop(registry)).await.unwrap();
    };
    let (pulled, ()) = tokio::join!(puller.pull(&name, &[]), dies);
    let error = pulled.unwrap_err();
    assert!(matches!(&*error, PullError::Transport(_)), "{error}");
    let (images, layers, _) = machine.left();
    assert_eq!((images, layers), (1, 1), "neither an image nor a layer");
    assert_eq!(std::fs::metadata(&part).unwrap().len(), half);

    let again = Registry::on(std::net::TcpListener::bind(address).unwrap());
    again.push("app", "1", &image);
    machine.pull(&name).await.unwrap();
    let asked: Vec<String> = again.requests().into_iter().filter(|request| request.contains(&large)).collect();
    assert!(asked.len() == 1 && asked[0].contains(&format!("bytes={half}-")), "{asked:?}");
    assert_eq!(machine.left().2, 0);
}
