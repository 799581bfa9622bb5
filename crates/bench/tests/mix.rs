//! Scenarios that are a mix of tasks, from the command line to their files, with workers that behave and
//! workers that do not.

mod support;

use std::process::ExitCode;

use support::{Bench, Ended};
use xsched_bench::criteria::COST;
use xsched_bench::run::{Grade, Kind, Run};

/// A search beside a batch job; without the scheduler the stand-in's search takes 40 ms, with it 20 ms,
/// and the job does 3/4 of what it does alone.
const SHOP: &str = r#"name = "shop"
duration = "4s"
rounds = 2

[[task]]
name = "search"
model = "resnet18"
hints = { priority = "high" }
arrival = { rate = 100 }
limits = { p99 = "30ms", p99_standalone = 1.6 }

[[task]]
name = "job"
model = "resnet50"
hints = { priority = "low" }
limits = { throughput_standalone = 0.2 }
"#;

fn bench(behaviour: &'static str) -> Bench {
    let mut bench = Bench::new(behaviour);
    bench.scenario = "custom";
    bench
}

fn custom(bench: &Bench, text: &str, options: &[&str]) -> Ended {
    let file = bench.root().join("mine.toml");
    std::fs::write(&file, text).unwrap();
    let words = [&[file.to_str().unwrap()], options].concat();
    bench.run(&words)
}

fn grades(run: &Run) -> Vec<(String, Grade)> {
    let checks = run.checks.iter();
    checks
        .map(|check| (check.what.clone(), check.grade))
        .collect()
}

#[test]
fn a_whole_run_is_judged_and_leaves_a_record() {
    let bench = self::bench("");
    let options = ["--peer", "theirs=env RANK={rank}"];
    let ended = custom(&bench, SHOP, &options);
    assert_eq!(ended.code, ExitCode::SUCCESS, "{}", ended.stdout);
    assert_eq!(ended.stderr, "");
    let run = Run::read(&bench.out()).unwrap();
    let order: Vec<String> = run
        .phases
        .iter()
        .map(|phase| format!("{}-{}", phase.contender, phase.round))
        .collect();
    let expect = "standalone-1 standalone-1 native-1 xsched-1 theirs-1 \
                  standalone-2 standalone-2 native-2 xsched-2 theirs-2";
    assert_eq!(order.join(" "), expect);
    assert_eq!(run.contenders[3].kind, Kind::Peer);
    let expect = [
        ("P99", Grade::Met),
        ("P99 ÷ standalone", Grade::Met),
        ("P99 ÷ native", Grade::Information),
        ("throughput ÷ standalone", Grade::Met),
        ("unscheduled tasks", Grade::Met),
        ("tasks with other outputs", Grade::Met),
        // The stand-ins have no agents.
        (COST, Grade::Information),
        ("queues left after their programs' end", Grade::Met),
    ];
    let graded = grades(&run);
    let expect = expect.map(|(what, grade)| (what.to_owned(), grade));
    assert_eq!(graded, expect);
    assert_eq!(run.checks[1].measured, 0.5);
    let note = run.checks[2].note.as_deref();
    assert_eq!(note, Some("lower than native"));
    assert!((run.checks[3].measured - 75.0).abs() < 0.5);
    assert_eq!(run.failure, None);
    assert_eq!(bench.json("manifest.json")["scenario"], "shop");
    // A phase leaves its samples and their HDR log; beside them the record, reports, summary, manifest.
    assert_eq!(bench.files().len(), 2 * 10 + 5);

    let samples = bench.text("xsched-2_samples.csv");
    assert_eq!(samples.matches("\nsearch,").count(), 400);
    let log = bench.text("xsched-2.hlog");
    assert_eq!(log.matches("Tag=search,").count(), 4, "{log}");
    // Two tasks under four contenders, below the heading.
    assert_eq!(bench.text("summary.csv").lines().count(), 1 + 8);
    assert!(bench.text("report.md").contains("**PASS**"));
    assert!(bench.text("report.html").contains("id=\"distribution-0\""));
    assert!(ended.stdout.contains("Overall: PASS"), "{}", ended.stdout);
}

#[test]
fn a_command_that_there_is_not_is_one_line_and_leaves_nothing() {
    for program in ["no-such-program", "./no/such/program"] {
        let bench = self::bench("");
        let text = SHOP.replace(
            "model = \"resnet50\"",
            &format!("command = [\"{program}\", \"--once\"]"),
        );
        let ended = custom(&bench, &text, &[]);
        assert_eq!(ended.code, ExitCode::from(2), "{}", ended.stderr);
        let says = format!("task job: there is no program {program}");
        assert!(ended.stderr.contains(&says), "{}", ended.stderr);
        assert_eq!(ended.stderr.trim_end().lines().count(), 1);
        assert!(!bench.out().exists());
    }
}

#[test]
fn a_hint_that_the_policy_does_not_heed_is_noted() {
    let notes = |hints: &str| {
        let bench = self::bench("");
        let text = SHOP.replace("{ priority = \"high\" }", hints);
        custom(&bench, &text, &["--duration", "1s", "--quick"]);
        Run::read(&bench.out()).unwrap().notes.join(" ")
    };
    let noted = notes("{ priority = \"high\", deadline = \"20ms\" }");
    assert!(
        noted.contains("search: policy hpf does not heed deadline"),
        "{noted}"
    );
    assert!(!notes("{ priority = \"high\" }").contains("heed"));
}

#[test]
fn few_requests_are_not_judged_and_the_run_says_how_long_to_take() {
    let bench = self::bench("");
    let options = ["--duration", "1s", "--rounds", "1", "--peer", "none"];
    let ended = custom(&bench, SHOP, &options);
    assert_eq!(ended.code, ExitCode::from(1));
    let run = Run::read(&bench.out()).unwrap();
    assert_eq!(run.checks[0].grade, Grade::NotEnoughRequests);
    let note = run.checks[0].note.as_deref();
    let says = "a P99 verdict needs 368 requests: --duration 4s or longer";
    assert_eq!(note, Some(says));
    let says = "Overall: NOT ENOUGH REQUESTS";
    assert!(ended.stdout.contains(says), "{}", ended.stdout);

    // A miss needs no more: nearly all of them were slower.
    let missed = self::bench("");
    let impossible = SHOP.replace("30ms", "100us");
    assert_eq!(
        custom(&missed, &impossible, &options).code,
        ExitCode::from(1)
    );
    let run = Run::read(&missed.out()).unwrap();
    assert_eq!(run.checks[0].grade, Grade::Missed);

    // A quick run is not judged by what it cannot know.
    let quick = self::bench("");
    let ended = custom(&quick, SHOP, &["--duration", "1s", "--quick", "--json"]);
    assert_eq!(ended.code, ExitCode::SUCCESS, "{}", ended.stderr);
    let printed: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(printed["verdict"], "not_enough_requests");
    let printed: Run = serde_json::from_value(printed["run"].clone()).unwrap();
    assert_eq!(printed, Run::read(&quick.out()).unwrap());
    assert_eq!(printed.contenders.len(), 3);
}

#[test]
fn each_phase_under_xsched_leaves_a_trace() {
    let bench = self::bench("");
    let ended = custom(
        &bench,
        SHOP,
        &["--duration", "1s", "--peer", "none", "--trace"],
    );
    assert_eq!(ended.stderr, "");
    let run = Run::read(&bench.out()).unwrap();
    for phase in &run.phases {
        let name = format!("{}-{}_trace.json", phase.contender, phase.round);
        let traced = phase.contender == "xsched";
        assert_eq!(phase.trace_file, traced.then(|| name.clone()));
        assert_eq!(bench.out().join(name).exists(), traced);
    }
}

#[test]
fn what_a_limit_forbids_is_missed() {
    let bench = self::bench("");
    let strict = SHOP
        .replace("30ms", "19ms")
        .replace("throughput_standalone = 0.2", "throughput_standalone = 0.8");
    let ended = custom(&bench, &strict, &["--rounds", "1", "--peer", "none"]);
    assert_eq!(ended.code, ExitCode::from(1));
    let graded = grades(&Run::read(&bench.out()).unwrap());
    assert_eq!(graded[0], ("P99".to_owned(), Grade::Missed));
    assert_eq!(graded[3].1, Grade::Missed);
    assert!(ended.stdout.contains("Overall: FAIL"), "{}", ended.stdout);
}

#[test]
fn a_task_that_ran_unscheduled_is_a_missed_criterion() {
    let bench = self::bench("scheduled/job=unscheduled");
    let ended = custom(&bench, SHOP, &["--rounds", "1", "--peer", "none"]);
    assert_eq!(ended.code, ExitCode::from(1));
    let says = "job ran unscheduled: `xsched doctor` says why";
    assert!(ended.stdout.contains(says), "{}", ended.stdout);
}

#[test]
fn a_queue_that_outlives_its_program_fails_a_soak() {
    let mut bench = self::bench("daemon=lose-queue");
    bench.scenario = "soak";
    let ended = bench.run(&["--quick", "--duration", "1s"]);
    assert_eq!(ended.code, ExitCode::from(1));
    let says = "✗ all: queues left after their programs' end 1 queues, limit ≤ 0: missed";
    assert!(ended.stdout.contains(says), "{}", ended.stdout);
}

#[test]
fn a_run_that_ends_early_leaves_a_record_of_what_it_has() {
    let bench = self::bench("scheduled/job=die-2");
    let ended = custom(&bench, SHOP, &["--peer", "none"]);
    assert_eq!(ended.code, ExitCode::from(1));
    let run = Run::read(&bench.out()).unwrap();
    assert_eq!(run.phases.len(), 2 * 2 + 3);
    let failure = run.failure.unwrap();
    assert_eq!(failure.phase, "xsched-2");
    assert!(failure.message.contains("stand-in worker gives up"));
    assert!(run.checks.is_empty());
    assert!(bench.text("report.md").contains("INCOMPLETE"));
}

#[test]
fn a_share_is_one_of_the_measured_peak() {
    let bench = self::bench("");
    let text = SHOP.replace("rate = 100", "share = 0.3");
    custom(&bench, &text, &["--rounds", "1", "--peer", "none"]);
    // 15 ms a request back to back are 66.67 requests/s.
    let run = Run::read(&bench.out()).unwrap();
    assert_eq!(
        run.phases_of("native").next().unwrap().tasks[0].due,
        Some(80)
    );
    let says = "search: 20 requests/s, 30 % of the 66.67";
    assert!(run.notes[0].starts_with(says), "{:?}", run.notes);
}

#[test]
fn a_peer_that_does_not_start_workers_is_a_failure_that_names_them() {
    let bench = self::bench("");
    let options = ["--rounds", "1", "--peer", "theirs=exit 7; true"];
    let ended = custom(&bench, SHOP, &options);
    assert_eq!(ended.code, ExitCode::from(1));
    let run = Run::read(&bench.out()).unwrap();
    let failure = run.failure.unwrap();
    assert_eq!(failure.phase, "theirs-1");
    assert!(
        failure.message.contains("exit code 7"),
        "{}",
        failure.message
    );
}

#[test]
fn a_command_is_a_task_whose_request_is_one_run_of_it() {
    let bench = self::bench("real");
    let text = r#"name = "words"
duration = "300ms"
rounds = 1

[[task]]
name = "good"
command = ["sh", "-c", "exit 0"]
arrival = { poisson = 50 }
limits = { completion.within = "1h" }
"#;
    custom(&bench, text, &["--peer", "none", "--seed", "3"]);
    let run = Run::read(&bench.out()).unwrap();
    assert_eq!(run.failure, None);
    let result = &run.phases_of("xsched").next().unwrap().tasks[0];
    assert!(result.completed > 0 && result.output_digest.is_empty());
    let graded = grades(&run);
    assert_eq!(graded[0], ("latest completion".to_owned(), Grade::Met));
    // Nobody knows the level of a command, and that is not held against it.
    assert_eq!(graded[1], ("unscheduled tasks".to_owned(), Grade::Met));

    let failing = self::bench("real");
    custom(
        &failing,
        &text.replace("exit 0", "exit 5"),
        &["--peer", "none"],
    );
    let failure = Run::read(&failing.out()).unwrap().failure.unwrap();
    assert!(failure.message.contains("sh ended with exit code 5"));
}

#[test]
fn a_mistake_in_a_file_is_one_line_and_leaves_nothing() {
    let check = |text: &str, options: &[&str], says: &str| {
        let bench = self::bench("");
        let ended = custom(&bench, text, options);
        assert_eq!(ended.code, ExitCode::from(2), "{}", ended.stdout);
        assert_eq!(ended.stdout, "");
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
        assert!(!bench.out().exists());
    };
    let wrong = SHOP.replace("rounds", "round");
    check(&wrong, &[], "mine.toml:3: key \"round\": unknown field");
    check(SHOP, &["--peer", "mps"], "--peer mps: use auto");
    check(
        SHOP,
        &["--peer", "nice", "--peer", "nice"],
        "this name is taken",
    );
}

#[test]
fn a_built_in_mix_runs_with_its_defaults() {
    let mut bench = self::bench("");
    for (scenario, contenders) in [("multi-tenant", 3), ("partition", 3), ("soak", 2)] {
        bench.scenario = scenario;
        bench.run(&["--quick", "--duration", "1"]);
        let run = Run::read(&bench.out()).unwrap();
        assert_eq!(run.failure, None, "{scenario}");
        assert_eq!(run.manifest.scenario, scenario);
        assert_eq!(run.contenders.len(), contenders);
        assert!(!run.checks.is_empty());
        std::fs::remove_dir_all(bench.out()).unwrap();
    }
    bench.scenario = "realtime-batch";
    let ended = bench.run(&["--quick", "--duration", "1s", "--device", "cuda"]);
    assert_eq!(ended.code, ExitCode::SUCCESS, "{}", ended.stdout);
    let run = Run::read(&bench.out()).unwrap();
    let dropped = run.checks.iter().find(|check| check.what == "dropped");
    assert_eq!(dropped.unwrap().grade, Grade::Met);
    assert_eq!(
        run.phases_of("xsched").next().unwrap().tasks[0].due,
        Some(30)
    );
}
