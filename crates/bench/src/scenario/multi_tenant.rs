//! Scenario `multi-tenant`: three tenants of one device, production before development before batch.

use std::time::Duration;

use crate::mix::{Arrival, Limits, Mix, Task};
use crate::worker::Device;

use super::mixed::{Builtin, first_known, mix};

/// Share of the device that each rated tenant takes: its rate times the time of one request in the
/// document's setting, 20 requests/s of 12.5 ms and of 7.5 ms.
const SHARES: [f64; 2] = [0.25, 0.15];

/// Images of one request of the batch tenant on a GPU: with one image it waits for its host, not for the
/// device.
const GPU_BATCH: u32 = 32;

pub(super) const SCENARIO: Builtin = Builtin {
    name: "multi-tenant",
    measures: "Three tenants: production (ViT-B/16), development (MobileNetV2) and batch (ResNet-50), \
               priorities 3, 2, 1; alone, native, under XSched, peers",
    passes_when: "production P99 < 100 ms, development P99 < 500 ms (on cpu 1.6 and 13 times those alone), \
                  batch > 20 % of its throughput alone",
    make,
};

fn make(device: Device) -> Mix {
    let cpu = device == Device::Cpu;
    let (vit, mobilenet) = (
        first_known(device, &["vit_b_16", "resnet50"]),
        first_known(device, &["mobilenet_v2", "resnet18"]),
    );
    let tenant = |index: usize, p99_ms, p99_standalone| {
        let arrival = match cpu {
            true => Arrival::Share(SHARES[index]),
            false => Arrival::Rate(20.0),
        };
        let limits = Limits {
            p99: (!cpu).then_some(Duration::from_millis(p99_ms)),
            p99_standalone: cpu.then_some(p99_standalone),
            ..Limits::default()
        };
        (arrival, limits)
    };
    // In units of a request's own time the document's limits are 8 and 67: the second one is 8.3 times
    // as loose as the first.
    let (production, development) = (tenant(0, 100, 1.6), tenant(1, 500, 13.0));
    let mut mix = mix(
        "multi-tenant",
        "Three tenants share a device: production at priority 3, development at 2, batch at 1.",
        device,
        vec![
            Task {
                arrival: production.0,
                limits: production.1,
                ..Task::new("production", vit, 3)
            },
            Task {
                arrival: development.0,
                limits: development.1,
                ..Task::new("development", mobilenet, 2)
            },
            Task {
                batch: if device == Device::Cuda { GPU_BATCH } else { 1 },
                limits: Limits {
                    throughput_standalone: Some(0.2),
                    ..Limits::default()
                },
                ..Task::new("batch", "resnet50", 1)
            },
        ],
    );
    mix.notes.push(match cpu {
        true => "On cpu a rate is a share times what the task reaches alone; the shares are the rate times \
                 the time of one request in the document's setting (20 requests/s of 12.5 and of 7.5 ms: 25 \
                 and 15 %), and limits are multiples of the figures alone."
            .to_owned(),
        false => "The document names no rates and no batch size; 20 requests/s each, and on a GPU batches of \
                  32 images, are ours."
            .to_owned(),
    });
    mix
}
