//! The test server's command line, with agnhost's names.

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(name = "testserver", about = "A server to try Services with.")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Answer over HTTP and UDP: who serves, who asks, what was said.
    Netexec(Netexec),
    /// Answer every HTTP request with the host's name.
    ServeHostname {
        #[arg(long, default_value_t = 9376)]
        port: u16,
    },
    /// Wait for the end.
    Pause,
    /// Connect once; exit 0, or say REFUSED, TIMEOUT, DNS or OTHER and exit 1.
    Connect(Connect),
    /// Print the environment.
    Env,
    /// Exit 0.
    True,
    /// Exit 1.
    False,
}

#[derive(Args)]
pub struct Netexec {
    #[arg(long, default_value_t = 8080)]
    pub http_port: u16,
    #[arg(long, default_value_t = 8081)]
    pub udp_port: u16,
}

#[derive(Args)]
pub struct Connect {
    /// `host:port`.
    pub target: String,
    /// Seconds, or with a unit: `500ms`, `3s`.
    #[arg(long, default_value = "5s")]
    pub timeout: String,
    #[arg(long, value_enum, default_value_t = Protocol::Tcp)]
    pub protocol: Protocol,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    Tcp,
    Udp,
}
