//! What the API server itself puts into an empty cluster: its namespaces, the default ServiceCIDR, and the Service
//! `kubernetes` with the endpoints that lead to itself. Running it again writes only what differs.

use std::sync::atomic::Ordering;

use api::status::Status;
use api::tree;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::ApiServer;
use crate::http::route::Target;
use crate::registry::{Answer, Scene, time};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Where the Service leads, as a port of it.
const PORT_NAME: &str = "https";
const PORT: u16 = 443;

impl ApiServer {
    /// Makes sure of all of them; the server is ready afterwards.
    pub async fn bootstrap(&self) -> Result<(), Box<Status>> {
        for namespace in NAMESPACES {
            self.ensure("", "namespaces", None, namespace, &json!({}), false).await?;
        }
        let cidrs: Vec<String> = self.0.config.service_cidrs.iter().map(ToString::to_string).collect();
        let spec = json!({"spec": {"cidrs": cidrs}});
        self.ensure("networking.k8s.io", "servicecidrs", None, "kubernetes", &spec, false).await?;
        self.ready_to_allocate().await?;
        self.0.registry.allocator.repair(&self.0.registry, Timestamp::now()).await?;
        self.ensure("", "services", Some("default"), "kubernetes", &self.kubernetes_service()?, false).await?;
        self.ensure("", "endpoints", Some("default"), "kubernetes", &self.endpoints(), true).await?;
        let slice = self.endpoint_slice();
        self.ensure("discovery.k8s.io", "endpointslices", Some("default"), "kubernetes", &slice, true).await?;
        self.0.bootstrapped.store(true, Ordering::Release);
        Ok(())
    }

    /// This server allocates from a ServiceCIDR as soon as it exists, and says so.
    async fn ready_to_allocate(&self) -> Answer<()> {
        let registry = &self.0.registry;
        let Some(resource) = registry.kinds.find("networking.k8s.io", "v1", "servicecidrs") else { return Ok(()) };
        let name = Some("kubernetes".to_owned());
        let target = Target { resource, namespace: None, name, subresource: "status", watch: false };
        let mut scene = Scene { target: &target, now: Timestamp::now(), dry_run: false, warnings: Vec::new() };
        let condition = json!({
            "type": "Ready",
            "status": "True",
            "reason": "",
            "message": "Kubernetes Service CIDR is ready",
            "lastTransitionTime": time(scene.now),
        });
        let make = |object: &Value| {
            let mut object = object.clone();
            if tree::list(&object["status"]["conditions"]).iter().all(|condition| condition["type"] != "Ready") {
                object["status"] = json!({"conditions": [condition.clone()]});
            }
            Ok((object, Vec::new()))
        };
        registry.change(&mut scene, &make).await.map(drop)
    }

    fn kubernetes_service(&self) -> Answer<Value> {
        let Some(address) = self.0.config.service_cidrs.first().and_then(|cidr| cidr.hosts().next()) else {
            return Err(Box::new(Status::internal("no service address range is configured")));
        };
        Ok(json!({
            "metadata": {"labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": address.to_string(),
                "clusterIPs": [address.to_string()],
                "ipFamilyPolicy": "SingleStack",
                "ports": [{
                    "name": PORT_NAME, "port": PORT, "protocol": "TCP", "targetPort": self.0.config.advertise.port(),
                }],
            },
        }))
    }

    fn endpoints(&self) -> Value {
        let advertise = self.0.config.advertise;
        json!({
            "metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{
                "addresses": [{"ip": advertise.ip().to_string()}],
                "ports": [{"name": PORT_NAME, "port": advertise.port(), "protocol": "TCP"}],
            }],
        })
    }

    fn endpoint_slice(&self) -> Value {
        let advertise = self.0.config.advertise;
        json!({
            "metadata": {"labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": if advertise.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": [advertise.ip().to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": PORT_NAME, "port": advertise.port(), "protocol": "TCP"}],
        })
    }

    /// Creates an object unless it is there; `keep` also takes back what others changed.
    async fn ensure(
        &self,
        group: &str,
        plural: &str,
        namespace: Option<&str>,
        name: &str,
        content: &Value,
        keep: bool,
    ) -> Answer<()> {
        let registry = &self.0.registry;
        let Some(resource) = registry.kinds.find(group, "v1", plural) else {
            return Err(Box::new(Status::internal(format!("this server needs {plural} of group {group:?}"))));
        };
        let mut object = content.clone();
        object["apiVersion"] = resource.api_version().into();
        object["kind"] = resource.kind.into();
        tree::child_map(&mut object, "metadata").insert("name".to_owned(), name.into());
        let target = |name: Option<&str>| Target {
            resource,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            subresource: "",
            watch: false,
        };
        let (collection, one) = (target(None), target(Some(name)));
        let mut scene = Scene { target: &collection, now: Timestamp::now(), dry_run: false, warnings: Vec::new() };
        match registry.create(&mut scene, object.clone()).await {
            Ok(_) => return Ok(()),
            Err(status) if status.reason == "AlreadyExists" => {}
            // An address that its own Service holds already: what matters is that the Service is there.
            Err(status) => match registry.get(&one, None).await {
                Ok(_) => {}
                Err(_) => return Err(status),
            },
        }
        if keep {
            let mut scene = Scene { target: &one, now: Timestamp::now(), dry_run: false, warnings: Vec::new() };
            registry.update(&mut scene, object).await?;
        }
        Ok(())
    }
}
