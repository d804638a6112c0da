//! What becomes of a probe: what a row of the table says, what was seen, and whether the two agree. Not responsible for
//! finding out: somebody sends, and the oracle is asked only by the table's own test.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use service_model::{Deny, Outcome};

use super::Case;
use super::probe::Pod;
use crate::battery::World;

/// With more than one endpoint, how often is asked at least, so that one too many shows; and at most, until each has
/// answered. Of three endpoints one is missed by 300 tries once in 10^52.
const FEW_TRIES: usize = 10;
const MANY_TRIES: usize = 300;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Connections arrive at these pods: at each of them, or, if the client sticks, at the same one of them every time.
    Reaches { pods: Vec<Pod>, sees: Sees, sticks: bool },
    /// The sender hears "port unreachable" or gets a reset.
    Rejected,
    /// The sender hears nothing.
    Silent,
    /// No Service takes it: it goes where it says. A node's own address without a listener refuses.
    Untouched,
}

/// Whose address an endpoint sees. A pod that reaches itself always sees the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    TheClient,
    TheNode,
}

/// What was seen of one try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Answered {
        by: SocketAddr,
        /// Whom the answering side saw.
        client: IpAddr,
    },
    Refused,
    Nothing,
    Failed(std::io::ErrorKind),
}

impl Expected {
    pub fn sees_the_client(pods: impl AsRef<[Pod]>) -> Expected {
        Expected::Reaches { pods: pods.as_ref().to_vec(), sees: Sees::TheClient, sticks: false }
    }

    pub fn sees_the_node(pods: impl AsRef<[Pod]>) -> Expected {
        Expected::Reaches { pods: pods.as_ref().to_vec(), sees: Sees::TheNode, sticks: false }
    }

    /// One client meets one endpoint, whichever of the Service's addresses it uses.
    pub fn sticking(self) -> Expected {
        match self {
            Expected::Reaches { pods, sees, .. } => Expected::Reaches { pods, sees, sticks: true },
            other => other,
        }
    }

    /// The same, but that endpoints see the node.
    pub fn by_the_node(&self) -> Expected {
        match self.clone() {
            Expected::Reaches { pods, sticks, .. } => Expected::Reaches { pods, sees: Sees::TheNode, sticks },
            other => other,
        }
    }

    /// The same, but that it's these.
    pub fn reaching(&self, these: impl AsRef<[Pod]>) -> Expected {
        match self.clone() {
            Expected::Reaches { sees, sticks, .. } => Expected::Reaches { pods: these.as_ref().to_vec(), sees, sticks },
            other => other,
        }
    }

    pub fn sticks(&self) -> bool {
        matches!(self, Expected::Reaches { sticks: true, .. })
    }

    /// Whether more tries would say more.
    pub fn is_settled(&self, case: &Case, seen: &[Seen]) -> bool {
        let Expected::Reaches { pods, sticks, .. } = self else { return !seen.is_empty() };
        if seen.last().is_some_and(|last| self.accepts(case, last).is_err()) || seen.len() >= MANY_TRIES {
            return true;
        }
        let met: BTreeSet<&SocketAddr> = answers(seen).collect();
        let everybody = *sticks || met.len() >= pods.len();
        everybody && seen.len() >= if pods.len() == 1 { 2 } else { FEW_TRIES }
    }

    /// Holds everything that was seen of a case against what it ought to be.
    pub fn judge(&self, case: &Case, seen: &[Seen]) -> Result<(), String> {
        if seen.is_empty() {
            return Err("nothing was sent".to_owned());
        }
        seen.iter().try_for_each(|one| self.accepts(case, one))?;
        let Expected::Reaches { pods, sticks, .. } = self else { return Ok(()) };
        let met: BTreeSet<&SocketAddr> = answers(seen).collect();
        match (*sticks, met.len()) {
            (true, 1) => Ok(()),
            (true, _) => Err(format!("the client does not stick: {met:?}")),
            (false, number) if number == pods.len() => Ok(()),
            (false, _) => Err(format!("in {} tries only {met:?} of {pods:?}", seen.len())),
        }
    }

    fn accepts(&self, case: &Case, seen: &Seen) -> Result<(), String> {
        let probe = &case.probe;
        let world = World::new(probe.family);
        let agrees = match (self, seen) {
            (Expected::Reaches { pods, sees, .. }, Seen::Answered { by, client }) => {
                let port = world.endpoint_ports[0];
                let one_of_them = pods.iter().any(|pod| SocketAddr::new(pod.address(&world), port) == *by);
                let by_the_node = *sees == Sees::TheNode || by.ip() == probe.from;
                one_of_them && if by_the_node { world.is_the_nodes(*client) } else { *client == probe.from }
            }
            (Expected::Rejected, Seen::Refused) | (Expected::Silent, Seen::Nothing) => true,
            (Expected::Untouched, Seen::Refused) => probe.target.is_the_nodes(),
            (Expected::Untouched, Seen::Answered { by, client }) => *by == probe.to && *client == probe.from,
            _ => false,
        };
        if agrees { Ok(()) } else { Err(format!("{self:?} is expected, but {seen:?} happened")) }
    }

    /// Whether the oracle says the same.
    pub fn is_outcome(&self, case: &Case, outcome: &Outcome) -> bool {
        let world = World::new(case.probe.family);
        match (self, outcome) {
            (Expected::Reaches { pods, sees, .. }, Outcome::Forwarded { endpoints, masquerade }) => {
                let port = world.endpoint_ports[0];
                let expected: BTreeSet<_> = pods.iter().map(|pod| SocketAddr::new(pod.address(&world), port)).collect();
                let found: BTreeSet<_> = endpoints.iter().map(|endpoint| endpoint.socket()).collect();
                // Which of the two a lone hairpin is said to be makes no difference.
                let only_itself = found.iter().all(|endpoint| endpoint.ip() == case.probe.from);
                expected == found && (only_itself || *masquerade == (*sees == Sees::TheNode))
            }
            (Expected::Rejected, Outcome::Denied(Deny::Rejected)) => true,
            (Expected::Silent, Outcome::Denied(Deny::Dropped)) => true,
            (Expected::Untouched, Outcome::Untouched) => true,
            _ => false,
        }
    }
}

/// Who answered.
pub fn answers(seen: &[Seen]) -> impl Iterator<Item = &SocketAddr> {
    seen.iter().filter_map(|seen| match seen {
        Seen::Answered { by, .. } => Some(by),
        _ => None,
    })
}
