//! What should be in force beside what is, for people (`Display`) and machines (JSON). Not responsible for reading either.

use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;
use service_model::{ServiceName, Verdict};

use crate::backend::Seen;
use crate::mode::Difference;

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dump {
    pub mode: &'static str,
    pub families: Vec<FamilyDump>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyDump {
    pub family: &'static str,
    /// How many steps the rules are from what they should be, of all Services together.
    pub steps_missing: usize,
    /// As the mode's own tool would be fed.
    pub plan: String,
    pub ports: Vec<PortDump>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortDump {
    pub service: String,
    pub port: String,
    pub protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    pub frontends: Vec<FrontendDump>,
}

/// What is met at a frontend: by strangers, and (`_here`) by this node and its pods.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendDump {
    pub frontend: String,
    pub desired: String,
    pub desired_here: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_here: Option<String>,
}

impl Dump {
    /// Of one Service, if it is named.
    pub fn new(mode: &'static str, looks: &[Difference], service: Option<&ServiceName>) -> Dump {
        Dump { mode, families: looks.iter().map(|look| FamilyDump::new(look, service)).collect() }
    }
}

impl FamilyDump {
    fn new(look: &Difference, service: Option<&ServiceName>) -> FamilyDump {
        let wanted = look.table.ports.iter().filter(|(name, _)| service.is_none_or(|service| name.service == *service));
        let ports = wanted.map(|(name, port)| {
            let refused = look.refused.iter().find(|refusal| refusal.port == *name);
            let frontends = port.frontends.iter().map(|frontend| {
                let seen = look.seen.get(&frontend.key(port.protocol));
                FrontendDump {
                    frontend: frontend.to_string(),
                    desired: verdict(port.verdict(frontend)),
                    desired_here: verdict(port.local_verdict(frontend)),
                    observed: seen.and_then(|[anybody, _]| sight(anybody)),
                    observed_here: seen.and_then(|[_, here]| sight(here)),
                }
            });
            PortDump {
                service: name.service.to_string(),
                port: name.port.to_string(),
                protocol: name.protocol.to_string(),
                affinity_seconds: port.affinity.map(|affinity| affinity.timeout_seconds),
                refused: refused.map(|refusal| refusal.reason.to_string()),
                frontends: frontends.collect(),
            }
        });
        let family = look.family.address_type();
        FamilyDump { family, steps_missing: look.steps, plan: look.plan.clone(), ports: ports.collect() }
    }
}

impl FrontendDump {
    fn differs(&self) -> bool {
        let other = |desired: &String, observed: &Option<String>| observed.as_ref().is_some_and(|seen| seen != desired);
        other(&self.desired, &self.observed) || other(&self.desired_here, &self.observed_here)
    }
}

/// The same words for what should be and what is, so that they can be compared.
fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Forward(endpoints) => forward(endpoints.iter().map(|endpoint| endpoint.socket()).collect()),
        Verdict::Reject => "reject".to_owned(),
        Verdict::Drop => "drop".to_owned(),
    }
}

fn sight(seen: &Seen) -> Option<String> {
    Some(match seen {
        Seen::Untold => return None,
        Seen::Nothing => "nothing".to_owned(),
        Seen::Forwards(endpoints) => forward(endpoints.iter().copied().collect()),
        Seen::Rejects => "reject".to_owned(),
        Seen::Drops => "drop".to_owned(),
    })
}

fn forward(mut endpoints: Vec<SocketAddr>) -> String {
    endpoints.sort();
    endpoints.dedup();
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    format!("forward to {}", endpoints.join(", "))
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for family in &self.families {
            let state = match family.steps_missing {
                0 => "everything is in force".to_owned(),
                steps => format!("{steps} steps are missing (--dry-run prints them)"),
            };
            writeln!(f, "{} {}: {state}", self.mode, family.family)?;
            family.ports.iter().try_for_each(|port| port.fmt(f))?;
        }
        Ok(())
    }
}

impl fmt::Display for PortDump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.port.is_empty() { String::new() } else { format!(":{}", self.port) };
        write!(f, "  {}{name} {}", self.service, self.protocol)?;
        if let Some(seconds) = self.affinity_seconds {
            write!(f, ", clients stay for {seconds} s")?;
        }
        writeln!(f, "{}", self.refused.iter().map(|reason| format!(", refused: {reason}")).collect::<String>())?;
        for frontend in &self.frontends {
            let differs = if frontend.differs() { "  !" } else { "   " };
            let line = |f: &mut fmt::Formatter<'_>, who: &str, desired: &str, observed: &Option<String>| {
                let seen = observed.as_deref().filter(|seen| *seen != desired);
                let seen = seen.map(|seen| format!(" (in force: {seen})")).unwrap_or_default();
                writeln!(f, "{differs} {}{who}: {desired}{seen}", frontend.frontend)
            };
            line(f, "", &frontend.desired, &frontend.observed)?;
            if frontend.desired_here != frontend.desired || frontend.observed_here != frontend.observed {
                line(f, ", from here", &frontend.desired_here, &frontend.observed_here)?;
            }
        }
        Ok(())
    }
}
