//! `xsched sim` as a black box.

mod common;

use std::fs;

use common::xsched;

const SCENARIO: &str = r#"
name = "two"
duration = "2s"
policies = ["fifo", "hpf"]
[[device]]
name = "gpu"
slice = "2ms"
[[task]]
name = "high"
arrival = { periodic = "20ms" }
command = { uniform = ["1ms", "2ms"] }
hints = { priority = "high" }
[[task]]
name = "low"
arrival = { closed = "0us" }
command = { exponential = "1ms" }
"#;

#[test]
fn a_scenario_is_played_and_written_the_same_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("two.toml"), SCENARIO).unwrap();
    let play = |number: u32| {
        let output = xsched()
            .arg("sim")
            .arg(path("two.toml"))
            .args(["--until", "50ms", "--csv"])
            .arg(path(&format!("{number}.csv")))
            .arg("--json")
            .arg(path(&format!("{number}.json")))
            .arg("--svg")
            .arg(path(&format!("{number}.svg")))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = play(1);
    assert!(
        said.contains("two under fifo") && said.contains("hpf P99 ms"),
        "{said}"
    );
    assert_eq!(said, play(2));
    for kind in ["csv", "json", "svg"] {
        let read = |number: u32| fs::read_to_string(path(&format!("{number}.{kind}"))).unwrap();
        assert_eq!(read(1), read(2));
    }
    let csv = fs::read_to_string(path("1.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 2 * 2, "{csv}");
    let json: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(path("1.json")).unwrap()).unwrap();
    assert_eq!(json[1]["policy"], "hpf");
    let p99 = |run: usize| json[run]["tasks"][0]["latency_p99_ms"].as_f64().unwrap();
    assert!(p99(1) < p99(0), "{json}");
    assert!(
        fs::read_to_string(path("1.svg"))
            .unwrap()
            .starts_with("<svg")
    );
}

#[test]
fn a_malformed_scenario_is_one_line_and_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    let check = |from: &str, to: &str, expect: &[&str]| {
        fs::write(&path, SCENARIO.replacen(from, to, 1)).unwrap();
        let output = xsched().arg("sim").arg(&path).output().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(
            line.starts_with("xsched: ") && line.lines().count() == 1,
            "{line}"
        );
        assert!(output.stdout.is_empty());
        for part in expect {
            assert!(line.contains(part), "{line} does not name {part}");
        }
    };
    check(
        "\"high\" }",
        "\"urgent\" }",
        &["line 12", "\"hints\"", "-255", "realtime"],
    );
    check(
        "\"hpf\"",
        "\"best\"",
        &["line 4", "\"policies\"", "hpf, fifo"],
    );
    check("periodic", "often", &["line 10", "\"arrival\"", "poisson"]);
    check("\"2s\"", "2", &["line 3", "\"duration\""]);
    let output = xsched().args(["sim", "nowhere.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let output = xsched()
        .arg("sim")
        .arg(&path)
        .args(["--policy", "best"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
