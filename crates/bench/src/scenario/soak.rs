//! Scenario `soak`: hours under the scheduler; nothing grows, nothing is lost.

use std::time::Duration;

use crate::mix::{Arrival, Limits, Mix, Task};
use crate::worker::Device;

use super::mixed::{Builtin, mix};

pub(super) const SCENARIO: Builtin = Builtin {
    name: "soak",
    measures: "Hours of an urgent task beside a batch job under XSched alone; --duration says how long",
    passes_when: "the daemon's memory does not grow, no queue outlives its program, both tasks are scheduled \
                  and complete requests to the end with equal outputs, the batch job > 20 % of its throughput \
                  alone",
    make,
};

fn make(device: Device) -> Mix {
    let mut mix = mix(
        "soak",
        "An urgent task at a steady rate beside a batch job, for hours.",
        device,
        vec![
            Task {
                arrival: match device {
                    Device::Cpu => Arrival::Share(0.2),
                    _ => Arrival::Rate(10.0),
                },
                ..Task::new("urgent", "resnet18", 100)
            },
            Task {
                limits: Limits {
                    throughput_standalone: Some(0.2),
                    ..Limits::default()
                },
                ..Task::new("batch", "resnet50", -100)
            },
        ],
    );
    mix.duration = Duration::from_secs(3600);
    mix.rounds = 1;
    mix.standalone = Some(Duration::from_secs(10));
    mix.soak = true;
    mix.extend = false;
    mix
}
