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

    /// By the normal distribution, so it means something from about thirty values on.
    pub fn interval(&self) -> Option<Interval> {
        let count = self.0.len() as f64;
        if count < 2.0 {
            return None;
        }
        let mean = self.0.iter().sum::<f64>() / count;
        let variance = self.0.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let half = 1.96 * (variance / count).sqrt();
        Some(Interval { low: mean - half, mean, high: mean + half })
    }

    pub fn least(&self) -> Option<f64> {
        self.0.first().copied()
    }

    pub fn most(&self) -> Option<f64> {
        self.0.last().copied()
    }
}

/// A mean with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub mean: f64,
    pub high: f64,
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Samples {
        let mut samples = Samples::default();
        values.into_iter().for_each(|value| samples.push(value));
        samples
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

    #[test]
    fn an_interval_is_as_wide_as_the_values_are_apart() {
        let Interval { low, mean, high } = [1.0, 2.0, 3.0].into_iter().collect::<Samples>().interval().unwrap();
        assert_eq!(mean, 2.0);
        // 1.96 · 1 / √3
        assert!((high - 3.1316).abs() < 1e-3 && (low - 0.8684).abs() < 1e-3);
        assert_eq!([1.0].into_iter().collect::<Samples>().interval(), None);
    }
}
