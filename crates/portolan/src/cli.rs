//! The command line: names, flags and their help. Not responsible for doing any of it.

mod dns;
mod proxy;

use std::path::PathBuf;

use ::proxy::config::settings::Mode;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use images::Reference;
use images::registry::Mirror;
use ipnet::IpNet;

pub use self::dns::Dns;
pub use self::proxy::{Instrument, Output, Proxy};
use crate::help;
use crate::modes::MODES;
use crate::system::default_data_dir;

/// The Kubernetes Service, whole: an API, controllers, nodes, proxy and DNS on one Linux machine.
#[derive(Parser)]
#[command(name = "portolan", version, max_term_width = 100, after_long_help = help::PORTOLAN)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Start a system, apply manifests, show where its Services are, and follow them until Ctrl-C.
    #[command(after_long_help = help::UP)]
    Up(Up),
    /// Stop a system that runs, or clear away what a crash left of one. Objects stay in the data directory.
    #[command(after_long_help = help::DOWN)]
    Down(Down),
    /// Show what runs: nodes, Services, the kubeconfig.
    #[command(after_long_help = help::STATUS)]
    Status(System),
    /// Run a program of this machine inside a pod's or a node's network.
    #[command(after_long_help = help::RUN)]
    Run(Run),
    /// Make the Services of any cluster work on this node: takes kube-proxy's place, with its flags and its file.
    #[command(after_long_help = help::PROXY)]
    Proxy(Box<Proxy>),
    /// CoreDNS's configuration.
    #[command(subcommand, after_long_help = help::DNS)]
    Dns(Dns),
    /// Container images on this machine.
    #[command(subcommand, after_long_help = help::IMAGE)]
    Image(Image),
    /// Print what makes a shell complete commands and flags.
    #[command(after_long_help = help::COMPLETION)]
    Completion {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write a page for each command.
    #[command(after_long_help = help::MAN)]
    Man {
        /// Write all pages into this directory instead of printing the first.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Which system a command means.
#[derive(Args, Clone)]
pub struct System {
    /// Where the system keeps everything; names the system for every command. By default `portolan` in your state
    /// folder (`$XDG_STATE_HOME`, or `~/.local/state`), also under sudo; `/var/lib/portolan` for a login as root.
    #[arg(long, value_name = "DIR", env = "PORTOLAN_DATA_DIR", hide_env_values = true)]
    #[arg(default_value_os_t = default_data_dir(), hide_default_value = true)]
    pub data_dir: PathBuf,
}

#[derive(Args, Clone)]
pub struct Down {
    #[command(flatten)]
    pub system: System,
    /// Remove the data directory too: objects, images, certificates, logs.
    #[arg(long)]
    pub purge: bool,
}

#[derive(Args, Clone)]
pub struct Up {
    #[command(flatten)]
    pub system: System,
    /// Manifests to apply: files, directories of .yaml, .yml and .json files, or `-` for standard input.
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Follow the files: what is saved is applied.
    #[arg(long, requires = "files")]
    pub watch: bool,
    /// Delete what an earlier `up -f` applied from these files and directories and is in them no more.
    #[arg(long, requires = "files")]
    pub prune: bool,
    /// How many nodes.
    #[arg(long, default_value_t = 1)]
    pub nodes: u32,
    /// How the nodes' proxies make Services work.
    #[arg(long, value_parser = modes(), default_value = Mode::Nftables.name())]
    pub proxy_mode: Mode,
    /// Give nodes, pods and Services IPv6 addresses as well. Each of the CIDRs can have an IPv6 one after a comma.
    #[arg(long)]
    pub dual_stack: bool,
    /// Pod addresses; every node gets a /24 of it (of IPv6 a /64).
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',', default_value = "10.244.0.0/16")]
    pub pod_cidr: Vec<IpNet>,
    /// Service addresses.
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',', default_value = "10.96.0.0/16")]
    pub service_cidr: Vec<IpNet>,
    /// The network that joins this machine and the nodes.
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',', default_value = "172.30.0.0/24")]
    pub fabric_cidr: Vec<IpNet>,
    /// How pods reach what is outside: relayed from this machine's own network with nothing changed on it, translated
    /// by this machine's kernel (own nftables table, forwarding), or not at all. [default: relay, where this machine's
    /// kernel can]
    #[arg(long, value_enum)]
    pub egress: Option<Egress>,
    /// The port of 127.0.0.1 that the API is served on.
    #[arg(long, value_name = "PORT", default_value_t = 6443, value_parser = clap::value_parser!(u16).range(1..))]
    pub api_port: u16,
    /// Let this machine resolve the cluster's names: asks systemd-resolved to send them here, while the system runs.
    #[arg(long)]
    pub host_dns: bool,
    /// How long everything may take before `up` says what is missing, and goes on without it.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub timeout: u64,
    #[command(flatten)]
    pub registries: Registries,
    /// Return when everything answers, and go on in the background; `down` stops it.
    #[arg(long)]
    pub detach: bool,
    /// Where a detached system says that it is ready.
    #[arg(long, hide = true)]
    pub detached: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Egress {
    Relay,
    Nat,
    None,
}

#[derive(Args)]
pub struct Run {
    #[command(flatten)]
    pub system: System,
    /// The pod whose network the program gets.
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "node")]
    pub pod: Option<String>,
    /// The node whose network the program gets; the first one when neither is given.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// The program and its arguments.
    #[arg(required = true, last = true, value_name = "CMD")]
    pub command: Vec<std::ffi::OsString>,
}

/// Where images are pulled from. Credentials are those of Docker's configuration ($DOCKER_CONFIG, ~/.docker/config.json)
/// and, for a pod, of its imagePullSecrets.
#[derive(Args, Clone, Default)]
pub struct Registries {
    /// Ask URL for images of HOST before HOST itself; may be repeated. `*` is every host. HOST=http://HOST reaches a
    /// registry without TLS, which otherwise is done on loopback only.
    #[arg(long = "registry-mirror", value_name = "HOST=URL", env = "PORTOLAN_REGISTRY_MIRRORS", value_delimiter = ',')]
    pub mirrors: Vec<Mirror>,
}

#[derive(Subcommand)]
pub enum Image {
    /// Load images from archives or directories (OCI layout or `docker save`; plain, gzip or zstd).
    #[command(
        after_help = "Archives put into DATA_DIR/images/import are loaded by `up`, when it starts and while it runs."
    )]
    Load {
        #[command(flatten)]
        system: System,
        /// Files or directories; `-` is standard input.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The image's name, instead of those the archive gives it.
        #[arg(long)]
        name: Option<Reference>,
    },
    /// Pull an image from its registry.
    Pull {
        #[command(flatten)]
        system: System,
        #[command(flatten)]
        registries: Registries,
        #[arg(required = true, value_name = "IMAGE")]
        references: Vec<String>,
    },
    /// List the images.
    Ls {
        #[command(flatten)]
        system: System,
        /// How to print them.
        #[arg(short, long, value_enum, default_value_t = ListFormat::Table)]
        output: ListFormat,
    },
    /// Remove images, by name or id. One that a container is made from stays, unless forced.
    Rm {
        #[command(flatten)]
        system: System,
        /// Also when it is used; its containers run on, and can't be made again.
        #[arg(long)]
        force: bool,
        #[arg(required = true, value_name = "IMAGE")]
        references: Vec<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    Table,
    Json,
}

/// The proxy's modes that this program has.
fn modes() -> impl TypedValueParser<Value = Mode> {
    let values = MODES.iter().map(|entry| PossibleValue::new(entry.mode.name()).help(entry.about));
    PossibleValuesParser::new(values).map(|name| {
        let entry = MODES.iter().find(|entry| entry.mode.name() == name);
        entry.map_or(Mode::Nftables, |entry| entry.mode)
    })
}
