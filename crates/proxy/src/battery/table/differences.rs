//! Where a mode intentionally does something else than the table says, each with its reason. One that does not differ any
//! more is a mistake as well. Not responsible for what all modes do: that is the table's.

use service_model::Protocol;

use super::probe::Target;
use super::{Case, Expected};

/// What is run against the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    Nftables,
    Iptables,
    /// kube-proxy itself, in its two modes that need no further kernel module.
    OriginalNftables,
    OriginalIptables,
}

#[derive(Clone, Debug)]
pub struct Difference {
    pub modes: &'static [Mode],
    pub cases: fn(&Case) -> bool,
    pub expected: Expected,
    /// Reads after "though".
    pub reason: &'static str,
}

impl Difference {
    pub fn concerns(&self, mode: Mode, case: &Case) -> bool {
        self.modes.contains(&mode) && (self.cases)(case)
    }
}

pub fn differences() -> Vec<Difference> {
    vec![]
}
