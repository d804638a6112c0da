//! `portolan proxy` as far as it goes without a cluster: what it writes, what it refuses, and in which words.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Command, Output};

/// What kube-proxy 1.36.3 writes when it's told nothing.
const WRITTEN: &str = include_str!("../../proxy/tests/kube-proxy-1.36.3-defaults.yaml");
const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn proxy(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portolan")).arg("proxy").args(args).env_remove("PORTOLAN_LOG").output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn it_writes_the_configuration_that_kube_proxy_would() {
    let folder = Folder::new();
    let written = folder.file("written", "");
    let to = written.to_str().unwrap();
    let output = proxy(&["--proxy-mode=iptables", "--write-config-to", to]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&written).unwrap(), WRITTEN);
    // A file puts the flags aside, but for the name and the logging.
    let config = folder.file("config", &format!("{HEAD}mode: iptables\n"));
    let flags = ["--write-config-to", to, "--proxy-mode=nftables", "--hostname-override=Node-1", "-v=2"];
    let output = proxy(&[&["--config", config.to_str().unwrap()][..], &flags[..]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let expected = WRITTEN.replace("hostnameOverride: \"\"", "hostnameOverride: node-1");
    assert_eq!(std::fs::read_to_string(&written).unwrap(), expected.replace("verbosity: 0", "verbosity: 2"));
}

#[test]
fn it_says_which_kubernetes_it_follows() {
    for flag in ["--version", "--version=raw"] {
        let output = proxy(&[flag]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("Kubernetes v1.36.3 (portolan "), "{flag}");
    }
}

#[test]
fn mistakes_are_named_where_they_are() {
    let folder = Folder::new();
    let run = |text: &str, flags: &[&str]| {
        let config = folder.file("config", &format!("{HEAD}{text}"));
        proxy(&[&["--config", config.to_str().unwrap()][..], flags].concat())
    };
    let unknown = run("conntrack:\n  bogus: 1\n", &["--write-config-to", "/dev/null"]);
    assert!(unknown.status.success(), "{}", said(&unknown));
    assert!(said(&unknown).contains(r#"line 4: unknown field "conntrack.bogus""#), "{}", said(&unknown));
    for (text, words) in [
        ("mode: wrong\n", "failed validate: KubeProxyConfiguration.Mode.ProxyMode: Invalid value: \"wrong\": must be"),
        ("configSyncPeriod: 90\n", "failed to decode: line 3: configSyncPeriod"),
        ("clientConnection: {kubeconfig: /nowhere}\n", "cannot use /nowhere"),
    ] {
        let output = run(text, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(words), "{text}: {}", said(&output));
    }
}
