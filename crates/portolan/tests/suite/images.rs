//! Images from elsewhere: pulled from a registry with a pod's own credentials, loaded from archives and from the import
//! folder; and what is said of those that don't come.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};
use testkit::registry::{Access, Layer, Mishap, Packed, Packing, Registry, digest};
use testkit::{Kind, System, WebProxy, eventually};

use crate::PORTOLAN;

const SECRET: Kind = Kind::namespaced("api/v1", "secrets");
const SERVICE_ACCOUNT: Kind = Kind::namespaced("api/v1", "serviceaccounts");

#[test]
fn pods_run_what_is_pulled_loaded_and_imported_and_say_what_is_not() {
    let mut system = System::new(PORTOLAN);
    let listener = system.host().namespace().run(|| TcpListener::bind("127.0.0.1:5000")).unwrap().unwrap();
    let registry = Registry::on(listener);
    let image = testserver();
    let pushed = registry.push("team/web", "1", &image);
    registry.require(Access::Token { user: Some(("me".into(), "secret".into())) });
    // One answer breaks off and one comes late: nobody notices.
    registry.go_wrong(&digest(&image.layers[0]), &[Mishap::Cut(1 << 20), Mishap::Status(503, None)]);
    system.start(&["-f", &manifests(&system, &registry)]);
    system.step("up with a pulled image");
    the_service_answers(&system, &registry, &pushed);
    an_accounts_secrets_serve_pods_without_their_own(&system, &registry);
    what_fails_says_why(&system, &registry);
    an_image_in_use_stays(&system, &registry);
    an_import_brings_a_waiting_pod_to_life(&system, &image);
    archives_are_loaded_or_named(&system, &image);
    system.down();
    registry.require(Access::Anyone);
    the_commands_work_without_a_system(&system, &registry);
    a_private_registry_is_reached_as_the_machine_is_set_up(&system);
}

/// This very program, as a registry would have it.
fn testserver() -> Packed {
    let program = std::fs::read(PORTOLAN).expect("the product");
    let layer = Layer::of(&[("testserver", 0o755, &program)]);
    Packed::new(&[layer], Packing::Plain, json!({"Entrypoint": ["/testserver"]}))
}

fn pull_secret(registry: &Registry, name: &str, password: &str) -> Value {
    let auths = json!({"auths": {registry.host(): {"username": "me", "password": password}}});
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": auths.to_string()}})
}

fn manifests(system: &System, registry: &Registry) -> String {
    let container = json!({"name": "web", "image": format!("{}/team/web:1", registry.host()),
        "args": ["netexec", "--http-port=80"],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 80}, "periodSeconds": 1}});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        pull_secret(registry, "regcred", "secret"),
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 3,
            "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"imagePullSecrets": [{"name": "regcred"}], "containers": [container]}}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}},
    ]});
    system.file("web.json", &list.to_string())
}

fn the_service_answers(system: &System, registry: &Registry, pushed: &str) {
    let pods = system.api().list(Kind::POD, "app=web");
    assert_eq!(pods.len(), 3);
    let known = format!("{}/team/web@{pushed}", registry.host());
    let ids: Vec<&Value> = pods.iter().map(|pod| &pod["status"]["containerStatuses"][0]["imageID"]).collect();
    assert!(ids.iter().all(|id| **id == known.as_str()), "{ids:?}, not {known}");
    let ip = system.api().get(Kind::SERVICE, "web")["spec"]["clusterIP"].as_str().expect("a ClusterIP").to_owned();
    let answered = system.host().spread(&format!("{ip}:80"), 30);
    assert!(answered.keys().all(|name| name.starts_with("web-")), "{answered:?}");
    // Three pods share one pull; what broke off is continued.
    let blobs: Vec<String> = registry.requests().into_iter().filter(|request| request.contains("/blobs/")).collect();
    assert!(blobs.len() == 4 && blobs[2].contains("bytes="), "{blobs:?}");
    for (reason, words) in [("Pulling", "team/web:1"), ("Pulled", "Image size: ")] {
        let told =
            |event: &Value| event["reason"] == reason && event["message"].as_str().is_some_and(|m| m.contains(words));
        system.api().until_all(Kind::EVENT, "", reason, |events| events.iter().any(told));
    }
    system.step("the Service answers");
}

fn pod(name: &str, image: &str, policy: &str, secret: Option<&str>) -> Value {
    let secrets: Vec<Value> = secret.iter().map(|name| json!({"name": name})).collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"imagePullSecrets": secrets,
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": image, "imagePullPolicy": policy, "args": ["pause"]}]}})
}

/// Upstream copies them into the pod; what a pod without any gets is the same.
fn an_accounts_secrets_serve_pods_without_their_own(system: &System, registry: &Registry) {
    let secrets = json!({"imagePullSecrets": [{"name": "regcred"}]});
    system.api().merge(SERVICE_ACCOUNT, "default", &secrets);
    let image = format!("{}/team/web:1", registry.host());
    system.api().create(Kind::POD, &pod("by-account", &image, "Always", None));
    system.api().until_pod_ready("by-account");
    system.api().delete(Kind::POD, "by-account");
    system.api().merge(SERVICE_ACCOUNT, "default", &json!({"imagePullSecrets": null}));
    system.step("pulled with the account's secret");
}

/// Each kind of failure shows in the pod's status and in an Event, with kubelet's reasons.
fn what_fails_says_why(system: &System, registry: &Registry) {
    let host = registry.host();
    system.api().create(SECRET, &pull_secret(registry, "wrong", "other"));
    let table = [
        ("denied", format!("{host}/team/web:2"), "Always", Some("wrong"), "ErrImagePull", "pull access denied"),
        ("without", format!("{host}/team/web:2"), "Always", Some("nobody"), "ErrImagePull", "no credentials"),
        ("absent", format!("{host}/team/web:3"), "IfNotPresent", Some("regcred"), "ErrImagePull", "not found"),
        ("never", format!("{host}/team/web:4"), "Never", None, "ErrImageNeverPull", "pull policy of Never"),
        ("nameless", "Web:1".to_owned(), "IfNotPresent", None, "InvalidImageName", "couldn't parse image name"),
    ];
    for (name, image, policy, secret, ..) in &table {
        system.api().create(Kind::POD, &pod(name, image, policy, *secret));
    }
    for (name, _, _, _, reason, words) in &table {
        let says = |event: &Value| {
            let message = event["message"].as_str().unwrap_or_default();
            event["involvedObject"]["name"] == *name && event["type"] == "Warning" && message.contains(words)
        };
        system
            .api()
            .until_all(Kind::EVENT, "", &format!("{name}: an Event with {words:?}"), |events| events.iter().any(says));
        let errs =
            |event: &Value| event["involvedObject"]["name"] == *name && event["message"] == format!("Error: {reason}");
        system.api().until_all(Kind::EVENT, "", &format!("{name}: Error: {reason}"), |events| events.iter().any(errs));
        system.api().until(Kind::POD, name, reason, |pod| {
            let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
            let message = waiting["message"].as_str().unwrap_or_default();
            let backing_off = *reason == "ErrImagePull" && waiting["reason"] == "ImagePullBackOff";
            (waiting["reason"] == *reason || backing_off) && message.contains(words)
        });
    }
    let missing = |event: &Value| event["reason"] == "FailedToRetrieveImagePullSecret";
    system.api().until_all(Kind::EVENT, "", "a secret that isn't there", |events| events.iter().any(missing));
    let backs_off = |event: &Value| {
        event["reason"] == "BackOff"
            && event["message"].as_str().is_some_and(|m| m.starts_with("Back-off pulling image"))
    };
    system.api().until_all(Kind::EVENT, "", "BackOff", |events| events.iter().any(backs_off));
    for (name, ..) in &table {
        system.api().delete(Kind::POD, name);
    }
    system.step("what fails");
}

fn images(system: &System) -> Vec<Value> {
    let listed = system.portolan(&["image", "ls", "-o", "json"]).ok();
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    listed["images"].as_array().expect("a list").clone()
}

fn an_image_in_use_stays(system: &System, registry: &Registry) {
    let name = format!("{}/team/web:1", registry.host());
    let refused = system.portolan(&["image", "rm", &name]).fails();
    assert!(refused.contains("container web of pod default/web-") && refused.contains("--force"), "{refused}");
    let known = images(system);
    let pulled = known.iter().find(|image| image["names"][0] == name.as_str()).expect("it is listed");
    assert!(pulled["digests"][0].as_str().is_some_and(|digest| digest.contains("/team/web@sha256:")), "{pulled}");
    let table = system.portolan(&["image", "ls"]).ok();
    assert!(table.starts_with("IMAGE") && table.contains(&name), "{table}");
    system.portolan(&["image", "rm", "--force", &name]).ok();
    assert!(images(system).iter().all(|image| image["names"][0] != name.as_str()), "{:?}", images(system));
    let ip = system.api().get(Kind::SERVICE, "web")["spec"]["clusterIP"].as_str().expect("a ClusterIP").to_owned();
    let answered = system.host().spread(&format!("{ip}:80"), 10);
    assert!(answered.keys().all(|name| name.starts_with("web-")), "they run on with what they have: {answered:?}");
    system.step("image ls, image rm");
}

/// As `docker save` does it.
fn archive(image: &Packed, name: &str) -> Vec<u8> {
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).to_string();
    let files =
        [("config.json", &image.config[..]), ("layer.tar", &image.layers[0]), ("manifest.json", manifest.as_bytes())];
    Layer::of(&files.map(|(path, content)| (path, 0o644, content))).0
}

fn an_import_brings_a_waiting_pod_to_life(system: &System, image: &Packed) {
    system.api().create(Kind::POD, &pod("waits", "imported.example/web:1", "Never", None));
    system.api().until(Kind::POD, "waits", "ErrImageNeverPull", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImageNeverPull"
    });
    let dropped = system.data_dir().join("images/import/web.tar");
    std::fs::write(&dropped, archive(image, "imported.example/web:1")).expect("the import folder");
    let ready = system.api().until_pod_ready("waits");
    assert_eq!(
        ready["status"]["containerStatuses"][0]["imageID"],
        digest(&image.config),
        "it has no registry's digest"
    );
    system.api().delete(Kind::POD, "waits");
    std::fs::remove_file(dropped).expect("imported files stay");
    system.step("imported");
}

fn archives_are_loaded_or_named(system: &System, image: &Packed) {
    let file = |name: &str, content: &[u8]| {
        let path = system.scratch().join(name);
        std::fs::write(&path, content).expect("a file of the test");
        path.to_string_lossy().into_owned()
    };
    let good = file("good.tar", &archive(image, "loaded.example/web:1"));
    let said = system.portolan(&["image", "load", &good]).ok();
    assert!(said.contains("loaded.example/web:1"), "{said}");
    system.portolan(&["image", "load", &good, "--name", "renamed.example/web:2"]).ok();
    system.portolan(&["image", "rm", "loaded.example/web:1", "renamed.example/web:2"]).ok();

    let mut escaping = Layer::of(&[("aa/escaped", 0o644, b"1")]).0;
    escaping[..2].copy_from_slice(b"..");
    // The header's checksum is of the bytes that are there.
    let sum: u32 = escaping[..512]
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
        .sum();
    escaping[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let hostile = Packed::new(&[Layer(escaping)], Packing::Plain, json!({}));
    let before = images(system);
    let bad = file("bad.tar", &archive(&hostile, "bad.example/web:1"));
    let said = system.portolan(&["image", "load", &bad]).fails();
    for word in ["bad.tar", "layer.tar", "../escaped", "nothing was loaded"] {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
    assert_eq!(images(system), before, "nothing has changed");
    assert!(!Path::new(system.data_dir()).join("escaped").exists());
    system.step("archives");
}

fn the_commands_work_without_a_system(system: &System, registry: &Registry) {
    system.portolan(&["image", "rm", "imported.example/web:1"]).ok();
    let mirror = format!("docker.io=http://{}", registry.host());
    registry.push("library/small", "1", &Packed::new(&[Layer::of(&[("a", 0o644, b"1")])], Packing::Gzip, json!({})));
    let said = system.portolan(&["image", "pull", "small:1", "--registry-mirror", &mirror]).ok();
    assert!(said.starts_with("small:1 sha256:"), "{said}");
    let refused = system.portolan(&["image", "pull", &format!("{}/none", registry.host())]).fails();
    assert!(refused.contains("not found"), "{refused}");
    assert!(system.portolan(&["image", "pull", "a", "--registry-mirror", "nonsense"]).fails().contains("HOST=URL"));
    system.portolan(&["image", "rm", "small:1"]).ok();
    eventually("only the built-in image is left", || match images(system).len() {
        1 => Ok(()),
        more => Err(format!("{more} images")),
    });
    let layers = std::fs::read_dir(system.data_dir().join("images/layers")).expect("the store").count();
    assert_eq!(layers, 1, "layers nobody needs are gone");
    system.step("without a system");
}

/// By a proxy, with an authority of its own, and a login that only a credential helper knows: as many companies have it.
fn a_private_registry_is_reached_as_the_machine_is_set_up(system: &System) {
    let start = || {
        let (registry, authority) = Registry::start_tls(&["registry.test"]);
        let proxy = WebProxy::start(Some(registry.address()));
        (registry, authority, proxy)
    };
    let (registry, authority, proxy) = system.host().namespace().run(start).expect("the machine's network");
    registry.push("team/app", "1", &Packed::new(&[Layer::of(&[("a", 0o644, b"1")])], Packing::Gzip, json!({})));
    let authority = system.file("authority.pem", &authority);
    system.file("config.json", r#"{"credHelpers": {"registry.test": "of-the-test"}}"#);
    let answer = |user: &str| {
        let path = system.file(
            "docker-credential-of-the-test",
            &format!(
                "#!/bin/sh\nread host\n[ \"$1 $host\" = 'get registry.test' ] || exit 1\n\
                 echo '{{\"ServerURL\": \"'$host'\", \"Username\": \"{user}\", \"Secret\": \"the secret\"}}'\n"
            ),
        );
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a file of the test");
    };
    let path = format!("{}:{}", system.scratch().display(), std::env::var("PATH").expect("a PATH"));
    let pull = |settings: &[(&str, &str)]| {
        let mut command = system.command(&["image", "pull", "registry.test/team/app:1"]);
        command.env("DOCKER_CONFIG", system.scratch()).env("PATH", &path).envs(settings.iter().copied());
        system.run(command)
    };
    let url = proxy.url();
    let (trusting, proxied) = (("SSL_CERT_FILE", authority.as_str()), ("HTTPS_PROXY", url.as_str()));

    answer("me");
    registry.require(Access::Basic { user: "me".into(), password: "the secret".into() });
    let said = pull(&[proxied]).fails();
    assert!(said.contains("doesn't trust") && said.contains("/etc/docker/certs.d/registry.test:443/ca.crt"), "{said}");
    pull(&[trusting, proxied]).ok();
    let asked = proxy.asked();
    assert!(asked.iter().all(|asked| asked.starts_with("CONNECT registry.test:443 HTTP/1.1 Proxy-Auth")), "{asked:?}");
    let said = pull(&[trusting, proxied, ("NO_PROXY", "registry.test")]).fails();
    assert!(said.contains("cannot look up registry.test"), "{said}");
    assert_eq!(proxy.asked().len(), asked.len(), "past the proxy");

    // A helper's answer for this user is an identity token.
    answer("<token>");
    registry.require(Access::Identity { token: "the%20secret".into() });
    registry.push("team/app", "1", &Packed::new(&[Layer::of(&[("a", 0o644, b"2")])], Packing::Gzip, json!({})));
    pull(&[trusting, proxied]).ok();
    system.portolan(&["image", "rm", "registry.test/team/app:1"]).ok();
    system.step("a private registry");
}
