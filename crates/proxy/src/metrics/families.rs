//! The metrics there are. Those that begin with `kubeproxy_` have the names, labels and buckets that dashboards and alerts
//! made for kube-proxy ask for.

use super::{Buckets, Family, Kind};

const FAMILY: &[&str] = &["ip_family"];
const FAMILY_TABLE: &[&str] = &["ip_family", "table"];
const NONE: &[&str] = &[];

macro_rules! families {
    ($($constant:ident: $kind:expr, $labels:expr, $name:literal, $help:literal;)*) => {
        $(pub const $constant: Family = Family { name: $name, help: $help, kind: $kind, labels: $labels };)*

        /// Every family.
        pub const ALL: &[Family] = &[$($constant),*];
    };
}

/// What is said of the mode in force, and goes with it.
pub const OF_A_MODE: &[&Family] = &[
    &LAST_SYNCED,
    &LAST_QUEUED,
    &NO_LOCAL_ENDPOINTS,
    &IPTABLES_RULES,
    &IPTABLES_RULES_LAST,
    &OBJECTS,
    &SERVICE_PORTS,
    &REFUSED_PORTS,
];

families! {
    SYNC_DURATION: Kind::Histogram(Buckets::Sync), FAMILY,
        "kubeproxy_sync_proxy_rules_duration_seconds", "[ALPHA] SyncProxyRules latency in seconds";
    FULL_SYNC_DURATION: Kind::Histogram(Buckets::Sync), FAMILY,
        "kubeproxy_sync_full_proxy_rules_duration_seconds",
        "[ALPHA] SyncProxyRules latency in seconds for full resyncs";
    PARTIAL_SYNC_DURATION: Kind::Histogram(Buckets::Sync), FAMILY,
        "kubeproxy_sync_partial_proxy_rules_duration_seconds",
        "[ALPHA] SyncProxyRules latency in seconds for partial resyncs";
    LAST_SYNCED: Kind::Gauge, FAMILY,
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "[ALPHA] The last time proxy rules were successfully synced";
    LAST_QUEUED: Kind::Gauge, FAMILY,
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "[ALPHA] The last time a sync of proxy rules was queued";
    NETWORK_PROGRAMMING: Kind::Histogram(Buckets::Programming), FAMILY,
        "kubeproxy_network_programming_duration_seconds", "[ALPHA] In Cluster Network Programming Latency in seconds";
    ENDPOINT_CHANGES_PENDING: Kind::Gauge, NONE,
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending", "[ALPHA] Pending proxy rules Endpoint changes";
    ENDPOINT_CHANGES: Kind::Counter, NONE,
        "kubeproxy_sync_proxy_rules_endpoint_changes_total", "[ALPHA] Cumulative proxy rules Endpoint changes";
    SERVICE_CHANGES_PENDING: Kind::Gauge, NONE,
        "kubeproxy_sync_proxy_rules_service_changes_pending", "[ALPHA] Pending proxy rules Service changes";
    SERVICE_CHANGES: Kind::Counter, NONE,
        "kubeproxy_sync_proxy_rules_service_changes_total", "[ALPHA] Cumulative proxy rules Service changes";
    NO_LOCAL_ENDPOINTS: Kind::Gauge, &["ip_family", "traffic_policy"],
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "[ALPHA] Number of services with a Local traffic policy and no endpoints";
    IPTABLES_RULES: Kind::Gauge, FAMILY_TABLE,
        "kubeproxy_sync_proxy_rules_iptables_total", "[ALPHA] Total number of iptables rules owned by kube-proxy";
    IPTABLES_RULES_LAST: Kind::Gauge, FAMILY_TABLE,
        "kubeproxy_sync_proxy_rules_iptables_last",
        "[ALPHA] Number of iptables rules written by kube-proxy in last sync";
    IPTABLES_FAILURES: Kind::Counter, FAMILY,
        "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
        "[ALPHA] Cumulative proxy iptables restore failures";
    IPTABLES_PARTIAL_FAILURES: Kind::Counter, FAMILY,
        "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total",
        "[ALPHA] Cumulative proxy iptables partial restore failures";
    NFTABLES_FAILURES: Kind::Counter, FAMILY,
        "kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "[ALPHA] Cumulative proxy nftables sync failures";
    NFTABLES_CLEANUP_FAILURES: Kind::Counter, FAMILY,
        "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
        "[ALPHA] Cumulative proxy nftables cleanup failures";
    CONNTRACK_DURATION: Kind::Histogram(Buckets::Sync), FAMILY,
        "kubeproxy_conntrack_reconciler_sync_duration_seconds",
        "[ALPHA] ReconcileConntrackFlowsLatency latency in seconds";
    CONNTRACK_DELETED: Kind::Counter, FAMILY,
        "kubeproxy_conntrack_reconciler_deleted_entries_total",
        "[ALPHA] Cumulative conntrack flows deleted by conntrack reconciler";
    INVALID_DROPPED: Kind::Counter, NONE,
        "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
        "[ALPHA] packets dropped by iptables to work around conntrack problems";
    LOCALHOST_ACCEPTED: Kind::Counter, NONE,
        "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
        "[ALPHA] Number of packets accepted on nodeports of loopback interface";
    HEALTHZ: Kind::Counter, &["code"],
        "kubeproxy_proxy_healthz_total", "[ALPHA] Cumulative proxy healthz HTTP status";
    LIVEZ: Kind::Counter, &["code"], "kubeproxy_proxy_livez_total", "[ALPHA] Cumulative proxy livez HTTP status";
    KUBERNETES_BUILD: Kind::Gauge, &["git_version", "major", "minor", "platform"],
        "kubernetes_build_info", "[ALPHA] The version of Kubernetes that is emulated, as labels; always 1";
    REST_REQUESTS: Kind::Counter, &["code", "host", "method"],
        "rest_client_requests_total", "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.";
    REST_DURATION: Kind::Histogram(Buckets::Requests), &["host", "verb"],
        "rest_client_request_duration_seconds", "[ALPHA] Request latency in seconds. Broken down by verb, and host.";
    CPU_SECONDS: Kind::Counter, NONE,
        "process_cpu_seconds_total", "Total user and system CPU time spent in seconds.";
    OPEN_FDS: Kind::Gauge, NONE, "process_open_fds", "Number of open file descriptors.";
    MAX_FDS: Kind::Gauge, NONE, "process_max_fds", "Maximum number of open file descriptors.";
    RESIDENT: Kind::Gauge, NONE, "process_resident_memory_bytes", "Resident memory size in bytes.";
    VIRTUAL: Kind::Gauge, NONE, "process_virtual_memory_bytes", "Virtual memory size in bytes.";
    START_TIME: Kind::Gauge, NONE,
        "process_start_time_seconds", "Start time of the process since unix epoch in seconds.";
    BUILD_INFO: Kind::Gauge, &["version"],
        "portolan_build_info", "Always 1; the label says which version runs";
    EVENT_TO_KERNEL: Kind::Histogram(Buckets::Sync), FAMILY,
        "portolan_proxy_event_to_kernel_seconds", "From the arrival of a change to its being in force";
    OBJECTS: Kind::Gauge, &["mode", "ip_family", "table", "kind"],
        "portolan_proxy_objects", "What is in force, by table and kind";
    SYNC_FAILURES: Kind::Counter, &["mode", "ip_family"],
        "portolan_proxy_sync_failures_total", "Passes that failed; they are tried again";
    MODE: Kind::Gauge, &["mode", "asked"],
        "portolan_proxy_mode", "1 for the mode that is in force, with the one that was asked for";
    RELOADS: Kind::Counter, &["result"],
        "portolan_proxy_config_reloads_total", "Changes of the configuration, by whether they are applied or refused";
    RELOAD_OK: Kind::Gauge, NONE,
        "portolan_proxy_config_last_reload_successful", "Whether what is configured is what is in force";
    CLEANUP_FAILURES: Kind::Counter, &["mode"],
        "portolan_proxy_cleanup_failures_total", "Failures to remove the rules of a mode that is not in force any more";
    TURNED_AWAY: Kind::Counter, FAMILY,
        "portolan_proxy_connections_turned_away_total",
        "Connections that userspace mode had no room for: their share of the process's descriptors was used up";
    SERVICE_PORTS: Kind::Gauge, FAMILY,
        "portolan_proxy_service_ports", "Service ports in force";
    REFUSED_PORTS: Kind::Gauge, FAMILY,
        "portolan_proxy_refused_service_ports", "Service ports the mode cannot serve; an Event says why";
}
