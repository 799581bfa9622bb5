//! A built-in scenario that is a mix of tasks: its texts, and the mix on each device.

use std::time::Duration;

use clap::{ArgMatches, Args as _, Command, FromArgMatches};

use super::Scenario;
use crate::mix::options::MixOptions;
use crate::mix::{self, Mix, Task};
use crate::worker::Device;
use crate::{Context, Outcome};

/// A built-in mix.
pub(super) struct Builtin {
    pub(super) name: &'static str,
    pub(super) measures: &'static str,
    pub(super) passes_when: &'static str,
    /// The mix on a device.
    pub(super) make: fn(Device) -> Mix,
}

impl Scenario for Builtin {
    fn name(&self) -> &'static str {
        self.name
    }

    fn measures(&self) -> &'static str {
        self.measures
    }

    fn passes_when(&self) -> &'static str {
        self.passes_when
    }

    fn options(&self, command: Command) -> Command {
        MixOptions::augment_args(command)
    }

    fn run(&self, options: &ArgMatches, context: &mut Context) -> anyhow::Result<Outcome> {
        let options = MixOptions::from_arg_matches(options)?;
        mix::run((self.make)(options.device()), &options, context)
    }
}

/// A mix with the usual method. Tasks whose model is not the one that the document names are noted.
pub(super) fn mix(name: &str, description: &str, device: Device, tasks: Vec<Task>) -> Mix {
    Mix {
        name: name.to_owned(),
        description: description.to_owned(),
        device,
        duration: Duration::from_secs(20),
        rounds: 3,
        standalone: None,
        warmup: 10,
        seed: 42,
        policy: crate::daemon::DEFAULT_POLICY.to_owned(),
        level: None,
        tasks,
        soak: false,
        extend: true,
        notes: Vec::new(),
    }
}

/// The first of these models that the device has; the last one stands in for the others.
pub(super) fn first_known(device: Device, models: &[&'static str]) -> &'static str {
    let mut known = models
        .iter()
        .filter(|model| device.check_model(model).is_ok());
    known.next().or(models.last()).expect("at least one model")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{multi_tenant, partition, realtime_batch, soak};

    #[test]
    fn built_in_mixes_can_run_on_every_device() {
        let all = [
            multi_tenant::SCENARIO,
            realtime_batch::SCENARIO,
            partition::SCENARIO,
            soak::SCENARIO,
        ];
        for builtin in all {
            for device in [Device::Cpu, Device::Cuda] {
                let mix = (builtin.make)(device);
                assert_eq!(mix.name, builtin.name);
                for task in &mix.tasks {
                    let model = task.model.as_deref().unwrap();
                    assert_eq!(device.check_model(model), Ok(()), "{}", mix.name);
                    // What cannot be compared across machines is no limit on the CPU.
                    assert!(device != Device::Cpu || task.limits.p99.is_none());
                }
            }
        }
    }
}
