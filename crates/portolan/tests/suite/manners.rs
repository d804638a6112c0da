//! What a person meets besides a system that works: files that are followed and pruned, kinds that aren't served, files
//! that belong to who called, a port that somebody has, names on the host, and leaving without a trace.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::{Kind, Kubectl, System};

use crate::PORTOLAN;

/// `nobody`, on every Linux machine.
const NOBODY: u32 = 65534;

const TWO: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: colours, namespace: shades}
data: {sea: blue, mark: \"<&>\"}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ports: [{port: 80}]
";
const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shades}\n";
const INGRESS: &str = "---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: front}
spec: {}
";

#[test]
fn files_are_followed_and_nothing_is_lost() {
    let mut system = System::new(PORTOLAN);
    let dir = system.scratch().join("k8s");
    fs::create_dir(&dir).expect("a directory");
    let save = |name: &str, text: &str| fs::write(dir.join(name), text).expect("a file");
    // The Namespace is applied first, whatever its file is called.
    save("a.yaml", &format!("{TWO}{INGRESS}"));
    save("z.yaml", NAMESPACE);
    let dir_name = dir.to_string_lossy().into_owned();

    let said = system.run(system.command(&["up", "--detach", "-f", &dir_name]));
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    for text in ["a.yaml, document 3 (line 12), Ingress front", "no kind Ingress in networking.k8s.io/v1"] {
        assert!(said.err.contains(text), "{text:?} is missing: {said:?}");
    }
    system.runs();
    kubectl_finds_nothing_to_change(&system, &dir.join("a.yaml"));
    system.down();
    system.step("left out, and kubectl agrees");

    let mut running = system.start_in_foreground(&["-f", &dir_name, "--watch", "--prune"]);
    let api = system.api();
    api.create(
        Kind::CONFIG_MAP,
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs", "namespace": "shades"}}),
    );
    let port = |port: i64| move |service: &Value| service["spec"]["ports"][0]["port"] == port;
    save("a.yaml", &format!("{}{INGRESS}", TWO.replace("port: 80", "port: 81")));
    api.until(Kind::SERVICE, "web", "what was saved in place", port(81));
    save("a.yaml.new", &format!("{}{INGRESS}", TWO.replace("port: 80", "port: 82")));
    fs::rename(dir.join("a.yaml.new"), dir.join("a.yaml")).expect("a rename");
    api.until(Kind::SERVICE, "web", "what was saved by renaming", port(82));
    system.step("saved in two ways");

    save("a.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: [}\n");
    running.line("not applied, and everything is as it was");
    save("a.yaml", &format!("{}{INGRESS}", TWO.replace("port: 80", "port: 0")));
    running.line("spec.ports[0].port");
    port_is(&system, 82);
    // Without the ConfigMap and the Namespace: the one goes, the other may have others' objects in it.
    let web = TWO.split_once("---\n").expect("two documents").1;
    save("a.yaml", &format!("{web}{INGRESS}"));
    running.line("ConfigMap shades/colours deleted");
    fs::remove_file(dir.join("z.yaml")).expect("a file");
    running.line("kubectl delete namespace shades");
    api.get(Kind::CONFIG_MAP, "shades/theirs");
    api.get(Kind::NAMESPACE, "shades");
    fs::remove_file(dir.join("a.yaml")).expect("a file");
    running.line("holds no .yaml");
    port_is(&system, 80);
    save("a.yaml", &format!("{}{INGRESS}", web.replace("port: 80", "port: 83")));
    running.line("Service default/web configured");
    running.signal(Signal::SIGINT);
    let (status, said) = running.end();
    assert_eq!(status.code(), Some(3), "{said}");
    system.step("mistakes lose nothing, and pruning touches its own");
    purging_leaves_nothing_and_touches_nothing_else(&mut system);
}

#[track_caller]
fn port_is(system: &System, port: i64) {
    assert_eq!(system.api().get(Kind::SERVICE, "web")["spec"]["ports"][0]["port"], port);
}

/// The same file, by kubectl: nothing differs, so nothing is written. What isn't served fails there too.
fn kubectl_finds_nothing_to_change(system: &System, file: &Path) {
    for kubectl in Kubectl::all() {
        let said = kubectl.run(system, &["apply", "-f", &file.to_string_lossy()]);
        for line in ["configmap/colours unchanged", "service/web unchanged"] {
            assert!(said.out.contains(line), "{}: {said:?}", kubectl.version());
        }
    }
}

fn purging_leaves_nothing_and_touches_nothing_else(system: &mut System) {
    let foreign = system.scratch().join("foreign");
    fs::create_dir(&foreign).expect("a directory");
    fs::write(foreign.join("lock"), "theirs").expect("a file");
    let foreign_name = foreign.to_string_lossy().into_owned();
    let said = system.portolan(&["down", "--purge", "--data-dir", &foreign_name]).fails();
    assert!(said.contains("no data directory of Portolan"), "{said}");
    let said = system.portolan(&["up", "--data-dir", &foreign_name]).fails();
    assert!(said.contains("--data-dir"), "{said}");
    assert_eq!(fs::read_dir(&foreign).expect("a directory").count(), 1);
    system.start(&[]);
    system.portolan(&["down", "--purge"]).ok();
    system.assert_nothing_left();
    assert!(!system.data_dir().exists());
    system.step("purged");
}

#[test]
fn who_called_owns_it_and_the_port_and_the_names_are_told() {
    let mut system = System::called_by(PORTOLAN, NOBODY);
    resolver_or_advice(&system);
    let resolved = fake_resolved(&mut system);
    let path = format!("{}:{}", system.scratch().join("bin").display(), std::env::var("PATH").unwrap_or_default());
    let mut up = system.command(&["up", "--detach", "--host-dns", "--api-port", "7443", "--nodes", "2"]);
    up.env("PATH", path);
    let said = system.run(up).ok();
    system.runs();
    let told = fs::read_to_string(system.scratch().join("resolvectl.log")).expect("what resolvectl was told");
    let link = system.record()["hostLink"].as_str().unwrap_or_default().to_owned();
    for line in [
        format!("dns {link} 172.30.0.11 172.30.0.12\n"),
        format!("domain {link} ~cluster.local ~244.10.in-addr.arpa ~96.10.in-addr.arpa\n"),
        format!("default-route {link} no\n"),
    ] {
        assert!(told.contains(&line), "{line:?} is missing in:\n{told}");
    }
    assert!(said.contains(&format!("KUBECONFIG={}", system.data_dir().join("kubeconfig").display())), "{said}");
    drop(resolved);
    system.step("names on the host");

    for file in ["", "kubeconfig", "log", "run", "run/sockets/api.sock", "state.db", "pki"] {
        let path = system.data_dir().join(file);
        assert_eq!(fs::metadata(&path).expect("it's there").uid(), NOBODY, "{}", path.display());
    }
    as_that_user(&system);
    system.step("the caller's own");
    the_port_names_its_holder(&system);
    system.down();
}

fn resolver_or_advice(system: &System) {
    let said = system.portolan(&["up", "--host-dns"]).fails();
    for text in ["systemd-resolved", "172.30.0.11", "server=/cluster.local/"] {
        assert!(said.contains(text), "{text:?} is missing in: {said}");
    }
    assert!(!system.data_dir().exists(), "a mistake costs nothing");
}

/// A process that looks like systemd-resolved, and a `resolvectl` that writes down what it's told.
fn fake_resolved(system: &mut System) -> testkit::Running {
    let bin = system.scratch().join("bin");
    fs::create_dir(&bin).expect("a directory");
    let log = system.scratch().join("resolvectl.log");
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\n", log.display());
    fs::write(bin.join("resolvectl"), script).expect("a file");
    fs::set_permissions(bin.join("resolvectl"), fs::Permissions::from_mode(0o755)).expect("permissions");
    std::os::unix::fs::symlink("/bin/cat", bin.join("systemd-resolved")).expect("a link");
    let resolved = system.run_in_background(Command::new(bin.join("systemd-resolved")));
    // The kernel names a process after it has closed what the parent waits for.
    testkit::eventually("it has its name", || {
        let name = fs::read_to_string(format!("/proc/{}/comm", resolved.pid())).map_err(|error| error.to_string())?;
        if name.trim_end() == "systemd-resolve" { Ok(()) } else { Err(name) }
    });
    resolved
}

/// Without root: the user's kubectl and `portolan status`.
fn as_that_user(system: &System) {
    let bin = system.scratch().join("bin");
    let own = |program: &Path, name: &str| {
        let copy = bin.join(name);
        fs::copy(program, &copy).expect("a copy that the user can reach");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("permissions");
        copy
    };
    let kubectl = Kubectl::all().pop().expect("a kubectl");
    let get = kubectl.command(system, &["get", "services", "--all-namespaces"]);
    let program = own(Path::new(get.get_program()), "kubectl");
    let mut as_user = Command::new(program);
    as_user.args(get.get_args()).uid(NOBODY).gid(NOBODY).env("HOME", system.data_dir());
    as_user.env("KUBECONFIG", system.data_dir().join("kubeconfig"));
    let said = system.run(as_user).ok();
    assert!(said.contains("kube-dns"), "{said}");

    let mut status = Command::new(own(Path::new(PORTOLAN), "portolan"));
    status.arg("status").uid(NOBODY).gid(NOBODY).env_remove("PORTOLAN_DATA_DIR");
    status.env("XDG_STATE_HOME", system.scratch().join("state"));
    let said = system.run(status).ok();
    assert!(said.contains("kube-system/kube-dns"), "{said}");
}

fn the_port_names_its_holder(system: &System) {
    let other = system.scratch().join("other").to_string_lossy().into_owned();
    let says = |port: &str, texts: &[&str]| {
        let mut up = vec!["up", "--data-dir", &other, "--api-port", port];
        // Networks of its own: those of the one that runs would be refused first.
        up.extend(["--pod-cidr", "10.245.0.0/16", "--service-cidr", "10.97.0.0/16", "--fabric-cidr", "172.31.0.0/24"]);
        let said = system.portolan(&up).fails();
        for text in texts {
            assert!(said.contains(text), "{text:?} is missing in: {said}");
        }
    };
    let ours = system.data_dir().to_string_lossy().into_owned();
    says("7443", &["--api-port", "127.0.0.1:7443", &format!("portolan down --data-dir {ours}")]);
    let listener = system.host().namespace().run(|| std::net::TcpListener::bind("127.0.0.1:7444"));
    let _listener = listener.expect("the host's network").expect("a free port");
    says("7444", &["--api-port", &format!("process {} (", std::process::id())]);
    system.portolan(&["down", "--purge", "--data-dir", &other]).ok();
    system.step("whose port it is");
}

#[test]
fn help_completion_and_pages_are_there() {
    let run = |args: &[&str]| {
        let output = Command::new(PORTOLAN).args(args).output().expect("the product runs");
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for (shell, sign) in [("bash", "complete -F"), ("zsh", "#compdef portolan"), ("fish", "complete -c portolan")] {
        assert!(run(&["completion", shell]).contains(sign), "{shell}");
    }
    assert!(run(&["man"]).contains(".TH portolan"));
    let pages = testkit::Temporary::new();
    run(&["man", "--dir", &pages.path().to_string_lossy()]);
    let page = fs::read_to_string(pages.path().join("portolan-up.1")).expect("a page for each command");
    assert!(page.contains("api") && page.contains("Examples"));
    let help = run(&["--help"]);
    for text in ["Examples:", "Exit codes:", "sudo portolan up -f examples/myapp"] {
        assert!(help.contains(text), "{text:?} is missing in:\n{help}");
    }
    let output = Command::new(PORTOLAN).arg("apply").output().expect("the product runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("portolan up -f FILE"), "{output:?}");
}

#[test]
fn a_corefile_is_explained_or_all_that_is_wrong_with_it() {
    let folder = testkit::Temporary::new();
    let (corefile, parts) = (folder.path().join("Corefile"), folder.path().join("parts"));
    fs::create_dir(&parts).expect("a directory");
    fs::write(parts.join("b.conf"), "forward . 192.0.2.1\n").expect("a file");
    fs::write(parts.join("other"), "{").expect("a file");
    let check = |text: &str, more: &[&str]| {
        fs::write(&corefile, text).expect("a file");
        let mut command = Command::new(PORTOLAN);
        command.args(["dns", "check"]).arg(&corefile).args(more).env("COREFILE_ZONE", "x.example");
        let output = command.output().expect("the product runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let good = "{$COREFILE_ZONE} {\n  bind 192.0.2.9\n  import parts/*.conf\n  errors\n  import none/*\n}\n";
    let (code, out, err) = check(good, &["-p", "1053"]);
    assert_eq!(code, Some(0), "{out}{err}");
    for line in [
        "listens on 192.0.2.9, port 1053, UDP and TCP",
        "server block of line 1, for x.example.",
        "        max_fails 2",
    ] {
        assert!(out.lines().any(|said| said == line), "{line:?} is missing in:\n{out}");
    }
    assert!(err.starts_with("warning: ") && err.contains(":5:10: no file is named by \"none/*\""), "{err}");

    let (code, out, _) = check(good, &["-o", "json"]);
    let read: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &read["listeners"][0]["port"]), (Some(0), &json!(53)));
    let plugins = read["servers"][0]["plugins"].as_array().expect("a list");
    assert_eq!(plugins.iter().map(|p| &p["plugin"]).collect::<Vec<_>>(), ["bind", "errors", "forward"]);
    assert_eq!(plugins[2]["settings"][0]["read_timeout"], "2s");

    let (code, out, err) = check(". {\n  erors\n  cache 0\n}\n", &[]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let place = corefile.display();
    let zero = "is not a whole number from 1: give a whole number from 1";
    let expected =
        format!("{place}:2:3: there is no plugin \"erors\": is errors meant?\n{place}:3:9: \"0\" of cache {zero}\n");
    assert_eq!(err, expected);
}

#[test]
fn broken_files_are_named_and_nothing_is_applied() {
    let system = System::new(PORTOLAN);
    let big =
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata: {{a: {}}}\n", "x".repeat(3 << 20));
    let (open, close) = ("[".repeat(200), "]".repeat(200));
    let deep = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: deep}}\ndata: {open}{close}\n");
    let good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\n---\n";
    let cases: &[(&str, &[u8], &[&str])] = &[
        ("prose.yaml", b"Dear reader,\nthis is no manifest\n", &["prose.yaml, document 1 (line 1)", "plain text"]),
        ("big.yaml", big.as_bytes(), &["big.yaml, document 1", "3.0 MiB", "3 MiB at most"]),
        ("deep.yaml", deep.as_bytes(), &["deep.yaml, document 1 (line 4)", "nested more deeply"]),
        ("kind.yaml", b"apiVersion: v1\nmetadata: {name: a}\n", &["kind is missing"]),
        ("bare.yaml", b"kind: Service\n", &["apiVersion, metadata.name are missing"]),
        (
            "number.yaml",
            b"apiVersion: v1\nkind: Service\nmetadata: {name: 12}\n",
            &["`metadata.name` must be text", "quotes"],
        ),
        (
            "generated.yaml",
            b"apiVersion: v1\nkind: Pod\nmetadata: {generateName: a-}\n",
            &["generateName", "metadata.name"],
        ),
        (
            "twice.yaml",
            b"apiVersion: v1\nkind: Service\nkind: Pod\nmetadata: {name: a}\n",
            &["(line 3): kind is there twice"],
        ),
        (
            "twice.json",
            b"{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"kind\": \"Pod\", \"metadata\": {}}",
            &["twice.json, line 1", "kind is there twice"],
        ),
        ("comma.json", b"{\"apiVersion\": \"v1\",\n \"kind\": \"Pod\",\n}\n", &["comma.json, line 3", "JSON"]),
        (
            "tab.yaml",
            b"apiVersion: v1\nkind: Pod\nmetadata:\n\tname: a\n",
            &["tab.yaml, document 1 (line", "indented by a tab"],
        ),
        ("chart.yaml", b"apiVersion: v1\nkind: Pod\nmetadata:\n  name: {{ .Values.name }}\n", &["helm template"]),
        ("utf16.yaml", b"\xff\xfea\0", &["utf16.yaml is in UTF-16", "UTF-8"]),
        ("image.yaml", b"apiVersion: v1\n\xff\xff", &["image.yaml is no text in UTF-8 (line 2)"]),
        (
            "list.yaml",
            b"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod}\n",
            &["item 1", "metadata.name is missing"],
        ),
        ("listless.yaml", b"apiVersion: v1\nkind: List\n", &["a List needs `items`"]),
        ("empty.yaml", b"# nothing yet\n---\n", &["there is no object in", "empty.yaml"]),
        (
            "kustomization.yaml",
            b"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n",
            &["kubectl kustomize"],
        ),
    ];
    for (name, text, says) in cases {
        let path = system.scratch().join(name);
        // Not at the first document only, and with the line that an editor shows.
        let second = name.ends_with(".yaml") && !name.starts_with("utf16") && !name.starts_with("empty");
        fs::write(&path, text).expect("a file");
        let said = system.portolan(&["up", "-f", &path.to_string_lossy()]).fails();
        for text in *says {
            assert!(
                said.contains(text),
                "{name}: {text:?} is missing in: {}",
                said.chars().take(600).collect::<String>()
            );
        }
        if second && !name.starts_with("image") {
            fs::write(&path, [good.as_bytes(), text].concat()).expect("a file");
            let said = system.portolan(&["up", "-f", &path.to_string_lossy()]).fails();
            assert!(said.contains("document 2 (line "), "{name}: {}", said.chars().take(600).collect::<String>());
        }
    }
    let nothing = system.scratch().join("nothing");
    fs::create_dir_all(nothing.join("base")).expect("a directory");
    fs::write(nothing.join("base/app.yaml"), good).expect("a file");
    let said = system.portolan(&["up", "-f", &nothing.to_string_lossy()]).fails();
    assert!(said.contains("holds no .yaml") && said.contains("nothing/base"), "{said}");
    let said = system.portolan(&["up", "-f", "https://example.org/app.yaml"]).fails();
    assert!(said.contains("curl -sSL https://example.org/app.yaml | portolan up -f -"), "{said}");
    assert!(!system.data_dir().exists(), "a mistake in a file makes nothing");
    strange_but_sound(system);
}

/// JSON, several JSON documents, a List, CRLF, a byte order mark, flow style and standard input are all fine.
fn strange_but_sound(mut system: System) {
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string();
    let yaml = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n");
    let list = format!("{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{}, {}]}}", map("l1"), map("l2"));
    let files = [
        ("a.json", format!("{}\n{}", map("j1"), map("j2"))),
        ("b.json", list),
        ("c.yaml", yaml("crlf").replace('\n', "\r\n")),
        ("d.yaml", format!("\u{feff}{}", yaml("bom"))),
        ("e.yml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: flow}}".to_owned()),
        ("f.yaml", format!("%YAML 1.1\n---\n{}...\n---\n# nothing\n", yaml("directive"))),
    ];
    let mut args = vec!["up".to_owned(), "--detach".to_owned(), "-f".to_owned(), "-".to_owned()];
    for (name, text) in files {
        args.extend(["-f".to_owned(), system.file(name, &text)]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut up = system.run_in_background(system.command(&args));
    up.say(&map("said"));
    let (status, said) = up.end();
    assert!(status.success(), "{said}");
    system.runs();
    for name in ["j1", "j2", "l1", "l2", "crlf", "bom", "flow", "directive", "said"] {
        system.api().get(Kind::CONFIG_MAP, name);
    }
    system.down();
}
