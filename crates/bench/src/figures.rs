//! Samples and what is told of them.

use std::time::Duration;

/// Measured values of one kind, in milliseconds (or whatever the row's unit is).
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, value: f64) {
        let at = self.0.partition_point(|known| *known <= value);
        self.0.insert(at, value);
    }

    pub fn push_time(&mut self, time: Duration) {
        self.push(milliseconds(time));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that `part` of a hundred don't exceed.
    pub fn percentile(&self, part: usize) -> Option<f64> {
        let at = (self.0.len() * part).div_ceil(100).saturating_sub(1);
        self.0.get(at).copied()
    }

    pub fn median(&self) -> Option<f64> {
        self.percentile(50)
    }

    pub fn least(&self) -> Option<f64> {
        self.0.first().copied()
    }

    pub fn most(&self) -> Option<f64> {
        self.0.last().copied()
    }
}

pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut samples = Samples::default();
        assert_eq!(samples.median(), None);
        for value in [3.0, 1.0, 2.0, 4.0] {
            samples.push(value);
        }
        assert_eq!((samples.median(), samples.percentile(99)), (Some(2.0), Some(4.0)));
        assert_eq!((samples.least(), samples.most()), (Some(1.0), Some(4.0)));
    }
}
