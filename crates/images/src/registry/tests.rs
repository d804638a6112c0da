//! Pulls by the real client from a registry on loopback: every way to be let in, every way to go wrong on the way.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use testkit::Temporary;
use testkit::registry::{Access, Layer, Mishap, Packed, Packing, Registry, architecture, descriptor, digest};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::proxy::Proxies;
use super::transport::{Timeouts, Transport};
use super::*;
use crate::store::ImageStore;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const PATIENT: Duration = Duration::from_secs(30);

pub(super) struct Machine {
    pub(super) data: Temporary,
    pub(super) settings: PullSettings,
    /// What the environment says of proxies.
    pub(super) variables: BTreeMap<&'static str, String>,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self { data: Temporary::new(), settings: PullSettings::default(), variables: BTreeMap::new() }
    }

    fn store(&self) -> ImageStore {
        ImageStore::open(self.data.path(), None).unwrap()
    }

    pub(super) fn puller(&self) -> Puller {
        let timeouts = Timeouts { connect: PATIENT, head: PATIENT, idle: PATIENT };
        let proxies = Proxies::from_variables(|name| self.variables.get(name).cloned());
        let transport = Transport::new(timeouts, proxies, self.data.path().join("certs.d"));
        Puller::with_transport(self.store(), &self.settings, transport)
    }

    pub(super) async fn pull(&self, name: &str) -> Result<crate::Image, Arc<PullError>> {
        self.pull_with(name, &[]).await
    }

    pub(super) async fn pull_with(&self, name: &str, secrets: &[PullSecret]) -> Result<crate::Image, Arc<PullError>> {
        let id = self.puller().pull(name, secrets).await?;
        Ok(self.store().get(&id.to_string()).unwrap().expect("a pulled image is in the store"))
    }

    /// What is left of a pull that failed.
    pub(super) fn left(&self) -> (usize, usize, usize) {
        let count = |part: &str| std::fs::read_dir(self.data.path().join("images").join(part)).unwrap().count();
        (self.store().list().unwrap().len(), count("layers"), count("downloads"))
    }
}

/// The built-in image alone.
pub(super) const NOTHING: (usize, usize, usize) = (1, 1, 0);

pub(super) fn image(word: &str) -> Packed {
    let base = Layer::of(&[("etc/base", 0o644, b"base"), ("gone", 0o644, b"")]);
    let noise: Vec<u8> = (0..200_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let own = Layer::of(&[("word", 0o644, word.as_bytes()), (".wh.gone", 0o644, b""), ("noise", 0o644, &noise)]);
    Packed::new(&[base, own], Packing::Gzip, json!({"Entrypoint": ["/run"], "User": "7"}))
}

pub(super) fn secret(registry: &Registry, user: &str, password: &str) -> PullSecret {
    let auth = STANDARD.encode(format!("{user}:{password}"));
    let document = json!({"auths": {registry.host(): {"auth": auth}}}).to_string();
    PullSecret { name: "regcred".to_owned(), legacy: false, document }
}

#[tokio::test]
async fn a_tag_a_digest_and_an_index_lead_to_this_machines_image() {
    let (machine, registry) = (Machine::new(), Registry::start());
    let ours = image("ours");
    let other = Packed::for_platform(&[Layer::of(&[])], Packing::Plain, json!({}), "other");
    let platform = |architecture: &str, variant: &str, manifest: &[u8]| {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
        entry["platform"] = json!({"os": "linux", "architecture": architecture, "variant": variant});
        entry
    };
    let needy = platform(architecture(), "v9", &other.manifest);
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        platform("other", "", &other.manifest), needy, platform(architecture(), "", &ours.manifest)]});
    registry.push("team/app", "inner", &ours);
    let top = registry.put_manifest("team/app", "1", INDEX, index.to_string().as_bytes());

    let name = format!("{}/team/app", registry.host());
    let pulled = machine.pull(&format!("{name}:1")).await.unwrap();
    assert_eq!(pulled.id.to_string(), digest(&ours.config));
    assert_eq!(pulled.pulled_as(&format!("{name}:1")), Some(format!("{name}@{top}").as_str()));
    assert_eq!((pulled.names, pulled.digests), (vec![format!("{name}:1")], vec![format!("{name}@{top}")]));
    assert_eq!(pulled.config.user, "7");
    assert_eq!(std::fs::read(pulled.layers[1].join("word")).unwrap(), b"ours");
    assert!(pulled.size > 800_000, "the uncompressed size: {}", pulled.size);

    // The same again asks for the manifest alone; by digest it's another name of the same image.
    let before = registry.requests().len();
    machine.pull(&format!("{name}:1")).await.unwrap();
    machine.pull(&format!("{name}@{top}")).await.unwrap();
    assert_eq!(registry.requests().len(), before + 2, "{:?}", registry.requests());
    assert_eq!(registry.count("/blobs/"), 3, "a configuration and two layers");
    assert_eq!(machine.store().get(&format!("{name}:any@{top}")).unwrap().unwrap().id, pulled.id);

    // A new image under the tag takes its name, shares its lower layer, and the old one is gone.
    registry.push("team/app", "1", &image("newer"));
    let newer = machine.pull(&format!("{name}:1")).await.unwrap();
    assert_eq!(newer.layers[0], pulled.layers[0]);
    assert_eq!(registry.count("/blobs/"), 5);
    assert_eq!(machine.store().get(&pulled.id.to_string()).unwrap(), None);
    assert!(machine.store().remove(&format!("{name}:1")).unwrap());
    assert_eq!(machine.left(), NOTHING);
}

#[tokio::test]
async fn credentials_come_from_secrets_and_from_dockers_configuration() {
    let (mut machine, registry) = (Machine::new(), Registry::start());
    registry.push("app", "1", &image("a"));
    let name = format!("{}/app:1", registry.host());
    let right = secret(&registry, "me", "pw");
    let wrong = secret(&registry, "me", "other");

    registry.require(Access::Token { user: None });
    machine.pull(&name).await.expect("a token for anyone");
    for access in [
        Access::Token { user: Some(("me".into(), "pw".into())) },
        Access::Basic { user: "me".into(), password: "pw".into() },
    ] {
        registry.require(access);
        for (secrets, shown) in [(vec![], "no credentials"), (vec![wrong.clone()], "not accepted")] {
            let error = machine.pull_with(&name, &secrets).await.unwrap_err().to_string();
            assert!(error.contains("pull access denied") && error.contains(shown), "{error}");
        }
        machine.pull_with(&name, std::slice::from_ref(&right)).await.unwrap();
        machine.pull_with(&name, &[wrong.clone(), right.clone()]).await.expect("the second fits");
    }
    let legacy = json!({registry.host(): {"username": "me", "password": "pw"}}).to_string();
    let legacy = PullSecret { name: "old".into(), legacy: true, document: legacy };
    machine.pull_with(&name, &[legacy]).await.unwrap();

    let config = machine.data.file("config.json", &right.document);
    machine.settings.docker_configs = vec![PathBuf::from("/nowhere/config.json"), config.clone()];
    machine.pull(&name).await.unwrap();
    std::fs::write(&config, "{").unwrap();
    assert!(matches!(&*machine.pull(&name).await.unwrap_err(), PullError::DockerConfig { .. }));
    std::fs::write(&config, r#"{"credsStore": "nobody-has-this"}"#).unwrap();
    let error = machine.pull(&name).await.unwrap_err().to_string();
    assert!(error.contains("docker-credential-nobody-has-this"), "{error}");
    let broken = PullSecret { document: "no JSON".into(), ..right };
    assert!(machine.pull_with(&name, &[broken]).await.unwrap_err().to_string().contains("regcred"));
}

#[tokio::test]
async fn a_storage_elsewhere_gets_no_credentials() {
    let (machine, registry, storage) = (Machine::new(), Registry::start(), Registry::start());
    let image = image("a");
    registry.push("app", "1", &image);
    registry.require(Access::Basic { user: "me".into(), password: "pw".into() });
    let layer = storage.put_blob(&image.layers[1]);
    let there = format!("http://{}/v2/anything/blobs/{layer}", storage.host());
    registry.go_wrong(&layer, &[Mishap::Redirect(there)]);
    machine.pull_with(&format!("{}/app:1", registry.host()), &[secret(&registry, "me", "pw")]).await.unwrap();
    assert_eq!(storage.requests(), [format!("GET /v2/anything/blobs/{layer}")], "no Authorization");
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_host_when_they_fail() {
    let (mut machine, mirror, own) = (Machine::new(), Registry::start(), Registry::start());
    own.push("app", "1", &image("own"));
    let use_mirror = |host: &str| vec![format!("{host}=http://{}", mirror.host()).parse::<Mirror>().unwrap()];
    machine.settings.mirrors = use_mirror(&own.host());
    let name = format!("{}/app:1", own.host());
    machine.pull(&name).await.expect("the mirror has nothing, the host itself has");
    assert_eq!(mirror.requests(), [format!("GET /v2/app/manifests/1?ns={}", own.host())]);
    let error = machine.pull(&format!("{}/none:1", own.host())).await.unwrap_err().to_string();
    assert!(error.contains("not found") && error.contains("before that"), "{error}");

    mirror.push("library/app", "1", &image("mirrored"));
    machine.settings.mirrors = use_mirror("docker.io");
    let asked = own.requests().len();
    let pulled = machine.pull("app:1").await.expect("nothing but the mirror is reachable");
    assert_eq!(pulled.names, ["docker.io/library/app:1"]);
    assert_eq!(own.requests().len(), asked);
}

#[tokio::test]
async fn what_lacks_its_digest_or_size_is_refused_and_nothing_stays() {
    let (machine, registry) = (Machine::new(), Registry::start());
    let image = image("a");
    let manifest = registry.push("app", "1", &image);
    let name = format!("{}/app", registry.host());
    for part in [digest(&image.layers[1]), digest(&image.config)] {
        registry.go_wrong(&part, &[Mishap::Corrupt]);
        let error = machine.pull(&format!("{name}:1")).await.unwrap_err();
        assert!(matches!(&*error, PullError::Mismatch { .. }), "{error}");
        assert_eq!(machine.left().0, 1);
    }
    registry.go_wrong(&manifest, &[Mishap::Corrupt]);
    let error = machine.pull(&format!("{name}@{manifest}")).await.unwrap_err();
    assert!(matches!(&*error, PullError::Mismatch { .. }), "{error}");

    let mut document: Value = serde_json::from_slice(&image.manifest).unwrap();
    document["layers"][1]["size"] = json!(1000);
    registry.put_manifest("app", "long", "application/vnd.oci.image.manifest.v1+json", document.to_string().as_bytes());
    let error = machine.pull(&format!("{name}:long")).await.unwrap_err();
    assert!(matches!(&*error, PullError::Length { .. }), "{error}");
    document["layers"][1]["size"] = json!(u64::MAX / 2);
    registry.put_manifest("app", "huge", "application/vnd.oci.image.manifest.v1+json", document.to_string().as_bytes());
    let error = machine.pull(&format!("{name}:huge")).await.unwrap_err();
    assert!(matches!(&*error, PullError::NoRoom { .. }), "{error}");

    machine.pull(&format!("{name}:1")).await.expect("the next try is whole");
    assert_eq!(machine.left().2, 0);
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_is_there_is_not_sent_twice() {
    let (machine, registry) = (Machine::new(), Registry::start());
    let image = image("a");
    registry.push("app", "1", &image);
    let large = digest(&image.layers[1]);
    registry.go_wrong("1", &[Mishap::Status(503, None), Mishap::Status(429, Some(0))]);
    registry.go_wrong(&large, &[Mishap::Cut(100_000), Mishap::Status(500, None), Mishap::Cut(50_000)]);
    machine.pull(&format!("{}/app:1", registry.host())).await.unwrap();
    assert_eq!(registry.count("/manifests/1"), 3);
    let asked: Vec<String> = registry.requests().into_iter().filter(|request| request.contains(&large)).collect();
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(asked[1].contains("bytes=") && asked[3].contains("bytes="), "continued: {asked:?}");

    registry.go_wrong("2", &[Mishap::Status(429, Some(3600))]);
    registry.push("app", "2", &image);
    let error = machine.pull(&format!("{}/app:2", registry.host())).await.unwrap_err();
    assert!(matches!(&*error, PullError::Status { status, .. } if *status == 429), "not worth the wait: {error}");
}

#[tokio::test]
async fn a_pull_that_ends_midway_leaves_no_image_and_is_continued() {
    let (machine, registry) = (Machine::new(), Registry::start());
    let image = image("a");
    registry.push("app", "1", &image);
    let large = digest(&image.layers[1]);
    registry.go_wrong(&large, &[Mishap::Hold]);
    let name = format!("{}/app:1", registry.host());
    let half = image.layers[1].len() as u64 / 2;
    let part = machine.data.path().join("images/downloads").join(large.trim_start_matches("sha256:"));
    let puller = machine.puller();
    tokio::select! {
        pulled = puller.pull(&name, &[]) => panic!("it was held: {pulled:?}"),
        () = until(|| std::fs::metadata(&part).is_ok_and(|file| file.len() == half)) => {}
    }
    assert_eq!(puller.under_way(), []);
    assert_eq!(machine.store().list().unwrap().len(), 1, "no half image");

    machine.pull(&name).await.unwrap();
    let last = registry.requests().into_iter().rfind(|request| request.contains(&large)).unwrap();
    assert!(last.contains(&format!("bytes={half}-")), "{last}");
    assert_eq!(machine.left().2, 0);
}

#[tokio::test]
async fn those_who_want_the_same_image_share_a_pull() {
    let (machine, registry) = (Machine::new(), Registry::start());
    let image = image("a");
    registry.push("app", "1", &image);
    let large = digest(&image.layers[1]);
    registry.go_wrong(&large, &[Mishap::Hold]);
    let (name, puller) = (format!("{}/app:1", registry.host()), machine.puller());
    let pulls = futures::future::join_all((0..8).map(|_| puller.pull(&name, &[])));
    let leaver = puller.pull(&name, &[]);
    let watched = async {
        tokio::select! {
            left = leaver => panic!("it was held: {left:?}"),
            () = until(|| puller.under_way().iter().any(|pull| pull.done > 100_000)) => {}
        }
        assert_eq!(puller.under_way().len(), 1);
        registry.release();
    };
    let (ids, ()) = tokio::join!(pulls, watched);
    assert!(ids.iter().all(|id| id.as_ref().unwrap().to_string() == digest(&image.config)));
    assert_eq!((registry.count("/manifests/"), registry.count("/blobs/")), (1, 3));
}

#[tokio::test]
async fn what_is_no_image_for_this_machine_says_what_it_is() {
    let (machine, registry) = (Machine::new(), Registry::start());
    let host = registry.host();
    let other = Packed::for_platform(&[], Packing::Plain, json!({}), "other");
    registry.push("app", "other", &other);
    let index = json!({"schemaVersion": 2, "manifests": [{"digest": digest(&other.manifest), "size": 1,
        "platform": {"os": "plan9", "architecture": "other"}}]});
    registry.put_manifest("app", "index", INDEX, index.to_string().as_bytes());
    let mut chart: Value = serde_json::from_slice(&other.manifest).unwrap();
    chart["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    registry.put_manifest("app", "chart", INDEX, chart.to_string().as_bytes());
    registry.put_manifest("app", "old", INDEX, br#"{"schemaVersion": 1, "fsLayers": []}"#);
    registry.put_manifest("app", "text", INDEX, b"<html>");
    let table = [
        (format!("{host}/app:other"), "linux/other"),
        (format!("{host}/app:index"), "plan9/other"),
        (format!("{host}/app:chart"), "helm"),
        (format!("{host}/app:old"), "schema 1"),
        (format!("{host}/app:text"), "not what it should be"),
        (format!("{host}/app:none"), "app:none: not found"),
        ("portolan.local/other".to_owned(), "built in"),
        ("UPPER".to_owned(), "invalid image name"),
        ("127.0.0.1:1/app".to_owned(), "cannot connect to 127.0.0.1:1"),
    ];
    for (name, words) in table {
        let error = machine.pull(&name).await.unwrap_err().to_string();
        assert!(error.contains(words), "{name}: {error}");
    }
    assert_eq!(machine.left(), NOTHING);
}

#[tokio::test]
async fn a_node_has_the_supervisor_pull_and_hanging_up_ends_it() {
    let (machine, registry) = (Machine::new(), Registry::start());
    let image = image("a");
    registry.push("app", "1", &image);
    registry.require(Access::Basic { user: "me".into(), password: "pw".into() });
    let (socket, stop, puller) = (machine.data.path().join("pull.sock"), CancellationToken::new(), machine.puller());
    let serving = tokio::spawn(serve(UnixListener::bind(&socket).unwrap(), puller.clone(), stop.clone()));
    let (remote, name) = (RemotePuller::new(socket), format!("{}/app:1", registry.host()));

    let error = remote.pull(&name, vec![]).await.unwrap_err();
    assert!(matches!(&error, RemotePullError::Failed(said) if said.contains("pull access denied")), "{error}");
    registry.go_wrong(&digest(&image.layers[1]), &[Mishap::Hold]);
    let secrets = vec![secret(&registry, "me", "pw")];
    tokio::select! {
        pulled = remote.pull(&name, secrets.clone()) => panic!("it was held: {pulled:?}"),
        () = until(|| puller.under_way().iter().any(|pull| pull.done > 100_000)) => {}
    }
    until(|| puller.under_way().is_empty()).await;
    let id = remote.pull(&name, secrets).await.unwrap();
    assert_eq!(machine.store().get(&name).unwrap().unwrap().id, id);
    stop.cancel();
    serving.await.unwrap();
    assert!(matches!(remote.pull(&name, vec![]).await, Err(RemotePullError::Supervisor(_))));
}

/// Waits for a state that nothing announces.
pub(super) async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENT, waiting).await.expect("it never came to be");
}
