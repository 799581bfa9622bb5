//! `xsched bench show` and `diff` as black boxes, on runs that were killed and runs that lost files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use xsched_bench::run::Run;

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder for runs, and for the numbers of the processes that they start.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("pids")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, behaviour: &str, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xsched-stand-in"));
        command
            .args(words.split_whitespace())
            .current_dir(self.0.path())
            .env("STAND_IN", behaviour)
            .env("STAND_IN_PIDS", self.path("pids"))
            // What a killed one leaves ends with this place.
            .env("TMPDIR", self.0.path())
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY");
        command
    }

    /// Runs a command that must end with this code; gives what it printed.
    fn check(&self, words: &str, code: i32) -> String {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command("", words).output().unwrap();
        let text = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(code), "{words}: {text}");
        text
    }
}

impl Drop for Place {
    /// Whatever a killed harness could not end.
    fn drop(&mut self) {
        for entry in fs::read_dir(self.path("pids"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let pids = fs::read_to_string(entry.path()).unwrap_or_default();
            for pid in pids
                .lines()
                .filter_map(|line| Pid::from_raw(line.parse().ok()?))
            {
                let comm = format!("/proc/{}/comm", pid.as_raw_nonzero());
                let name = fs::read_to_string(comm).unwrap_or_default();
                // The number may have been given to another process since.
                if name.starts_with("sleep") || name.starts_with("xsched-stand-in") {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
        }
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn phases(out: &Path) -> Option<usize> {
    Some(Run::read(out).ok()?.phases.len())
}

#[test]
fn a_run_that_was_killed_between_any_phases_is_shown() {
    for (hangs, finished) in [
        ("off/resnet18-high=hang", 0),
        ("off/resnet50-low=hang", 1),
        ("scheduled/resnet18-high=hang", 3),
    ] {
        let place = Place::new();
        let mut harness = place
            .command(hangs, "bench dual-model --out out --rate 10 --duration 20")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = place.path("out");
        until("the phases before that one are recorded", || {
            phases(&out) == Some(finished)
        });
        harness.kill().unwrap();
        harness.wait().unwrap();

        let shown = place.check("bench show out", 0);
        assert!(shown.contains("Overall: INCOMPLETE"), "{shown}");
        assert!(
            shown.contains("it is still going on, or it was killed"),
            "{shown}"
        );
        for (contender, from) in [("Standalone", 1), ("Native", 3), ("XSched", 4)] {
            let row = shown
                .lines()
                .any(|line| line.starts_with("resnet18-high") && line.contains(contender));
            assert_eq!(
                row,
                finished >= from,
                "{contender} after {finished}: {shown}"
            );
        }
        let page = fs::read_to_string(out.join("report.html")).unwrap();
        assert!(page.contains("INCOMPLETE"));
        assert_eq!(page.contains("id=\"timeline-1\""), finished >= 3);
    }
}

/// Mixes of tasks and threads of one process as well.
#[test]
fn whatever_was_killed_is_shown() {
    for (behaviour, words, at_least) in [
        ("scheduled/batch=hang", "bench soak --duration 1s", 2),
        (
            "",
            "bench systematic --tasks 2 --commands 2 --rounds 100",
            3,
        ),
    ] {
        let place = Place::new();
        let mut harness = place
            .command(behaviour, &format!("{words} --out out"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = place.path("out");
        until("some phases are recorded", || {
            phases(&out).is_some_and(|phases| phases >= at_least)
        });
        harness.kill().unwrap();
        harness.wait().unwrap();
        let shown = place.check("bench show out", 0);
        assert!(shown.contains("Overall: INCOMPLETE"), "{shown}");
        let rows = shown.lines().filter(|line| line.contains("lone ")).count();
        assert!(rows > 0, "{shown}");
    }
}

#[test]
fn what_a_folder_lost_is_said_and_the_rest_is_shown() {
    let place = Place::new();
    place.check("bench dual-model --out out --rate 10 --duration 60", 0);
    let out = place.path("out");
    let whole = place.check("bench show out", 0);
    assert!(whole.contains("Overall: PASS"), "{whole}");
    assert!(
        whole.trim_end().ends_with("out/report.html") && !whole.contains("! "),
        "{whole}"
    );

    // Cut in the middle of a line.
    let file = out.join("baseline_samples.csv");
    let text = fs::read_to_string(&file).unwrap();
    let cut = text.find(",10000.000,").unwrap();
    fs::write(&file, &text[..cut + 3]).unwrap();
    fs::remove_file(out.join("scheduled_samples.csv")).unwrap();
    fs::remove_file(out.join("report.html")).unwrap();
    let shown = place.check("bench show out", 0);
    for says in [
        "! baseline_samples.csv: 1 lines are no samples and are left out",
        "! baseline_samples.csv: 100 of 600 requests of resnet18-high (native, round 1)",
        "! scheduled_samples.csv: No such file",
        "Overall: PASS",
    ] {
        assert!(shown.contains(says), "{says:?} is missing in {shown}");
    }
    // The figures are those of the record.
    let row = |text: &str| {
        text.lines()
            .find(|line| line.contains("XSched"))
            .map(str::to_owned)
    };
    assert_eq!(row(&shown), row(&whole));
    assert!(out.join("report.html").exists());

    fs::write(out.join("run.json"), "{").unwrap();
    let refused = place.check("bench show out", 2);
    assert!(
        refused.contains("not the record of a run") && refused.lines().count() == 1,
        "{refused}"
    );
    assert!(
        place
            .check("bench show nowhere", 2)
            .contains("name the folder of a run")
    );
    // The folder of several runs, as `bench all` leaves it.
    let refused = place.check("bench show .", 2);
    assert!(
        refused.contains("no run, but several in it: name one of ./out"),
        "{refused}"
    );
}

#[test]
fn a_run_is_printed_in_every_form_and_compared_with_another() {
    let place = Place::new();
    place.check("bench dual-model --out a --rate 10 --duration 60", 0);
    place.check(
        "bench dual-model --out b --rate 10 --duration 60 --rounds 2",
        0,
    );
    place.check(
        "bench dual-model --out c --rate 10 --duration 60 --low-batch 4",
        0,
    );
    for (format, says) in [
        ("markdown", "| resnet18-high | XSched | 600 |"),
        ("json", "\"verdict\": \"pass\""),
        ("csv", "resnet18-high,xsched,600,600,0,3,20.0000,"),
        ("html", "<!DOCTYPE html>"),
        ("svg", " id=\"distribution-0\""),
        ("table", "| Task | Contender |"),
    ] {
        let text = place.check(&format!("bench show a --format {format}"), 0);
        assert!(text.contains(says), "{format}: {text}");
    }
    let closed = place.check("bench show a --open", 1);
    assert!(
        closed.contains("no display") && closed.contains("a/report.html"),
        "{closed}"
    );

    let difference = place.check("bench diff a b", 0);
    assert!(difference.contains("not distinguishable"), "{difference}");
    assert!(
        !difference.contains("better") && !difference.contains("worse"),
        "{difference}"
    );
    let json: serde_json::Value =
        serde_json::from_str(&place.check("bench diff a b --format json", 0)).unwrap();
    assert_eq!(json["changes"][0]["reading"], "not_distinguishable");
    assert!(
        place
            .check("bench diff a b --format markdown", 0)
            .contains("| not distinguishable |")
    );
    let refused = place.check("bench diff a c", 2);
    assert!(
        refused.contains("cannot compare") && refused.lines().count() == 1,
        "{refused}"
    );
}
