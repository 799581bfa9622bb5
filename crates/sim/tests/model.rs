//! The model of a device: levels, switches, slices, traces, against what can be worked out by hand.

use xsched_sched::Nanos;
use xsched_sim::*;

const MS: Nanos = 1_000_000;

fn scenario(device: &str, tasks: &str) -> Scenario {
    let text = format!(
        "name = \"m\"\nduration = \"1s\"\nmin_share = 0.0\n[[device]]\nname = \"d\"\n{device}\n{tasks}"
    );
    Scenario::parse(&text).unwrap()
}

/// A low task with 1 ms commands from 0 on, a high one with one request of 10 ms at 50.5 ms: when that begins.
#[track_caller]
fn check_preemption(device: &str, expect: Nanos) {
    let tasks = r#"
[[task]]
name = "low"
arrival = { closed = "0us" }
commands = 1000
command = { fixed = "1ms" }
[[task]]
name = "high"
arrival = { periodic = "2s" }
start = "50500us"
command = { fixed = "10ms" }
hints = { priority = "high" }
"#;
    let scenario = scenario(device, tasks);
    let (report, segments) = run_with(
        &scenario,
        xsched_sched::policy::by_name("hpf").unwrap(),
        true,
    );
    let first = segments.iter().find(|segment| segment.task == 1).unwrap();
    assert_eq!(
        (first.start, first.end),
        (expect, expect + 10 * MS),
        "{device}"
    );
    assert_eq!(
        report.tasks[1].latency_max_ms,
        (expect + 10 * MS - 50_500_000) as f64 / 1e6
    );
}

#[test]
fn levels_stop_what_they_should() {
    check_preemption("level = 3", 50_500_000);
    check_preemption("level = 3\nswitch = \"100us\"", 50_600_000);
    check_preemption("level = 3\nreaction = \"40us\"", 50_540_000);
    // The command that executes ends.
    check_preemption("level = 2", 51 * MS);
    // Gates before the commands 48, 56 …
    check_preemption("level = 2\ngate_interval = 8", 56 * MS);
    // What is in flight ends: the one that executes and three more.
    check_preemption("level = 1\nwindow = 4", 54 * MS);
    // The slicer lets it begin while those in flight still execute, but not to the end at once.
    check_preemption("level = 3\nslice = \"2ms\"", 50_500_000);
}

#[test]
fn the_slicer_shares_a_device_that_nobody_schedules() {
    let tasks = r#"
[[task]]
name = "a"
count = 2
arrival = { closed = "0us" }
command = { fixed = "30ms" }
"#;
    let report = run(&scenario("slice = \"2ms\"", tasks), "fifo").unwrap();
    assert!(
        report
            .tasks
            .iter()
            .all(|task| (task.share - 0.5).abs() < 0.01),
        "{report:?}"
    );
    // A tenth of each slice goes into the switch.
    let report = run(
        &scenario("slice = \"1ms\"\nswitch = \"100us\"", tasks),
        "fifo",
    )
    .unwrap();
    assert!(
        (report.utilization - 10.0 / 11.0).abs() < 0.01,
        "{}",
        report.utilization
    );
    // Without a slicer a task keeps the device as long as it has commands.
    let report = run(&scenario("", tasks), "fifo").unwrap();
    assert_eq!(report.tasks[0].share, 1.0);
}

#[test]
fn shares_become_slices_where_the_hardware_has_them() {
    let tasks = r#"
[[task]]
name = "three"
arrival = { closed = "0us" }
command = { fixed = "3ms" }
hints = { utilization = 60 }
[[task]]
name = "one"
arrival = { closed = "0us" }
command = { fixed = "3ms" }
hints = { utilization = 20 }
"#;
    let device = "level = 3\none_background = true\nslice = \"2ms\"";
    let report = run(&scenario(device, tasks), "up").unwrap();
    let shares: Vec<f64> = report.tasks.iter().map(|task| task.share).collect();
    assert!(
        (shares[0] - 0.75).abs() < 0.01 && (shares[1] - 0.25).abs() < 0.01,
        "{shares:?}"
    );
    assert_eq!(
        report.tasks[0].preemptions, 0,
        "by the hardware, not by gates"
    );
}

#[test]
fn arrivals_are_as_stated() {
    let count = |arrival: &str| {
        let task =
            format!("[[task]]\nname = \"t\"\narrival = {arrival}\ncommand = {{ fixed = \"1us\" }}");
        run(&scenario("", &task), "fifo").unwrap().tasks[0].requests
    };
    assert_eq!(count("{ periodic = \"10ms\" }"), 100);
    assert_eq!(count("{ bursty = { count = 7, every = \"100ms\" } }"), 70);
    assert_eq!(count("{ closed = \"999us\" }"), 1_000);
    let poisson = count("{ poisson = \"1ms\" }");
    assert!((900..1_100).contains(&poisson), "{poisson}");
}

#[test]
fn a_trace_is_played_as_recorded() {
    let folder = std::env::temp_dir().join(format!("xsched-sim-trace-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("scenario.toml");
    let text = "name = \"t\"\nduration = \"1s\"\n[[device]]\nname = \"d\"\n[[task]]\nname = \"t\"\narrival = { trace = \"t.csv\" }\ncommand = { fixed = \"1us\" }\n";
    std::fs::write(&file, text).unwrap();
    let load = |trace: &str| {
        std::fs::write(folder.join("t.csv"), trace).unwrap();
        Scenario::load(&file)
    };
    let scenario =
        load("arrival_us,commands,command_us\n1000,2,500\n1200,1,250.5\n9000,3,1\n").unwrap();
    let latencies = run(&scenario, "fifo").unwrap().tasks[0].latencies.clone();
    // The second waits for the first: done at 2,000 and 2,250.5 µs.
    assert_eq!(latencies, [1_000_000, 1_050_500, 3_000]);
    let error = load("5,1,1\n4,1,1\n").unwrap_err().to_string();
    assert!(
        error.contains("line 7, key \"arrival\"") && error.contains("t.csv line 2"),
        "{error}"
    );
    std::fs::remove_file(folder.join("t.csv")).unwrap();
    let error = Scenario::load(&file).unwrap_err().to_string();
    assert!(error.contains("cannot read the trace"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(
        Scenario::load(&file)
            .unwrap_err()
            .to_string()
            .contains("check the path")
    );
}

#[test]
fn the_page_about_scenarios_has_one_that_plays() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/simulator.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("```toml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let scenario = Scenario::parse(text).unwrap();
    assert_eq!(scenario.policies, ["fifo", "hpf"]);
    let other = text.replace(
        "poisson = \"100ms\"",
        "bursty = { count = 2, every = \"1s\" }",
    );
    let other = other.replace("fixed = \"50us\"", "uniform = [\"50us\", \"60us\"]");
    assert_ne!(other, text);
    Scenario::parse(&other).unwrap();
    // A key that the page does not name would be new.
    let error = Scenario::parse(&text.replace("slice =", "slise =")).unwrap_err();
    let error = error.to_string();
    let (_, known) = error.split_once("expected one of ").unwrap();
    for key in known.split('`').skip(1).step_by(2) {
        assert!(page.contains(&format!("`{key}`")), "{key}");
    }
}

#[test]
fn every_shipped_scenario_is_well_formed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        Scenario::load(&path).unwrap();
        count += 1;
    }
    assert!(count >= 4);
}
