//! The CUDA workload: this process becomes the user's python3, which runs `torch.py` and speaks the
//! worker protocol itself. Process number, preloaded libraries and environment stay what `xsched
//! run` made them.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::{Arrival, Failure, Precision, WorkerArgs};

const PYTHON: &str = "python3";

const SCRIPT: &str = include_str!("torch.py");

/// Longest plain kernel, µs: longer ones look like a hang to people and watchdogs.
const LONGEST_KERNEL_US: f64 = 1e6;

/// Most kernels of one request.
const MOST_KERNELS: u32 = 10_000;

/// Returns only if there is no python3 to become.
pub(super) fn become_python(args: &WorkerArgs) -> Failure {
    let error = command(args).exec();
    Failure::usage(match error.kind() {
        io::ErrorKind::NotFound => format!(
            "{PYTHON} is not found in PATH: install Python 3.9 or later, then `{PYTHON} -m pip \
             install torch torchvision`"
        ),
        _ => format!("{PYTHON} cannot be started ({error}): check the first one in PATH"),
    })
}

/// Whether the model is plain kernels of a set duration.
pub(super) fn is_kernels(model: &str) -> bool {
    model.starts_with("spin:") || model.starts_with("kernels:")
}

/// Refuses what can be no model.
pub(super) fn check_model(model: &str) -> Result<(), String> {
    if is_kernels(model) {
        return kernels(model)
            .map(drop)
            .ok_or_else(|| {
                format!(
                    "write spin:MICROSECONDS or kernels:COUNTxMICROSECONDS, 1 to {MOST_KERNELS} kernels of \
                     1 to {LONGEST_KERNEL_US} µs, such as spin:10000 or kernels:20x50"
                )
            });
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if model.is_empty() || !model.chars().all(plain) {
        return Err(
            "use a name of torchvision.models, such as resnet18 or mobilenet_v2".to_owned(),
        );
    }
    Ok(())
}

/// Count and duration (µs) of plain kernels.
fn kernels(model: &str) -> Option<(u32, f64)> {
    let (count, duration) = match model.strip_prefix("spin:") {
        Some(duration) => ("1", duration),
        None => model.strip_prefix("kernels:")?.split_once('x')?,
    };
    // Python reads the same digits: no sign, no exponent.
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if !digits(count) || !digits(duration) {
        return None;
    }
    let (count, duration) = (count.parse().ok()?, duration.parse().ok()?);
    let valid =
        (1..=MOST_KERNELS).contains(&count) && (1.0..=LONGEST_KERNEL_US).contains(&duration);
    valid.then_some((count, duration))
}

fn command(args: &WorkerArgs) -> Command {
    let mut command = Command::new(PYTHON);
    command.arg("-c").arg(SCRIPT);
    let mut option = |name: &str, value: &dyn std::fmt::Display| {
        command.arg(name).arg(value.to_string());
    };
    option("--model", &args.model);
    option("--batch", &args.batch);
    match args.arrival {
        Arrival::Open => option("--arrival", &"open"),
        Arrival::Closed => option("--arrival", &"closed"),
    }
    if let Some(rate) = args.rate {
        option("--rate", &rate);
    }
    option("--duration", &args.duration);
    option("--warmup", &args.warmup);
    option("--seed", &args.seed);
    option("--image-size", &args.image_size);
    match args.precision {
        Precision::Fp32 => option("--precision", &"fp32"),
        Precision::Fp16 => option("--precision", &"fp16"),
    }
    if let Some(threads) = args.threads {
        option("--threads", &threads);
    }
    if args.cuda_graph {
        command.arg("--cuda-graph");
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_have_a_count_and_a_duration() {
        let check = |model, expect| assert_eq!(kernels(model), expect, "{model}");
        check("spin:10000", Some((1, 10_000.0)));
        check("spin:0.5", None);
        check("spin:1000001", None);
        check("spin:1e3", None);
        check("spin:", None);
        check("spin:.", None);
        check("spin:-5", None);
        check("kernels:20x50", Some((20, 50.0)));
        check("kernels:20x12.5", Some((20, 12.5)));
        for model in [
            "kernels:0x50",
            "kernels:20",
            "kernels:x50",
            "kernels:2.5x50",
            "kernels:+2x50",
        ] {
            check(model, None);
        }
    }

    #[test]
    fn model_names_are_words() {
        assert_eq!(check_model("vit_b_16"), Ok(()));
        assert_eq!(check_model("kernels:20x50"), Ok(()));
        for model in ["", "resnet 18", "../resnet18", "spin:soon"] {
            let refusal = check_model(model).unwrap_err();
            assert_eq!(refusal.lines().count(), 1, "{refusal}");
        }
    }
}
