//! `portolan proxy`'s flags: kube-proxy's, so that its manifests and units go on working with the name of the program
//! changed, and a few more. As there, a file (`--config`) puts all of them aside but the node's name and those about
//! logging. Not responsible for what a configuration means.

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand, ValueEnum};
use proxy::config::duration::GoDuration;
use proxy::config::file::{KubeProxyConfiguration, VerbosityOfFiles, with_port};

#[derive(Args, Clone, Default)]
pub struct Proxy {
    #[command(subcommand)]
    pub command: Option<Instrument>,
    /// The configuration file (KubeProxyConfiguration). With it, other flags that configure are put aside, except
    /// --hostname-override and those about logging.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write the configuration, with all defaults, to this file and exit.
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,
    /// Remove all rules of this proxy, in every mode, and exit.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[arg(value_parser = BoolishValueParser::new())]
    pub cleanup: Option<bool>,
    /// Set what takes full root privileges (sysctls), and exit. Afterwards CAP_NET_ADMIN is enough.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[arg(value_parser = BoolishValueParser::new())]
    pub init_only: Option<bool>,
    /// Print what would be set and which rules would be written, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Remove what a former kube-proxy has left, in whichever mode it was, as soon as the rules of this proxy answer. With
    /// --cleanup: that too.
    #[arg(long)]
    pub take_over: bool,
    /// Print the version of Kubernetes that is followed, and of this program, and exit.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL|raw")]
    pub version: Option<String>,
    /// The API server's address, instead of the kubeconfig's.
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// The node's name, if it is not the machine's.
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    #[command(flatten, next_help_heading = "Configuration (put aside by --config)")]
    pub fields: Fields,
    #[command(flatten, next_help_heading = "iptables and ipvs modes (put aside by --config)")]
    pub modes: ModeFields,
    #[command(flatten, next_help_heading = "Connection tracking (put aside by --config)")]
    pub conntrack: ConntrackFields,
    #[command(flatten, next_help_heading = "Logging")]
    pub logging: LoggingFields,
}

/// What a proxy that runs beside can be asked by looking at what it has made.
#[derive(Subcommand, Clone)]
pub enum Instrument {
    /// Print what should be in force beside what is, of all Services or of one. The flags of `portolan proxy` come before.
    Dump {
        /// Only this Service.
        #[arg(value_name = "NAMESPACE/NAME")]
        service: Option<String>,
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(Args, Clone, Default)]
pub struct Fields {
    /// How Services are made to work: nftables (default), iptables or ipvs.
    #[arg(long, value_name = "MODE")]
    proxy_mode: Option<String>,
    /// The kubeconfig to reach the API server with. Without it, the pod's service account is used.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
    /// An address of the node that counts as its primary one; nothing listens there.
    #[arg(long, value_name = "IP")]
    bind_address: Option<String>,
    /// End when a port cannot be listened on.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[arg(value_parser = BoolishValueParser::new())]
    bind_address_hard_fail: Option<bool>,
    /// Where /healthz and /livez answer. [default: 0.0.0.0:10256]
    #[arg(long, value_name = "IP[:PORT]")]
    healthz_bind_address: Option<String>,
    /// Where /metrics and /proxyMode answer; empty for nowhere. [default: 127.0.0.1:10249]
    #[arg(long, value_name = "IP[:PORT]")]
    metrics_bind_address: Option<String>,
    /// The pods' networks: one CIDR, or one of each family.
    #[arg(long, value_name = "CIDR[,CIDR]")]
    cluster_cidr: Option<String>,
    /// How the node's pods are told from strangers: ClusterCIDR (default), NodeCIDR, BridgeInterface, InterfaceNamePrefix.
    #[arg(long, value_name = "MODE")]
    detect_local_mode: Option<String>,
    /// For BridgeInterface.
    #[arg(long, value_name = "NAME")]
    pod_bridge_interface: Option<String>,
    /// For InterfaceNamePrefix.
    #[arg(long, value_name = "PREFIX")]
    pod_interface_name_prefix: Option<String>,
    /// Where NodePorts answer: CIDRs, `primary`, `localhost`, `all`.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    nodeport_addresses: Option<Vec<String>>,
    /// Masquerade everything that is sent to cluster IPs.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[arg(value_parser = BoolishValueParser::new())]
    masquerade_all: Option<bool>,
    /// How readily the kernel ends this process when memory is short.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
    #[arg(long, value_name = "GATE=BOOL", value_delimiter = ',', hide = true)]
    feature_gates: Vec<Gate>,
    #[arg(long, hide = true)]
    config_sync_period: Option<GoDuration>,
    #[arg(long, hide = true, allow_negative_numbers = true)]
    kube_api_burst: Option<i32>,
    #[arg(long, hide = true, allow_negative_numbers = true)]
    kube_api_qps: Option<f32>,
    #[arg(long, hide = true)]
    kube_api_content_type: Option<String>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    profiling: Option<bool>,
    #[arg(long, hide = true)]
    show_hidden_metrics_for_version: Option<String>,
    #[arg(long, hide = true)]
    healthz_port: Option<u16>,
    #[arg(long, hide = true)]
    metrics_port: Option<u16>,
    #[arg(long, hide = true)]
    boot_id_file: Option<String>,
    #[arg(long, hide = true)]
    machine_id_file: Option<String>,
}

#[derive(Args, Clone, Default)]
pub struct ModeFields {
    /// The bit of the mark on packets to be masqueraded. [default: 14]
    #[arg(long, value_name = "BIT", allow_negative_numbers = true)]
    iptables_masquerade_bit: Option<i32>,
    /// Let NodePorts answer on 127.0.0.1. [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[arg(value_parser = BoolishValueParser::new())]
    iptables_localhost_nodeports: Option<bool>,
    /// How often everything is looked at again. [default: 30s]
    #[arg(long, value_name = "DURATION")]
    iptables_sync_period: Option<GoDuration>,
    #[arg(long, hide = true)]
    iptables_min_sync_period: Option<GoDuration>,
    #[arg(long, hide = true)]
    ipvs_sync_period: Option<GoDuration>,
    #[arg(long, hide = true)]
    ipvs_min_sync_period: Option<GoDuration>,
    #[arg(long, hide = true)]
    ipvs_scheduler: Option<String>,
    #[arg(long, hide = true, value_delimiter = ',')]
    ipvs_exclude_cidrs: Option<Vec<String>>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    ipvs_strict_arp: Option<bool>,
    #[arg(long, hide = true)]
    ipvs_tcp_timeout: Option<GoDuration>,
    #[arg(long, hide = true)]
    ipvs_tcpfin_timeout: Option<GoDuration>,
    #[arg(long, hide = true)]
    ipvs_udp_timeout: Option<GoDuration>,
}

#[derive(Args, Clone, Default)]
pub struct ConntrackFields {
    /// Connections the kernel tracks, for each processor; 0 leaves the limit. [default: 32768]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    conntrack_max_per_core: Option<i32>,
    /// The least the limit is set to. [default: 131072]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    conntrack_min: Option<i32>,
    /// Take TCP packets that do not fit their connection as part of it.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[arg(value_parser = BoolishValueParser::new())]
    conntrack_tcp_be_liberal: Option<bool>,
    /// [default: 1h0m0s]
    #[arg(long, value_name = "DURATION")]
    conntrack_tcp_timeout_close_wait: Option<GoDuration>,
    /// [default: 24h0m0s]
    #[arg(long, value_name = "DURATION")]
    conntrack_tcp_timeout_established: Option<GoDuration>,
    /// Of UDP flows without an answer; 0 leaves it. [default: 0s]
    #[arg(long, value_name = "DURATION")]
    conntrack_udp_timeout: Option<GoDuration>,
    /// Of UDP flows with answers; 0 leaves it. [default: 0s]
    #[arg(long, value_name = "DURATION")]
    conntrack_udp_timeout_stream: Option<GoDuration>,
}

#[derive(Args, Clone, Default)]
pub struct LoggingFields {
    /// How much is said: 4 for debugging, 6 for everything.
    #[arg(short, long = "v", value_name = "LEVEL")]
    v: Option<u32>,
    /// `text` or `json`.
    #[arg(long, value_name = "FORMAT")]
    logging_format: Option<String>,
    #[arg(long, hide = true, value_delimiter = ',')]
    vmodule: Vec<FileLevel>,
    #[arg(long, hide = true)]
    log_flush_frequency: Option<GoDuration>,
    #[arg(long, hide = true)]
    log_json_info_buffer_size: Option<String>,
    #[arg(long, hide = true)]
    log_text_info_buffer_size: Option<String>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    log_json_split_stream: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    #[arg(value_parser = BoolishValueParser::new())]
    log_text_split_stream: Option<bool>,
}

#[derive(Clone, Debug)]
struct Gate {
    name: String,
    on: bool,
}

/// `PATTERN=LEVEL`.
#[derive(Clone, Debug)]
struct FileLevel(VerbosityOfFiles);

#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum PairError {
    #[error("it has to be NAME=true or NAME=false")]
    Gate,
    #[error("it has to be PATTERN=LEVEL")]
    Level,
}

impl Proxy {
    /// The configuration as the flags have it, where there is no file.
    pub fn configuration(&self) -> KubeProxyConfiguration {
        let mut config = KubeProxyConfiguration::default();
        self.fields.set(&mut config);
        self.modes.set(&mut config);
        self.conntrack.set(&mut config);
        config.set_defaults();
        self.fields.set_off(&mut config);
        self.set_over_file(&mut config);
        config
    }

    /// The flags that count beside a file too.
    pub fn set_over_file(&self, config: &mut KubeProxyConfiguration) {
        if let Some(name) = &self.hostname_override {
            config.hostname_override = name.trim().to_lowercase();
        }
        self.logging.set(config);
    }

    /// What was said about flags that will go, or that nothing depends on.
    pub fn warnings(&self) -> Vec<String> {
        let deprecated = |flag: &str, other: &str| {
            format!(
                "Flag --{flag} has been deprecated, This flag is deprecated and will be removed in a future release. \
                 Please use --{other} instead."
            )
        };
        let fields = &self.fields;
        let unheeded = |flag: &str| format!("--{flag} has no effect: machines are told apart by their node's name");
        let said = [
            (fields.healthz_port.is_some(), deprecated("healthz-port", "healthz-bind-address")),
            (fields.metrics_port.is_some(), deprecated("metrics-port", "metrics-bind-address")),
            (fields.boot_id_file.is_some(), unheeded("boot-id-file")),
            (fields.machine_id_file.is_some(), unheeded("machine-id-file")),
        ];
        said.into_iter().filter(|(given, _)| *given).map(|(_, words)| words).collect()
    }
}

/// Sets a field if its flag was given.
fn put<T: Clone>(field: &mut T, flag: Option<&T>) {
    if let Some(value) = flag {
        field.clone_from(value);
    }
}

impl Fields {
    fn set(&self, config: &mut KubeProxyConfiguration) {
        put(&mut config.mode, self.proxy_mode.as_ref());
        put(&mut config.client_connection.kubeconfig, self.kubeconfig.as_ref());
        put(&mut config.client_connection.burst, self.kube_api_burst.as_ref());
        put(&mut config.client_connection.qps, self.kube_api_qps.as_ref());
        put(&mut config.client_connection.content_type, self.kube_api_content_type.as_ref());
        put(&mut config.bind_address, self.bind_address.as_ref());
        put(&mut config.bind_address_hard_fail, self.bind_address_hard_fail.as_ref());
        // The servers' addresses don't follow --bind-address, as they do in a file.
        config.healthz_bind_address =
            server(self.healthz_bind_address.as_deref(), "0.0.0.0", self.healthz_port, 10_256);
        config.metrics_bind_address =
            server(self.metrics_bind_address.as_deref(), "127.0.0.1", self.metrics_port, 10_249);
        put(&mut config.cluster_cidr, self.cluster_cidr.as_ref());
        put(&mut config.detect_local_mode, self.detect_local_mode.as_ref());
        put(&mut config.detect_local.bridge_interface, self.pod_bridge_interface.as_ref());
        put(&mut config.detect_local.interface_name_prefix, self.pod_interface_name_prefix.as_ref());
        config.node_port_addresses.clone_from(&self.nodeport_addresses);
        put(&mut config.iptables.masquerade_all, self.masquerade_all.as_ref());
        put(&mut config.nftables.masquerade_all, self.masquerade_all.as_ref());
        config.oom_score_adj = self.oom_score_adj;
        config.feature_gates = self.feature_gates.iter().map(|gate| (gate.name.clone(), gate.on)).collect();
        put(&mut config.config_sync_period, self.config_sync_period.as_ref());
        put(&mut config.enable_profiling, self.profiling.as_ref());
        put(&mut config.show_hidden_metrics_for_version, self.show_hidden_metrics_for_version.as_ref());
    }

    /// Servers that were asked not to be: an empty address, or (the older way) port 0.
    fn set_off(&self, config: &mut KubeProxyConfiguration) {
        let off = |address: &Option<String>, port: Option<u16>| address.as_deref() == Some("") || port == Some(0);
        if off(&self.healthz_bind_address, self.healthz_port) {
            config.healthz_bind_address.clear();
        }
        if off(&self.metrics_bind_address, self.metrics_port) {
            config.metrics_bind_address.clear();
        }
    }
}

fn server(address: Option<&str>, host: &str, port: Option<u16>, usual: u16) -> String {
    let port = port.filter(|port| *port != 0).unwrap_or(usual);
    with_port(address.filter(|address| !address.is_empty()).unwrap_or(host), port)
}

impl ModeFields {
    fn set(&self, config: &mut KubeProxyConfiguration) {
        config.iptables.masquerade_bit = self.iptables_masquerade_bit;
        config.iptables.localhost_node_ports = self.iptables_localhost_nodeports;
        // There is one period for all modes but ipvs.
        for period in [&mut config.iptables.sync_period, &mut config.nftables.sync_period] {
            put(period, self.iptables_sync_period.as_ref());
        }
        for period in [&mut config.iptables.min_sync_period, &mut config.nftables.min_sync_period] {
            put(period, self.iptables_min_sync_period.as_ref());
        }
        let ipvs = &mut config.ipvs;
        put(&mut ipvs.sync_period, self.ipvs_sync_period.as_ref());
        // By flags it is a second, in a file nothing.
        ipvs.min_sync_period = self.ipvs_min_sync_period.unwrap_or(GoDuration::seconds(1));
        put(&mut ipvs.scheduler, self.ipvs_scheduler.as_ref());
        ipvs.exclude_cidrs.clone_from(&self.ipvs_exclude_cidrs);
        put(&mut ipvs.strict_arp, self.ipvs_strict_arp.as_ref());
        put(&mut ipvs.tcp_timeout, self.ipvs_tcp_timeout.as_ref());
        put(&mut ipvs.tcp_fin_timeout, self.ipvs_tcpfin_timeout.as_ref());
        put(&mut ipvs.udp_timeout, self.ipvs_udp_timeout.as_ref());
    }
}

impl ConntrackFields {
    fn set(&self, config: &mut KubeProxyConfiguration) {
        let conntrack = &mut config.conntrack;
        conntrack.max_per_core = self.conntrack_max_per_core;
        conntrack.min = self.conntrack_min;
        conntrack.tcp_close_wait_timeout = self.conntrack_tcp_timeout_close_wait;
        conntrack.tcp_established_timeout = self.conntrack_tcp_timeout_established;
        put(&mut conntrack.tcp_be_liberal, self.conntrack_tcp_be_liberal.as_ref());
        put(&mut conntrack.udp_timeout, self.conntrack_udp_timeout.as_ref());
        put(&mut conntrack.udp_stream_timeout, self.conntrack_udp_timeout_stream.as_ref());
    }
}

impl LoggingFields {
    fn set(&self, config: &mut KubeProxyConfiguration) {
        let logging = &mut config.logging;
        put(&mut logging.verbosity, self.v.as_ref());
        put(&mut logging.format, self.logging_format.as_ref());
        put(&mut logging.flush_frequency.0, self.log_flush_frequency.as_ref());
        let of_file = std::mem::take(&mut logging.vmodule);
        // The command line's come first, and the first that fits counts.
        logging.vmodule = self.vmodule.iter().map(|level| level.0.clone()).chain(of_file).collect();
        let (text, json) = (&mut logging.options.text, &mut logging.options.json);
        put(&mut text.info_buffer_size, self.log_text_info_buffer_size.as_ref());
        put(&mut json.info_buffer_size, self.log_json_info_buffer_size.as_ref());
        put(&mut text.split_stream, self.log_text_split_stream.as_ref());
        put(&mut json.split_stream, self.log_json_split_stream.as_ref());
    }
}

impl FromStr for Gate {
    type Err = PairError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, on) = text.split_once('=').ok_or(PairError::Gate)?;
        let on = on.trim().to_ascii_lowercase().parse().map_err(|_| PairError::Gate)?;
        Ok(Gate { name: name.trim().to_owned(), on })
    }
}

impl FromStr for FileLevel {
    type Err = PairError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pattern, level) = text.split_once('=').ok_or(PairError::Level)?;
        let verbosity = level.parse().map_err(|_| PairError::Level)?;
        Ok(FileLevel(VerbosityOfFiles { file_pattern: pattern.to_owned(), verbosity }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proxy::config::validate::validate;
    use proxy::config::write::to_yaml;

    use super::*;
    use crate::cli::{Cli, Command};

    /// Every flag of kube-proxy 1.36.3, as its `--help` has them and as it takes them.
    const FLAGS: &str = "--bind-address=10.0.0.1 --bind-address-hard-fail --boot-id-file=/b --cleanup=false \
        --cluster-cidr=10.0.0.0/8,fd00::/64 --config-sync-period=1m --conntrack-max-per-core=1 --conntrack-min=2 \
        --conntrack-tcp-be-liberal --conntrack-tcp-timeout-close-wait=1s --conntrack-tcp-timeout-established 2s \
        --conntrack-udp-timeout=3s --conntrack-udp-timeout-stream=4s --detect-local-mode=ClusterCIDR \
        --feature-gates=A=true,B=false --healthz-bind-address=0.0.0.0:1 --healthz-port=5 --hostname-override=Here \
        --init-only=false --iptables-localhost-nodeports=false --iptables-masquerade-bit=3 \
        --iptables-min-sync-period=2s --iptables-sync-period=3s --ipvs-exclude-cidrs=10.0.0.0/8 \
        --ipvs-min-sync-period=1s --ipvs-scheduler=rr --ipvs-strict-arp=true --ipvs-sync-period=2s \
        --ipvs-tcp-timeout=1s --ipvs-tcpfin-timeout=2s --ipvs-udp-timeout=3s --kube-api-burst=7 \
        --kube-api-content-type=application/json --kube-api-qps=2.5 --kubeconfig=/k --log-flush-frequency=1s \
        --log-json-info-buffer-size=0 --log-json-split-stream=false --log-text-info-buffer-size=0 \
        --log-text-split-stream=false --logging-format=text --machine-id-file=/m --masquerade-all \
        --master=http://x --metrics-bind-address=127.0.0.1 --metrics-port=6 --nodeport-addresses=10.0.0.0/8,fd00::/64 \
        --oom-score-adj=-5 --pod-bridge-interface=br0 --pod-interface-name-prefix=veth --profiling=false \
        --proxy-mode=iptables --show-hidden-metrics-for-version=1.35 -v=4 --vmodule=a=1";

    fn flags(text: &str) -> Proxy {
        let words = ["portolan", "proxy"].into_iter().chain(text.split_whitespace());
        match Cli::try_parse_from(words).map_err(|error| error.to_string()).unwrap().command {
            Command::Proxy(proxy) => *proxy,
            _ => unreachable!("the subcommand was proxy"),
        }
    }

    #[test]
    fn every_flag_of_kube_proxy_is_taken() {
        let given = flags(FLAGS);
        let config = given.configuration();
        assert_eq!(validate(&config), Ok(()));
        assert_eq!(given.warnings().len(), 4);
        let yaml = to_yaml(&config).unwrap();
        for line in [
            "bindAddress: 10.0.0.1",
            "bindAddressHardFail: true",
            "clusterCIDR: 10.0.0.0/8,fd00::/64",
            "  tcpEstablishedTimeout: 2s",
            "  B: false",
            "healthzBindAddress: 0.0.0.0:1",
            "hostnameOverride: here",
            "  localhostNodePorts: false",
            "  masqueradeAll: true",
            "  syncPeriod: 3s",
            "  qps: 2.5",
            "metricsBindAddress: 127.0.0.1:6",
            "- fd00::/64",
            "oomScoreAdj: -5",
            "  interfaceNamePrefix: veth",
            "  verbosity: 4",
            "  - filePattern: a",
        ] {
            assert!(yaml.lines().any(|there| there == line), "{line} is not in {yaml}");
        }
    }

    #[test]
    fn without_flags_it_is_the_default() {
        assert_eq!(flags("").configuration(), KubeProxyConfiguration::with_defaults());
        assert!(flags("").warnings().is_empty());
    }

    #[test]
    fn a_file_is_overruled_in_name_and_logging_only() {
        let mut file = KubeProxyConfiguration::with_defaults();
        flags("--proxy-mode=iptables --hostname-override=X -v 6 --logging-format=json").set_over_file(&mut file);
        assert_eq!((file.mode.as_str(), file.hostname_override.as_str()), ("", "x"));
        assert_eq!((file.logging.verbosity, file.logging.format.as_str()), (6, "json"));
    }

    #[test]
    fn servers_can_be_switched_off() {
        let off = flags("--metrics-bind-address= --healthz-port=0").configuration();
        assert_eq!((off.metrics_bind_address.as_str(), off.healthz_bind_address.as_str()), ("", ""));
        assert_eq!(validate(&off), Ok(()));
    }
}
