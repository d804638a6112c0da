//! Discovery, health, versions, permission, and paths that lead nowhere.

use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use apiserver::Identity;

use crate::server::{CONFIG_MAPS, SERVICES, Server, config_map};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

#[tokio::test]
async fn aggregated_discovery_names_kinds_scopes_and_subresources() {
    let server = Server::start().await;
    let answer = server.get_as(AGGREGATED, "/apis").await;
    let content_type = answer.headers["content-type"].to_str().unwrap().to_owned();
    assert_eq!(content_type, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let etag = answer.headers["etag"].clone();
    let groups = answer.ok();
    let apps = groups["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps").unwrap();
    let resources = apps["versions"][0]["resources"].as_array().unwrap();
    let deployments = resources.iter().find(|r| r["resource"] == "deployments").unwrap();
    assert_eq!((&deployments["scope"], &deployments["singularResource"]), (&json!("Namespaced"), &json!("deployment")));
    assert_eq!(deployments["shortNames"], json!(["deploy"]));
    let scale = deployments["subresources"].as_array().unwrap().iter().find(|s| s["subresource"] == "scale").unwrap();
    assert_eq!(scale["responseKind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    let request = Request::get("/apis").header("accept", AGGREGATED).header("if-none-match", etag);
    assert_eq!(server.send(request.body(Full::default()).unwrap()).await.code, 304);
}

#[tokio::test]
async fn legacy_discovery_is_for_clients_that_ask_for_nothing_newer() {
    let server = Server::start().await;
    let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    let versions = server.get_as(beta, "/api").await.ok();
    assert_eq!((&versions["kind"], &versions["versions"]), (&json!("APIVersions"), &json!(["v1"])));
    let groups = server.get("/apis").await.ok();
    assert_eq!(groups["kind"], "APIGroupList");
    let group = server.get("/apis/apps").await.ok();
    assert_eq!((&group["kind"], &group["preferredVersion"]["groupVersion"]), (&json!("APIGroup"), &json!("apps/v1")));
    let core = server.get("/api/v1").await.ok();
    let names: Vec<&str> = core["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    for expected in ["services", "services/status", "pods/log", "pods/binding", "namespaces/finalize", "nodes"] {
        assert!(names.contains(&expected), "{expected} in {names:?}");
    }
    server.get("/apis/none").await.fails(404, "NotFound");
    server.get("/apis/apps/v9").await.fails(404, "NotFound");
}

#[tokio::test]
async fn health_version_and_metrics_answer() {
    let server = Server::start().await;
    for path in ["/livez", "/readyz", "/healthz", "/livez/ping", "/readyz/poststarthook/bootstrap"] {
        let answer = server.get(path).await;
        match path.matches('/').count() {
            3 => assert_eq!(answer.code, 404, "checks are one segment"),
            _ => assert_eq!((answer.code.as_u16(), &answer.body[..]), (200, &b"ok"[..]), "{path}"),
        }
    }
    let verbose = String::from_utf8(server.get("/readyz?verbose").await.body.to_vec()).unwrap();
    assert!(verbose.contains("[+]store ok\n") && verbose.ends_with("readyz check passed\n"), "{verbose}");
    assert_eq!(server.get("/version").await.ok()["gitVersion"], "v1.36.3");
    server.get(SERVICES).await.ok();
    let metrics = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
    let counted = "apiserver_request_total{verb=\"LIST\",group=\"\",version=\"v1\",resource=\"services\",subresource=\"\",code=\"200\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.contains("portolan_store_revision "));
}

#[tokio::test]
async fn only_masters_pass_and_nobody_reads_anonymously() {
    let server = Server::start().await;
    let get = |path: &str| Request::get(path).body(Full::default()).unwrap();
    for path in ["/livez", "/readyz", "/healthz", "/version"] {
        assert_eq!(server.send_as(None, get(path)).await.code, 200, "{path}");
    }
    for path in ["/", "/api", "/metrics", "/openapi/v3", SERVICES, "/nowhere"] {
        server.send_as(None, get(path)).await.fails(401, "Unauthorized");
    }
    let jane = || Some(Identity::new("jane", vec!["devs".into()]));
    assert_eq!(server.send_as(jane(), get("/apis")).await.code, 200, "discovery is for every user");
    let status = server.send_as(jane(), get(SERVICES)).await.fails(403, "Forbidden");
    assert_eq!(
        status["message"],
        "services is forbidden: User \"jane\" cannot list resource \"services\" in API group \"\" in the namespace \"default\""
    );
    let status = server.send_as(jane(), get("/api/v1/nodes/n1")).await.fails(403, "Forbidden");
    assert_eq!(
        status["message"],
        "nodes \"n1\" is forbidden: User \"jane\" cannot get resource \"nodes\" in API group \"\" at the cluster scope"
    );
    let status = server.send_as(jane(), get("/metrics")).await.fails(403, "Forbidden");
    assert_eq!(status["message"], "forbidden: User \"jane\" cannot get path \"/metrics\"");
}

#[tokio::test]
async fn odd_paths_and_methods_get_a_status() {
    let server = Server::start().await;
    for path in
        ["/", "/nowhere", "/api/v1/namespaces/default/none", "/api/v1//services", "/api/v1/services/x", "/api/v2"]
    {
        server.get(path).await.fails(404, "NotFound");
    }
    server.body(Method::POST, "/version", "application/json", "{}").await.fails(405, "MethodNotAllowed");
    server
        .body(Method::POST, &format!("{CONFIG_MAPS}/a"), "application/json", "{}")
        .await
        .fails(405, "MethodNotAllowed");
    server.body(Method::OPTIONS, CONFIG_MAPS, "application/json", "").await.fails(405, "MethodNotAllowed");
    server.post(CONFIG_MAPS, &config_map("a", json!({}))).await.ok();
    let head = Request::head(format!("{CONFIG_MAPS}/a")).body(Full::default()).unwrap();
    let answer = server.send(head).await;
    assert_eq!((answer.code.as_u16(), answer.body.len()), (200, 0));
}

#[tokio::test]
async fn bootstrap_makes_the_cluster_and_changes_nothing_the_second_time() {
    let server = Server::start().await;
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        server.get(&format!("/api/v1/namespaces/{namespace}")).await.ok();
    }
    let service = server.get(&format!("{SERVICES}/kubernetes")).await.ok();
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 6443);
    let endpoints = server.get("/api/v1/namespaces/default/endpoints/kubernetes").await.ok();
    assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "172.30.0.2");
    let slice = server.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes").await.ok();
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["172.30.0.2"]));
    assert_eq!(slice["ports"][0]["port"], 6443);
    let cidr = server.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await.ok();
    assert_eq!(cidr["spec"]["cidrs"], json!(["10.96.0.0/16"]));
    assert_eq!(cidr["status"]["conditions"][0]["type"], "Ready");
    let revision = server.store.revision().await.unwrap();
    server.api.bootstrap().await.unwrap();
    assert_eq!(server.store.revision().await.unwrap(), revision);
}

#[tokio::test]
async fn openapi_v2_is_one_document_in_json_or_protobuf() {
    let server = Server::start().await;
    let json = server.get("/openapi/v2").await;
    assert_eq!(json.headers["content-type"], "application/json");
    assert_eq!(json.ok()["swagger"], "2.0");
    // What kubectl asks for when a kind isn't in v3.
    let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let protobuf = server.get_as(accept, "/openapi/v2").await;
    assert_eq!(protobuf.headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    assert!(protobuf.body.starts_with(b"\x0a\x032.0"));
    let text = String::from_utf8_lossy(&protobuf.body);
    assert!(text.contains("fieldValidation") && text.contains("io.k8s.api.core.v1.ServiceSpec"));
}

#[tokio::test]
async fn a_master_acts_as_others_and_is_refused_what_they_are_refused() {
    let server = Server::start().await;
    let request = |method: Method, path: &str, user: &str, body: &Value| {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        request.header("impersonate-user", user).body(Full::from(body.to_string())).unwrap()
    };
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let who = server.send(request(Method::POST, path, "jane", &review)).await.ok();
    let expected = json!({"username": "jane", "groups": ["system:authenticated"]});
    assert_eq!(who["status"]["userInfo"], expected);
    let status = server.send(request(Method::GET, SERVICES, "jane", &json!({}))).await.fails(403, "Forbidden");
    assert!(status["message"].as_str().unwrap().starts_with("services is forbidden: User \"jane\" cannot list"));
    let jane = || Some(Identity::new("jane", vec![]));
    let status = server.send_as(jane(), request(Method::GET, SERVICES, "root", &json!({}))).await;
    let why = "users \"root\" is forbidden: User \"jane\" cannot impersonate resource \"users\" in API group \"\" at the \
               cluster scope";
    assert_eq!(status.fails(403, "Forbidden")["message"], why);
}
