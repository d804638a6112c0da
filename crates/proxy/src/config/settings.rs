//! What a configuration means to this proxy: each field is honoured, or named with the reason why it can't be (`Refused`,
//! where packets would fare differently) or needn't be (`Unheeded`). Pure. Not responsible for whether the values make
//! sense (`validate`).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use service_model::{InterfaceMatch, LocalTraffic};

use super::file::{Ipvs, KubeProxyConfiguration, Winkernel};
use super::reach::Reach;
use crate::tuning::TuningPlan;

/// How Services are made to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Nftables,
    Iptables,
    Ipvs,
    Userspace,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub mode: Mode,
    /// No mode was asked for.
    pub mode_by_default: bool,
    /// The name given to the node; the machine's own if there is none.
    pub hostname: Option<String>,
    pub kubeconfig: Option<PathBuf>,
    pub health_address: Option<SocketAddr>,
    pub metrics_address: Option<SocketAddr>,
    /// A server that can't listen ends the proxy; otherwise it tries again.
    pub bind_hard_fail: bool,
    /// An address of the node that counts as its primary one.
    pub bind_address: Option<IpAddr>,
    pub reach: Reach,
    pub local_traffic: LocalTraffic,
    pub masquerade_all: bool,
    pub masquerade_mark: u32,
    /// iptables mode drops what connection tracking can't place, unless that is told to be liberal.
    pub drop_invalid: bool,
    pub sync_period: Duration,
    /// ipvs mode's own, as they were written.
    pub ipvs: Ipvs,
    pub oom_score: Option<i32>,
    pub logging: LogSettings,
    pub tuning: TuningPlan,
    pub unheeded: Vec<Note>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub level: LogLevel,
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Info,
    Debug,
    Trace,
}

/// A field, and what is the matter with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub field: String,
    pub reason: &'static str,
}

impl Mode {
    pub const ALL: [Mode; 4] = [Mode::Nftables, Mode::Iptables, Mode::Ipvs, Mode::Userspace];

    /// As a configuration says it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Iptables => "iptables",
            Mode::Ipvs => "ipvs",
            Mode::Userspace => "userspace",
        }
    }
}

/// Fields that can't be honoured, and must not be left aside in silence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this proxy cannot do what is asked: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Refused(pub Vec<Note>);

/// Understands a configuration that is valid and has its defaults, for a machine with so many processors.
pub fn settings(config: &KubeProxyConfiguration, processors: u64) -> Result<Settings, Refused> {
    let mut refused = Vec::new();
    let mode = match config.mode.as_str() {
        "iptables" => Mode::Iptables,
        "ipvs" => Mode::Ipvs,
        "userspace" => Mode::Userspace,
        _ => Mode::Nftables,
    };
    let local_traffic = local_traffic(config, mode, &mut refused);
    if !refused.is_empty() {
        return Err(Refused(refused));
    }
    let reach = reach(config);
    let unheeded = unheeded(config, mode);
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let bit = config.iptables.masquerade_bit.and_then(|bit| u32::try_from(bit).ok()).unwrap_or(14);
    Ok(Settings {
        mode,
        mode_by_default: config.mode.is_empty(),
        hostname: some(&config.hostname_override),
        kubeconfig: some(&config.client_connection.kubeconfig).map(PathBuf::from),
        health_address: config.healthz_bind_address.parse().ok(),
        metrics_address: config.metrics_bind_address.parse().ok(),
        bind_hard_fail: config.bind_address_hard_fail,
        bind_address: config.bind_address.parse().ok(),
        reach,
        local_traffic,
        masquerade_all: config.masquerade_all(),
        masquerade_mark: 1_u32.checked_shl(bit).unwrap_or(1 << 14),
        drop_invalid: !config.conntrack.tcp_be_liberal,
        sync_period: config.sync_period().elapsing(),
        ipvs: config.ipvs.clone(),
        oom_score: config.oom_score_adj,
        logging: log_settings(config),
        tuning: TuningPlan::of_conntrack(&config.conntrack, processors),
        unheeded,
    })
}

/// The default mode reaches as far as the mode that other proxies default to: a cluster that names none is used to it.
fn reach(config: &KubeProxyConfiguration) -> Reach {
    let listed = config.node_port_addresses.as_deref().unwrap_or_default();
    let mut reach = Reach::of(listed);
    if config.mode == "nftables" {
        return reach;
    }
    if config.iptables.localhost_node_ports == Some(false) {
        return reach.without_loopback();
    }
    reach.localhost |=
        listed.is_empty() || reach.cidrs.iter().any(|cidr| cidr.prefix_len() == 0 && cidr.addr().is_ipv4());
    reach
}

fn local_traffic(config: &KubeProxyConfiguration, mode: Mode, refused: &mut Vec<Note>) -> LocalTraffic {
    let interface = match config.detect_local_mode.as_str() {
        "NodeCIDR" => return LocalTraffic::NodeCidrs,
        "BridgeInterface" => InterfaceMatch::Named(config.detect_local.bridge_interface.clone()),
        "InterfaceNamePrefix" => InterfaceMatch::Prefix(config.detect_local.interface_name_prefix.clone()),
        _ => {
            let cidrs = config.cluster_cidrs();
            return LocalTraffic::Cidrs(cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect());
        }
    };
    if !matches!(mode, Mode::Nftables | Mode::Iptables) {
        let reason =
            "in this mode pods are told from strangers by their addresses (ClusterCIDR, NodeCIDR), not by links";
        refused.push(Note { field: format!("detectLocalMode: {}", config.detect_local_mode), reason });
    }
    LocalTraffic::Interface(interface)
}

/// `-v` as Kubernetes' components use it: 4 is for debugging, 6 and more for everything that is said.
fn log_settings(config: &KubeProxyConfiguration) -> LogSettings {
    let level = match config.logging.verbosity {
        0..=3 => LogLevel::Info,
        4 | 5 => LogLevel::Debug,
        _ => LogLevel::Trace,
    };
    LogSettings { level, json: config.logging.format == "json" }
}

fn note(field: &str, reason: &'static str) -> Note {
    Note { field: field.to_owned(), reason }
}

/// Fields that were set, and that nothing depends on here.
fn unheeded(config: &KubeProxyConfiguration, mode: Mode) -> Vec<Note> {
    let plain = KubeProxyConfiguration::with_defaults();
    let mut notes: Vec<Note> = config
        .feature_gates
        .keys()
        .map(|gate| Note { field: format!("featureGates.{gate}"), reason: "this proxy has no feature gates" })
        .collect();
    notes.extend(connection_and_logging(config, &plain));
    let windows = config.winkernel != Winkernel::default() || config.windows_run_as_service;
    let rest = [
        (windows, "winkernel, windowsRunAsService", "they are about Windows"),
        (!config.port_range.is_empty(), "portRange", "no port is taken on the node's behalf"),
        (config.enable_profiling, "enableProfiling", "there is no profiler in this program"),
        (!config.show_hidden_metrics_for_version.is_empty(), "showHiddenMetricsForVersion", "no metric is hidden here"),
        (
            config.config_sync_period != plain.config_sync_period,
            "configSyncPeriod",
            "the watches deliver every change, and a list is never repeated for its own sake",
        ),
    ];
    notes.extend(rest.into_iter().filter(|(set, ..)| *set).map(|(_, field, reason)| note(field, reason)));
    notes.extend(of_modes(config, &plain, mode));
    if reach(config).cidrs.iter().any(|cidr| cidr.addr().is_ipv6() && cidr.addr().is_loopback()) {
        notes.push(note(
            "nodePortAddresses: ::1",
            "the kernel lets nothing leave the loopback link that comes from ::1",
        ));
    }
    notes
}

fn connection_and_logging(config: &KubeProxyConfiguration, plain: &KubeProxyConfiguration) -> Vec<Note> {
    let (connection, usual) = (&config.client_connection, &plain.client_connection);
    let content = connection.content_type != usual.content_type || !connection.accept_content_types.is_empty();
    let (rate, usual_rate) = ((connection.qps, connection.burst), (usual.qps, usual.burst));
    let rest = [
        (content, "clientConnection.contentType, acceptContentTypes", "JSON is what is spoken with the API server"),
        (rate != usual_rate, "clientConnection.qps, burst", "a few watches are all that is asked of the API server"),
        (!config.logging.vmodule.is_empty(), "logging.vmodule", "PORTOLAN_LOG sets levels of single parts"),
        (
            config.logging.flush_frequency != plain.logging.flush_frequency,
            "logging.flushFrequency",
            "every line is written at once",
        ),
    ];
    rest.into_iter().filter(|(set, ..)| *set).map(|(_, field, reason)| note(field, reason)).collect()
}

fn of_modes(config: &KubeProxyConfiguration, plain: &KubeProxyConfiguration, mode: Mode) -> Vec<Note> {
    const AT_ONCE: &str = "every change is brought into force at once";
    let unmarked = matches!(mode, Mode::Nftables | Mode::Userspace);
    let bit = if config.mode.is_empty() { config.iptables.masquerade_bit } else { config.nftables.masquerade_bit };
    let no_mark = "this mode marks packets only while it handles them, and hands the mark back as it was";
    let localhost = config.mode == "nftables" && config.iptables.localhost_node_ports == Some(false);
    let least = config.min_sync_period();
    let rest = [
        // 1s is what nobody has chosen.
        (least != plain.min_sync_period() && least.is_positive(), "minSyncPeriod", AT_ONCE),
        (
            unmarked && config.sync_period() != plain.sync_period(),
            "syncPeriod",
            "the kernel says when somebody else has changed the rules",
        ),
        (unmarked && bit != Some(14), "masqueradeBit", no_mark),
        (
            localhost,
            "iptables.localhostNodePorts",
            "the mode is nftables, where `localhost` in nodePortAddresses says it",
        ),
    ];
    rest.into_iter().filter(|(set, ..)| *set).map(|(_, field, reason)| note(field, reason)).collect()
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::decode::decode;

    fn of(rest: &str) -> Result<Settings, Refused> {
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        settings(&decode(&format!("{head}{rest}")).unwrap().config, 2)
    }

    fn unheeded(rest: &str) -> Vec<String> {
        of(rest).unwrap().unheeded.into_iter().map(|note| note.field).collect()
    }

    #[test]
    fn no_mode_is_nftables_with_the_reach_of_iptables() {
        let default = of("").unwrap();
        assert_eq!((default.mode, default.mode_by_default), (Mode::Nftables, true));
        assert!(default.reach.all && default.reach.localhost, "as far as iptables mode");
        let asked_for = of("mode: nftables").unwrap();
        assert_eq!((asked_for.mode, asked_for.mode_by_default), (Mode::Nftables, false));
        assert_eq!(asked_for.reach, Reach { primary: true, ..Reach::default() });
        // Settings of the mode it would have been elsewhere are in force.
        assert!(of("iptables: {masqueradeAll: true}").unwrap().masquerade_all);
        assert!(!of("nftables: {masqueradeAll: true}").unwrap().masquerade_all);
    }

    #[test]
    fn localhost_answers_where_it_is_asked_for() {
        let here = |rest: &str| (of(rest).unwrap().reach.has_localhost(), unheeded(rest));
        assert_eq!(here("mode: iptables"), (true, vec![]));
        assert_eq!(here("mode: iptables\nnodePortAddresses: [10.0.0.0/8]"), (false, vec![]));
        assert_eq!(here("mode: iptables\niptables: {localhostNodePorts: false}"), (false, vec![]));
        assert_eq!(here(""), (true, vec![]));
        assert_eq!(here("iptables: {localhostNodePorts: false}"), (false, vec![]));
        assert_eq!(here("mode: nftables"), (false, vec![]));
        assert_eq!(here("mode: nftables\nnodePortAddresses: [localhost, primary]"), (true, vec![]));
        let missed = vec!["nodePortAddresses: ::1".to_owned()];
        assert_eq!(here("mode: nftables\nnodePortAddresses: [\"::1/128\"]"), (true, missed));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let said = |rest| of(rest).unwrap_err().to_string();
        let interface = said("mode: ipvs\ndetectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: br0}");
        assert!(interface.contains("detectLocalMode: BridgeInterface: in this mode pods are told"), "{interface}");
        let told = of("detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}").unwrap();
        assert_eq!(told.local_traffic, LocalTraffic::Interface(InterfaceMatch::Prefix("veth".to_owned())));
    }

    #[test]
    fn what_nothing_depends_on_is_named() {
        assert_eq!(unheeded("mode: nftables"), [""; 0]);
        assert_eq!(unheeded("mode: iptables\niptables: {masqueradeBit: 7}"), [""; 0]);
        assert_eq!(unheeded("mode: nftables\nnftables: {masqueradeBit: 7}"), ["masqueradeBit"]);
        assert_eq!(unheeded("mode: iptables\niptables: {minSyncPeriod: 5s}"), ["minSyncPeriod"]);
        assert_eq!(
            unheeded(
                "mode: nftables\nfeatureGates: {AllAlpha: true}\nportRange: 1-2\nclientConnection: {qps: 50}\nwindowsRunAsService: true"
            ),
            ["featureGates.AllAlpha", "clientConnection.qps, burst", "winkernel, windowsRunAsService", "portRange",]
        );
    }

    #[test]
    fn the_rest_is_taken_over() {
        let text = "mode: iptables\nclusterCIDR: 10.0.0.0/8,fd00::/64\nhostnameOverride: here\noomScoreAdj: 5\n\
                    iptables: {masqueradeBit: 3, syncPeriod: 9s}\nlogging: {format: json, verbosity: 4}\n\
                    metricsBindAddress: 10.0.0.1\nbindAddress: 10.0.0.1\nclientConnection: {kubeconfig: /k}\n";
        let settings = of(text).unwrap();
        let cidrs = ["10.0.0.0/8", "fd00::/64"].map(|cidr| cidr.parse().unwrap());
        assert_eq!(settings.local_traffic, LocalTraffic::Cidrs(cidrs.into()));
        assert_eq!((settings.masquerade_mark, settings.sync_period), (8, Duration::from_secs(9)));
        assert_eq!(settings.logging, LogSettings { level: LogLevel::Debug, json: true });
        assert_eq!(settings.metrics_address, Some("10.0.0.1:10249".parse().unwrap()));
        assert_eq!(settings.health_address, Some("0.0.0.0:10256".parse().unwrap()));
        assert_eq!((settings.hostname.as_deref(), settings.oom_score), (Some("here"), Some(5)));
        assert_eq!(settings.kubeconfig, Some(PathBuf::from("/k")));
    }
}
