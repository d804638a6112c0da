//! A whole proxy against a canned API, in a network namespace of its own: what it asks for, what it programs, what its
//! probes say.

use std::convert::Infallible;
use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Response};
use kube::client::Body;
use proxy::{Backend, Backends, Config, ModeError, ModeStep, Order, Packets, Plan, Refusal, Rules, Setup, Status};
use service_model::{ForwardingTable, IpFamily};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How often a test looks whether something has come about.
const ASK: Duration = Duration::from_millis(10);

/// A backend whose kernel is a list of names, and has always met the same packets.
#[derive(Clone, Default)]
struct Names {
    programmed: Arc<Mutex<Vec<String>>>,
    /// How often its packets were counted.
    counted: Arc<AtomicUsize>,
    /// Nothing is programmed while this is held.
    gate: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, PartialEq, Eq)]
struct NamesPlan(Vec<String>);

impl fmt::Display for NamesPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Plan for NamesPlan {
    fn steps(&self) -> usize {
        self.0.len()
    }

    fn first(&self, steps: usize) -> Self {
        NamesPlan(self.0.iter().take(steps).cloned().collect())
    }

    fn refused(&self) -> &[Refusal] {
        &[]
    }
}

impl Backend for Names {
    type Desired = Vec<String>;
    type Observed = Vec<String>;
    type Plan = NamesPlan;
    type Error = Infallible;

    fn name(&self) -> &'static str {
        "names"
    }

    fn family(&self) -> IpFamily {
        IpFamily::V4
    }

    fn desired(&self, table: &ForwardingTable) -> Vec<String> {
        let pods = table.local_pods.iter().map(ToString::to_string);
        table.ports.iter().map(|(name, port)| format!("{name} {}", port.internal)).chain(pods).collect()
    }

    fn plan(&self, desired: &Vec<String>, observed: &Vec<String>) -> NamesPlan {
        NamesPlan(if desired == observed { vec![] } else { desired.clone() })
    }

    async fn observe(&self) -> Result<Vec<String>, Infallible> {
        Ok(vec![])
    }

    async fn apply(&self, plan: &NamesPlan, _: Vec<String>) -> Result<Vec<String>, Infallible> {
        let _open = self.gate.lock().await;
        self.programmed.lock().unwrap().clone_from(&plan.0);
        Ok(plan.0.clone())
    }

    async fn packets(&self, _: &Vec<String>) -> Result<Packets, Infallible> {
        self.counted.fetch_add(1, Ordering::Relaxed);
        Ok(Packets { invalid_dropped: 5, to_localhost: 4, connections_turned_away: 3 })
    }

    async fn is_stale(&self, _: &Vec<String>) -> Result<bool, Infallible> {
        Ok(false)
    }

    async fn cleanup(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Lists once, then watches in silence; takes Events.
fn answer(request: &Request<Body>) -> Option<String> {
    let uri = request.uri();
    if uri.query().is_some_and(|query| query.contains("watch=true")) {
        return None;
    }
    let list = |kind: &str, items: &str| {
        format!(r#"{{"kind":"{kind}List","apiVersion":"v1","metadata":{{"resourceVersion":"5"}},"items":[{items}]}}"#)
    };
    Some(match uri.path() {
        "/api/v1/services" => list(
            "Service",
            r#"{"metadata":{"namespace":"n","name":"good","uid":"u1","resourceVersion":"3"},
                "spec":{"clusterIPs":["10.96.0.9"],"ports":[{"port":80}]}},
               {"metadata":{"namespace":"n","name":"bad","uid":"u2"},"spec":{"clusterIPs":["nonsense"],"ports":[{"port":80}]}},
               {"metadata":{"namespace":"n","name":"worse"},"spec":{"clusterIPs":7}}"#,
        ),
        "/apis/discovery.k8s.io/v1/endpointslices" => list(
            "EndpointSlice",
            r#"{"metadata":{"namespace":"n","name":"good-1","labels":{"kubernetes.io/service-name":"good"}},
                "addressType":"IPv4","ports":[{"port":8080}],"endpoints":[{"addresses":["10.244.1.5"]}]}"#,
        ),
        "/api/v1/nodes" => {
            list("Node", r#"{"metadata":{"name":"here"},"spec":{"podCIDR":"10.244.1.0/24"},"status":{"addresses":[]}}"#)
        }
        "/apis/networking.k8s.io/v1/servicecidrs" => list("ServiceCIDR", ""),
        _ => "{}".to_owned(),
    })
}

/// Who asks it, and for what; of Events, from which node to which node.
fn canned(asked: Arc<Mutex<Vec<String>>>) -> kube::Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        asked.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
        let (answer, asked) = (answer(&request), asked.clone());
        async move {
            let body = request.into_body().collect_bytes().await.unwrap();
            if let Ok(event) = serde_json::from_slice::<serde_json::Value>(&body) {
                let text = |at: &str| event.pointer(at).and_then(|value| value.as_str()).unwrap_or("?").to_owned();
                let from = text("/source/host");
                asked.lock().unwrap().push(format!("{from}: {} of {}", text("/reason"), text("/involvedObject/name")));
            }
            match answer {
                Some(text) => Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))),
                None => std::future::pending().await,
            }
        }
    });
    kube::Client::new(service, "default")
}

fn get(at: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

async fn until_asked(asked: &Mutex<Vec<String>>, wanted: &str) {
    let heard = async {
        while !asked.lock().unwrap().iter().any(|line| line == wanted) {
            tokio::time::sleep(ASK).await;
        }
    };
    let heard = tokio::time::timeout(Duration::from_secs(30), heard).await;
    heard.unwrap_or_else(|_| panic!("{wanted}: {:?}", asked.lock().unwrap()));
}

/// Until a series that begins like this is more than nothing.
async fn until_counted(status: &Status, series: &str) {
    let counted = async {
        let shown = |text: String| text.lines().any(|line| line.starts_with(series) && !line.ends_with(" 0"));
        while !shown(status.metrics().text()) {
            tokio::time::sleep(ASK).await;
        }
    };
    let counted = tokio::time::timeout(Duration::from_secs(30), counted).await;
    counted.unwrap_or_else(|_| panic!("{series}\n{}", status.metrics().text()));
}

async fn whole_proxy() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (status, token) = (Status::default(), CancellationToken::new());
    let health: SocketAddr = ([127, 0, 0, 1], 10_256).into();
    let metrics: SocketAddr = ([127, 0, 0, 1], 10_249).into();
    let config = Config { health_address: Some(health), metrics_address: Some(metrics), ..Config::for_node("here") };
    let names = Names::default();
    let (programmed, gate) = (names.programmed.clone(), names.gate.clone());
    let shut = gate.lock().await;
    let running = tokio::spawn(proxy::run(canned(asked.clone()), config, [names], status.clone(), token.clone()));
    until_counted(&status, "kubeproxy_sync_proxy_rules_service_changes_pending ").await;
    until_counted(&status, "kubeproxy_sync_proxy_rules_endpoint_changes_pending ").await;
    drop(shut);
    let mut applied = status.applied(IpFamily::V4).unwrap();
    let reached = applied.wait_for(Option::is_some);
    tokio::time::timeout(Duration::from_secs(30), reached).await.expect("in force in time").unwrap();
    assert_eq!(*programmed.lock().unwrap(), ["n/good TCP forward to 10.244.1.5:8080", "10.244.1.0/24"]);
    let ask = |at, path| async move { tokio::task::spawn_blocking(move || get(at, path)).await.unwrap() };
    for (path, with_node) in [("/healthz", true), ("/livez", false)] {
        let text = ask(health, path).await;
        assert!(text.starts_with("HTTP/1.1 200") && text.contains(r#""healthy":true"#), "{text}");
        assert_eq!(text.contains(r#""nodeEligible":true"#), with_node, "{text}");
    }
    assert!(ask(metrics, "/proxyMode").await.ends_with("\r\n\r\nnames"));
    let counted = ask(metrics, "/metrics").await;
    for line in [
        "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} ",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} ",
        "kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=\"IPv4\"} ",
        "portolan_proxy_service_ports{ip_family=\"IPv4\"} ",
        "kubeproxy_sync_proxy_rules_service_changes_pending 0",
    ] {
        assert!(counted.contains(line), "{line}: {counted}");
    }
    until_asked(&asked, "POST /api/v1/namespaces/n/events?").await;
    token.cancel();
    running.await.unwrap().unwrap();
    let asked = asked.lock().unwrap();
    for (kind, left_out) in [("/services", "service-proxy-name"), ("/endpointslices", "headless")] {
        let selector = format!("labelSelector=%21service.kubernetes.io%2F{left_out}&");
        let mut of_kind = asked.iter().filter(|line| line.contains(kind));
        assert!(of_kind.all(|line| format!("{line}&").contains(&selector)), "{asked:?}");
    }
    assert!(asked.iter().any(|line| line.contains("/nodes?") && line.contains("metadata.name%3Dhere")), "{asked:?}");
}

/// Rules that nobody can remove.
struct Stuck(&'static str);

impl Rules for Stuck {
    fn name(&self) -> &'static str {
        self.0
    }

    fn cleanup(&self, _: bool) -> BoxFuture<'_, Result<(), ModeError>> {
        let source = "it is stuck".into();
        let error = ModeError { mode: self.0, family: IpFamily::V6, step: ModeStep::Remove, source };
        Box::pin(std::future::ready(Err(error)))
    }
}

async fn orders_are_followed() {
    let [first, second] = [(), ()].map(|()| Arc::new(Mutex::new(Vec::new())));
    let config = |name: &str| Config { health_address: None, ..Config::for_node(name) };
    let names = Names::default();
    let mode = || Arc::new(Backends::new([names.clone()]));
    let (token, status) = (CancellationToken::new(), Status::default());
    let mut setup = Setup::new(canned(first.clone()), config("here"), mode());
    setup.replaces = vec![Arc::new(Stuck("nftables")), Arc::new(Stuck("kube-proxy"))];
    let (orders, taken) = mpsc::channel(1);
    let running = tokio::spawn(proxy::serve(setup, taken, status.clone(), token.clone()));
    orders.send(Order::Refuse("nobody can".to_owned())).await.unwrap();
    until_asked(&first, "here: ProxyConfigurationRefused of here").await;
    until_looked_at(&names, 0).await;
    // Another cluster, where the node is called otherwise.
    let setup = Setup::new(canned(second.clone()), config("there"), mode());
    let (done, answer) = oneshot::channel();
    orders.send(Order::Become(Box::new(setup), done)).await.unwrap();
    assert!(answer.await.unwrap());
    let before = names.counted.load(Ordering::Relaxed);
    orders.send(Order::Refuse("still nobody can".to_owned())).await.unwrap();
    until_asked(&second, "there: ProxyConfigurationRefused of there").await;
    assert!(first.lock().unwrap().iter().all(|line: &String| !line.contains("there: ")));
    for line in [
        "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total{ip_family=\"IPv6\"} ",
        "portolan_proxy_cleanup_failures_total{mode=\"nftables\"} ",
        "portolan_proxy_cleanup_failures_total{mode=\"kube-proxy\"} ",
        "portolan_proxy_config_reloads_total{result=\"refused\"} 2",
        "portolan_proxy_config_reloads_total{result=\"applied\"} 1",
    ] {
        until_counted(&status, line).await;
    }
    assert!(status.metrics().text().contains("portolan_proxy_config_last_reload_successful 0\n"));
    // The mode was renewed, and whoever counts now doesn't count again what was counted before.
    until_looked_at(&names, before).await;
    for line in [
        "kubeproxy_iptables_ct_state_invalid_dropped_packets_total 5\n",
        "kubeproxy_iptables_localhost_nodeports_accepted_packets_total 4\n",
        "portolan_proxy_connections_turned_away_total{ip_family=\"IPv4\"} 3\n",
    ] {
        assert!(status.metrics().text().contains(line), "{line}{}", status.metrics().text());
    }
    token.cancel();
    running.await.unwrap().unwrap();
}

async fn until_looked_at(names: &Names, before: usize) {
    let looked = async {
        while names.counted.load(Ordering::Relaxed) <= before {
            tokio::time::sleep(ASK).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looked).await.expect("packets are counted now and then");
}

#[test]
fn it_tells_in_the_name_that_it_has_now_and_where_it_watches_now() {
    let namespace = netns::NetNs::new().expect("network namespaces need CAP_SYS_ADMIN: run the tests as root");
    let run = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(orders_are_followed());
    };
    namespace.run(run).unwrap();
}

#[test]
fn it_watches_programs_answers_probes_and_tells_of_bad_services() {
    let namespace = netns::NetNs::new().expect("network namespaces need CAP_SYS_ADMIN: run the tests as root");
    namespace
        .run(|| {
            std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            // A new one may have the machine's.
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
            // Threads made here stay in the namespace.
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(whole_proxy());
            assert_eq!(std::fs::read_to_string("/proc/thread-self/net/dev").unwrap().matches("lo:").count(), 1);
        })
        .unwrap();
    // That is for those who attach pods.
    assert_eq!(netns::sysctl::get(&namespace, "net.ipv4.ip_forward").unwrap(), "0");
}
