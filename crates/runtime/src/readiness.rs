//! Named gates that hold back readiness until each is dropped. Not responsible for serving the answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// Ready when no gate is left. Clones share the gates.
#[derive(Clone, Debug)]
pub struct Readiness {
    pending: Arc<watch::Sender<BTreeMap<String, usize>>>,
}

/// Holds readiness back until dropped.
#[derive(Debug)]
pub struct Gate {
    name: String,
    pending: Arc<watch::Sender<BTreeMap<String, usize>>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { pending: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }
}

impl Readiness {
    pub fn gate(&self, name: impl Into<String>) -> Gate {
        let name = name.into();
        self.pending.send_modify(|pending| *pending.entry(name.clone()).or_insert(0) += 1);
        Gate { name, pending: self.pending.clone() }
    }

    /// What is still being waited for.
    pub fn pending(&self) -> Vec<String> {
        self.pending.borrow().keys().cloned().collect()
    }

    pub fn is_ready(&self) -> bool {
        self.pending.borrow().is_empty()
    }

    /// Returns once no gate is left.
    pub async fn wait(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.pending.subscribe().wait_for(BTreeMap::is_empty).await;
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.pending.send_modify(|pending| {
            if let Some(count) = pending.get_mut(&self.name) {
                *count -= 1;
                if *count == 0 {
                    pending.remove(&self.name);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_only_when_every_gate_is_dropped() {
        let readiness = Readiness::default();
        let (pods, nodes) = (readiness.gate("pods"), readiness.gate("nodes"));
        assert_eq!(readiness.pending(), ["nodes", "pods"]);
        drop(pods);
        assert!(!readiness.is_ready());
        drop(nodes);
        readiness.wait().await;
        assert!(readiness.is_ready());
    }
}
