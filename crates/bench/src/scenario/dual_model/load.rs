//! What a dual-model run is asked for: its options, the defaults of each device, the two tasks.

use crate::UsageError;
use crate::scenario::options::CommonOptions;
use crate::task::{Arrival, TaskSpec};
use crate::worker::{self, Device};

/// Most processes of the low-priority task.
const MOST_COPIES: u32 = 64;
/// Most rounds.
pub(super) const MOST_ROUNDS: u32 = 99;

/// How the defaults of a run follow from its device.
pub(super) struct Profile {
    pub(super) device: Device,
    /// Without `--rate`.
    pub(super) rate: DefaultRate,
    /// Without `--low-batch`.
    low_batch: u32,
}

/// Requests per second of the high-priority task, unless they are asked for.
pub(super) enum DefaultRate {
    /// So many.
    Hz(f64),
    /// This share of the measured standalone peak.
    ShareOfPeak(f64),
}

/// The batch of the document's low-priority task.
pub(super) const DOCUMENT_LOW_BATCH: u32 = 8;

/// The devices that this build supports.
const PROFILES: &[Profile] = &[
    Profile {
        device: Device::Cpu,
        rate: DefaultRate::ShareOfPeak(0.2),
        low_batch: 1,
    },
    Profile {
        device: Device::OpenCl,
        rate: DefaultRate::ShareOfPeak(0.2),
        low_batch: 1,
    },
    Profile {
        device: Device::Cuda,
        rate: DefaultRate::Hz(10.0),
        low_batch: DOCUMENT_LOW_BATCH,
    },
];

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    pub(super) common: CommonOptions,
    /// Requests per second of the high-priority task [default: 10; on cpu and opencl 20% of its
    /// measured peak].
    #[arg(long, value_name = "HZ")]
    pub(super) rate: Option<f64>,
    /// Images per request of the low-priority task [default: 8; on cpu and opencl 1].
    #[arg(long, value_name = "N")]
    pub(super) low_batch: Option<u32>,
    /// Model of the high-priority task; with --device cuda any of torchvision, or plain kernels as
    /// spin:MICROSECONDS or kernels:COUNTxMICROSECONDS.
    #[arg(long, value_name = "MODEL", default_value = "resnet18")]
    high_model: String,
    /// Model of the low-priority task, likewise.
    #[arg(long, value_name = "MODEL", default_value = "resnet50")]
    low_model: String,
    /// Processes of the low-priority task; their throughput is added up.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) low_copies: u32,
    /// The high-priority task replays its model as a CUDA graph.
    #[arg(long)]
    pub(super) cuda_graph: bool,
    /// Measure each task alone, the baseline and the scheduled phase in turn, N times; samples count together.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) rounds: u32,
}

impl Options {
    /// Refuses what makes no sense; gives the defaults of the device.
    pub(super) fn check(&self) -> Result<&'static Profile, UsageError> {
        let known: Vec<&str> = PROFILES.iter().map(|known| known.device.name()).collect();
        let profile = &PROFILES[self.common.check(&known)?];
        let refuse = |message: String| Err(UsageError(message));
        if let Some(rate) = self.rate
            && !(rate > 0.0 && rate <= 1e6)
        {
            return refuse(format!(
                "--rate {rate}: give requests per second above 0, at most 1000000"
            ));
        }
        for (option, model) in [
            ("--high-model", &self.high_model),
            ("--low-model", &self.low_model),
        ] {
            if let Err(reason) = profile.device.check_model(model) {
                return refuse(format!("{option} {model}: {reason}"));
            }
        }
        if self.low_batch == Some(0) {
            return refuse("--low-batch 0: give at least one image per request".to_owned());
        }
        if let Some(batch) = self.low_batch
            && !self.low_has_batch()
        {
            return refuse(format!(
                "--low-batch {batch}: {} has no batch, leave it out",
                self.low_model
            ));
        }
        if !(1..=MOST_COPIES).contains(&self.low_copies) {
            return refuse(format!(
                "--low-copies {}: give 1 to {MOST_COPIES}",
                self.low_copies
            ));
        }
        if !(1..=MOST_ROUNDS).contains(&self.rounds) {
            return refuse(format!("--rounds {}: give 1 to {MOST_ROUNDS}", self.rounds));
        }
        if self.cuda_graph && profile.device != Device::Cuda {
            return refuse("--cuda-graph: use it with --device cuda".to_owned());
        }
        Ok(profile)
    }

    /// Images per request of the low-priority task.
    pub(super) fn low_batch(&self, profile: &Profile) -> u32 {
        match self.low_batch {
            Some(batch) => batch,
            None if self.low_has_batch() => profile.low_batch,
            None => 1,
        }
    }

    /// Plain kernels have none.
    pub(super) fn low_has_batch(&self) -> bool {
        !worker::is_kernels(&self.low_model)
    }

    pub(super) fn high_task(&self, arrival: Arrival) -> TaskSpec {
        let graph = self.cuda_graph.then(|| "--cuda-graph".to_owned());
        TaskSpec {
            name: task_name(&self.high_model, "high"),
            class: "high".into(),
            model: self.high_model.clone(),
            batch: 1,
            arrival,
            options: graph.into_iter().collect(),
            ..TaskSpec::default()
        }
    }

    /// The high-priority model back to back.
    pub(super) fn peak_task(&self) -> TaskSpec {
        TaskSpec {
            name: task_name(&self.high_model, "peak"),
            ..self.high_task(Arrival::Closed)
        }
    }

    /// One process of the low-priority task.
    pub(super) fn low_task(&self, batch: u32) -> TaskSpec {
        TaskSpec {
            name: task_name(&self.low_model, "low"),
            class: "low".into(),
            model: self.low_model.clone(),
            batch,
            arrival: Arrival::Closed,
            batch_option: Some("--low-batch"),
            ..TaskSpec::default()
        }
    }

    /// All processes of the low-priority task.
    pub(super) fn low_tasks(&self, batch: u32) -> Vec<TaskSpec> {
        let task = self.low_task(batch);
        if self.low_copies == 1 {
            return vec![task];
        }
        let copy = |number| TaskSpec {
            name: format!("{}-{number}", task.name),
            ..task.clone()
        };
        (1..=self.low_copies).map(copy).collect()
    }
}

/// For people, and part of a file's name.
fn task_name(model: &str, role: &str) -> String {
    format!("{}-{role}", model.replace(':', "-"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &str) -> Options {
        let words = std::iter::once("dual-model").chain(words.split_whitespace());
        Cli::try_parse_from(words).unwrap().options
    }

    #[test]
    fn the_defaults_on_a_gpu_are_the_documents() {
        let options = options("--device cuda --cuda-graph");
        let profile = options.check().unwrap();
        assert!(matches!(profile.rate, DefaultRate::Hz(10.0)));
        assert_eq!(options.low_batch(profile), 8);
        let high = options.high_task(Arrival::Open { rate_hz: 10.0 });
        assert_eq!((high.name.as_str(), high.batch), ("resnet18-high", 1));
        assert_eq!(high.options, ["--cuda-graph"]);
        let low = options.low_tasks(8);
        assert_eq!((low.len(), low[0].name.as_str()), (1, "resnet50-low"));
        assert!(low[0].options.is_empty());
    }

    #[test]
    fn plain_kernels_and_copies_have_names_of_their_own() {
        let options = options("--device cuda --low-model spin:10000 --low-copies 2");
        let batch = options.low_batch(options.check().unwrap());
        let low = options.low_tasks(batch);
        let names: Vec<&str> = low.iter().map(|task| task.name.as_str()).collect();
        assert_eq!(names, ["spin-10000-low-1", "spin-10000-low-2"]);
        assert_eq!((low[1].model.as_str(), low[1].batch), ("spin:10000", 1));
    }
}
