//! Changes of a stage's Services and endpoints, at random by a seed, and the way back to what the table says. Not
//! responsible for the proxy that has to follow.

use std::time::{Duration, Instant};

use anyhow::Result;
use kube::Client;
use proxy::battery::table::Stage;
use serde_json::{Value, json};

use super::cluster::{add, patch, remove};
use crate::dice::Dice;

/// Between two changes: some twenty a second.
const PAUSE: Duration = Duration::from_millis(50);

pub struct Changes<'a> {
    client: &'a Client,
    objects: Vec<Value>,
    dice: Dice,
    /// By object, whether it isn't as the table says.
    changed: Vec<bool>,
}

impl<'a> Changes<'a> {
    pub fn new(client: &'a Client, stage: &Stage, seed: u64) -> Changes<'a> {
        let movable = |object: &Value| object["kind"] == "Service" || object["kind"] == "EndpointSlice";
        let objects: Vec<Value> = stage.objects().into_iter().filter(movable).collect();
        let changed = vec![false; objects.len()];
        Changes { client, objects, dice: Dice::new(seed), changed }
    }

    /// Changes one thing after the other and says how many it were.
    pub async fn make_for(&mut self, time: Duration) -> Result<usize> {
        let begun = Instant::now();
        let mut made = 0;
        let mut ticks = tokio::time::interval(PAUSE);
        while begun.elapsed() < time {
            ticks.tick().await;
            let index = self.dice.below(self.objects.len());
            self.change(index).await?;
            made += 1;
        }
        Ok(made)
    }

    async fn change(&mut self, index: usize) -> Result<()> {
        let object = &self.objects[index];
        match self.dice.below(4) {
            0 => remove(self.client, object).await?,
            1 => {
                remove(self.client, object).await?;
                add(self.client, object).await?;
            }
            _ if object["kind"] == "Service" => {
                let sticky = *self.dice.pick(&["None", "ClientIP"]);
                patch(self.client, object, &json!({"spec": {"sessionAffinity": sticky}})).await?;
            }
            _ => {
                let mut endpoints = object["endpoints"].as_array().cloned().unwrap_or_default();
                endpoints.retain(|_| self.dice.chance(50));
                for endpoint in &mut endpoints {
                    endpoint["conditions"]["ready"] = self.dice.chance(70).into();
                }
                patch(self.client, object, &json!({ "endpoints": endpoints })).await?;
            }
        }
        self.changed[index] = true;
        Ok(())
    }

    /// Makes everything that has been changed anew.
    pub async fn put_right(&mut self) -> Result<()> {
        for (object, changed) in self.objects.iter().zip(&mut self.changed) {
            if std::mem::take(changed) {
                remove(self.client, object).await?;
                add(self.client, object).await?;
            }
        }
        Ok(())
    }
}
