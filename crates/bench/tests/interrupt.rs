//! Ctrl-C. The only test of its program, as it sends a signal to itself.

mod support;

use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use support::Bench;
use xsched_bench::interrupt::Interrupt;

#[test]
fn ctrl_c_ends_the_workers_and_keeps_what_was_measured() {
    let mut bench = Bench::new("scheduled/resnet18-high=steady;scheduled/resnet50-low=steady");
    bench.interrupt = Interrupt::on_signals().unwrap();
    let pids = bench.pids();
    let killer = std::thread::spawn(move || {
        let scheduled = |name: &str| {
            let names = std::fs::read_dir(&pids)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            names
                .into_iter()
                .any(|found| found.to_str().unwrap().starts_with(name))
        };
        while !(scheduled("scheduled-resnet18-high") && scheduled("scheduled-resnet50-low")) {
            std::thread::sleep(Duration::from_millis(10));
        }
        kill_process(getpid(), Signal::INT).unwrap();
    });
    let ended = bench.run(&["--rate", "10", "--duration", "600"]);
    killer.join().unwrap();

    assert_eq!(ended.code, ExitCode::from(130), "{}", ended.stderr);
    assert!(
        ended
            .stdout
            .contains("interrupted by Ctrl-C (missing: scheduled)"),
        "{}",
        ended.stdout
    );
    assert_eq!(
        bench.json("baseline_result.json")["high_priority"]["requests"],
        6000
    );
    assert!(!bench.files().contains(&"xsched_result.json".to_owned()));
    assert!(
        bench
            .text("phase4_dual_model_report.md")
            .contains("Without a result: scheduled")
    );
}
