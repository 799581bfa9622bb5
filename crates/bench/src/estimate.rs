//! Figures with their uncertainty: throughput from windows of time, and the ratio of two figures.
//!
//! Everything here needs nothing but what stands in a run's record or its samples, so that a run
//! can be judged again, and two runs compared, long after they were made.

use serde::Serialize;

use crate::stats::Interval;

/// Windows that a phase is divided into for the interval of its throughput.
const WINDOWS: usize = 20;
/// Completions that a window has at least, on average: with fewer, counting is all that one sees.
const PER_WINDOW: usize = 5;
/// Windows that an interval needs, over all rounds.
const MIN_WINDOWS: usize = 6;

/// A figure and where the true one lies, at [`crate::stats::CONFIDENCE`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// What was measured.
    pub value: f64,
    /// `None` when the samples say nothing about it.
    pub interval: Option<Interval>,
}

impl Estimate {
    /// A figure whose uncertainty is unknown.
    pub fn bare(value: f64) -> Estimate {
        let interval = None;
        Estimate { value, interval }
    }

    /// Both ends of the interval, where it has both.
    pub fn bounds(&self) -> Option<(f64, f64)> {
        let interval = self.interval?;
        Some((interval.low?, interval.high?))
    }

    /// This figure ÷ another that was measured independently. The ends follow from those of both
    /// figures (the method of variance estimates recovery, on the logarithms): an end that one of
    /// them lacks is lacking here.
    pub fn ratio_to(&self, before: &Estimate) -> Estimate {
        let value = self.value / before.value;
        let far = |end: Option<f64>, centre: f64| {
            let distance = (end? / centre).ln();
            distance.is_finite().then_some(distance)
        };
        let end = |mine: Option<f64>, other: Option<f64>, sign: f64| {
            let (mine, other) = (far(mine, self.value)?, far(other, before.value)?);
            Some(value * (sign * mine.hypot(other)).exp())
        };
        let interval = self.interval.zip(before.interval);
        Estimate {
            value,
            interval: interval.map(|(mine, other)| Interval {
                low: end(mine.low, other.high, -1.0),
                high: end(mine.high, other.low, 1.0),
            }),
        }
    }
}

/// The completions of one task in one round.
#[derive(Debug, Clone, PartialEq)]
pub struct Completions {
    /// When each was, seconds after the start, in any order.
    pub at_s: Vec<f64>,
    /// Length of the round, seconds.
    pub elapsed_s: f64,
}

/// Completions per second over all rounds. The interval is that of the means of windows of equal
/// length, which takes neighbouring requests for related and distant windows for independent.
pub fn throughput(rounds: &[Completions]) -> Estimate {
    let count: usize = rounds.iter().map(|round| round.at_s.len()).sum();
    let elapsed: f64 = rounds.iter().map(|round| round.elapsed_s).sum();
    let rates: Vec<f64> = rounds.iter().flat_map(rates_of_windows).collect();
    let value = if elapsed > 0.0 {
        count as f64 / elapsed
    } else {
        0.0
    };
    if rates.len() < MIN_WINDOWS {
        return Estimate::bare(value);
    }
    let n = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / n;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let half = student(n - 1.0) * (variance / n).sqrt();
    Estimate {
        value,
        interval: Some(Interval {
            low: Some((value - half).max(0.0)),
            high: Some(value + half),
        }),
    }
}

fn rates_of_windows(round: &Completions) -> Vec<f64> {
    let windows = WINDOWS.min(round.at_s.len() / PER_WINDOW);
    let mut counts = vec![0u32; windows];
    if round.elapsed_s > 0.0 && windows > 0 {
        let length = round.elapsed_s / windows as f64;
        for at in &round.at_s {
            // The last completion may be at the very end.
            counts[((at / length) as usize).min(windows - 1)] += 1;
        }
        return counts.iter().map(|&n| f64::from(n) / length).collect();
    }
    Vec::new()
}

/// Two-sided 95 % quantile of Student's distribution (Cornish-Fisher expansion around the normal
/// one; within 1 % from 5 degrees of freedom on).
fn student(freedom: f64) -> f64 {
    let z: f64 = 1.959_964;
    z + (z.powi(3) + z) / (4.0 * freedom)
        + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * freedom * freedom)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn quantiles_agree_with_the_table() {
        for (freedom, expected) in [(5.0, 2.571), (9.0, 2.262), (19.0, 2.093), (99.0, 1.984)] {
            let got = student(freedom);
            assert!((got / expected - 1.0).abs() < 0.01, "{freedom}: {got}");
        }
    }

    #[test]
    fn a_steady_rate_has_a_narrow_interval_and_few_completions_none() {
        let steady = |count: usize| Completions {
            at_s: (0..count).map(|i| i as f64 * 0.1).collect(),
            elapsed_s: count as f64 * 0.1,
        };
        let rate = throughput(&[steady(600), steady(600)]);
        assert!((rate.value - 10.0).abs() < 1e-9);
        let (low, high) = rate.bounds().unwrap();
        assert!(9.9 < low && high < 10.1 && (low..=high).contains(&10.0));
        assert_eq!(throughput(&[steady(20)]).interval, None);
        assert_eq!(throughput(&[]), Estimate::bare(0.0));
    }

    /// Poisson arrivals of a known rate: the interval holds the rate as often as it says.
    #[test]
    fn the_interval_of_a_throughput_covers_the_truth() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(11);
        let trials = 1000;
        let covered = (0..trials)
            .filter(|_| {
                let mut at_s = Vec::new();
                let mut now = 0.0;
                loop {
                    now -= (1.0 - random.random::<f64>()).ln() / 20.0;
                    if now > 30.0 {
                        break;
                    }
                    at_s.push(now);
                }
                let elapsed_s = 30.0;
                let rate = throughput(&[Completions { at_s, elapsed_s }]);
                let (low, high) = rate.bounds().unwrap();
                (low..=high).contains(&20.0)
            })
            .count();
        assert!((930..=975).contains(&covered), "covered in {covered}");
    }

    #[test]
    fn a_ratio_is_as_uncertain_as_both_figures() {
        let figure = |value, low, high| Estimate {
            value,
            interval: Some(Interval { low, high }),
        };
        let sure = figure(2.0, Some(2.0), Some(2.0));
        let wide = figure(4.0, Some(3.0), Some(6.0));
        let ratio = wide.ratio_to(&sure);
        assert_eq!(ratio.value, 2.0);
        let (low, high) = ratio.bounds().unwrap();
        assert!((low - 1.5).abs() < 1e-9 && (high - 3.0).abs() < 1e-9);
        let inverse = sure.ratio_to(&wide).bounds().unwrap();
        assert!((inverse.0 - 1.0 / 3.0).abs() < 1e-9 && (inverse.1 - 2.0 / 3.0).abs() < 1e-9);
        // What is open on one side stays open.
        let open = figure(4.0, Some(3.0), None).ratio_to(&wide).interval;
        assert!(open.is_some_and(|open| open.low.is_some() && open.high.is_none()));
        assert_eq!(Estimate::bare(1.0).ratio_to(&wide).interval, None);
    }
}
