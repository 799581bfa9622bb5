//! What tasks ask for: when requests arrive, and how long commands take.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, LogNormal};
use serde::{Deserialize, Deserializer};
use xsched_sched::Nanos;

/// A span of time as text with a unit, in scenario files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Nanos);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let expected = "a time with its unit, such as \"5ms\"";
        xsched_hint::from_text(deserializer, expected, |text| {
            Time::try_from(text.to_owned())
        })
    }
}

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Time, String> {
        let micros = xsched_hint::micros_with_unit(&text).ok_or(format!(
            "\"{text}\" is not a time: use a number with a unit, for instance \"250us\", \"5ms\", \"1.5s\""
        ))?;
        Ok(Time(micros * 1_000))
    }
}

/// When requests arrive.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Arrival {
    /// One every so often.
    Periodic(Time),
    /// At random, one every so often on average.
    Poisson(Time),
    /// The next one so long after the last one is done.
    Closed(Time),
    /// Bursts of `count` at once, every `every`.
    Bursty {
        /// How many at once.
        count: u32,
        /// From burst to burst.
        every: Time,
    },
    /// As recorded: a CSV file with a line `arrival_us,commands,command_us` a request, beside the scenario file.
    Trace(String),
}

/// How long commands take.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Length {
    /// Always as long.
    Fixed(Time),
    /// Anything between two times.
    Uniform(Time, Time),
    /// Exponential, with this mean.
    Exponential(Time),
    /// Log-normal.
    Lognormal {
        /// Half of them are shorter.
        median: Time,
        /// Standard deviation of the logarithm.
        sigma: f64,
    },
}

/// Draws one task's times, the same from the same seed.
pub(crate) struct Draw {
    rng: ChaCha8Rng,
    lognormal: Option<LogNormal<f64>>,
}

impl Draw {
    pub(crate) fn new(seed: u64, task: u64, length: Length) -> Draw {
        use rand::SeedableRng;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(task);
        let lognormal = match length {
            Length::Lognormal { median, sigma } => {
                LogNormal::new((median.0 as f64).ln(), sigma).ok()
            }
            _ => None,
        };
        Draw { rng, lognormal }
    }

    /// A command's length, 1 ns at least.
    pub(crate) fn command(&mut self, length: Length) -> Nanos {
        let drawn = match length {
            Length::Fixed(time) => return time.0.max(1),
            Length::Uniform(least, most) => self.rng.random_range(least.0..=most.0),
            Length::Exponential(mean) => self.exponential(mean.0),
            Length::Lognormal { median, .. } => {
                let drawn = self
                    .lognormal
                    .map(|lognormal| lognormal.sample(&mut self.rng));
                drawn.unwrap_or(median.0 as f64) as Nanos
            }
        };
        drawn.max(1)
    }

    pub(crate) fn exponential(&mut self, mean: Nanos) -> Nanos {
        let drawn: f64 = Exp1.sample(&mut self.rng);
        (drawn * mean as f64) as Nanos
    }
}
