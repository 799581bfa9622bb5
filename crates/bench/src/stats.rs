//! Statistics of latencies: percentiles (hdrhistogram) and how far a percentile can be trusted.

mod bootstrap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

pub use bootstrap::{Figure, P99_REQUESTS, THROUGHPUT_REQUESTS, bounds_p99};

/// Confidence of every interval that is printed.
pub const CONFIDENCE: f64 = 0.95;

/// Significant digits that the histogram keeps.
const DIGITS: u8 = 4;

/// Percentiles of a set of times, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Percentiles {
    pub p50_us: f64,
    pub p95_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

impl Percentiles {
    /// `None` when there are no samples.
    pub fn of(samples_us: &[f64]) -> Option<Percentiles> {
        // The summary's unit is that of its samples.
        let summary = summarize(samples_us)?;
        Some(Percentiles {
            p50_us: summary.p50,
            p95_us: summary.p95,
            p99_us: summary.p99,
            max_us: summary.max,
        })
    }
}

/// The centre of a set of differences, robust against outliers: the Hodges-Lehmann estimate with
/// the interval of Wilcoxon's signed ranks at [`CONFIDENCE`]. It assumes independent differences whose
/// distribution is symmetric, and nothing else about it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Centre {
    pub estimate: f64,
    pub low: f64,
    pub high: f64,
    pub half_width: f64,
}

/// Differences that [`Centre::of`] needs: fewer have no interval at [`CONFIDENCE`].
pub const MIN_DIFFERENCES: usize = 6;

impl Centre {
    /// `None` for fewer than [`MIN_DIFFERENCES`].
    pub fn of(differences: &[f64]) -> Option<Centre> {
        let count = differences.len();
        let outside = signed_ranks_outside(count, CONFIDENCE)?;
        // Walsh averages: of each pair, and of each difference with itself.
        let mut averages: Vec<f64> = (0..count)
            .flat_map(|i| (i..count).map(move |j| (i, j)))
            .map(|(i, j)| (differences[i] + differences[j]) / 2.0)
            .collect();
        averages.sort_by(f64::total_cmp);
        let last = averages.len() - 1;
        let (low, high) = (averages[outside], averages[last - outside]);
        Some(Centre {
            estimate: (averages[last / 2] + averages[last.div_ceil(2)]) / 2.0,
            low,
            high,
            half_width: (high - low) / 2.0,
        })
    }
}

/// How many of the ordered Walsh averages of `count` differences lie outside the interval at each
/// end: the largest `k` with 2 P(W < k) ≤ 1 - confidence, W the sum of the positive ranks when each sign
/// is as likely as the other.
fn signed_ranks_outside(count: usize, confidence: f64) -> Option<usize> {
    // Probability of each sum.
    let most = count * (count + 1) / 2;
    let mut probability = vec![0.0; most + 1];
    probability[0] = 1.0;
    for rank in 1..=count {
        for sum in (0..=most).rev() {
            let with = if sum >= rank {
                probability[sum - rank]
            } else {
                0.0
            };
            probability[sum] = (probability[sum] + with) / 2.0;
        }
    }
    let mut below = 0.0;
    let mut outside = None;
    for (k, p) in probability.iter().enumerate() {
        below += p; // P(W < k + 1)
        if 2.0 * below > 1.0 - confidence {
            break;
        }
        outside = Some(k);
    }
    outside
}

/// The middle one, or the mean of both; `None` of nothing.
pub fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let last = figures.len().checked_sub(1)?;
    Some((figures[last / 2] + figures[last.div_ceil(2)]) / 2.0)
}

/// Where a percentile of the whole population lies, at [`CONFIDENCE`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end, milliseconds; `None` when the samples bound it by nothing but zero.
    pub low: Option<f64>,
    /// Upper end, milliseconds; `None` when it may lie beyond the largest sample.
    pub high: Option<f64>,
}

/// Latencies of one task in one phase, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Number of samples.
    pub count: u64,
    /// Mean.
    pub avg: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Largest sample.
    pub max: f64,
    /// Interval of the 99th percentile.
    pub p99_interval: Interval,
}

/// Summarizes latencies in milliseconds; `None` when there are none.
pub fn summarize(latencies_ms: &[f64]) -> Option<Summary> {
    if latencies_ms.is_empty() {
        return None;
    }
    let mut sorted = latencies_ms.to_vec();
    sorted.sort_by(f64::total_cmp);
    let max = sorted[sorted.len() - 1];

    // Counted in microseconds.
    let mut histogram = Histogram::<u64>::new(DIGITS).expect("1 to 5 digits are valid");
    for &latency in &sorted {
        histogram
            .record((latency.max(0.0) * 1000.0).round() as u64)
            .expect("it grows with its values");
    }
    // A bucket's upper edge may lie above the largest value in it.
    let percentile = |p: f64| (histogram.value_at_quantile(p) as f64 / 1000.0).min(max);

    Some(Summary {
        count: sorted.len() as u64,
        avg: sorted.iter().sum::<f64>() / sorted.len() as f64,
        p50: percentile(0.50),
        p95: percentile(0.95),
        p99: percentile(0.99),
        p999: percentile(0.999),
        max,
        p99_interval: percentile_interval(&sorted, 0.99, CONFIDENCE),
    })
}

/// Interval of the `p` quantile of the population that ascending samples were drawn from, by order
/// statistics: it assumes independent samples, and nothing about their distribution.
pub fn percentile_interval(sorted: &[f64], p: f64, confidence: f64) -> Interval {
    let (low, high) = interval_ranks(sorted.len() as u64, p, confidence);
    let sample = |rank: Option<u64>| rank.map(|rank| sorted[rank as usize - 1]);
    Interval {
        low: sample(low),
        high: sample(high),
    }
}

/// Ranks (from 1) of the order statistics that enclose the `p` quantile with at least `confidence`,
/// equal tails.
///
/// The number of samples below the quantile is binomial(n, p), so the samples of rank `l` and `u`
/// enclose it with probability P(l ≤ B < u).
fn interval_ranks(n: u64, p: f64, confidence: f64) -> (Option<u64>, Option<u64>) {
    let tail = (1.0 - confidence) / 2.0;
    let log_odds = p.ln() - (1.0 - p).ln();
    let mut log_mass = n as f64 * (1.0 - p).ln(); // of B = k
    let mut below = 0.0; // P(B < k)
    let (mut low, mut high) = (None, None);
    for k in 0..=n {
        // Here P(B ≤ k - 1) = below.
        if k >= 1 && below <= tail {
            low = Some(k);
        }
        if k >= 1 && high.is_none() && below >= 1.0 - tail {
            high = Some(k);
        }
        below += log_mass.exp();
        if k < n {
            log_mass += ((n - k) as f64).ln() - ((k + 1) as f64).ln() + log_odds;
        }
    }
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator (SplitMix64), so that the tests are the same on every run.
    pub(super) fn uniform(seed: u64) -> impl Iterator<Item = f64> {
        let mut state = seed;
        std::iter::repeat_with(move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        })
    }

    #[test]
    fn percentiles_of_a_known_set() {
        let mut samples: Vec<f64> = (1..=1000).map(f64::from).collect();
        samples.reverse();
        let summary = summarize(&samples).unwrap();
        assert_eq!(summary.count, 1000);
        assert_eq!(summary.avg, 500.5);
        assert_eq!(summary.max, 1000.0);
        for (got, expected) in [
            (summary.p50, 500.0),
            (summary.p95, 950.0),
            (summary.p99, 990.0),
            (summary.p999, 999.0),
        ] {
            assert!(
                (got - expected).abs() / expected < 1e-4,
                "{got} instead of {expected}"
            );
        }
    }

    #[test]
    fn percentiles_of_an_exponential_distribution() {
        let samples: Vec<f64> = uniform(7)
            .take(200_000)
            .map(|u| -20.0 * (1.0 - u).ln())
            .collect();
        let summary = summarize(&samples).unwrap();
        for (got, q) in [(summary.p50, 0.5), (summary.p95, 0.95), (summary.p99, 0.99)] {
            let expected = -20.0 * (1.0_f64 - q).ln();
            assert!(
                (got - expected).abs() / expected < 0.02,
                "{got} instead of {expected}"
            );
        }
    }

    #[test]
    fn no_percentile_exceeds_the_maximum() {
        let summary = summarize(&[123_456.789]).unwrap();
        assert_eq!(summary.max, 123_456.789);
        assert!(summary.p50 <= summary.max && summary.p999 <= summary.max);
        assert!((summary.p50 - summary.max).abs() / summary.max < 1e-3);
        assert!(summarize(&[]).is_none());
    }

    #[test]
    fn signed_ranks_agree_with_the_tables() {
        // Critical values of the two-sided signed-rank test at 5 %: the sum that is still rejected.
        for (count, critical) in [(6, 0), (8, 3), (10, 8), (15, 25), (20, 52), (25, 89)] {
            assert_eq!(signed_ranks_outside(count, 0.95), Some(critical), "{count}");
        }
        assert_eq!(signed_ranks_outside(5, 0.95), None);
    }

    #[test]
    fn the_centre_holds_against_outliers_and_covers_the_truth() {
        let flat = Centre::of(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 900.0]).unwrap();
        assert_eq!((flat.estimate, flat.low), (1.0, 1.0));
        assert!(Centre::of(&[1.0; 5]).is_none());
        let trials = 1000;
        let covered = (0..trials)
            .filter(|&trial| {
                let differences: Vec<f64> = uniform(trial).take(15).collect();
                let centre = Centre::of(&differences).unwrap();
                centre.low <= 0.5 && 0.5 <= centre.high
            })
            .count();
        assert!((930..=980).contains(&covered), "covered in {covered}");
    }

    #[test]
    fn ranks_agree_with_the_binomial_tables() {
        // B(100, 0.99): P(B ≤ 96) = 0.0184, P(B ≤ 97) = 0.0794, P(B ≤ 99) = 0.634: no upper.
        assert_eq!(interval_ranks(100, 0.99, 0.95), (Some(97), None));
        // B(20, 0.5): P(B ≤ 5) = 0.0207, P(B ≤ 6) = 0.0577, P(B ≤ 14) = 0.9793.
        assert_eq!(interval_ranks(20, 0.5, 0.95), (Some(6), Some(15)));
        // The upper end exists from 1 - 0.99^n ≥ 0.975 on.
        assert_eq!(interval_ranks(367, 0.99, 0.95).1, None);
        assert_eq!(interval_ranks(368, 0.99, 0.95).1, Some(368));
        assert_eq!(interval_ranks(0, 0.99, 0.95), (None, None));
        assert_eq!(interval_ranks(3, 0.5, 0.95), (None, None));
    }

    #[test]
    fn the_interval_covers_the_true_percentile_as_often_as_it_says() {
        let truth = 0.99;
        let trials = 2000;
        let covered = (0..trials)
            .filter(|&trial| {
                let mut samples: Vec<f64> = uniform(1000 + trial).take(600).collect();
                samples.sort_by(f64::total_cmp);
                let interval = percentile_interval(&samples, 0.99, 0.95);
                interval.low.is_none_or(|low| low <= truth)
                    && interval.high.is_none_or(|high| truth <= high)
            })
            .count();
        let share = covered as f64 / trials as f64;
        assert!(
            (0.94..=1.0).contains(&share),
            "covered in {share} of the trials"
        );
    }
}
