//! The configuration file against what kube-proxy 1.36.3 wrote and said when it was given the same.

use proxy::config::decode::decode;
use proxy::config::file::KubeProxyConfiguration;
use proxy::config::validate::validate;
use proxy::config::write::to_yaml;

/// `kube-proxy --write-config-to FILE`, as it came.
const WRITTEN: &str = include_str!("../kube-proxy-1.36.3-defaults.yaml");
const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn rewritten(rest: &str) -> String {
    to_yaml(&decode(&format!("{HEAD}{rest}")).unwrap().config).unwrap()
}

/// The lines that differ from the defaults: what went, what came.
fn difference(rest: &str) -> (Vec<String>, Vec<String>) {
    let (defaults, now) = (rewritten("mode: iptables\n"), rewritten(rest));
    let without = |of: &str, other: &str| {
        let others: Vec<_> = other.lines().collect();
        of.lines().filter(|line| !others.contains(line)).map(str::to_owned).collect::<Vec<_>>()
    };
    (without(&defaults, &now), without(&now, &defaults))
}

#[test]
fn the_defaults_are_written_to_the_letter() {
    assert_eq!(rewritten("mode: iptables\n"), WRITTEN);
    // What it writes for no mode is its default; here that is another, so nothing is put into its place.
    let none = to_yaml(&KubeProxyConfiguration::with_defaults()).unwrap();
    assert_eq!(none, WRITTEN.replace("mode: iptables\n", "mode: \"\"\n"));
}

#[test]
fn what_is_written_reads_as_it_was() {
    for text in [WRITTEN, &rewritten("mode: nftables\n"), &rewritten("mode: ipvs\nbindAddress: '::'\n")] {
        let decoded = decode(text).unwrap();
        assert!(decoded.warnings.is_empty(), "{:?}", decoded.warnings);
        assert_eq!(to_yaml(&decoded.config).unwrap(), text);
        assert_eq!(validate(&decoded.config), Ok(()));
    }
}

#[test]
fn modes_keep_their_own_periods_only() {
    let ipvs = rewritten(
        "mode: ipvs\niptables: {masqueradeAll: true, masqueradeBit: 3, localhostNodePorts: false, syncPeriod: 9s}\n\
         nftables: {masqueradeAll: true, masqueradeBit: 5, syncPeriod: 9s}\n\
         ipvs: {syncPeriod: 10s, minSyncPeriod: 3s, scheduler: mh}\n",
    );
    let expected = "iptables:\n  localhostNodePorts: false\n  masqueradeAll: true\n  masqueradeBit: 3\n  \
                    minSyncPeriod: 0s\n  syncPeriod: 0s\nipvs:\n  excludeCIDRs: null\n  minSyncPeriod: 3s\n  \
                    scheduler: mh\n  strictARP: false\n  syncPeriod: 10s\n";
    assert!(ipvs.contains(expected), "{ipvs}");
    assert!(
        ipvs.contains("nftables:\n  masqueradeAll: false\n  masqueradeBit: 5\n  minSyncPeriod: 0s\n  syncPeriod: 0s\n")
    );
    let nftables = rewritten("mode: nftables\nnftables: {masqueradeBit: 5, syncPeriod: 9s}\n");
    let expected = "nftables:\n  masqueradeAll: false\n  masqueradeBit: 5\n  minSyncPeriod: 1s\n  syncPeriod: 9s\n\
                    nodePortAddresses:\n- primary\n";
    assert!(nftables.contains(expected), "{nftables}");
    assert!(nftables.contains("  minSyncPeriod: 0s\n  syncPeriod: 0s\nipvs:\n"), "{nftables}");
}

#[test]
fn values_are_written_in_their_usual_form() {
    let (went, came) = difference(
        "mode: iptables\nconntrack: {maxPerCore: null, min: 0, udpTimeout: 1500ms}\nclusterCIDR: 10.0.0.0/8\n\
         hostnameOverride: foo\nbindAddress: '::'\nfeatureGates: {AllAlpha: false}\n\
         clientConnection: {kubeconfig: /a/b, qps: 7.5}\nnodePortAddresses: []\nshowHiddenMetricsForVersion: '1.35'\n\
         windowsRunAsService: true\n",
    );
    let expected = [
        "bindAddress: '::'",
        "  kubeconfig: /a/b",
        "  qps: 7.5",
        "clusterCIDR: 10.0.0.0/8",
        "  min: 0",
        "  udpTimeout: 1.5s",
        "featureGates:",
        "  AllAlpha: false",
        "healthzBindAddress: '[::]:10256'",
        "hostnameOverride: foo",
        "metricsBindAddress: '[::1]:10249'",
        "nodePortAddresses: []",
        "showHiddenMetricsForVersion: \"1.35\"",
        "windowsRunAsService: true",
    ];
    assert_eq!(came, expected);
    assert!(went.contains(&"nodePortAddresses: null".to_owned()), "{went:?}");
    let (_, padded) = difference("mode: iptables\nhostnameOverride: ' aB '\nclientConnection: {qps: 0.1}\n");
    assert_eq!(padded, ["  qps: 0.1", "hostnameOverride: ' aB '"]);
}

/// What is wrong with a configuration, without the words that begin the message.
fn said(rest: &str) -> String {
    let config = decode(&format!("{HEAD}{rest}")).unwrap().config;
    validate(&config).unwrap_err().to_string().trim_start_matches("failed validate: ").to_owned()
}

#[test]
fn one_mistake_is_said_in_the_known_words() {
    for (rest, expected) in [
        (
            "clusterCIDR: 10.0.0.0",
            r#"DetectLocalConfiguration.ClusterCIDRs[0]: Invalid value: "10.0.0.0": must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"#,
        ),
        (
            "clusterCIDR: '10.0.0.0/8,11.0.0.0/8'",
            r#"DetectLocalConfiguration.ClusterCIDRs: Invalid value: ["10.0.0.0/8","11.0.0.0/8"]: must be a either a single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]"#,
        ),
        (
            "iptables: {syncPeriod: 1s, minSyncPeriod: 2s}\nipvs: {scheduler: zz}",
            r#"SyncPeriod: Invalid value: "2s": must be greater than or equal to KubeProxyConfiguration.MinSyncPeriod"#,
        ),
        (
            "detectLocalMode: Wrong",
            r#"DetectLocalMode: Unsupported value: "Wrong": supported values: "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix", """#,
        ),
        (
            "detectLocalMode: BridgeInterface",
            r#"DetectLocalConfiguration.InterfaceName: Invalid value: "": must not be empty"#,
        ),
        ("healthzBindAddress: foo", r#"HealthzBindAddress: Invalid value: "foo": must be IP:port"#),
        ("healthzBindAddress: foo:1", r#"HealthzBindAddress: Invalid value: "foo": must be a valid IP"#),
        ("healthzBindAddress: 1.2.3.4:x", r#"HealthzBindAddress: Invalid value: "x": must be a valid port"#),
        ("healthzBindAddress: 1.2.3.4:99999", r#"HealthzBindAddress: Invalid value: "99999": must be a valid port"#),
        ("metricsBindAddress: '[::1]'", r#"MetricsBindAddress: Invalid value: "[::1]": must be IP:port"#),
        ("metricsBindAddress: ':99'", r#"MetricsBindAddress: Invalid value: "": must be a valid IP"#),
        ("nodePortAddresses: [10.0.0.1]", r#"NodePortAddresses[0]: Invalid value: "10.0.0.1": must be a valid CIDR"#),
        (
            "mode: nftables\nnftables: {masqueradeBit: 33}",
            "KubeProxyNFTablesConfiguration.MasqueradeBit: Invalid value: 33: must be within the range [0, 31]",
        ),
        (
            "clientConnection: {burst: -1}",
            "ClientConnection.Burst: Invalid value: -1: must be greater than or equal to 0",
        ),
    ] {
        assert_eq!(said(rest), format!("KubeProxyConfiguration.{expected}"), "{rest}");
    }
    assert_eq!(
        said("logging: {format: json, vmodule: [{filePattern: a, verbosity: 2}]}"),
        "logging.vmodule: Forbidden: Only supported for text log format"
    );
    // The default that blank means is the one thing said differently.
    assert!(said("mode: wrong").starts_with(
        "KubeProxyConfiguration.Mode.ProxyMode: Invalid value: \"wrong\": must be iptables, ipvs, nftables or blank (blank"
    ));
}

#[test]
fn many_mistakes_are_listed_in_the_known_order() {
    let fields = said(
        "mode: ipvs\nipvs: {excludeCIDRs: [x], syncPeriod: 1s, minSyncPeriod: 2s, tcpTimeout: -1s}\n\
         detectLocalMode: InterfaceNamePrefix\nhealthzBindAddress: 1.2.3.4\nmetricsBindAddress: 1.2.3.4:0\n",
    );
    let expected = "[KubeProxyConfiguration.KubeProxyIPVSConfiguration.TCPTimeout: Invalid value: \"-1s\": must be greater \
        than or equal to 0, KubeProxyConfiguration.KubeProxyIPVSConfiguration.ExcludeCidrs[0]: Invalid value: \"x\": must \
        be a valid CIDR, KubeProxyConfiguration.SyncPeriod: Invalid value: \"2s\": must be greater than or equal to \
        KubeProxyConfiguration.MinSyncPeriod, KubeProxyConfiguration.MetricsBindAddress: Invalid value: \"0\": must be a \
        valid port, KubeProxyConfiguration.DetectLocalConfiguration.InterfacePrefix: Invalid value: \"\": must not be \
        empty]";
    assert_eq!(fields, expected);
    let linux = said(
        "oomScoreAdj: -2000\nbindAddress: abc\nconntrack: {maxPerCore: -1, min: -1, udpTimeout: -5s}\n\
         iptables: {masqueradeBit: 40, minSyncPeriod: -1s}\n",
    );
    let order = [
        "KubeProxyIPTablesConfiguration.MasqueradeBit: Invalid value: 40:",
        "KubeProxyConntrackConfiguration.MaxPerCore: Invalid value: -1:",
        "KubeProxyConntrackConfiguration.Min: Invalid value: -1:",
        "KubeProxyConntrackConfiguration.UDPTimeout: Invalid value: \"-5s\":",
        "KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value: -2000: must be within the range [-1000, 1000]",
        "KubeProxyConfiguration.MinSyncPeriod: Invalid value: \"-1s\":",
        "BindAddress: Invalid value: \"abc\": not a valid textual representation of an IP address",
    ];
    let found: Vec<_> =
        order.iter().map(|part| linux.find(part).unwrap_or_else(|| panic!("{part} in {linux}"))).collect();
    assert!(found.is_sorted(), "{linux}");
}
