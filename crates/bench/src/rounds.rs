//! Rounds: a phase and its counterpart measured in turn, several times, and how far the rounds of
//! one phase lie apart.
//!
//! Their samples count together; the spread says whether the machine changed meanwhile.

use serde::{Deserialize, Serialize};

use crate::results::{HighResult, LowResult};

/// One round of a phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundResult {
    /// Requests of the high-priority task.
    pub high_requests: u64,
    /// Its median latency.
    pub high_p50_ms: f64,
    /// Its 99th percentile.
    pub high_p99_ms: f64,
    /// Iterations per second of the low-priority task.
    pub low_throughput_ips: f64,
}

/// Smallest and largest of several figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Range {
    pub min: f64,
    pub max: f64,
}

/// How far the rounds of a phase lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Median latency of the high-priority task.
    pub high_p50_ms: Range,
    /// Its 99th percentile.
    pub high_p99_ms: Range,
    /// Iterations per second of the low-priority task.
    pub low_throughput_ips: Range,
}

/// How far the comparisons of each scheduled round with the baseline round before it lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RatioSpread {
    /// High-priority P99 ÷ the baseline's.
    pub high_p99_ratio: Range,
    /// Low-priority throughput ÷ the baseline's.
    pub low_throughput_ratio: Range,
}

impl RoundResult {
    /// From results of one round.
    pub fn new(high: &HighResult, low: &LowResult) -> RoundResult {
        RoundResult {
            high_requests: high.requests,
            high_p50_ms: high.latency_p50_ms,
            high_p99_ms: high.latency_p99_ms,
            low_throughput_ips: low.throughput_ips,
        }
    }
}

impl Range {
    /// `None` when there is but one figure.
    fn of(figures: impl Iterator<Item = f64> + Clone) -> Option<Range> {
        figures.clone().nth(1)?;
        Some(Range {
            min: figures.clone().fold(f64::INFINITY, f64::min),
            max: figures.fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

impl Spread {
    /// `None` when there is but one round.
    pub fn of(rounds: &[RoundResult]) -> Option<Spread> {
        Some(Spread {
            high_p50_ms: Range::of(rounds.iter().map(|round| round.high_p50_ms))?,
            high_p99_ms: Range::of(rounds.iter().map(|round| round.high_p99_ms))?,
            low_throughput_ips: Range::of(rounds.iter().map(|round| round.low_throughput_ips))?,
        })
    }
}

impl RatioSpread {
    /// `None` when there is but one round.
    pub fn of(baseline: &[RoundResult], scheduled: &[RoundResult]) -> Option<RatioSpread> {
        let pairs = || scheduled.iter().zip(baseline);
        Some(RatioSpread {
            high_p99_ratio: Range::of(
                pairs().map(|(after, before)| after.high_p99_ms / before.high_p99_ms),
            )?,
            low_throughput_ratio: Range::of(
                pairs().map(|(after, before)| after.low_throughput_ips / before.low_throughput_ips),
            )?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(figures: &[(f64, f64)]) -> Vec<RoundResult> {
        let round = |&(high_p99_ms, low_throughput_ips): &(f64, f64)| RoundResult {
            high_requests: 100,
            high_p50_ms: high_p99_ms / 2.0,
            high_p99_ms,
            low_throughput_ips,
        };
        figures.iter().map(round).collect()
    }

    #[test]
    fn the_spread_is_from_the_smallest_to_the_largest() {
        let baseline = rounds(&[(3.0, 20.0), (2.0, 25.0), (4.0, 10.0)]);
        let spread = Spread::of(&baseline).unwrap();
        assert_eq!(spread.high_p99_ms, Range { min: 2.0, max: 4.0 });
        assert_eq!(spread.high_p50_ms, Range { min: 1.0, max: 2.0 });
        assert_eq!(
            spread.low_throughput_ips,
            Range {
                min: 10.0,
                max: 25.0
            }
        );

        let scheduled = rounds(&[(1.5, 10.0), (1.5, 20.0), (1.0, 10.0)]);
        let ratios = RatioSpread::of(&baseline, &scheduled).unwrap();
        assert_eq!(
            ratios.high_p99_ratio,
            Range {
                min: 0.25,
                max: 0.75
            }
        );
        assert_eq!(ratios.low_throughput_ratio, Range { min: 0.5, max: 1.0 });
    }

    #[test]
    fn one_round_has_no_spread() {
        let one = rounds(&[(3.0, 20.0)]);
        assert_eq!(Spread::of(&one), None);
        assert_eq!(RatioSpread::of(&one, &one), None);
    }
}
