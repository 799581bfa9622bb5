//! The latencies of a phase as an HDR histogram interval log, which other tools read.

use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2Serializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::phase::Measurement;

/// Length of an interval of a log.
const LOG_EVERY_MS: f64 = 1000.0;

/// The latencies of a phase in microseconds as an HDR histogram interval log, a tag a task, an interval a
/// second of arrivals.
pub(crate) fn interval_log(measured: &[Measurement]) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let mut serializer = V2Serializer::new();
    let mut builder = IntervalLogWriterBuilder::new();
    let mut writer = builder
        .with_base_time(SystemTime::UNIX_EPOCH)
        .with_max_value_divisor(1000.0)
        .begin_log_with(&mut bytes, &mut serializer)?;
    writer.write_comment("latencies in microseconds, times since the start of the phase")?;
    for one in measured {
        let tag = Tag::new(&one.task.name);
        let second = |sample: &[f64; 3]| (sample[0] / LOG_EVERY_MS) as u64;
        for interval in one.samples.chunk_by(|a, b| second(a) == second(b)) {
            let mut histogram = Histogram::<u64>::new(3)?;
            for [_, _, latency] in interval {
                histogram.record((latency.max(0.0) * 1e3).round() as u64)?;
            }
            let start = Duration::from_secs(second(&interval[0]));
            writer
                .write_histogram(&histogram, start, Duration::from_secs(1), tag)
                .map_err(|error| anyhow::anyhow!("no HDR log: {error:?}"))?;
        }
    }
    Ok(String::from_utf8(bytes)?)
}
