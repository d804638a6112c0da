//! `kubernetes [ZONES…] { … }`: the names of a cluster's Services and Pods. One zone at the least is none of reverse names.
//! Options and their defaults: `endpoint URL`, `tls CERT KEY CA`, `kubeconfig FILE [CONTEXT]` (the pod's account otherwise),
//! `apiserver_qps`, `apiserver_burst`, `apiserver_max_inflight` (0, the client's own), `namespaces NAMES…` or
//! `namespace_labels SELECTOR` (all), `labels SELECTOR`, `pods disabled|insecure|verified`, `endpoint_pod_names`, `ttl 5` (up to
//! 3600), `noendpoints`, `zonal`, `ignore empty_service`, `fallthrough [ZONES…]`, `multicluster ZONES…`,
//! `startup_timeout 5s`.

use serde::Serialize;

use super::Settings;
use crate::reader::{Reader, Set};
use crate::selector::is_selector;
use crate::token::Token;
use crate::{GoDuration, Stanza, Zone};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kubernetes {
    pub zones: Vec<Zone>,
    pub endpoint: Option<String>,
    pub tls: Option<Tls>,
    pub kubeconfig: Option<Kubeconfig>,
    /// Requests a second, at once, and on the way; 0 for what the client does by itself.
    pub apiserver_qps: f32,
    pub apiserver_burst: u32,
    pub apiserver_max_inflight: u32,
    /// All if there are none.
    pub namespaces: Vec<String>,
    pub namespace_labels: Option<String>,
    /// Of Services, Pods and EndpointSlices.
    pub labels: Option<String>,
    pub pods: Pods,
    /// Endpoints without a hostname are called as their pods are.
    pub endpoint_pod_names: bool,
    pub ttl: u32,
    /// Without it, nothing is known of endpoints.
    pub endpoints: bool,
    /// Names of endpoints by zone.
    pub zonal: bool,
    /// A Service without ready endpoints is no name.
    pub ignore_empty_service: bool,
    pub fallthrough: Vec<Zone>,
    /// Of the zones those of the clusterset.
    pub multicluster: Vec<Zone>,
    pub startup_timeout: GoDuration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tls {
    pub certificate: String,
    pub key: String,
    pub ca: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kubeconfig {
    pub file: String,
    pub context: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pods {
    Disabled,
    Insecure,
    Verified,
}

#[rustfmt::skip]
const OPTIONS: &[&str] = &[
    "endpoint", "tls", "kubeconfig", "apiserver_qps", "apiserver_burst", "apiserver_max_inflight", "namespaces",
    "namespace_labels", "labels", "pods", "endpoint_pod_names", "ttl", "noendpoints", "zonal", "ignore", "fallthrough",
    "multicluster", "startup_timeout",
];

impl Settings for Kubernetes {
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut kubernetes = Kubernetes::new();
        while reader.only_stanza() {
            let arguments = reader.arguments();
            kubernetes.zones = reader.zones_or_block(&arguments);
            if kubernetes.zones.iter().all(Zone::is_reverse) {
                reader.together("kubernetes has zones of reverse names only", "name the cluster's domain before them");
            }
            while let Some(option) = reader.option() {
                read_option(reader, &mut kubernetes, option);
            }
            check(reader, &kubernetes);
        }
        kubernetes
    }

    fn stanzas(&self) -> Vec<Stanza> {
        let tls = self.tls.as_ref().map_or(Vec::new(), |tls| vec![&tls.certificate, &tls.key, &tls.ca]);
        let kubeconfig = self.kubeconfig.iter().flat_map(|config| std::iter::once(&config.file).chain(&config.context));
        vec![
            Stanza::new("kubernetes")
                .with_all(&self.zones)
                .maybe("endpoint", self.endpoint.as_ref())
                .list("tls", &tls)
                .list("kubeconfig", &kubeconfig.collect::<Vec<_>>())
                .option("apiserver_qps", self.apiserver_qps)
                .option("apiserver_burst", self.apiserver_burst)
                .option("apiserver_max_inflight", self.apiserver_max_inflight)
                .list("namespaces", &self.namespaces)
                .maybe("namespace_labels", self.namespace_labels.as_ref())
                .maybe("labels", self.labels.as_ref())
                .option("pods", self.pods.name())
                .flag("endpoint_pod_names", self.endpoint_pod_names)
                .option("ttl", self.ttl)
                .flag("noendpoints", !self.endpoints)
                .flag("zonal", self.zonal)
                .maybe("ignore", self.ignore_empty_service.then_some("empty_service"))
                .list("fallthrough", &self.fallthrough)
                .list("multicluster", &self.multicluster)
                .option("startup_timeout", self.startup_timeout),
        ]
    }
}

impl Kubernetes {
    fn new() -> Self {
        Kubernetes {
            zones: Vec::new(),
            endpoint: None,
            tls: None,
            kubeconfig: None,
            apiserver_qps: 0.0,
            apiserver_burst: 0,
            apiserver_max_inflight: 0,
            namespaces: Vec::new(),
            namespace_labels: None,
            labels: None,
            pods: Pods::Disabled,
            endpoint_pod_names: false,
            ttl: 5,
            endpoints: true,
            zonal: false,
            ignore_empty_service: false,
            fallthrough: Vec::new(),
            multicluster: Vec::new(),
            startup_timeout: GoDuration::from_secs(5),
        }
    }
}

impl Pods {
    const ALL: [Pods; 3] = [Pods::Disabled, Pods::Insecure, Pods::Verified];

    pub fn name(self) -> &'static str {
        match self {
            Pods::Disabled => "disabled",
            Pods::Insecure => "insecure",
            Pods::Verified => "verified",
        }
    }
}

fn read_option(reader: &mut Reader<'_>, kubernetes: &mut Kubernetes, option: &Token) {
    match option.text.as_str() {
        "endpoint" => kubernetes.endpoint = reader.first("a URL").map(|token| token.text.clone()),
        "tls" => kubernetes.tls = tls(reader),
        "kubeconfig" => kubernetes.kubeconfig = kubeconfig(reader),
        "apiserver_qps" => {
            let Some(token) = reader.sole("a number") else { return };
            kubernetes.apiserver_qps.set(match token.text.parse::<f32>() {
                Ok(qps) if qps >= 0.0 && qps.is_finite() => Some(qps),
                _ => reader.bad(token, "a number of 0 or more"),
            });
        }
        "apiserver_burst" => kubernetes.apiserver_burst.set(count(reader)),
        "apiserver_max_inflight" => kubernetes.apiserver_max_inflight.set(count(reader)),
        "namespaces" => {
            for name in reader.some("names of namespaces").unwrap_or_default() {
                if !kubernetes.namespaces.contains(&name.text) {
                    kubernetes.namespaces.push(name.text.clone());
                }
            }
        }
        "namespace_labels" => kubernetes.namespace_labels = selector(reader),
        "labels" => kubernetes.labels = selector(reader),
        "pods" => {
            let Some(token) = reader.sole("disabled, insecure or verified") else { return };
            let found = Pods::ALL.into_iter().find(|pods| pods.name() == token.text);
            kubernetes.pods.set(found.or_else(|| reader.bad(token, "disabled, insecure or verified")));
        }
        "endpoint_pod_names" => kubernetes.endpoint_pod_names |= reader.nothing(),
        "ttl" => {
            let Some(token) = reader.first("a number of seconds") else { return };
            kubernetes.ttl.set(reader.number(token, 0..=3600).and_then(|ttl| u32::try_from(ttl).ok()));
        }
        "noendpoints" => kubernetes.endpoints &= !reader.nothing(),
        "zonal" => kubernetes.zonal |= reader.nothing(),
        "ignore" => match reader.first("empty_service") {
            Some(token) if token.text == "empty_service" => kubernetes.ignore_empty_service = true,
            Some(token) => {
                reader.bad::<()>(token, "empty_service");
            }
            None => {}
        },
        "fallthrough" => kubernetes.fallthrough = reader.fallthrough(),
        "multicluster" => {
            let zones = reader.arguments();
            kubernetes.multicluster = reader.zones(&zones);
        }
        "startup_timeout" => {
            let Some(token) = reader.first("a duration") else { return };
            kubernetes.startup_timeout.set(reader.duration(token, None));
        }
        _ => reader.unknown(option, OPTIONS),
    }
}

/// What goes together.
fn check(reader: &mut Reader<'_>, kubernetes: &Kubernetes) {
    if !kubernetes.namespaces.is_empty() && kubernetes.namespace_labels.is_some() {
        reader.together("namespaces and namespace_labels exclude each other", "keep one of them");
    }
    if let Some(zone) = kubernetes.multicluster.iter().find(|zone| !kubernetes.zones.contains(zone)) {
        let problem = format!("multicluster names {zone}, which isn't one of the plugin's zones");
        reader.together(problem, "name it after kubernetes, too");
    }
    if kubernetes.zonal && !kubernetes.endpoints {
        reader.together("zonal needs endpoints, and noendpoints is there", "remove one of them");
    }
}

fn tls(reader: &mut Reader<'_>) -> Option<Tls> {
    let arguments = reader.arguments();
    let [certificate, key, ca] = &arguments[..] else {
        match arguments.get(3) {
            Some(further) => reader.excess(further, "a certificate, its key and an authority's certificate"),
            None => reader.missing("a certificate, its key and an authority's certificate"),
        }
        return None;
    };
    Some(Tls { certificate: certificate.text.clone(), key: key.text.clone(), ca: ca.text.clone() })
}

fn kubeconfig(reader: &mut Reader<'_>) -> Option<Kubeconfig> {
    let arguments = reader.some("a file")?;
    if let Some(further) = arguments.get(2) {
        reader.excess(further, "a file and a context");
    }
    let context = arguments.get(1).map(|token| token.text.clone());
    arguments.first().map(|file| Kubeconfig { file: file.text.clone(), context })
}

fn count(reader: &mut Reader<'_>) -> Option<u32> {
    let token = reader.sole("a whole number")?;
    reader.number(token, 0..=i64::from(u32::MAX)).and_then(|count| u32::try_from(count).ok())
}

/// Words of a selector, which may have spaces.
fn selector(reader: &mut Reader<'_>) -> Option<String> {
    let words = reader.some("a label selector")?;
    let text = words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
    if !is_selector(&text) {
        return reader.bad(words.first()?, "a label selector such as app=web,tier in (a, b)");
    }
    Some(text)
}
