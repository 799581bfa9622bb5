//! The scenario `dual-model` from the command line to its files, with workers that behave and
//! workers that do not.

#[path = "support/opencl.rs"]
mod opencl;
#[path = "../../platform/standin/tests/support/mod.rs"]
mod standin;
mod support;

use std::process::ExitCode;
use std::time::Duration;

use support::Bench;
use xsched_bench::criteria::{COST, Verdict};
use xsched_bench::report::{RunReport, summary};
use xsched_bench::run::{Grade, Run};
use xsched_bench::stats::Interval;

const STANDALONE_FILES: [&str; 4] = [
    "standalone-high.hlog",
    "standalone-low.hlog",
    "standalone_result.json",
    "standalone_samples.csv",
];
const BASELINE_FILES: [&str; 3] = [
    "baseline-1.hlog",
    "baseline_result.json",
    "baseline_samples.csv",
];
const SCHEDULED_FILES: [&str; 3] = [
    "scheduled-1.hlog",
    "scheduled_samples.csv",
    "xsched_result.json",
];
const ALWAYS: [&str; 4] = [
    "manifest.json",
    "phase4_dual_model_report.md",
    "report.html",
    "run.json",
];

fn sorted(groups: &[&[&str]]) -> Vec<String> {
    let mut names: Vec<String> = groups
        .concat()
        .iter()
        .map(|name| (*name).to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_whole_run_passes_and_writes_everything() {
    let bench = Bench::new("");
    let output = bench.root().join("long_test.json");
    let ended = bench.run(&["--rate", "10", "--output", output.to_str().unwrap()]);
    assert_eq!(ended.code, ExitCode::SUCCESS, "{}", ended.stdout);
    assert_eq!(ended.stderr, "");
    for text in [
        "[1/5] prepare",
        "[2/5] baseline",
        "[3/5] scheduled",
        "[4/5] compare",
        "[5/5] report",
        "Overall: PASS",
    ] {
        assert!(
            ended.stdout.contains(text),
            "{text:?} is missing in {}",
            ended.stdout
        );
    }
    assert!(
        ended
            .stdout
            .contains("P99 Latency (ms)      40.00        20.00      -50.0% ✅"),
        "{}",
        ended.stdout
    );
    assert!(
        ended
            .stdout
            .contains("Low-priority batch 1 instead of 8, as the device is cpu")
    );
    assert_eq!(
        bench.files(),
        sorted(&[
            &STANDALONE_FILES,
            &BASELINE_FILES,
            &SCHEDULED_FILES,
            &ALWAYS
        ])
    );

    let (baseline, scheduled) = (
        bench.json("baseline_result.json"),
        bench.json("xsched_result.json"),
    );
    assert_eq!(
        (&baseline["mode"], &scheduled["mode"]),
        (&"Native".into(), &"XSched".into())
    );
    assert_eq!(baseline["high_priority"]["requests"], 600);
    assert_eq!(baseline["high_priority"]["level"], 0);
    assert_eq!(scheduled["high_priority"]["latency_p99_ms"], 20.0);
    assert_eq!(scheduled["low_priority"]["throughput_ips"], 50.0);
    let samples = bench.text("baseline_samples.csv");
    assert!(samples.starts_with(
        "task,arrival_ms,start_ms,latency_ms,round\nresnet18-high,0.000,0.000,40.000,1\n"
    ));
    assert_eq!(
        samples
            .lines()
            .filter(|line| line.starts_with("resnet18-high,"))
            .count(),
        600
    );
    let manifest = bench.json("manifest.json");
    assert_eq!(manifest["version"], "0.0.0-test");
    // Records are published: the folders of this machine stay out of them.
    let command = serde_json::json!([
        "bench",
        "dual-model",
        "--out",
        "out",
        "--rate",
        "10",
        "--output",
        "long_test.json"
    ]);
    assert_eq!(manifest["command"], command);
    let folder = bench.root().to_str().unwrap();
    for file in ["run.json", "manifest.json", "phase4_dual_model_report.md"] {
        assert!(!bench.text(file).contains(folder), "{file}");
    }

    let record = Run::read(&bench.out()).unwrap();
    let names = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let contenders: Vec<_> = record
        .contenders
        .iter()
        .map(|each| each.name.clone())
        .collect();
    assert_eq!(contenders, names(&["standalone", "native", "xsched"]));
    let tasks: Vec<_> = record.tasks.iter().map(|task| task.name.clone()).collect();
    assert_eq!(tasks, names(&["resnet18-high", "resnet50-low"]));
    assert_eq!((record.phases.len(), record.failure), (4, None));
    let p99 = &record.checks[0];
    assert_eq!((p99.measured, p99.grade), (0.5, Grade::Met));
    // Every latency of a phase is the same here, so the interval has no width.
    let exact = Interval {
        low: Some(0.5),
        high: Some(0.5),
    };
    assert_eq!(p99.interval, Some(exact));
    assert!(
        record
            .checks
            .iter()
            .all(|check| check.grade != Grade::Missed)
    );
    let report = RunReport::read(&bench.out()).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.verdict, Verdict::Pass);
    let low = report.figure("resnet50-low", "xsched").unwrap();
    let share = low.throughput_to_standalone.unwrap();
    assert!((share.value - 0.75).abs() < 1e-3, "{share:?}");

    let document: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(output).unwrap()).unwrap();
    assert_eq!(
        (&document["mode"], &document["verdict"]),
        (&"XSched".into(), &"pass".into())
    );
    assert_eq!(document["high_priority"], scheduled["high_priority"]);
    // Alone as without the scheduler: 1 + 1 tasks' worth of work; scheduled the low one does 3/4.
    let ratio = document["comparison"]["useful_work"]["ratio"]
        .as_f64()
        .unwrap();
    assert!((ratio - 1.75 / 2.0).abs() < 1e-3, "{ratio}");
    assert!(
        bench
            .text("phase4_dual_model_report.md")
            .contains("**Result: PASS**")
    );
}

#[test]
fn on_the_cpu_the_rate_follows_from_the_measured_peak() {
    let bench = Bench::new("");
    let ended = bench.run(&["--duration", "30", "--low-batch", "2"]);
    // 15 ms a request back to back are 66.67 requests/s.
    let said = "Rate 13.33 requests/s: 20% of the measured standalone peak of 66.67 requests/s, as \
                the device is cpu";
    assert!(ended.stdout.contains(said), "{}", ended.stdout);
    assert_eq!(bench.json("baseline_result.json")["rate_hz"], 13.33);
    assert_eq!(
        bench.json("baseline_result.json")["low_priority"]["batch"],
        2
    );
    assert_eq!(
        bench.json("standalone_result.json")["high_priority_peak"]["iterations"],
        667
    );
}

#[test]
fn rounds_alternate_and_copies_add_up() {
    let bench = Bench::new("");
    let options = "--device cuda --duration 13 --rounds 3 --low-copies 2";
    let ended = bench.run(&options.split(' ').collect::<Vec<_>>());
    assert_eq!(ended.code, ExitCode::SUCCESS, "{}", ended.stdout);
    let stages: Vec<&str> = ended
        .stdout
        .lines()
        .filter(|line| line.starts_with("[2/5]") || line.starts_with("[3/5]"))
        .collect();
    assert_eq!(stages.len(), 6);
    assert_eq!(
        stages[0],
        "[2/5] baseline: 13 s, all 3 tasks unscheduled (round 1 of 3)"
    );
    assert_eq!(
        stages[5],
        "[3/5] scheduled: 13 s, all 3 tasks under XSched (round 3 of 3)"
    );
    assert!(
        ended.stdout.contains("Spread over 3 rounds"),
        "{}",
        ended.stdout
    );

    let scheduled = bench.json("xsched_result.json");
    // The document's defaults: 10 requests/s, batch 8. 130 requests a round are enough together.
    assert_eq!(scheduled["high_priority"]["requests"], 390);
    assert_eq!(scheduled["rate_hz"], 10.0);
    assert_eq!(scheduled["low_priority"]["task"], "resnet50-low");
    assert_eq!(scheduled["low_priority"]["batch"], 8);
    assert_eq!(scheduled["low_priority"]["throughput_ips"], 100.0);
    assert_eq!(scheduled["low_priority"]["images_per_sec"], 800.0);
    assert_eq!(scheduled["by_round"].as_array().unwrap().len(), 3);
    assert_eq!(scheduled["by_round"][2]["high_requests"], 130);
    assert_eq!(scheduled["spread"]["low_throughput_ips"]["max"], 100.0);
    let samples = bench.text("scheduled_samples.csv");
    let of = |start: &str, end: &str| {
        let lines = samples.lines();
        lines
            .filter(|line| line.starts_with(start) && line.ends_with(end))
            .count()
    };
    assert_eq!(
        (of("resnet18-high,", ",1"), of("resnet18-high,", ",3")),
        (130, 130)
    );
    assert_eq!(
        (of("resnet50-low-1,", ""), of("resnet50-low-2,", "")),
        (1950, 1950)
    );
    // The record knows which samples are of which round, and judges the copies together.
    let report = RunReport::read(&bench.out()).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    let order = report.run.phases.iter().map(|phase| &phase.contender[..]);
    let round = ["standalone", "standalone", "native", "xsched"];
    assert!(order.eq(round.into_iter().cycle().take(3 * round.len())));
    let alone = report.figure("resnet18-high", "standalone").unwrap();
    assert_eq!((alone.completed, alone.by_round.len()), (390, 3));
    let alone = &bench.json("standalone_result.json")["high_priority"];
    assert_eq!(alone["requests"], 390, "as many as under each way, in turn");
    let high = report.figure("resnet18-high", "xsched").unwrap();
    assert_eq!((high.completed, high.by_round.len()), (390, 3));
    let copies = report
        .run
        .checks
        .iter()
        .find(|check| check.what.contains("together"));
    assert!((copies.unwrap().measured - 75.0).abs() < 1e-9);
}

#[test]
fn a_failure_in_a_later_round_keeps_the_earlier_ones() {
    let bench = Bench::new("scheduled/resnet18-high=die-2");
    let options = "--rate 100 --duration 2 --rounds 2 --low-batch 8";
    let ended = bench.run(&options.split(' ').collect::<Vec<_>>());
    assert_eq!(ended.code, ExitCode::from(1));
    let says = "missing: scheduled after round 1 of 2";
    assert!(ended.stdout.contains(says), "{}", ended.stdout);
    assert!(!ended.stdout.contains("Overall: PASS"), "{}", ended.stdout);
    let (baseline, scheduled) = (
        bench.json("baseline_result.json"),
        bench.json("xsched_result.json"),
    );
    assert_eq!(baseline["high_priority"]["requests"], 400);
    assert_eq!(scheduled["high_priority"]["requests"], 200);
    assert!(
        bench
            .files()
            .contains(&"scheduled-2_samples.partial.csv".to_owned())
    );
    assert!(
        bench
            .text("phase4_dual_model_report.md")
            .contains("Without a result: scheduled after round 1 of 2")
    );
}

#[test]
fn the_cuda_workers_run_under_the_harness() {
    let mut bench = Bench::new("real");
    let packages = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/python");
    bench.environment = vec![
        ("PYTHONPATH", packages.to_owned()),
        ("PYTHONDONTWRITEBYTECODE", "1".to_owned()),
        (
            "LD_LIBRARY_PATH",
            standin::driver_folder().to_str().unwrap().to_owned(),
        ),
    ];
    let options = "--device cuda --cuda-graph --rate 200 --duration 0.6 --low-model kernels:2x10";
    let ended = bench.run(&options.split(' ').collect::<Vec<_>>());
    // Nobody has preloaded a shim: however good the figures, that is no pass.
    assert_eq!(ended.code, ExitCode::from(1), "{}", ended.stdout);
    let says = "NOT IN EFFECT (resnet18-high ran unscheduled";
    assert!(ended.stdout.contains(says), "{}", ended.stdout);
    assert!(
        !ended.stdout.contains("Outputs: DIFFERENT"),
        "{}",
        ended.stdout
    );
    let baseline = bench.json("baseline_result.json");
    assert_eq!(baseline["high_priority"]["requests"], 120);
    assert_eq!(baseline["high_priority"]["commands"], 3);
    assert_eq!(baseline["low_priority"]["commands"], 4);
    assert_eq!(baseline["low_priority"]["model"], "kernels:2x10");
}

#[test]
fn the_opencl_workers_run_under_the_harness() {
    if !opencl::has_device() {
        return;
    }
    let mut bench = Bench::new("real");
    bench.limits.hang = Duration::from_secs(300);
    let options = "--device opencl --duration 0.6 --low-model resnet18";
    let ended = bench.run(&options.split(' ').collect::<Vec<_>>());
    // Nobody has preloaded a shim: however good the figures, that is no pass.
    assert_eq!(ended.code, ExitCode::from(1), "{}", ended.stdout);
    let says = "NOT IN EFFECT (resnet18-high ran unscheduled";
    assert!(ended.stdout.contains(says), "{}", ended.stdout);
    for same in [
        "as the device is opencl",
        "Low-priority batch 1 instead of 8",
    ] {
        assert!(ended.stdout.contains(same), "{}", ended.stdout);
    }
    assert!(
        !ended.stdout.contains("Outputs: DIFFERENT"),
        "{}",
        ended.stdout
    );
    let baseline = bench.json("baseline_result.json");
    // 23 layers and the copy of the scores; images in, scores out.
    assert_eq!(baseline["high_priority"]["commands"], 27);
    assert_eq!(baseline["low_priority"]["batch"], 1);
}

#[test]
fn few_requests_are_said_before_and_after_and_do_not_pass() {
    let bench = Bench::new("");
    let ended = bench.run(&["--rate", "10", "--duration", "5", "--json"]);
    assert_eq!(ended.code, ExitCode::from(1));
    assert!(
        ended
            .stderr
            .contains("has 50 requests; a P99 verdict needs 368 requests: --duration 37 or longer")
    );
    assert!(ended.stderr.contains("Overall: NOT ENOUGH REQUESTS"));
    let document: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(document["verdict"], "not_enough_requests");

    // Unless that is asked for: a quick run is not held to what it cannot know.
    let quick = ["--rate", "10", "--duration", "5", "--quick"];
    let before = bench.text("run.json");
    let refused = bench.run(&quick);
    assert_eq!(refused.code, ExitCode::from(2), "a run is not written over");
    let says = "there is a run already: name another folder, or remove this one";
    assert!(refused.stderr.contains(says), "{}", refused.stderr);
    assert_eq!(bench.text("run.json"), before);
    std::fs::remove_dir_all(bench.out()).unwrap();
    assert_eq!(bench.run(&quick).code, ExitCode::SUCCESS);
}

#[test]
fn a_phase_is_as_long_as_the_verdict_needs_unless_its_length_is_asked_for() {
    let bench = Bench::new("");
    let ended = bench.run(&["--rate", "5"]);
    assert_eq!(ended.code, ExitCode::SUCCESS, "{}", ended.stdout);
    let says = "Phases of 78 s, as the verdict on the P99 needs 368 requests.";
    assert!(ended.stdout.contains(says), "{}", ended.stdout);
    assert_eq!(bench.json("baseline_result.json")["duration"], 78.0);
}

/// One verdict, from the criteria in the record, in every form: also where an interval reaches over its
/// limit, which is no win.
#[test]
fn every_form_of_a_run_gives_the_same_verdict() {
    for (behaviour, rate, verdict, text) in [
        ("", "10", "pass", "PASS"),
        ("", "1", "not_enough_requests", "NOT ENOUGH REQUESTS"),
        (
            "scheduled/resnet18-high=uncertain",
            "10",
            "not_distinguishable",
            "NOT DISTINGUISHABLE",
        ),
        ("scheduled/resnet50-low=unscheduled", "10", "fail", "FAIL"),
    ] {
        let bench = Bench::new(behaviour);
        let ended = bench.run(&["--rate", rate, "--duration", "60", "--json"]);
        assert_eq!(ended.code == ExitCode::SUCCESS, verdict == "pass");
        let said = format!("Overall: {text}\n");
        assert!(ended.stderr.contains(&said), "{}", ended.stderr);
        let document: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(document["verdict"], verdict);
        let report = bench.text("phase4_dual_model_report.md");
        assert!(report.contains(&format!("**Result: {text}**")), "{report}");

        let report = RunReport::read(&bench.out()).unwrap();
        assert_eq!(report.verdict.text(), text);
        let shown = summary::document(&report).unwrap();
        assert_eq!(shown["verdict"], verdict);
        assert!(summary::text(&report).contains(&format!("Overall: {text}. ")));
        assert!(summary::markdown(&report).contains(&format!("**{text}**")));
        let page = bench.text("report.html");
        assert!(page.contains(&format!(" {text}</strong>")), "{text}");
        // The same criteria, by the same words.
        for check in &report.run.checks {
            assert!(page.contains(&check.what), "{}", check.what);
        }
        assert!(report.run.checks.iter().any(|check| check.what == COST));
    }
}

#[test]
fn one_phase_alone_keeps_the_files_of_the_other() {
    let bench = Bench::new("");
    let ended = bench.run(&["--rate", "10", "--only", "baseline"]);
    assert_eq!(ended.code, ExitCode::SUCCESS);
    assert_eq!(bench.files(), sorted(&[&BASELINE_FILES, &ALWAYS]));
    assert!(
        ended.stdout.contains("[3/5] scheduled: left out"),
        "{}",
        ended.stdout
    );

    let ended = bench.run(&["--rate", "10", "--only", "scheduled", "--json"]);
    assert_eq!(ended.code, ExitCode::SUCCESS);
    assert_eq!(
        bench.files(),
        sorted(&[&BASELINE_FILES, &SCHEDULED_FILES, &ALWAYS])
    );
    let report = RunReport::read(&bench.out()).unwrap();
    assert_eq!(report.verdict, Verdict::Measured);
    assert_eq!(report.run.contenders.len(), 1);
    let document: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        (&document["mode"], &document["verdict"]),
        (&"XSched".into(), &"measured".into())
    );
}

#[test]
fn bad_arguments_are_one_line_and_leave_nothing() {
    let check = |options: &[&str], says: &str| {
        let bench = Bench::new("");
        let ended = bench.run(options);
        assert_eq!(ended.code, ExitCode::from(2), "{options:?}");
        assert_eq!(ended.stdout, "");
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(
            ended.stderr.contains(says),
            "{:?} does not say {says:?}",
            ended.stderr
        );
        assert!(!bench.out().exists());
    };
    check(&["--rate", "0"], "--rate 0");
    check(&["--low-batch", "0"], "--low-batch 0");
    check(
        &["--device", "hip"],
        "this build supports cpu, opencl, cuda",
    );
    check(&["--cuda-graph"], "--device cuda");
    check(&["--rounds", "0"], "--rounds 0");
    check(&["--low-copies", "65"], "--low-copies 65");
    check(&["--high-model", "alexnet"], "resnet18, resnet50");
    let kernels = ["--device", "cuda", "--low-model", "spin:10000"];
    check(&[&kernels[..3], &["spin:soon"]].concat(), "spin:soon");
    check(&[&kernels[..], &["--low-batch", "8"]].concat(), "no batch");
    check(&["--output", "/proc/none/x.json"], "/proc/none/x.json");
    check(&["--output", "/"], "name a file");
}

#[test]
fn an_unwritable_directory_is_one_line() {
    let bench = Bench::new("");
    std::fs::write(bench.out(), "a file").unwrap();
    let ended = bench.run(&["--rate", "10"]);
    assert_eq!(ended.code, ExitCode::from(2));
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

#[test]
fn a_hung_worker_is_ended_and_what_was_measured_is_kept() {
    let bench = Bench::new("scheduled/resnet50-low=hang");
    let ended = bench.run(&["--rate", "1000", "--duration", "0.2", "--hang-limit", "4"]);
    assert_eq!(ended.code, ExitCode::from(1));
    let says = "resnet50-low hung: no result 4 s after the end of the phase";
    assert!(ended.stdout.contains(says), "{}", ended.stdout);
    let partial = ["scheduled_samples.partial.csv"];
    assert_eq!(
        bench.files(),
        sorted(&[&STANDALONE_FILES, &BASELINE_FILES, &ALWAYS, &partial])
    );
    assert!(bench.text(partial[0]).contains("resnet18-high,"));
    assert!(!bench.text(partial[0]).contains("resnet50-low,"));
    let failure = &bench.json("run.json")["failure"]["message"];
    let says = "it was ended; log: logs/scheduled-resnet50-low.log";
    assert!(failure.as_str().unwrap().ends_with(says), "{failure}");
    let report = bench.text("phase4_dual_model_report.md");
    assert!(
        report.contains("INCOMPLETE") && report.contains("Without a result: scheduled"),
        "{report}"
    );
}

#[test]
fn a_worker_that_never_gets_ready_is_ended() {
    let mut bench = Bench::new("off/resnet18-high=never-ready");
    bench.limits.setup = Duration::from_millis(100);
    let ended = bench.run(&["--rate", "10"]);
    assert_eq!(ended.code, ExitCode::from(1));
    let says = "standalone-high: resnet18-high was not ready";
    assert!(ended.stdout.contains(says), "{}", ended.stdout);
    assert_eq!(bench.files(), sorted(&[&ALWAYS]));
}

#[test]
fn a_worker_that_does_not_end_is_ended() {
    let mut bench = Bench::new("off/resnet18-high=stay");
    bench.limits.exit = Duration::from_millis(100);
    let ended = bench.run(&["--rate", "10"]);
    assert_eq!(ended.code, ExitCode::from(1));
    let says = "resnet18-high delivered its result but did not end";
    assert!(ended.stdout.contains(says), "{}", ended.stdout);
    let partial = ["standalone-high_samples.partial.csv"];
    let failure = &bench.json("run.json")["failure"];
    assert_eq!(failure["partial_samples"], partial[0]);
    assert_eq!(bench.files(), sorted(&[&ALWAYS, &partial]));
}

/// Runs with one misbehaving party; expects exit code 1, this text, and these phases to be kept.
fn check_failure(behaviour: &'static str, says: &[&str], kept: &[&[&str]]) {
    let bench = Bench::new(behaviour);
    let ended = bench.run(&["--rate", "10", "--low-batch", "8"]);
    assert_eq!(ended.code, ExitCode::from(1));
    for text in says {
        assert!(
            ended.stdout.contains(text),
            "{text:?} is missing in {}",
            ended.stdout
        );
    }
    let files = bench.files();
    let whole: Vec<String> = files
        .into_iter()
        .filter(|name| !name.contains(".partial."))
        .collect();
    assert_eq!(whole, sorted(&[kept, &[&ALWAYS]].concat()));
}

#[test]
fn a_dying_worker_is_reported_with_its_last_words() {
    check_failure(
        "scheduled/resnet18-high=die",
        &[
            "resnet18-high ended early with exit code 3 (stand-in worker gives up)",
            "missing: scheduled",
        ],
        &[&STANDALONE_FILES, &BASELINE_FILES],
    );
}

#[test]
fn a_crash_at_exit_is_a_failure() {
    check_failure(
        "scheduled/resnet50-low=crash-at-exit",
        &["resnet50-low delivered its result, then ended with signal 6 (SIGABRT)"],
        &[&STANDALONE_FILES, &BASELINE_FILES],
    );
}

#[test]
fn out_of_memory_suggests_a_smaller_batch() {
    check_failure(
        "off/resnet50-low=out-of-memory",
        &[
            "resnet50-low ran out of memory at batch 8",
            "smaller batch, for example --low-batch 4",
        ],
        // The first of the two tasks was measured alone.
        &[&["standalone-high.hlog", "standalone_samples.csv"]],
    );
}

#[test]
fn a_line_that_is_no_report_is_quoted() {
    check_failure(
        "off/resnet18-high=garbage",
        &["wrote a line that is no report (\"hello\")"],
        &[],
    );
}

#[test]
fn a_daemon_that_dies_voids_the_phase() {
    check_failure(
        "daemon=die;scheduled/resnet50-low=outlive-daemon",
        &["the daemon ended early with exit code 1 (stand-in daemon gives up)"],
        &[&STANDALONE_FILES, &BASELINE_FILES],
    );
}

#[test]
fn workers_that_the_scheduler_never_saw_do_not_pass() {
    check_failure(
        "scheduled/resnet50-low=unscheduled",
        &[
            "NOT IN EFFECT (resnet50-low ran unscheduled",
            "Overall: FAIL",
            "Reading: priorities not in effect",
        ],
        &[&STANDALONE_FILES, &BASELINE_FILES, &SCHEDULED_FILES],
    );
}
