//! One scripted run of what people do with kubectl, by an older and by the newest one.

use serde_json::Value;
use testkit::{Kubectl, System};

use crate::{MYAPP, PORTOLAN};

const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 1
  selector:
    matchLabels: {app: web}
  template:
    metadata:
      labels: {app: web}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: portolan.local/testserver:latest
          imagePullPolicy: IfNotPresent
          args: [netexec, --http-port=80]
          ports: [{name: http, containerPort: 80}]
---
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
";

const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "said", "labels": {"app": "said"}},
    "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "portolan.local/testserver:latest",
    "imagePullPolicy": "IfNotPresent", "args": ["env"], "env": [{"name": "WORD", "value": "seen in the log"}]}]}}"#;

#[test]
fn kubectl_does_what_people_do() {
    let kubectls = Kubectl::all();
    let system = System::up(PORTOLAN, &["-f", MYAPP]);
    for kubectl in &kubectls {
        system.step(&format!("kubectl {}", kubectl.version()));
        let script = Script { system: &system, kubectl };
        script.read();
        script.make();
        script.change();
        script.watch_and_wait();
        script.logs();
        script.delete();
        script.mistakes();
    }
    system.step("done");
}

struct Script<'a> {
    system: &'a System,
    kubectl: &'a Kubectl,
}

impl Script<'_> {
    /// Runs `kubectl` with words separated by spaces.
    #[track_caller]
    fn run(&self, line: &str) -> String {
        self.words(&line.split(' ').collect::<Vec<_>>())
    }

    #[track_caller]
    fn words(&self, words: &[&str]) -> String {
        let ran = self.kubectl.run(self.system, words);
        assert!(!ran.err.contains("Warning"), "{ran:?}");
        ran.ok()
    }

    /// Runs it, and expects each text in what it says.
    #[track_caller]
    fn says(&self, line: &str, texts: &[&str]) -> String {
        let said = self.run(line);
        for text in texts {
            assert!(said.contains(text), "kubectl {line} doesn't say {text:?}:\n{said}");
        }
        said
    }

    #[track_caller]
    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.run(line)).expect("JSON")
    }

    fn read(&self) {
        self.says("version", &["Server Version: v1.36"]);
        self.says("cluster-info", &["is running at"]);
        self.says("get nodes", &["NAME", "STATUS", "node-1", "Ready"]);
        self.says("get nodes -o wide", &["INTERNAL-IP", "172.30.0.11"]);
        let services = self.says("get services", &["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]);
        let row = |name: &str| services.lines().find(|l| l.split_whitespace().next() == Some(name)).expect("a row");
        let cells: Vec<&str> = row("myapp-headless").split_whitespace().take(5).collect();
        assert_eq!(cells, ["myapp-headless", "ClusterIP", "None", "<none>", "80/TCP"]);
        let cells: Vec<&str> = row("harbor").split_whitespace().take(5).collect();
        assert_eq!(cells, ["harbor", "ExternalName", "<none>", "harbor.example", "<none>"]);
        assert!(row("myapp-nodeport").contains("80:31234/TCP"), "{services}");
        self.says("get svc -o wide", &["SELECTOR", "app=myapp,release=stabel"]);
        self.says("get pods -o wide", &["READY", "1/1", "Running", "NODE", "node-1"]);
        self.says("get pods --show-labels -l app=myapp", &["LABELS", "release=stabel"]);
        self.says("get deploy,rs,pods", &["deployment.apps/myapp", "replicaset.apps/myapp-", "pod/myapp-"]);
        self.says("get deployment myapp", &["UP-TO-DATE", "3/3"]);
        self.says("get endpointslices", &["ADDRESSTYPE", "IPv4", "10.244."]);
        self.says("get -A svc", &["kube-system", "kube-dns"]);
        self.says("get ns,sa,cm", &["namespace/kube-system", "serviceaccount/default", "configmap/kube-root-ca.crt"]);
        self.says("get ipaddresses", &["PARENTREF", "services/default/kubernetes"]);
        self.says("get servicecidrs", &["10.96.0.0/16"]);
        self.says(
            "get svc myapp -o yaml",
            &["apiVersion: v1", "kind: Service", "sessionAffinity: None", "internalTrafficPolicy: Cluster"],
        );
        let service = self.json("get svc myapp -o json");
        assert_eq!(service["spec"]["ports"][0]["targetPort"], 80);
        let ip = self.run("get svc myapp -o jsonpath={.spec.clusterIP}");
        assert_eq!(Some(ip.as_str()), service["spec"]["clusterIP"].as_str());
        let names = self.run("get svc -o name --sort-by=.metadata.name");
        assert!(names.starts_with("service/harbor\nservice/kubernetes\n"), "{names}");
        self.says("get pods --field-selector=status.phase=Running -o name", &["pod/client"]);
        self.says("get svc -o custom-columns=N:.metadata.name,P:.spec.ports[*].nodePort", &["myapp-nodeport", "31234"]);
        self.says("describe svc myapp", &["Selector:", "app=myapp,release=stabel", "Endpoints:", "10.244."]);
        self.says("describe pod client", &["Node:", "node-1/172.30.0.11", "portolan.local/testserver", "Events:"]);
        self.says("describe deployment myapp", &["3 desired | 3 updated | 3 total | 3 available", "RollingUpdate"]);
        self.says("describe node node-1", &["PodCIDR:", "10.244.0.0/24", "Conditions:"]);
        self.says("api-resources", &["endpointslices", "discovery.k8s.io/v1", "services", "svc", "deployments"]);
        self.says("api-resources --namespaced=false -o name", &["nodes", "servicecidrs.networking.k8s.io"]);
        self.says("api-versions", &["apps/v1", "v1", "coordination.k8s.io/v1"]);
        self.says("explain service", &["KIND:", "Service", "FIELDS", "spec"]);
        self.says("explain service.spec.sessionAffinity", &["sessionAffinity", "ClientIP"]);
        self.says("explain deployment.spec.strategy --recursive", &["rollingUpdate", "maxSurge"]);
        self.system.step("read");
    }

    fn make(&self) {
        let (web, pod) = (self.system.file("web.yaml", WEB), self.system.file("pod.json", POD));
        self.says(&format!("apply -f {web} --dry-run=server"), &["deployment.apps/web created (server dry run)"]);
        self.says(&format!("apply -f {web}"), &["deployment.apps/web created", "service/web created"]);
        self.says(&format!("apply -f {web}"), &["deployment.apps/web unchanged", "service/web unchanged"]);
        self.says(&format!("create -f {pod}"), &["pod/said created"]);
        self.says("create configmap words --from-literal=a=b", &["configmap/words created"]);
        self.says("create secret generic hidden --from-literal=a=b", &["secret/hidden created"]);
        self.says("create namespace elsewhere", &["namespace/elsewhere created"]);
        self.says(
            "create deployment made --image=portolan.local/testserver:latest --replicas=0",
            &["deployment.apps/made created"],
        );
        self.says("expose deployment web --name=shown --port=8080 --target-port=80", &["service/shown exposed"]);
        let diff = self.kubectl.run(self.system, &["diff", "-f", &web]);
        assert_eq!((diff.status.code(), diff.out.as_str()), (Some(0), ""), "{diff:?}");
        self.system.step("make");
    }

    fn change(&self) {
        self.says("scale deployment web --replicas=2", &["deployment.apps/web scaled"]);
        self.says("rollout status deployment/web --timeout=30s", &["successfully rolled out"]);
        self.says("label svc web tier=front", &["service/web labeled"]);
        assert_eq!(self.run("get svc -l tier=front -o name"), "service/web\n");
        self.says("label svc web tier-", &["service/web unlabeled"]);
        self.says("annotate svc web note=here", &["service/web annotated"]);
        for (kind, patch, path, value) in [
            ("strategic", r#"{"spec":{"ports":[{"port":80,"name":"web"}]}}"#, "{.spec.ports[*].name}", "web"),
            (
                "merge",
                r#"{"spec":{"sessionAffinity":"ClientIP"}}"#,
                "{.spec.sessionAffinityConfig.clientIP.timeoutSeconds}",
                "10800",
            ),
            ("json", r#"[{"op":"replace","path":"/spec/ports/0/port","value":81}]"#, "{.spec.ports[0].port}", "81"),
        ] {
            let said = self.words(&["patch", "svc", "web", "--type", kind, "-p", patch]);
            assert_eq!(said, "service/web patched\n");
            assert_eq!(self.run(&format!("get svc web -o jsonpath={path}")), value, "{kind} patch");
        }
        let mut edit = self.kubectl.command(self.system, &["edit", "svc", "web"]);
        edit.env("KUBE_EDITOR", "sed -i -e s/port:.81/port:\\ 82/");
        assert_eq!(testkit::run(self.system.host().namespace(), edit).ok(), "service/web edited\n");
        assert_eq!(self.run("get svc web -o jsonpath={.spec.ports[0].port}"), "82");
        let web = self.system.file("web.yaml", WEB);
        self.says(&format!("apply -f {web}"), &["service/web configured"]);
        assert_eq!(self.run("get svc web -o jsonpath={.spec.ports[0].port}{.spec.ports[0].name}"), "80http");
        self.says("set env deployment/web COLOR=blue", &["deployment.apps/web env updated"]);
        self.says("rollout status deployment/web --timeout=30s", &["successfully rolled out"]);
        self.says("rollout history deployment/web", &["REVISION", "2"]);
        // The newest warns that this was applied before.
        let undone = self.kubectl.run(self.system, &["rollout", "undo", "deployment/web"]);
        assert!(undone.ok().contains("rolled back"));
        self.says("rollout restart deployment/web", &["restarted"]);
        self.says("rollout status deployment/web --timeout=30s", &["successfully rolled out"]);
        let (name, ip) = (self.run("get svc web -o name"), self.run("get svc web -o jsonpath={.spec.clusterIP}"));
        assert_eq!(name, "service/web\n");
        let replaced = self.system.file("replace.yaml", &self.run("get svc web -o yaml"));
        self.says(&format!("replace -f {replaced}"), &["service/web replaced"]);
        assert_eq!(self.run("get svc web -o jsonpath={.spec.clusterIP}"), ip);
        self.system.step("change");
    }

    fn watch_and_wait(&self) {
        let mut watching = self.kubectl.start(self.system, &["get", "svc", "web", "-w", "--show-labels"]);
        watching.line("web ");
        self.run("label svc web seen=yes --overwrite");
        watching.line("seen=yes");
        drop(watching);
        let mut watching = self.kubectl.start(self.system, &["get", "pods", "-w", "-o", "name", "-l", "app=passing"]);
        self.words(&[
            "run",
            "passing",
            "--image=portolan.local/testserver:latest",
            "--image-pull-policy=IfNotPresent",
            "--labels=app=passing",
            "--",
            "pause",
        ]);
        watching.line("pod/passing");
        drop(watching);
        self.says("wait --for=condition=Ready pod/passing --timeout=30s", &["condition met"]);
        self.says("wait --for=condition=Available deployment/web --timeout=30s", &["condition met"]);
        self.says("wait --for=jsonpath={.status.phase}=Succeeded pod/said --timeout=30s", &["condition met"]);
        self.run("delete pod passing --wait=false");
        self.words(&["wait", "--for=delete", "pod/passing", "--timeout=30s"]);
        self.system.step("watch and wait");
    }

    fn logs(&self) {
        self.says("logs said", &["WORD=seen in the log"]);
        assert_eq!(self.run("logs said --tail=1").lines().count(), 1);
        self.says("logs pod/said -c c --timestamps", &["T", "WORD="]);
        self.says("logs -l app=said --prefix", &["[pod/said/c]"]);
        self.says("logs -f said", &["WORD=seen in the log"]);
        self.run("logs deployment/web");
        self.says("get events --field-selector=involvedObject.name=said", &["Scheduled", "Started"]);
        self.system.step("logs");
    }

    fn delete(&self) {
        let web = self.system.file("web.yaml", WEB);
        self.says(&format!("delete -f {web} --timeout=60s"), &["\"web\" deleted"]);
        self.says(
            "delete pod/said configmap/words secret/hidden deployment/made service/shown --timeout=60s",
            &["\"said\" deleted"],
        );
        self.says("delete namespace elsewhere --timeout=60s", &["\"elsewhere\" deleted"]);
        // What the Deployment owned goes with it.
        self.run("wait --for=delete pod -l app=web --timeout=30s");
        assert_eq!(self.run("get rs,pods -l app=web -o name"), "");
        self.system.step("delete");
    }

    fn mistakes(&self) {
        let fails = |line: &str| self.kubectl.run(self.system, &line.split(' ').collect::<Vec<_>>()).fails();
        assert!(fails("get pod nobody").contains(r#"Error from server (NotFound): pods "nobody" not found"#));
        assert!(fails("get nonsense").contains("the server doesn't have a resource type \"nonsense\""));
        let twice = fails("create service clusterip myapp --tcp=80");
        assert!(twice.contains(r#"services "myapp" already exists"#), "{twice}");
        let taken = fails("create service nodeport other --tcp=80 --node-port=31234");
        assert!(taken.contains("31234: provided port is already allocated"), "{taken}");
        let unknown = self
            .system
            .file("unknown.yaml", &WEB.replace("selector: {app: web}\n  ports", "sellector: {app: web}\n  ports"));
        let said = fails(&format!("create -f {unknown} --dry-run=server"));
        assert!(said.contains(r#"unknown field "spec.sellector""#), "{said}");
        self.system.step("mistakes");
    }
}
