//! kubectl's verbs, one after the other, as a user types them.

use std::os::unix::fs::PermissionsExt;

use crate::cluster::{Cluster, Kubectl, kubectls};

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata:
  name: web
  labels: {app: web}
spec:
  type: NodePort
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 31234}
";

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: main, image: portolan.local/testserver, ports: [{name: http, containerPort: 8080}]}
";

const CONFIG_MAP: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
";

/// Runs one story with every kubectl, each against a server of its own.
async fn with_each(name: &str, story: impl AsyncFn(&Cluster, &Kubectl)) {
    for (i, program) in kubectls().iter().enumerate() {
        let cluster = Cluster::start(&format!("{name}-{i}")).await;
        let kubectl = cluster.kubectl(program);
        cluster.file("service.yaml", SERVICE);
        cluster.file("deployment.yaml", DEPLOYMENT);
        cluster.file("settings.yaml", CONFIG_MAP);
        story(&cluster, &kubectl).await;
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn create_and_get_in_every_output() {
    with_each("get", async |cluster, kubectl| {
        assert_eq!(kubectl.run("create -f service.yaml").await, "service/web created\n");
        kubectl.run("create -f settings.yaml").await;
        let complaint = kubectl.refused("create -f settings.yaml").await;
        assert!(complaint.contains("Error from server (AlreadyExists)"), "{complaint}");
        let table = kubectl.run("get services").await;
        let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(head, ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
        let row = table.lines().find(|line| line.starts_with("web ")).unwrap();
        assert!(row.contains("NodePort") && row.contains("80:31234/TCP") && row.contains("<none>"), "{row}");
        let wide = kubectl.run("get svc web -o wide").await;
        assert!(wide.contains("SELECTOR") && wide.contains("app=web"), "{wide}");
        let yaml = kubectl.run("get svc/web -o yaml").await;
        assert!(yaml.starts_with("apiVersion: v1\nkind: Service\n") && yaml.contains("targetPort: 8080"), "{yaml}");
        let json = kubectl.run("get svc web -o json").await;
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["spec"]["type"], "NodePort");
        assert_eq!(kubectl.run("get svc web -o jsonpath={.spec.ports[0].nodePort}").await, "31234");
        assert_eq!(kubectl.run("get svc -o name").await, "service/kubernetes\nservice/web\n");
        let columns = "get svc -o custom-columns=N:.metadata.name,P:.spec.ports[*].port --sort-by=.metadata.name";
        assert!(kubectl.run(columns).await.contains("web          80"));
        assert!(kubectl.run("get svc -l app=web --no-headers").await.starts_with("web "));
        assert!(kubectl.run("get svc --field-selector metadata.name=web -o name").await == "service/web\n");
        let everywhere = kubectl.run("get namespaces,svc -A").await;
        assert!(
            everywhere.contains("namespace/kube-system") && everywhere.contains("service/kubernetes"),
            "{everywhere}"
        );
        let missing = kubectl.refused("get svc none").await;
        assert_eq!(missing, "Error from server (NotFound): services \"none\" not found\n");
        cluster.file("odd.yaml", &SERVICE.replace("selector:", "selectr:").replace("name: web", "name: odd"));
        let odd = kubectl.refused("create -f odd.yaml").await;
        assert!(odd.contains("strict decoding error: unknown field \"spec.selectr\""), "{odd}");
        assert!(kubectl.run("describe svc web").await.contains("NodePort:"));
        assert!(kubectl.run("get --raw /readyz").await.contains("ok"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_edit_patch_label_and_annotate() {
    with_each("change", async |cluster, kubectl| {
        assert_eq!(
            kubectl.run("apply -f service.yaml -f settings.yaml").await,
            "service/web created\nconfigmap/settings created\n"
        );
        assert_eq!(kubectl.run("apply -f service.yaml").await, "service/web unchanged\n");
        cluster.file("service.yaml", &SERVICE.replace("targetPort: 8080", "targetPort: 9090"));
        assert_eq!(kubectl.run("apply -f service.yaml").await, "service/web configured\n");
        let ports = "get svc web -o jsonpath={.spec.ports[0].targetPort},{.spec.ports[0].nodePort}";
        assert_eq!(kubectl.run(ports).await, "9090,31234");
        let editor = cluster.file("editor", "#!/bin/sh\nsed -i 's/colour: blue/colour: green/' \"$1\"\n");
        std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(kubectl.run("edit configmap settings").await, "configmap/settings edited\n");
        let colour = "get configmap settings -o jsonpath={.data.colour}";
        assert_eq!(kubectl.run(colour).await, "green");
        kubectl.run("patch configmap settings -p '{\"data\":{\"colour\":\"red\"}}'").await;
        assert_eq!(kubectl.run(colour).await, "red");
        kubectl.run("patch cm settings --type merge -p '{\"data\":{\"colour\":null,\"size\":\"big\"}}'").await;
        let operations = "[{\"op\":\"add\",\"path\":\"/data/colour\",\"value\":\"white\"}]";
        kubectl.run(&format!("patch cm settings --type json -p '{operations}'")).await;
        assert_eq!(kubectl.run(colour).await, "white");
        assert_eq!(kubectl.run("label svc web tier=front").await, "service/web labeled\n");
        assert_eq!(kubectl.run("annotate svc web note='two words'").await, "service/web annotated\n");
        assert_eq!(
            kubectl.run("get svc web -o jsonpath={.metadata.labels.tier},{.metadata.annotations.note}").await,
            "front,two words"
        );
        assert_eq!(kubectl.run("label svc web tier-").await, "service/web unlabeled\n");
        let replaced = kubectl.run("replace -f settings.yaml").await;
        assert_eq!((replaced.as_str(), kubectl.run(colour).await.as_str()), ("configmap/settings replaced\n", "blue"));
        let dry = kubectl.run("apply -f service.yaml --dry-run=server").await;
        assert!(dry.contains("(server dry run)"), "{dry}");
        let invalid = kubectl.refused("patch svc web -p '{\"spec\":{\"ports\":[{\"port\":80,\"nodePort\":5}]}}'").await;
        assert!(invalid.contains("The Service \"web\" is invalid") && invalid.contains("30000-32767"), "{invalid}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workloads_are_created_scaled_and_logged() {
    with_each("work", async |cluster, kubectl| {
        kubectl.run("create -f deployment.yaml").await;
        assert_eq!(kubectl.run("scale deployment web --replicas=5").await, "deployment.apps/web scaled\n");
        assert_eq!(kubectl.run("get deploy web -o jsonpath={.spec.replicas}").await, "5");
        assert_eq!(
            kubectl.run("create deployment second --image=portolan.local/testserver").await,
            "deployment.apps/second created\n"
        );
        assert_eq!(kubectl.run("expose deployment second --port=80").await, "service/second exposed\n");
        assert_eq!(kubectl.run("set image deployment/web main=other").await, "deployment.apps/web image updated\n");
        kubectl.run("create configmap literal --from-literal=a=b").await;
        kubectl.run("create secret generic hidden --from-literal=a=b").await;
        kubectl.run("create namespace fresh").await;
        kubectl.run("create service clusterip plain --tcp=80:8080 -n fresh").await;
        kubectl.run("run one --image=portolan.local/testserver").await;
        let binding =
            r#"{"apiVersion":"v1","kind":"Binding","metadata":{"name":"one"},"target":{"kind":"Node","name":"n1"}}"#;
        cluster.file("binding.json", binding);
        kubectl.run("create --raw /api/v1/namespaces/default/pods/one/binding -f binding.json").await;
        assert_eq!(kubectl.run("logs one").await, "said on n1\n");
        assert_eq!(kubectl.run("logs -f one --tail=5").await, "said on n1\n");
        let described = kubectl.run("describe pod one").await;
        assert!(described.contains("n1/") && described.contains("PodScheduled"), "{described}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_waiting_and_deleting() {
    with_each("wait", async |_, kubectl| {
        kubectl.run("create -f settings.yaml").await;
        let (mut watching, mut lines) = kubectl.follow("get configmaps -w --no-headers");
        let mut seen = async || lines.next_line().await.unwrap().unwrap();
        assert!(seen().await.starts_with("settings "));
        kubectl.run("create configmap later").await;
        assert!(seen().await.starts_with("later "));
        watching.kill().await.unwrap();
        let (mut waiting, _lines) =
            kubectl.follow("wait --for=jsonpath={.data.done}=yes configmap/later --timeout=30s");
        kubectl.run("patch cm later --type merge -p '{\"data\":{\"done\":\"yes\"}}'").await;
        assert!(waiting.wait().await.unwrap().success());
        let (mut waiting, _lines) = kubectl.follow("wait --for=delete configmap/later --timeout=30s");
        assert_eq!(
            kubectl.run("delete configmap later").await.lines().next().unwrap_or_default().split(" deleted").next(),
            Some("configmap \"later\"")
        );
        assert!(waiting.wait().await.unwrap().success());
        kubectl.run("patch cm settings --type merge -p '{\"metadata\":{\"finalizers\":[\"example.com/hold\"]}}'").await;
        kubectl.run("delete cm settings --wait=false").await;
        assert!(kubectl.run("get cm settings -o jsonpath={.metadata.deletionTimestamp}").await.ends_with('Z'));
        kubectl.run("patch cm settings --type json -p '[{\"op\":\"remove\",\"path\":\"/metadata/finalizers\"}]'").await;
        assert!(kubectl.refused("get cm settings").await.contains("NotFound"));
        kubectl.run("create configmap a").await;
        kubectl.run("create configmap b").await;
        kubectl.run("delete configmaps --all").await;
        assert_eq!(kubectl.run("get configmaps -o name").await, "");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_describes_itself() {
    with_each("docs", async |_, kubectl| {
        let resources = kubectl.run("api-resources").await;
        let row = resources.lines().find(|line| line.starts_with("deployments ")).unwrap();
        let row: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(row, ["deployments", "deploy", "apps/v1", "true", "Deployment"]);
        assert!(resources.lines().any(|line| line.starts_with("endpointslices ")));
        assert!(kubectl.run("api-versions").await.contains("discovery.k8s.io/v1\n"));
        let explained = kubectl.run("explain service.spec.ports.nodePort").await;
        assert!(
            explained.contains("KIND:       Service") && explained.contains("FIELD: nodePort <integer>"),
            "{explained}"
        );
        assert!(kubectl.run("explain deployments --recursive").await.contains("rollingUpdate"));
        assert!(kubectl.run("version").await.contains("Server Version: v1.36.3"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_turned_away() {
    with_each("strangers", async |cluster, kubectl| {
        let pki = &cluster.pki;
        let jane = pki.client("jane", &["devs"]).unwrap();
        cluster.file("jane", &pki.kubeconfig_for("portolan", &cluster.url, "jane", &jane));
        let refused = kubectl.refused("--kubeconfig=jane get svc").await;
        assert!(
            refused
                .contains("services is forbidden: User \"jane\" cannot list resource \"services\" in API group \"\""),
            "{refused}"
        );
        let admin = pki.kubeconfig("portolan", &cluster.url);
        let lines = admin.lines().filter(|line| !line.contains("client-"));
        let nobody: Vec<&str> =
            lines.map(|line| if line == "  user:" { "  user: {token: guessed}" } else { line }).collect();
        cluster.file("nobody", &nobody.join("\n"));
        let refused = kubectl.refused("--kubeconfig=nobody get --raw /api").await;
        assert!(refused.contains("Unauthorized"), "{refused}");
        assert_eq!(kubectl.run("--kubeconfig=nobody get --raw /livez").await, "ok");
    })
    .await;
}
