//! Whole workers in this process, with a real queue and a small image.

use std::sync::mpsc;

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    worker: WorkerArgs,
}

fn args(options: &str) -> WorkerArgs {
    let words = std::iter::once("worker").chain(options.split_whitespace());
    Command::try_parse_from(words).unwrap().worker
}

/// Runs a worker that hears these instructions at once, and then nothing (or the end of the input).
fn run(options: &str, instructions: &[Instruction], end: bool) -> (Vec<Report>, Option<Failure>) {
    let (sender, receiver) = mpsc::channel();
    for instruction in instructions {
        sender.send(*instruction).unwrap();
    }
    let _open = (!end).then_some(sender);
    let mut output = Vec::new();
    let failure = work(&args(options), receiver, &mut output).err();
    let lines = String::from_utf8(output).unwrap();
    let parse = |line| serde_json::from_str(line).unwrap();
    (lines.lines().map(parse).collect(), failure)
}

const SMALL: &str = "--model resnet18 --image-size 32 --warmup 1 --threads 2";

#[test]
fn an_open_loop_serves_its_schedule() {
    let options = format!("{SMALL} --arrival open --rate 50 --duration 0.2");
    let (reports, failure) = run(&options, &[Instruction::Start], false);
    assert_eq!(failure, None);
    let Report::Ready {
        model,
        batch,
        commands,
        ..
    } = &reports[0]
    else {
        panic!("{reports:?}")
    };
    assert_eq!((model.as_str(), *batch), ("resnet18", 1));
    assert!(*commands > 20);
    let Some(Report::Result {
        completed,
        elapsed_ms,
        samples,
        digest,
        digests_equal,
        ..
    }) = reports.last()
    else {
        panic!("{reports:?}")
    };
    assert_eq!((*completed, samples.len()), (10, 10));
    assert!(*digests_equal);
    assert_eq!(digest.len(), 16);
    for (index, [arrival, start, latency]) in samples.iter().enumerate() {
        assert_eq!(*arrival, 20.0 * index as f64);
        assert!(start >= arrival);
        assert!(*latency > 0.0 && arrival + latency <= *elapsed_ms + 0.002);
    }
}

#[test]
fn a_closed_loop_runs_back_to_back_with_the_same_output() {
    let digest = |seed: u64, batch: usize| {
        let options =
            format!("{SMALL} --arrival closed --duration 0.1 --seed {seed} --batch {batch}");
        let (reports, failure) = run(&options, &[Instruction::Start], false);
        assert_eq!(failure, None);
        match reports.into_iter().last() {
            Some(Report::Result {
                samples,
                digest,
                digests_equal: true,
                ..
            }) => {
                for pair in samples.windows(2) {
                    assert!(pair[1][1] >= pair[0][1] + pair[0][2] - 0.002);
                    assert_eq!(pair[1][0], pair[1][1]);
                }
                digest
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(digest(1, 1), digest(1, 1));
    assert_ne!(digest(1, 1), digest(2, 1));
    assert_ne!(digest(1, 1), digest(1, 2));
}

#[test]
fn stop_and_the_end_of_the_input_end_a_run_with_a_result() {
    fn check(instructions: &[Instruction], end: bool) {
        let options = format!("{SMALL} --arrival open --rate 0.01 --duration 3600");
        let (reports, failure) = run(&options, instructions, end);
        assert_eq!(failure, None);
        let Some(Report::Result {
            completed, digest, ..
        }) = reports.last()
        else {
            panic!("{reports:?}")
        };
        assert!(*completed <= 1);
        assert_eq!(digest.len(), 16);
    }
    check(&[Instruction::Start, Instruction::Stop], false);
    check(&[Instruction::Stop], false);
    check(&[Instruction::Start], true);
    check(&[], true);
}

#[test]
fn failures_name_their_kind() {
    fn check(options: &str, kind: ErrorKind, part: &str) {
        let (reports, failure) = run(options, &[], true);
        assert_eq!(reports, []);
        let failure = failure.unwrap();
        assert_eq!(failure.kind, kind);
        assert!(failure.message.contains(part), "{}", failure.message);
    }
    let with = |options: &str| format!("{SMALL} {options}");
    let usage = |options: &str, part: &str| check(&with(options), ErrorKind::Usage, part);
    usage("--arrival open --duration 1", "--rate");
    usage("--arrival open --rate 0 --duration 1", "--rate 0");
    usage("--arrival open --rate nan --duration 1", "--rate NaN");
    usage("--arrival closed --rate 1 --duration 1", "--rate");
    usage("--arrival closed --duration 0", "--duration 0");
    usage("--arrival closed --duration 1 --batch 0", "--batch 0");
    usage(
        "--arrival closed --duration 1 --cuda-graph",
        "--device cuda",
    );
    usage(
        "--arrival closed --duration 1 --precision fp16",
        "--device cuda",
    );
    let patches = "--model vit_b_16 --image-size 100 --arrival closed --duration 1";
    check(patches, ErrorKind::Usage, "multiple of 16");
    let unknown = "--model resnet19 --arrival closed --duration 1";
    check(unknown, ErrorKind::Usage, "resnet18, resnet50");
    let huge = format!("--arrival closed --duration 1 --batch {}", 1u64 << 40);
    check(&with(&huge), ErrorKind::OutOfMemory, "images");
}

#[test]
fn a_failure_is_one_line() {
    let mut output = Vec::new();
    let failure = Failure::device("first\nsecond");
    failure.report(&mut output).unwrap();
    let line = String::from_utf8(output).unwrap();
    assert_eq!(line.lines().count(), 1);
    let report: Report = serde_json::from_str(&line).unwrap();
    let message = "first second".to_owned();
    assert_eq!(
        report,
        Report::Error {
            kind: ErrorKind::Device,
            message
        }
    );
}

#[test]
fn a_changed_output_is_noticed() {
    let mut outputs = Outputs::default();
    outputs.check(&[1, 2]);
    outputs.check(&[1, 2]);
    assert!(outputs.equal);
    let first = outputs.digest();
    outputs.check(&[1, 0]);
    outputs.check(&[1, 2]);
    assert!(!outputs.equal);
    assert_eq!(outputs.digest(), first);
    assert_ne!(fnv1a(&[0]), fnv1a(&[0, 0]));
    // Published check value: FNV-1a of nothing is its offset basis.
    assert_eq!(fnv1a(&[]), 0xcbf2_9ce4_8422_2325);
}

#[test]
fn instructions_are_read_line_by_line() {
    let instructions = read_instructions(&b"start\nwhat\nstop\n"[..]);
    let heard: Vec<_> = instructions.iter().collect();
    assert_eq!(heard, [Instruction::Start, Instruction::Stop]);
}
