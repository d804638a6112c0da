//! Whether a configuration makes sense, in the words kube-proxy 1.36 says it doesn't: operators and their tools know them.
//! Not responsible for what this proxy can't do though it makes sense (`settings`).

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::duration::GoDuration;
use super::file::{KubeProxyConfiguration, PRIMARY};

const ROOT: &str = "KubeProxyConfiguration";
/// `userspace`, which kube-proxy has given up, is one here.
const MODES: [&str; 5] = ["", "iptables", "ipvs", "nftables", "userspace"];
const LOCAL_MODES: [&str; 4] = ["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"];
/// Metrics hidden since then can be shown again: one minor version back.
const PREVIOUS_MINOR: &str = "1.35";

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub field: String,
    pub problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The value as it is shown, and what it must be.
    Invalid {
        value: String,
        rule: String,
    },
    Unsupported {
        value: String,
        supported: Vec<&'static str>,
    },
    Forbidden {
        rule: &'static str,
    },
}

/// Everything that is wrong, in a fixed order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid(pub Vec<FieldError>);

struct Errors(Vec<FieldError>);

/// Checks a configuration whose defaults are set.
pub fn validate(config: &KubeProxyConfiguration) -> Result<(), Invalid> {
    let mut errors = Errors(Vec::new());
    let bit = config.iptables.masquerade_bit;
    errors.bit("KubeProxyIPTablesConfiguration.MasqueradeBit", bit);
    match config.mode.as_str() {
        "ipvs" => errors.ipvs(config),
        "nftables" => errors.bit("KubeProxyNFTablesConfiguration.MasqueradeBit", config.nftables.masquerade_bit),
        _ => {}
    }
    errors.linux(config);
    if !MODES.contains(&config.mode.as_str()) {
        let rule =
            "must be iptables, ipvs, nftables or blank (blank means the best-available proxy [currently nftables])";
        errors.text("Mode.ProxyMode", &config.mode, rule);
    }
    errors.nonnegative("ClientConnection.Burst", Some(config.client_connection.burst));
    errors.periods(config);
    if config.bind_address.parse::<IpAddr>().is_err() {
        errors.text("BindAddress", &config.bind_address, "not a valid textual representation of an IP address");
    }
    errors.server("HealthzBindAddress", &config.healthz_bind_address);
    errors.server("MetricsBindAddress", &config.metrics_bind_address);
    errors.node_port_addresses(config.node_port_addresses.as_deref().unwrap_or_default());
    errors.hidden_metrics(&config.show_hidden_metrics_for_version);
    errors.detect_local(config);
    errors.logging(config);
    if errors.0.is_empty() { Ok(()) } else { Err(Invalid(errors.0)) }
}

impl Errors {
    fn invalid(&mut self, field: &str, value: String, rule: impl Into<String>) {
        let problem = Problem::Invalid { value, rule: rule.into() };
        self.0.push(FieldError { field: format!("{ROOT}.{field}"), problem });
    }

    fn text(&mut self, field: &str, value: &str, rule: impl Into<String>) {
        self.invalid(field, format!("{value:?}"), rule);
    }

    fn bit(&mut self, field: &str, bit: Option<i32>) {
        if let Some(bit) = bit.filter(|bit| !(0..32).contains(bit)) {
            self.invalid(field, bit.to_string(), "must be within the range [0, 31]");
        }
    }

    fn nonnegative(&mut self, field: &str, number: Option<i32>) {
        if let Some(number) = number.filter(|number| *number < 0) {
            self.invalid(field, number.to_string(), "must be greater than or equal to 0");
        }
    }

    fn not_before_zero(&mut self, field: &str, duration: Option<GoDuration>) {
        if let Some(duration) = duration.filter(|duration| duration.is_negative()) {
            self.text(field, &duration.to_string(), "must be greater than or equal to 0");
        }
    }

    fn positive(&mut self, field: &str, duration: GoDuration) {
        if !duration.is_positive() {
            self.text(field, &duration.to_string(), "must be greater than 0");
        }
    }

    fn ipvs(&mut self, config: &KubeProxyConfiguration) {
        let ipvs = &config.ipvs;
        let timeouts = [
            ("TCPTimeout", ipvs.tcp_timeout),
            ("TCPFinTimeout", ipvs.tcp_fin_timeout),
            ("UDPTimeout", ipvs.udp_timeout),
        ];
        for (name, timeout) in timeouts {
            self.not_before_zero(&format!("KubeProxyIPVSConfiguration.{name}"), Some(timeout));
        }
        for (index, cidr) in ipvs.exclude_cidrs.iter().flatten().enumerate() {
            if cidr.parse::<IpNet>().is_err() {
                let field = format!("KubeProxyIPVSConfiguration.ExcludeCidrs[{index}]");
                self.text(&field, cidr, "must be a valid CIDR");
            }
        }
    }

    fn linux(&mut self, config: &KubeProxyConfiguration) {
        const LINUX: &str = "KubeProxyLinuxConfiguration";
        let conntrack = &config.conntrack;
        let of = |name: &str| format!("{LINUX}.KubeProxyConntrackConfiguration.{name}");
        self.nonnegative(&of("MaxPerCore"), conntrack.max_per_core);
        self.nonnegative(&of("Min"), conntrack.min);
        self.not_before_zero(&of("TCPEstablishedTimeout"), conntrack.tcp_established_timeout);
        self.not_before_zero(&of("TCPCloseWaitTimeout"), conntrack.tcp_close_wait_timeout);
        self.not_before_zero(&of("UDPTimeout"), Some(conntrack.udp_timeout));
        self.not_before_zero(&of("UDPStreamTimeout"), Some(conntrack.udp_stream_timeout));
        if let Some(score) = config.oom_score_adj.filter(|score| !(-1000..=1000).contains(score)) {
            let field = format!("{LINUX}.OOMScoreAdj");
            self.invalid(&field, score.to_string(), "must be within the range [-1000, 1000]");
        }
    }

    fn periods(&mut self, config: &KubeProxyConfiguration) {
        let (period, least) = (config.sync_period(), config.min_sync_period());
        self.positive("ConfigSyncPeriod", config.config_sync_period);
        self.positive("SyncPeriod", period);
        self.not_before_zero("MinSyncPeriod", Some(least));
        if least > period {
            let rule = format!("must be greater than or equal to {ROOT}.MinSyncPeriod");
            self.text("SyncPeriod", &least.to_string(), rule);
        }
    }

    /// Empty means that there is none.
    fn server(&mut self, field: &str, address: &str) {
        if address.is_empty() {
            return;
        }
        let Some((host, port)) = split_host_port(address) else {
            self.text(field, address, "must be IP:port");
            return;
        };
        if host.parse::<IpAddr>().is_err() {
            self.text(field, host, "must be a valid IP");
        }
        if !port.parse::<u16>().is_ok_and(|port| port != 0) {
            self.text(field, port, "must be a valid port");
        }
    }

    /// `localhost` and `all` are of 1.37, and may stand beside others there as `primary` may.
    fn node_port_addresses(&mut self, addresses: &[String]) {
        for (index, address) in addresses.iter().enumerate() {
            let keyword = [PRIMARY, "localhost", "all"].contains(&address.as_str());
            if !keyword && address.parse::<IpNet>().is_err() {
                self.text(&format!("NodePortAddresses[{index}]"), address, "must be a valid CIDR");
            }
        }
    }

    fn hidden_metrics(&mut self, version: &str) {
        if !version.is_empty() && version != PREVIOUS_MINOR {
            let value = format!("{version:?}");
            let rule = format!("must be omitted or have the value '{PREVIOUS_MINOR}'");
            self.invalid("ShowHiddenMetricsForVersion", value, rule);
        }
    }

    fn detect_local(&mut self, config: &KubeProxyConfiguration) {
        const DETAILS: &str = "DetectLocalConfiguration";
        let (bridge, prefix) = (&config.detect_local.bridge_interface, &config.detect_local.interface_name_prefix);
        match config.detect_local_mode.as_str() {
            "ClusterCIDR" => self.cluster_cidrs(&config.cluster_cidrs()),
            "BridgeInterface" if bridge.is_empty() => {
                self.text(&format!("{DETAILS}.InterfaceName"), "", "must not be empty");
            }
            "InterfaceNamePrefix" if prefix.is_empty() => {
                self.text(&format!("{DETAILS}.InterfacePrefix"), "", "must not be empty");
            }
            mode if LOCAL_MODES.contains(&mode) => {}
            mode => {
                let supported = LOCAL_MODES.into_iter().chain([""]).collect();
                let problem = Problem::Unsupported { value: mode.to_owned(), supported };
                self.0.push(FieldError { field: format!("{ROOT}.DetectLocalMode"), problem });
            }
        }
    }

    fn cluster_cidrs(&mut self, cidrs: &[&str]) {
        const FIELD: &str = "DetectLocalConfiguration.ClusterCIDRs";
        let parsed: Vec<Option<IpNet>> = cidrs.iter().map(|cidr| cidr.parse().ok()).collect();
        let families: BTreeSet<_> = parsed.iter().flatten().map(|cidr| cidr.addr().is_ipv4()).collect();
        match &parsed[..] {
            [] | [Some(_)] => {}
            [None] => {
                let rule = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)";
                self.text(&format!("{FIELD}[0]"), cidrs.first().copied().unwrap_or_default(), rule);
            }
            [Some(_), Some(_)] if families.len() == 2 => {}
            _ => {
                let shown: Vec<_> = cidrs.iter().map(|cidr| format!("{cidr:?}")).collect();
                let rule = "must be a either a single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, \
                            fde4:8dba:82e1::/48]";
                self.invalid(FIELD, format!("[{}]", shown.join(",")), rule);
            }
        }
    }

    fn logging(&mut self, config: &KubeProxyConfiguration) {
        let logging = &config.logging;
        let mut push = |field: &str, problem| self.0.push(FieldError { field: format!("logging.{field}"), problem });
        if !["text", "json"].contains(&logging.format.as_str()) {
            let value = format!("{:?}", logging.format);
            push("format", Problem::Invalid { value, rule: "Unsupported log format".to_owned() });
        }
        if !logging.vmodule.is_empty() && logging.format != "text" {
            push("vmodule", Problem::Forbidden { rule: "Only supported for text log format" });
        }
        for (name, options) in [("text", &logging.options.text), ("json", &logging.options.json)] {
            // Alpha upstream, and behind a gate.
            let rule = "Feature LoggingAlphaOptions is disabled";
            if options.split_stream {
                push(&format!("options.{name}.splitStream"), Problem::Forbidden { rule });
            }
            if options.info_buffer_size != "0" {
                push(&format!("options.{name}.infoBufferSize"), Problem::Forbidden { rule });
            }
        }
    }
}

/// `1.2.3.4:80` or `[::1]:80`.
fn split_host_port(address: &str) -> Option<(&str, &str)> {
    let (host, port) = address.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(inner) => Some((inner.strip_suffix(']')?, port)),
        None if host.contains([':', '[', ']']) || port.contains(']') => None,
        None => Some((host, port)),
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.field)?;
        match &self.problem {
            Problem::Invalid { value, rule } => write!(f, "Invalid value: {value}: {rule}"),
            Problem::Forbidden { rule } => write!(f, "Forbidden: {rule}"),
            Problem::Unsupported { value, supported } => {
                let supported: Vec<_> = supported.iter().map(|value| format!("{value:?}")).collect();
                write!(f, "Unsupported value: {value:?}: supported values: {}", supported.join(", "))
            }
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed validate: ")?;
        match &self.0[..] {
            [only] => write!(f, "{only}"),
            all => {
                let all: Vec<_> = all.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", all.join(", "))
            }
        }
    }
}
