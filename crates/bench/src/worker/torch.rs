//! The CUDA workload: this process becomes the user's python3, which runs `torch.py` and speaks the
//! worker protocol itself. Process number, preloaded libraries and environment stay what `xsched
//! run` made them.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::{Arrival, Failure, Precision, WorkerArgs};

const PYTHON: &str = "python3";

/// The only model that is no torchvision's: a decode loop of that size (transformers).
const GPT2_SMALL: &str = "gpt2-small";

const SCRIPT: &str = include_str!("torch.py");

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

/// Refuses what can be no model.
pub(super) fn check_model(model: &str) -> Result<(), String> {
    if model == GPT2_SMALL {
        return Ok(());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if model.is_empty() || !model.chars().all(plain) {
        return Err(
            "use a name of torchvision.models, such as resnet18 or mobilenet_v2, or gpt2-small"
                .to_owned(),
        );
    }
    Ok(())
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
        Arrival::Poisson => option("--arrival", &"poisson"),
        Arrival::Closed => option("--arrival", &"closed"),
    }
    if let Some(rate) = args.rate {
        option("--rate", &rate);
    }
    option("--duration", &args.duration);
    option("--warmup", &args.warmup);
    option("--seed", &args.seed);
    if let Some(size) = args.image_size {
        option("--image-size", &size);
    }
    match args.precision {
        Precision::Fp32 => option("--precision", &"fp32"),
        Precision::Fp16 => option("--precision", &"fp16"),
    }
    if let Some(threads) = args.threads {
        option("--threads", &threads);
    }
    option("--repeat", &args.repeat);
    if args.drop_late {
        command.arg("--drop-late");
    }
    if args.in_turns {
        command.arg("--in-turns");
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
    fn model_names_are_words() {
        assert_eq!(check_model("vit_b_16"), Ok(()));
        assert_eq!(check_model("gpt2-small"), Ok(()));
        for model in ["", "resnet 18", "../resnet18", "spin:soon"] {
            let refusal = check_model(model).unwrap_err();
            assert_eq!(refusal.lines().count(), 1, "{refusal}");
        }
    }
}
