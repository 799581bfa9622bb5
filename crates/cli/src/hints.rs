//! Hints as flags, the same for `xsched run` and `xsched hint`.

use xsched_sched::{Hint, HintError, HintKind};

/// What the policy is to know. A policy heeds only its own hints: see `xsched policy --list`.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Hints")]
pub(crate) struct HintFlags {
    /// How urgent: realtime, high, normal, low, idle, or -255 to 255 (hpf, hhpf, lax)
    ///
    /// A larger number is more urgent (MPS and HAMi count the other way); -256 means: do not run.
    #[arg(long, value_name = "N|CLASS", allow_negative_numbers = true, value_parser = read::<0>)]
    priority: Option<Hint>,
    /// Share of the device, 0 to 100 percent (up, pup, spup)
    #[arg(long, value_name = "PERCENT", value_parser = read::<1>)]
    utilization: Option<Hint>,
    /// Length of a turn, 100us to 10s (up, pup, spup, cfs)
    #[arg(long, value_name = "TIME", value_parser = read::<2>)]
    timeslice: Option<Hint>,
    /// Time to get done in once there is work, 1us to 1h (kedf)
    #[arg(long, value_name = "TIME", value_parser = read::<3>)]
    deadline: Option<Hint>,
    /// How many of the earliest deadlines execute at once, 1 to 1024 (kedf)
    #[arg(long, value_name = "K", value_parser = read::<4>)]
    kdeadline: Option<Hint>,
    /// Time for which it can be put off, and its priority until then and from then on (lax)
    #[arg(long, value_name = "TIME[:LAX[:CRITICAL]]", value_parser = read::<5>)]
    laxity: Option<Hint>,
    /// Relative claim to the device, 1 to 10000, default 100 (cfs)
    #[arg(long, value_name = "N", value_parser = read::<6>)]
    weight: Option<Hint>,
    /// Time that 99 of 100 bursts of work should keep, 100us to 60s (slo)
    #[arg(long, value_name = "TIME", value_parser = read::<7>)]
    latency_target: Option<Hint>,
}

/// A value of the kind at this place of [`HintKind::ALL`].
fn read<const KIND: usize>(text: &str) -> Result<Hint, HintError> {
    HintKind::ALL[KIND].parse(text)
}

impl HintFlags {
    /// The names of the flags.
    pub(crate) const NAMES: [&str; 8] = [
        "priority",
        "utilization",
        "timeslice",
        "deadline",
        "kdeadline",
        "laxity",
        "weight",
        "latency_target",
    ];

    /// Those that are given.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Hint> {
        [
            self.priority,
            self.utilization,
            self.timeslice,
            self.deadline,
            self.kdeadline,
            self.laxity,
            self.weight,
            self.latency_target,
        ]
        .into_iter()
        .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: HintFlags,
    }

    #[test]
    fn every_kind_has_its_flag() {
        let values = ["-5", "30", "5ms", "33ms", "2", "10ms:-5:200", "300", "50ms"];
        let mut line = vec!["xsched".to_owned()];
        for (kind, value) in HintKind::ALL.into_iter().zip(values) {
            line.push(format!("--{}={value}", kind.name().replace('_', "-")));
        }
        let flags = Line::try_parse_from(line)
            .map_err(|error| error.to_string())
            .unwrap()
            .flags;
        let expect = HintKind::ALL
            .into_iter()
            .zip(values)
            .map(|(kind, value)| kind.parse(value).unwrap());
        assert!(flags.iter().eq(expect));
        assert_eq!(HintKind::ALL.map(HintKind::name), HintFlags::NAMES);
    }
}
