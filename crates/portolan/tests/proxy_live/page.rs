//! The rules of Prometheus' text format that a page has to keep, as strictly as its own checker takes them, and the names
//! that are asked for.

use std::collections::{BTreeMap, BTreeSet};

/// kube-proxy 1.36's own, those that are there from the beginning or after what the test does.
pub const KUBE_PROXY: [&str; 28] = [
    "kubeproxy_conntrack_reconciler_deleted_entries_total",
    "kubeproxy_conntrack_reconciler_sync_duration_seconds",
    "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
    "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
    "kubeproxy_network_programming_duration_seconds",
    "kubeproxy_proxy_healthz_total",
    "kubeproxy_proxy_livez_total",
    "kubeproxy_sync_full_proxy_rules_duration_seconds",
    "kubeproxy_sync_partial_proxy_rules_duration_seconds",
    "kubeproxy_sync_proxy_rules_duration_seconds",
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
    "kubeproxy_sync_proxy_rules_endpoint_changes_total",
    "kubeproxy_sync_proxy_rules_iptables_last",
    "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total",
    "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
    "kubeproxy_sync_proxy_rules_iptables_total",
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
    "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
    "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
    "kubeproxy_sync_proxy_rules_service_changes_pending",
    "kubeproxy_sync_proxy_rules_service_changes_total",
    "kubernetes_build_info",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
    "rest_client_request_duration_seconds",
    "rest_client_requests_total",
];

/// Every family has help and type before its samples, all in one place, each sample once; histograms add up.
pub fn check(page: &str) -> Result<(), String> {
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut helped, mut seen, mut done) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut current = "";
    let mut buckets: Option<(String, f64)> = None;
    for line in page.lines() {
        let wrong = |what: &str| Err(format!("{what}: {line}"));
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').ok_or(line)?;
            if text.is_empty() || !helped.insert(name) {
                return wrong("no help, or twice");
            }
            if !current.is_empty() {
                done.insert(current);
            }
            (current, buckets) = (name, None);
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').ok_or(line)?;
            if name != current || kinds.insert(name, kind).is_some() || done.contains(name) {
                return wrong("not right after its help");
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').ok_or(line)?;
        let value: f64 = value.parse().map_err(|error| format!("{line}: {error}"))?;
        let (name, labels) = sample.split_once('{').map_or((sample, ""), |(name, rest)| (name, rest));
        if !labels.is_empty() && !labels.ends_with("\"}") {
            return wrong("labels that do not end");
        }
        let kind = kinds.get(current).copied().unwrap_or_default();
        let suffix = name.strip_prefix(current).ok_or_else(|| format!("{line} among {current}"))?;
        match (kind, suffix) {
            ("counter", "") if current.ends_with("_total") && value >= 0.0 => {}
            ("gauge", "") => {}
            ("histogram", "_sum") => {}
            ("histogram", "_bucket") => {
                let series = labels.split("le=").next().unwrap_or_default().to_owned();
                if let Some((before, count)) = &buckets
                    && *before == series
                    && *count > value
                {
                    return wrong("buckets that fall");
                }
                buckets = Some((series, value));
            }
            ("histogram", "_count") => {
                if buckets.as_ref().is_none_or(|(_, count)| *count != value) {
                    return wrong("a count that is not its last bucket's");
                }
            }
            _ => return wrong("a sample that its type does not have"),
        }
        if !seen.insert(sample) {
            return wrong("twice");
        }
    }
    Ok(())
}
