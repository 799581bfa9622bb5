//! Bootstrap intervals: what a figure would be, had the same source given other samples.
//!
//! Neighbouring requests resemble each other (they wait in one queue, and a host that slows down does so
//! for a while), so whole blocks of neighbours are drawn, the longer, the farther that reaches.
//! Everything follows from a seed.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{CONFIDENCE, Interval, interval_ranks};

/// Fewest requests whose order statistics bound the 99th percentile on both sides at [`CONFIDENCE`].
pub const P99_REQUESTS: u64 = 368;

/// Fewest requests for an interval of a throughput.
pub const THROUGHPUT_REQUESTS: u64 = 10;

/// Draws of samples that one figure takes at most; its replicates are as many as that allows.
const DRAWS: usize = 20_000_000;
const FEWEST_REPLICATES: usize = 200;
const MOST_REPLICATES: usize = 1000;

/// A figure and its replicates.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Of the samples themselves.
    pub value: f64,
    replicates: Vec<f64>,
}

impl Figure {
    /// The 99th percentile of latencies in the order of their arrival; `None` for fewer than
    /// [`P99_REQUESTS`].
    pub fn p99(latencies: &[f64], seed: u64) -> Option<Figure> {
        if (latencies.len() as u64) < P99_REQUESTS {
            return None;
        }
        Some(Figure::new(latencies, seed, |drawn| quantile(drawn, 0.99)))
    }

    /// Requests per second from the gaps between completions, seconds; `None` for fewer than
    /// [`THROUGHPUT_REQUESTS`].
    pub fn throughput(gaps_s: &[f64], seed: u64) -> Option<Figure> {
        if (gaps_s.len() as u64) < THROUGHPUT_REQUESTS {
            return None;
        }
        Some(Figure::new(gaps_s, seed, rate))
    }

    fn new(samples: &[f64], seed: u64, figure: impl Fn(&mut [f64]) -> f64) -> Figure {
        let replicates = (DRAWS / samples.len()).clamp(FEWEST_REPLICATES, MOST_REPLICATES);
        Figure::with_replicates(samples, seed, replicates, figure)
    }

    fn with_replicates(
        samples: &[f64],
        seed: u64,
        replicates: usize,
        figure: impl Fn(&mut [f64]) -> f64,
    ) -> Figure {
        let count = samples.len();
        let block = block_length(samples);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut drawn = Vec::with_capacity(count + block);
        let replicate = |_| {
            drawn.clear();
            while drawn.len() < count {
                // The last block goes on with the first sample.
                let start = random.random_range(0..count);
                let whole = block.min(count - drawn.len());
                let first = whole.min(count - start);
                drawn.extend_from_slice(&samples[start..start + first]);
                drawn.extend_from_slice(&samples[..whole - first]);
            }
            figure(&mut drawn)
        };
        let replicates = (0..replicates).map(replicate).collect();
        let mut all = samples.to_vec();
        let value = figure(&mut all);
        Figure { value, replicates }
    }

    /// Its interval.
    pub fn interval(&self) -> Interval {
        interval(self.replicates.clone())
    }

    /// This figure divided by one from another source, and the interval of that.
    pub fn over(&self, other: &Figure) -> (f64, Interval) {
        let pairs = self.replicates.iter().zip(&other.replicates);
        let ratios = pairs.map(|(one, other)| one / other).collect();
        (self.value / other.value, interval(ratios))
    }
}

/// How many neighbours are drawn together: what Politis and White (2004, corrected 2009) found best for
/// the circular bootstrap of a mean, here of the samples' ranks, which no outlier governs; n^(1/3) at
/// least, which is for samples that are hardly related.
fn block_length(samples: &[f64]) -> usize {
    let n = samples.len() as f64;
    let ranks = centred_ranks(samples);
    let covariance = |lag: usize| -> f64 {
        let pairs = ranks.iter().zip(&ranks[lag..]);
        pairs.map(|(one, other)| one * other).sum::<f64>() / n
    };
    let variance = covariance(0);
    let least = n.cbrt().ceil();
    if variance == 0.0 {
        return least as usize;
    }
    // The last lag before several in a row at which no relation is seen.
    let in_a_row = (n.log10().ceil() as usize).max(5);
    let most_lags = (n.sqrt().ceil() as usize + in_a_row).min(samples.len() - 1);
    let noise = 2.0 * (n.log10() / n).sqrt() * variance;
    let mut covariances = vec![variance];
    let mut unrelated = 0;
    while unrelated < in_a_row && covariances.len() <= most_lags {
        let next = covariance(covariances.len());
        unrelated = if next.abs() < noise { unrelated + 1 } else { 0 };
        covariances.push(next);
    }
    let related = covariances.len() - 1 - unrelated;
    let reach = (2 * related).clamp(1, most_lags);
    let (mut spectrum, mut slope) = (variance, 0.0);
    for lag in 1..=reach {
        let weight = (2.0 * (1.0 - lag as f64 / reach as f64)).min(1.0);
        let known = covariances.get(lag).copied();
        let both_sides = 2.0 * weight * known.unwrap_or_else(|| covariance(lag));
        spectrum += both_sides;
        slope += both_sides * lag as f64;
    }
    let best = (1.5 * n).cbrt() * (slope / spectrum).abs().powf(2.0 / 3.0);
    let most = (3.0 * n.sqrt()).min(n / 3.0).ceil();
    best.ceil().min(most).max(least) as usize
}

/// The rank of each sample, less the mean of all; equal samples share theirs.
fn centred_ranks(samples: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by(|&one, &other| samples[one].total_cmp(&samples[other]));
    let mean = (samples.len() as f64 - 1.0) / 2.0;
    let mut ranks = vec![0.0; samples.len()];
    let mut before = 0;
    for equal in order.chunk_by(|&one, &other| samples[one] == samples[other]) {
        let shared = before as f64 + (equal.len() as f64 - 1.0) / 2.0 - mean;
        equal.iter().for_each(|&index| ranks[index] = shared);
        before += equal.len();
    }
    ranks
}

fn rate(gaps_s: &mut [f64]) -> f64 {
    gaps_s.len() as f64 / gaps_s.iter().sum::<f64>()
}

/// The sample of rank ⌈p n⌉.
fn quantile(samples: &mut [f64], p: f64) -> f64 {
    let rank = ((p * samples.len() as f64).ceil() as usize).max(1);
    *samples.select_nth_unstable_by(rank - 1, f64::total_cmp).1
}

fn interval(mut replicates: Vec<f64>) -> Interval {
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Interval {
        low: Some(quantile(&mut replicates, tail)),
        high: Some(quantile(&mut replicates, 1.0 - tail)),
    }
}

/// Whether so many requests bound the 99th percentile on both sides.
pub fn bounds_p99(requests: u64) -> bool {
    let (low, high) = interval_ranks(requests, 0.99, CONFIDENCE);
    low.is_some() && high.is_some()
}

#[cfg(test)]
mod tests {
    use super::super::tests::uniform;
    use super::*;

    #[test]
    fn the_number_of_requests_is_that_of_the_order_statistics() {
        assert!(bounds_p99(P99_REQUESTS) && !bounds_p99(P99_REQUESTS - 1));
        let few = vec![1.0; P99_REQUESTS as usize - 1];
        assert_eq!(Figure::p99(&few, 1), None);
        assert_eq!(Figure::throughput(&few[..9], 1), None);
    }

    #[test]
    fn the_figure_is_the_samples_own() {
        let mut samples: Vec<f64> = (1..=1000).map(f64::from).collect();
        samples.reverse();
        let figure = Figure::p99(&samples, 1).unwrap();
        assert_eq!(figure.value, 990.0);
        assert_eq!(figure, Figure::p99(&samples, 1).unwrap());
        assert_ne!(figure, Figure::p99(&samples, 2).unwrap());
        // Of equal samples every replicate is the same.
        let flat = Figure::p99(&[7.0; 400], 3).unwrap();
        let exactly = |value| Interval {
            low: Some(value),
            high: Some(value),
        };
        assert_eq!(flat.interval(), exactly(7.0));
        let rate = Figure::throughput(&[0.25; 400], 4).unwrap();
        assert_eq!((rate.value, rate.interval()), (4.0, exactly(4.0)));
        assert_eq!(flat.over(&rate), (1.75, exactly(1.75)));
    }

    /// Exponential samples of mean 1, of which each is the one before again with probability `again`: the
    /// correlation of two is `again` to the power of their distance.
    fn related(again: f64, seed: u64) -> impl Iterator<Item = f64> {
        let mut random = uniform(seed);
        let mut last = None;
        std::iter::repeat_with(move || {
            let again = random.next().unwrap() < again;
            let fresh = -(1.0 - random.next().unwrap()).ln();
            let sample = last.filter(|_| again).unwrap_or(fresh);
            last = Some(sample);
            sample
        })
    }

    #[test]
    fn blocks_are_as_long_as_relations_reach() {
        let length = |again, seed| {
            let samples: Vec<f64> = related(again, seed).take(8000).collect();
            block_length(&samples)
        };
        for seed in 0..20 {
            assert_eq!(length(0.0, seed), 20, "n^(1/3) where there are none");
            // By theory (1.5 n)^(1/3) (2 r / (1 - r²))^(2/3) for r = 0.8: 62.
            let got = length(0.8, 100 + seed);
            assert!((40..=90).contains(&got), "{got}");
        }
        assert_eq!(block_length(&[3.0; 1000]), 10);
        // A trend is related all through; blocks stay short enough to differ.
        let trend: Vec<f64> = (0..900).map(f64::from).collect();
        assert!((45..=90).contains(&block_length(&trend)));
        let few = [2.0, 1.0, 5.0, 3.0, 3.0, 3.0, 8.0, 1.0, 1.0, 2.0];
        assert!((3..=4).contains(&block_length(&few)));
        assert_eq!(centred_ranks(&[5.0, 1.0, 5.0]), [0.5, -1.0, 0.5]);
    }

    #[test]
    fn intervals_of_slow_times_that_last_cover_the_truth_too() {
        let covers = |&trial: &u64| {
            let samples: Vec<f64> = related(0.9, 9000 + trial).take(2000).collect();
            let figure = |seed| {
                Figure::with_replicates(&samples, seed, FEWEST_REPLICATES, |drawn| {
                    quantile(drawn, 0.9)
                })
            };
            let Interval { low, high } = figure(trial).interval();
            let truth = 10f64.ln();
            low.unwrap() <= truth && truth <= high.unwrap()
        };
        // With blocks of n^(1/3) neighbours 81 do.
        let covered = (0..100).filter(covers).count();
        assert!((88..=99).contains(&covered), "covered in {covered}");
    }

    /// In how many of 100 trials the interval covers the truth.
    fn covered(truth: f64, interval: impl Fn(&[f64], u64) -> Interval) -> usize {
        let covers = |trial: &u64| {
            let exponential = uniform(7000 + trial).map(|u| -(1.0 - u).ln());
            let samples: Vec<f64> = exponential.take(1000).collect();
            let interval = interval(&samples, *trial);
            interval.low.unwrap() <= truth && truth <= interval.high.unwrap()
        };
        (0..100).filter(covers).count()
    }

    #[test]
    fn intervals_cover_the_truth_about_as_often_as_they_say() {
        let figure = |samples: &[f64], seed, of: fn(&mut [f64]) -> f64| {
            Figure::with_replicates(samples, seed, FEWEST_REPLICATES, of)
        };
        // 95 are expected; the bootstrap of a far quantile is a little narrow.
        let p99 = covered(100f64.ln(), |samples, seed| {
            figure(samples, seed, |drawn| quantile(drawn, 0.99)).interval()
        });
        assert!((88..=99).contains(&p99), "P99 covered in {p99}");
        let throughput = covered(1.0, |samples, seed| figure(samples, seed, rate).interval());
        assert!(
            (88..=99).contains(&throughput),
            "throughput covered in {throughput}"
        );
        let ratio = covered(1.0, |samples, seed| {
            let (one, other) = samples.split_at(500);
            let one = figure(one, seed, rate);
            one.over(&figure(other, seed + 1000, rate)).1
        });
        assert!((88..=99).contains(&ratio), "ratio covered in {ratio}");
    }
}
