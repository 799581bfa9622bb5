//! Scenario `partition`: two greedy tasks that share a device 75 to 25.

use xsched_hint::HintKind;

use crate::mix::{Limits, Mix, Task};
use crate::worker::Device;

use super::mixed::{Builtin, mix};

const SHARES: [u32; 2] = [75, 25];

/// How much of its share a task must get at least.
const KEPT: f64 = 0.9;

/// Images of one request on a GPU: with one image each task waits for its host, and half of the device is
/// left to share.
const GPU_BATCH: u32 = 64;

pub(super) const SCENARIO: Builtin = Builtin {
    name: "partition",
    measures: "Two equal back-to-back tasks that share the device 75 to 25 (policy up); alone, native, \
               under XSched, peers",
    passes_when: "each reaches 90 % of its share of its throughput alone. Other shares: `bench custom` with \
                  hints.utilization",
    make,
};

fn make(device: Device) -> Mix {
    let task = |share: u32| {
        let mut task = Task::new(&format!("share-{share}"), "resnet18", 0);
        task.hints = HintKind::Utilization
            .parse(&share.to_string())
            .into_iter()
            .collect();
        if device == Device::Cuda {
            task.batch = GPU_BATCH;
        }
        task.limits = Limits {
            throughput_standalone: Some(f64::from(share) / 100.0 * KEPT),
            ..Limits::default()
        };
        task
    };
    let mut mix = mix(
        "partition",
        "Two equal tasks, back to back, share a device 75 to 25.",
        device,
        SHARES.map(task).into(),
    );
    mix.policy = "up".to_owned();
    mix
}
