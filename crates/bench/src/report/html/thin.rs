//! Fewer points than samples, without losing what matters: the tail of a distribution is kept
//! exactly, and the largest latency of every stretch of time.

/// Points of a distribution below its 99th percentile.
const BODY: usize = 200;
/// Most points above it; with more samples than a hundred times this, the largest are kept.
const TAIL: usize = 2000;

/// `(share of the samples that are at most this, value)` of ascending samples.
pub(super) fn distribution(sorted: &[f64]) -> Vec<(f64, f64)> {
    let n = sorted.len();
    let tail = (n - n * 99 / 100).clamp(n.min(50), TAIL.max(50)).min(n);
    let body = n - tail;
    let mut ranks: Vec<usize> = if body <= BODY {
        (0..body).collect()
    } else {
        // Even on the axis of the drawing, which is that of -log(1 - share).
        let all = (n as f64 / (n - body) as f64).ln();
        let rank = |i: usize| {
            let left = (-all * i as f64 / BODY as f64).exp();
            (((1.0 - left) * n as f64) as usize).min(body - 1)
        };
        (0..BODY).map(rank).collect()
    };
    ranks.extend(body..n);
    ranks.dedup();
    let share = |rank: usize| (rank as f64 + 0.5) / n as f64;
    ranks
        .into_iter()
        .map(|rank| (share(rank), sorted[rank]))
        .collect()
}

/// At most about `most` of these `(time, value)` points, ascending in time: of every stretch of time
/// the smallest and the largest, and the ten largest of all.
pub(super) fn over_time(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let stretch = points.len().div_ceil(most / 2);
    let mut kept = Vec::with_capacity(most + 10);
    for part in points.chunks(stretch) {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        kept.extend(part.iter().min_by(by_value));
        kept.extend(part.iter().max_by(by_value));
    }
    let mut largest = points.to_vec();
    largest.sort_by(|a, b| b.1.total_cmp(&a.1));
    kept.extend(largest.into_iter().take(10));
    kept.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    kept.dedup();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_exact_and_the_body_thin() {
        let sorted: Vec<f64> = (0..100_000).map(f64::from).collect();
        let points = distribution(&sorted);
        assert!(points.len() <= 1200, "{}", points.len());
        let tail: Vec<f64> = points
            .iter()
            .map(|point| point.1)
            .filter(|v| *v >= 99_000.0)
            .collect();
        assert_eq!(tail, sorted[99_000..]);
        assert_eq!(points[0].1, 0.0);
        assert!(points.windows(2).all(|pair| pair[0] < pair[1]));
        for small in [0, 1, 2, 49, 51, 250] {
            let points = distribution(&sorted[..small]);
            assert!(
                points.len() == small || small > 200,
                "{small}: {}",
                points.len()
            );
        }
    }

    #[test]
    fn the_slowest_requests_stay() {
        let points: Vec<(f64, f64)> = (0..100_000)
            .map(|i| {
                (
                    f64::from(i),
                    if i % 9973 == 5 {
                        900.0 + f64::from(i % 7)
                    } else {
                        1.0
                    },
                )
            })
            .collect();
        let kept = over_time(&points, 1500);
        assert!(kept.len() <= 1520, "{}", kept.len());
        let slow = |points: &[(f64, f64)]| points.iter().filter(|point| point.1 > 100.0).count();
        assert!(slow(&kept) >= 10);
        assert_eq!(over_time(&points[..10], 1500).len(), 10);
    }
}
