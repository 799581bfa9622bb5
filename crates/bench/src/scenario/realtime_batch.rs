//! Scenario `realtime-batch`: video segmentation that must not drop a frame, beside speech in batches.

use std::time::Duration;

use crate::mix::{Arrival, Completion, Limits, Mix, Task};
use crate::worker::Device;

use super::mixed::{Builtin, first_known, mix};

/// Shares of the device in the document's setting: 30 frames/s of 15 ms, and 0.6 s of speech every 3 s.
const VIDEO_SHARE: f64 = 0.45;
const SPEECH_SHARE: f64 = 0.2;

pub(super) const SCENARIO: Builtin = Builtin {
    name: "realtime-batch",
    measures: "Video segmentation at 30 frames/s, late frames dropped, beside a speech encoder every 3 s; \
               alone, native, under XSched, peers",
    passes_when: "video P99 < 40 ms (on cpu 1.6 times that alone) and no frame dropped, every encoder \
                  run complete within 3 s (on cpu: before the next one)",
    make,
};

fn make(device: Device) -> Mix {
    let cpu = device == Device::Cpu;
    let video = Task {
        arrival: match cpu {
            true => Arrival::Share(VIDEO_SHARE),
            false => Arrival::Rate(30.0),
        },
        drop_late: true,
        limits: Limits {
            p99: (!cpu).then_some(Duration::from_millis(40)),
            p99_standalone: cpu.then_some(1.6),
            dropped: Some(0),
            ..Limits::default()
        },
        ..Task::new(
            "video",
            first_known(device, &["deeplabv3_resnet50", "resnet18"]),
            2,
        )
    };
    let every = Duration::from_secs(3);
    let speech = Task {
        arrival: match cpu {
            true => Arrival::Share(SPEECH_SHARE),
            false => Arrival::Period(every),
        },
        limits: Limits {
            completion: Some(match cpu {
                true => Completion::Period,
                false => Completion::Within(every),
            }),
            ..Limits::default()
        },
        ..Task::new(
            "speech",
            first_known(device, &["whisper_base_encoder", "resnet50"]),
            1,
        )
    };
    let mut mix = mix(
        "realtime-batch",
        "Video frames that are dropped when they come too late, beside an encoder of speech in batches.",
        device,
        vec![video, speech],
    );
    if cpu {
        mix.notes.push(
            "On cpu a rate is a share times what the task reaches alone; the shares are those of the \
             document's setting (30 frames/s of 15 ms: 45 %; 0.6 s of speech every 3 s: 20 %), and \
             limits are multiples of the figures alone."
                .to_owned(),
        );
    }
    mix
}
