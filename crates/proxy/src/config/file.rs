//! `KubeProxyConfiguration` v1alpha1 (kubeproxy.config.k8s.io), the file kube-proxy is configured by, as of Kubernetes
//! 1.36: every field, with the defaults it gets when left out. Not responsible for reading or writing the file, nor for
//! what the fields do here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::duration::GoDuration;

pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
pub const KIND: &str = "KubeProxyConfiguration";

const HEALTHZ_PORT: u16 = 10_256;
const METRICS_PORT: u16 = 10_249;
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// The keyword in `nodePortAddresses` for the addresses the Node object lists first.
pub const PRIMARY: &str = "primary";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KubeProxyConfiguration {
    pub api_version: String,
    pub kind: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,
    pub client_connection: ClientConnection,
    pub logging: Logging,
    pub hostname_override: String,
    pub bind_address: String,
    pub healthz_bind_address: String,
    pub metrics_bind_address: String,
    pub bind_address_hard_fail: bool,
    pub enable_profiling: bool,
    pub show_hidden_metrics_for_version: String,
    pub mode: String,
    #[serde(rename = "iptables")]
    pub iptables: Iptables,
    pub ipvs: Ipvs,
    pub nftables: Nftables,
    pub winkernel: Winkernel,
    pub detect_local_mode: String,
    pub detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    pub node_port_addresses: Option<Vec<String>>,
    pub oom_score_adj: Option<i32>,
    pub conntrack: Conntrack,
    pub config_sync_period: GoDuration,
    pub port_range: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub windows_run_as_service: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: f32,
    pub burst: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Logging {
    pub format: String,
    pub flush_frequency: FlushFrequency,
    pub verbosity: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vmodule: Vec<VerbosityOfFiles>,
    pub options: LoggingOptions,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VerbosityOfFiles {
    pub file_pattern: String,
    pub verbosity: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoggingOptions {
    pub text: OutputOptions,
    pub json: OutputOptions,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OutputOptions {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub split_stream: bool,
    /// A quantity, as text.
    pub info_buffer_size: String,
}

/// A duration as text, or as a number of nanoseconds, which older files have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "TextOrNumber")]
pub struct FlushFrequency(pub GoDuration);

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Number(i64),
    Text(GoDuration),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Iptables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    pub localhost_node_ports: Option<bool>,
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Ipvs {
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
    pub scheduler: String,
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Option<Vec<String>>,
    #[serde(rename = "strictARP")]
    pub strict_arp: bool,
    pub tcp_timeout: GoDuration,
    pub tcp_fin_timeout: GoDuration,
    pub udp_timeout: GoDuration,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Nftables {
    pub masquerade_bit: Option<i32>,
    pub masquerade_all: bool,
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
}

/// Windows only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Winkernel {
    pub network_name: String,
    pub source_vip: String,
    #[serde(rename = "enableDSR")]
    pub enable_dsr: bool,
    pub root_hns_endpoint_name: String,
    pub forward_health_check_vip: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DetectLocal {
    pub bridge_interface: String,
    pub interface_name_prefix: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Conntrack {
    pub max_per_core: Option<i32>,
    pub min: Option<i32>,
    pub tcp_established_timeout: Option<GoDuration>,
    pub tcp_close_wait_timeout: Option<GoDuration>,
    pub tcp_be_liberal: bool,
    pub udp_timeout: GoDuration,
    pub udp_stream_timeout: GoDuration,
}

impl Default for OutputOptions {
    fn default() -> Self {
        OutputOptions { split_stream: false, info_buffer_size: "0".to_owned() }
    }
}

impl From<TextOrNumber> for FlushFrequency {
    fn from(value: TextOrNumber) -> Self {
        FlushFrequency(match value {
            TextOrNumber::Number(nanoseconds) => GoDuration::nanoseconds(nanoseconds),
            TextOrNumber::Text(duration) => duration,
        })
    }
}

impl KubeProxyConfiguration {
    /// What an empty file means.
    pub fn with_defaults() -> KubeProxyConfiguration {
        let mut config = KubeProxyConfiguration::default();
        config.set_defaults();
        config
    }

    /// Gives every field that was left out its value. One that depends on the mode gets that of the mode.
    pub fn set_defaults(&mut self) {
        API_VERSION.clone_into(&mut self.api_version);
        KIND.clone_into(&mut self.kind);
        default_text(&mut self.bind_address, "0.0.0.0");
        self.set_default_servers();
        self.set_default_connection();
        self.logging.set_defaults();
        default_text(&mut self.detect_local_mode, "ClusterCIDR");
        default_period(&mut self.config_sync_period, GoDuration::seconds(15 * 60));
        self.oom_score_adj.get_or_insert(-999);
        self.conntrack.set_defaults();
        self.iptables.masquerade_bit.get_or_insert(14);
        self.iptables.localhost_node_ports.get_or_insert(true);
        default_period(&mut self.iptables.sync_period, GoDuration::seconds(30));
        default_period(&mut self.iptables.min_sync_period, GoDuration::seconds(1));
        default_period(&mut self.ipvs.sync_period, GoDuration::seconds(30));
        self.nftables.masquerade_bit.get_or_insert(14);
        default_period(&mut self.nftables.sync_period, GoDuration::seconds(30));
        default_period(&mut self.nftables.min_sync_period, GoDuration::seconds(1));
        if self.mode == "nftables" && self.node_port_addresses.as_ref().is_none_or(Vec::is_empty) {
            self.node_port_addresses = Some(vec![PRIMARY.to_owned()]);
        }
        self.keep_only_the_modes_own();
    }

    /// The masquerading and the periods in force, wherever they are written.
    pub fn masquerade_all(&self) -> bool {
        match self.mode.as_str() {
            "nftables" => self.nftables.masquerade_all,
            _ => self.iptables.masquerade_all,
        }
    }

    pub fn sync_period(&self) -> GoDuration {
        match self.mode.as_str() {
            "nftables" => self.nftables.sync_period,
            "ipvs" => self.ipvs.sync_period,
            _ => self.iptables.sync_period,
        }
    }

    pub fn min_sync_period(&self) -> GoDuration {
        match self.mode.as_str() {
            "nftables" => self.nftables.min_sync_period,
            "ipvs" => self.ipvs.min_sync_period,
            _ => self.iptables.min_sync_period,
        }
    }

    /// The CIDRs in `clusterCIDR`; it is one text, for the sake of older files.
    pub fn cluster_cidrs(&self) -> Vec<&str> {
        if self.cluster_cidr.is_empty() { Vec::new() } else { self.cluster_cidr.split(',').collect() }
    }

    /// kube-proxy has one period and one `masqueradeAll` for all modes, and writes them where the mode's are; the others
    /// are zero. `""` is written like iptables, which it means there.
    fn keep_only_the_modes_own(&mut self) {
        let nftables = self.mode == "nftables";
        if nftables {
            self.iptables.masquerade_all = false;
        } else {
            self.nftables.masquerade_all = false;
            (self.nftables.sync_period, self.nftables.min_sync_period) = Default::default();
        }
        if nftables || self.mode == "ipvs" {
            (self.iptables.sync_period, self.iptables.min_sync_period) = Default::default();
        }
        if self.mode != "ipvs" {
            (self.ipvs.sync_period, self.ipvs.min_sync_period) = Default::default();
        }
    }

    fn set_default_servers(&mut self) {
        let ipv4 = self.bind_address.parse::<std::net::Ipv4Addr>().is_ok();
        let (everywhere, here) = if ipv4 { ("0.0.0.0", "127.0.0.1") } else { ("[::]", "[::1]") };
        let servers = [
            (&mut self.healthz_bind_address, everywhere, HEALTHZ_PORT),
            (&mut self.metrics_bind_address, here, METRICS_PORT),
        ];
        for (address, host, port) in servers {
            *address = match address.as_str() {
                "" => format!("{host}:{port}"),
                given => with_port(given, port),
            };
        }
    }

    fn set_default_connection(&mut self) {
        let connection = &mut self.client_connection;
        default_text(&mut connection.content_type, PROTOBUF);
        if connection.qps == 0.0 {
            connection.qps = 5.0;
        }
        if connection.burst == 0 {
            connection.burst = 10;
        }
    }
}

impl Logging {
    fn set_defaults(&mut self) {
        default_text(&mut self.format, "text");
        default_period(&mut self.flush_frequency.0, GoDuration::seconds(5));
    }
}

impl Conntrack {
    fn set_defaults(&mut self) {
        self.max_per_core.get_or_insert(32 * 1024);
        self.min.get_or_insert(128 * 1024);
        self.tcp_established_timeout.get_or_insert(GoDuration::hours(24));
        self.tcp_close_wait_timeout.get_or_insert(GoDuration::hours(1));
    }
}

/// An address alone gets the port; anything else stays, to be refused by name.
pub fn with_port(address: &str, port: u16) -> String {
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(address)) => format!("{address}:{port}"),
        Ok(std::net::IpAddr::V6(address)) => format!("[{address}]:{port}"),
        Err(_) => address.to_owned(),
    }
}

fn default_text(field: &mut String, value: &str) {
    if field.is_empty() {
        value.clone_into(field);
    }
}

fn default_period(field: &mut GoDuration, value: GoDuration) {
    if *field == GoDuration::ZERO {
        *field = value;
    }
}
