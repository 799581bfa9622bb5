//! Benchmarks as black boxes: `xsched`, its daemon and, over the stand-in driver, the shim. No figure
//! decides here; a stand-in's are no results.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tempfile::TempDir;

/// `xsched` with the shim beside it, as installed, and a stand-in device of its own.
struct Installed {
    root: TempDir,
}

impl Installed {
    fn new() -> Self {
        let built = std::env::current_exe().unwrap();
        let built = built.parent().unwrap();
        // On the same file system, so that links will do; a copy of the program is large.
        let root = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let link = |from: PathBuf, to: &str| {
            assert!(from.exists(), "{} is not built", from.display());
            fs::hard_link(from, root.path().join(to)).unwrap();
        };
        link(common::executable().to_owned(), "xsched");
        link(built.join("libshimcuda.so"), "libshimcuda.so");
        link(built.join("libstandin_cuda.so"), "libcuda.so.1");
        Installed { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// `xsched bench WORDS --out …`, which must end with one of these exit codes; gives its outputs.
    fn bench(&self, words: &str, variables: &[(&str, &str)], codes: &[i32]) -> (String, String) {
        let mut command = common::clean(self.path("xsched"));
        command
            .arg("bench")
            .args(words.split_whitespace())
            .arg("--out")
            .arg(self.path("out"))
            .env("LD_LIBRARY_PATH", self.root.path())
            .env("STANDIN_SHM", self.path("device"))
            .envs(variables.iter().copied());
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        let code = output.status.code();
        assert!(
            code.is_some_and(|code| codes.contains(&code)),
            "{words}: {code:?}\n{stdout}\n{stderr}"
        );
        (stdout, stderr)
    }

    /// `xsched bench show` of the folder.
    fn show(&self) -> String {
        let mut command = common::clean(self.path("xsched"));
        let output = command
            .args(["bench", "show"])
            .arg(self.path("out"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn result(&self, name: &str) -> Value {
        read(&self.path("out").join(name))
    }
}

fn read(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn preemption_is_measured_at_every_level() {
    let check = |device: &str, level: u8| {
        let xsched = Installed::new();
        let words = format!(
            "preempt-latency --device {device} --level {level} --kernel-us 300 --trials 20"
        );
        // Too few trials to pass.
        let (printed, _) = xsched.bench(&words, &[], &[1]);
        let result = xsched.result("preempt_latency_result.json");
        // The same, but for the folder.
        let shown = xsched.show();
        let lines = |text: &str| text.lines().count();
        assert_eq!(shown.lines().next(), printed.lines().next());
        assert_eq!(lines(&shown), lines(&printed), "{shown}\n{printed}");
        assert!(
            !shown.contains(xsched.root.path().to_str().unwrap()),
            "{shown}"
        );
        assert_eq!(
            (&result["level"], &result["trials"]),
            (&level.into(), &20.into())
        );
        assert_ne!(result["verdict"], "pass");
        let samples = fs::read_to_string(xsched.path("out/preempt_latency_samples.csv")).unwrap();
        assert_eq!(samples.lines().count(), 21);
        match level {
            // Whatever the time, the window bounds what goes on behind a closed gate.
            1 => assert!(result["most_commands"].as_u64().unwrap() <= 8),
            3 => assert!(result["alone"]["p50_us"].as_f64().unwrap() > 0.0),
            _ => {}
        }
    };
    for level in [1, 2, 3] {
        check("cuda", level);
    }
    check("cpu", 1);
    check("cpu", 2);
}

#[test]
fn a_level_that_does_not_work_is_said() {
    let xsched = Installed::new();
    let refused = [("STANDIN_FAIL", "ioctl:EPERM")];
    let words = "preempt-latency --device cuda --level 3 --trials 20";
    let (_, stderr) = xsched.bench(words, &refused, &[1]);
    let says = "level 3 does not work here: level 2 is in force";
    assert!(stderr.contains(says), "{stderr}");
    // The record is there, and says so.
    let shown = xsched.show();
    assert!(
        shown.contains("ended before it had a figure: run it again"),
        "{shown}"
    );
}

#[test]
fn without_a_driver_a_benchmark_says_so() {
    let xsched = Installed::new();
    fs::remove_file(xsched.path("libcuda.so.1")).unwrap();
    let words = "preempt-latency --device cuda --level 1 --trials 20";
    let none = [("STANDIN_FAIL", "cuInit:100")];
    let (_, stderr) = xsched.bench(words, &none, &[1]);
    assert!(stderr.contains("the NVIDIA driver"), "{stderr}");
}

/// Passed or not: a stand-in's figures decide nothing.
const EITHER: &[i32] = &[0, 1];

#[test]
fn the_overhead_is_that_of_equal_work_with_and_without_the_shim() {
    let xsched = Installed::new();
    let words = "overhead --device cuda --model kernels:4x50 --pairs 6 --seconds 0.05";
    for (processes, variants) in [
        ("", &["passing", "scheduled"][..]),
        (" --processes", &["no_preload", "off", "scheduled"]),
    ] {
        xsched.bench(&format!("{words}{processes}"), &[], EITHER);
        check_overhead(&xsched, variants);
        let _ = fs::remove_dir_all(xsched.path("out"));
    }

    xsched.bench("overhead --device cuda --launch --pairs 6", &[], EITHER);
    let result = xsched.result("overhead_result.json");
    assert_eq!(
        (&result["model"], &result["unit"]),
        (&"launch".into(), &"ns".into())
    );
}

#[track_caller]
fn check_overhead(xsched: &Installed, variants: &[&str]) {
    let result = xsched.result("overhead_result.json");
    assert_eq!(
        (&result["level"], &result["outputs_equal"]),
        (&3.into(), &true.into())
    );
    let figures = result["variants"].as_array().unwrap().iter();
    let names: Vec<_> = figures
        .map(|one| one["variant"].as_str().unwrap())
        .collect();
    assert_eq!(names, variants);
    let pairs = result["by_pair"].as_array().unwrap();
    assert_eq!(pairs.len(), 6);
    for pair in pairs {
        let figures = pair.as_array().unwrap();
        assert!(
            figures.len() == variants.len() && figures.iter().all(|ms| ms.as_f64().unwrap() > 0.0)
        );
    }
    let judged = result["comparisons"].as_array().unwrap();
    let judged = judged.iter().filter(|one| !one["verdict"].is_null());
    assert_eq!(judged.count(), variants.len() - 1);
    // The processes, one or three a pair, and the daemon.
    let processes = if variants.len() == 2 { 6 } else { 18 };
    assert_eq!(
        fs::read_dir(xsched.path("out/logs")).unwrap().count(),
        processes + 1
    );
}

#[test]
fn the_cost_of_scheduling_is_that_of_the_daemon_and_of_each_programs_agent() {
    let xsched = Installed::new();
    let words = "dual-model --device cuda --high-model kernels:4x50 --low-model spin:1000 --rate 50 \
                 --duration 1 --quick";
    let (text, _) = xsched.bench(words, &[], EITHER);
    let run = xsched.result("run.json");
    let phases = run["phases"].as_array().unwrap();
    let cost = |contender: &str| {
        let phase = phases.iter().find(|phase| phase["contender"] == contender);
        phase.unwrap()["scheduler_cpu_s"].as_f64()
    };
    // Not known unless the agents of both programs were seen.
    assert!(cost("xsched").is_some(), "{run}");
    assert_eq!(cost("native"), None);
    let what = "processor time of daemon and agents, of one core";
    let checks = run["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["what"] == what).unwrap();
    assert_eq!(
        (&check["unit"], &check["limit"]),
        (&"%".into(), &"≤ 3".into())
    );
    assert_ne!(check["grade"], "information");
    assert!(text.contains("daemon and agents took "), "{text}");
    let file = |name: &str| fs::read_to_string(xsched.path("out").join(name)).unwrap();
    assert!(
        file("phase4_dual_model_report.md").contains("Cost of scheduling (daemon and agents): ")
    );
    assert!(file("report.html").contains(what));
}

#[test]
fn threads_of_one_process_are_measured_alone_together_and_by_priority() {
    let xsched = Installed::new();
    for device in ["cpu", "cuda"] {
        let words = format!("systematic --device {device} --tasks 3 --commands 4 --rounds 2");
        let (text, _) = xsched.bench(&words, &[], &[1]);
        // Six tasks are too few to pass, however fast this machine is.
        let run = xsched.result("run.json");
        let checks = run["checks"].as_array().unwrap();
        let judged = checks
            .iter()
            .find(|check| check["limit"] == "≤ 1.25")
            .unwrap();
        let grade = judged["grade"].as_str().unwrap();
        assert!(["not_enough_requests", "missed"].contains(&grade), "{text}");
        let says = "6 tasks, 200 are needed: give more --tasks or --rounds";
        assert_eq!(
            text.contains(says),
            grade == "not_enough_requests",
            "{text}"
        );
        let phases = run["phases"].as_array().unwrap();
        // The CPU has no priorities of its own to compare with.
        assert_eq!(phases.len(), if device == "cuda" { 10 } else { 8 });
        for (name, tasks, scheduled) in [
            ("alone", 3, false),
            ("unscheduled", 3, false),
            ("stream-priority", 3, false),
            ("three-high", 9, true),
            ("one-high", 3, true),
        ] {
            for phase in phases.iter().filter(|phase| phase["contender"] == name) {
                let high = &phase["tasks"][0];
                assert_eq!(high["completed"], tasks, "{device} {name}");
                let level = high["level"].as_u64().unwrap();
                assert_eq!(level > 0, scheduled, "{device} {name}");
            }
        }
        let shown = xsched.show();
        assert!(shown.contains("16 unscheduled"), "{shown}");
        assert!(!shown.contains("! "), "{shown}");
        fs::remove_dir_all(xsched.path("out")).unwrap();
    }
}

#[test]
fn a_program_conforms_while_it_is_preempted() {
    let xsched = Installed::new();
    let words = "conformance --only driver,contexts,jax --jobs 2";
    xsched.bench(words, &[], EITHER);
    let result = xsched.result("conformance_result.json");
    let row = |name: &str| {
        let rows = result["rows"].as_array().unwrap();
        rows.iter().find(|row| row["row"] == name).unwrap().clone()
    };
    for name in ["driver", "contexts"] {
        let row = row(name);
        assert_eq!(row["status"], "equal", "{row}");
        assert_eq!(row["exit_codes"], serde_json::json!([0, 0]));
        assert_eq!(row["level"], 3);
    }
    assert!(result["bursts"].as_u64().unwrap() > 0);
    // Without a GPU, whether jax is installed or not.
    assert_ne!(row("jax")["status"], "equal");
}

#[test]
fn bad_input_is_one_line_and_leaves_nothing() {
    let xsched = Installed::new();
    for (words, says) in [
        ("preempt-latency", "--level is missing"),
        ("preempt-latency --level 4", "4"),
        ("preempt-latency --level 1 --trials 3", "--trials 3"),
        ("preempt-latency --level 1 --kernel-us 0", "--kernel-us 0"),
        ("preempt-latency --level 1 --device tpu", "tpu"),
        ("overhead --pairs 3", "--pairs 3"),
        ("overhead --seconds 0", "--seconds 0"),
        ("overhead --model resnet19", "--model resnet19"),
        ("overhead --launch", "--device cuda"),
        ("conformance --only nothing", "--only nothing"),
        ("conformance --jobs 0", "--jobs 0"),
        ("conformance --device cpu", "--device cpu"),
        ("dual-model --duration 0", "use a time such as 20, 20s"),
        ("dual-model --duration 0", "--duration"),
        ("dual-model --duration nan", "not \"nan\""),
        ("partition --duration soon", "use a time such as 20, 20s"),
        ("systematic --tasks 0", "--tasks 0"),
        ("systematic --command-us 1", "--command-us 1"),
        ("systematic --device opencl", "--device opencl"),
        (
            "overhead --device cuda --model spin:5 --batch 2",
            "--batch 2",
        ),
    ] {
        let (stdout, stderr) = xsched.bench(words, &[], &[2]);
        assert_eq!(stdout, "");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(says), "{stderr}");
        assert!(!xsched.path("out").exists(), "{words}");
    }
    fs::remove_file(xsched.path("libshimcuda.so")).unwrap();
    let (_, stderr) = xsched.bench("overhead --device cuda --model spin:5", &[], &[2]);
    assert!(stderr.contains("no shim is installed"), "{stderr}");
}
