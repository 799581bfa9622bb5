//! `report.html` in a real browser: everything drawn, nothing fetched, no complaint, light and dark.
//!
//! With `REPORT_PICTURES=DIR` the pictures are kept there, to be looked at.

#[path = "support/chromium.rs"]
mod chromium;
#[allow(dead_code, reason = "what a run leaves is looked at in a browser here")]
mod support;

use std::process::ExitCode;

use chromium::Chromium;
use support::Bench;

/// What is wrong with the drawings, seen from inside the page.
const FAULTS: &str = r#"(() => {
  const faults = [];
  for (const svg of document.querySelectorAll("svg.chart")) {
    const box = svg.getBoundingClientRect();
    if (box.width < 300 || box.height < 60) faults.push(`${svg.id} is ${box.width} x ${box.height}`);
    if (!svg.querySelector("title").textContent || !svg.querySelector("desc").textContent)
      faults.push(`${svg.id} has no title or description`);
    const texts = [...svg.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()]);
    for (const [text, place] of texts) {
      if (place.left < box.left - 1 || place.right > box.right + 1 || place.top < box.top - 1 || place.bottom > box.bottom + 1)
        faults.push(`${svg.id}: "${text}" reaches out of the drawing`);
    }
    texts.forEach(([text, a], at) => texts.slice(at + 1).forEach(([other, b]) => {
      const inside = 2;
      if (a.left + inside < b.right && b.left + inside < a.right && a.top + inside < b.bottom && b.top + inside < a.bottom)
        faults.push(`${svg.id}: "${text}" and "${other}" overlap`);
    }));
    for (const path of svg.querySelectorAll("path"))
      if (/NaN|Infinity/.test(path.getAttribute("d"))) faults.push(`${svg.id} has a path to nowhere`);
  }
  if (document.documentElement.scrollWidth > document.documentElement.clientWidth)
    faults.push(`the page is ${document.documentElement.scrollWidth} wide`);
  return faults;
})()"#;

/// The smallest contrast of a text with the ground of the page.
const CONTRAST: &str = r#"(() => {
  const luminance = (color) => {
    const parts = color.match(/[\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const ground = luminance(document.body
    ? getComputedStyle(document.body).backgroundColor : getComputedStyle(document.querySelector("svg > rect")).fill);
  const of = (color) => {
    const [high, low] = [luminance(color), ground].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const texts = [...document.querySelectorAll("p, td, th, h1, h2, .verdict strong")].map((text) => getComputedStyle(text).color);
  const drawn = [...document.querySelectorAll("svg text")].map((text) => getComputedStyle(text).fill);
  return Math.min(...[...texts, ...drawn].map(of));
})()"#;

#[test]
fn the_page_is_drawn_in_a_browser_without_a_complaint() {
    let Some(program) = chromium::installed() else {
        eprintln!("skipped: no Chromium (cargo xtask setup installs it)");
        return;
    };
    let bench = Bench::new("");
    let options = "--rate 10 --duration 30 --rounds 2 --low-batch 8";
    let ended = bench.run(&options.split(' ').collect::<Vec<_>>());
    assert_eq!(ended.code, ExitCode::SUCCESS, "{}", ended.stdout);
    look_at(&program, &bench.out().join("report.html"), "whole");

    // A run of which little is left.
    let bench = Bench::new("scheduled/resnet18-high=die");
    bench.run(&["--rate", "10", "--duration", "30"]);
    std::fs::remove_file(bench.out().join("standalone_samples.csv")).unwrap();
    xsched_bench::report::html::write(&bench.out()).unwrap();
    look_at(&program, &bench.out().join("report.html"), "incomplete");
}

/// The drawing that other pages include stands by itself: legible on either ground, its curves told apart
/// without colours, and units on its axes.
#[test]
fn the_figure_of_a_run_is_drawn_as_an_image() {
    let Some(program) = chromium::installed() else {
        eprintln!("skipped: no Chromium (cargo xtask setup installs it)");
        return;
    };
    let bench = Bench::new("");
    bench.run(&["--rate", "10", "--duration", "60"]);
    let report = xsched_bench::report::RunReport::read(&bench.out()).unwrap();
    let image = bench.out().join("figure.svg");
    std::fs::write(&image, xsched_bench::report::html::figure(&report).unwrap()).unwrap();
    let mut chromium = Chromium::start(&program);
    chromium.open(&image);
    chromium.set_width(1100);
    assert_eq!(chromium.evaluate(FAULTS), serde_json::json!([]));
    let dashes = "[...document.querySelectorAll('.curve')].map((curve) => getComputedStyle(curve).strokeDasharray)";
    let dashes: Vec<String> = serde_json::from_value(chromium.evaluate(dashes)).unwrap();
    let mut different = dashes[..3].to_vec();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), 3, "{dashes:?}");
    let texts = "[...document.querySelectorAll('text')].map((text) => text.textContent).join()";
    let texts = chromium.evaluate(texts);
    assert!(
        texts
            .as_str()
            .is_some_and(|texts| texts.contains("latency, ms"))
    );
    let size = "[document.documentElement.width.baseVal.value, document.documentElement.height.baseVal.value]";
    let size: Vec<f64> = serde_json::from_value(chromium.evaluate(size)).unwrap();
    assert!(size[0] > 500.0 && size[1] > 200.0, "{size:?}");
    for scheme in ["light", "dark"] {
        chromium.set_media(scheme, "screen");
        let contrast = chromium.evaluate(CONTRAST).as_f64().unwrap();
        assert!(contrast >= 4.5, "{scheme}: contrast {contrast}");
        keep_picture(&mut chromium, &format!("figure-{scheme}"));
    }
    assert_eq!(chromium.complaints, Vec::<String>::new());
    assert_eq!(chromium.requests, Vec::<String>::new());
}

/// Where somebody wants to look at it.
fn keep_picture(chromium: &mut Chromium, name: &str) {
    let picture = chromium.picture();
    assert!(picture.len() > 10_000);
    if let Some(folder) = std::env::var_os("REPORT_PICTURES") {
        let file = std::path::Path::new(&folder).join(format!("{name}.png.base64"));
        std::fs::write(file, picture).unwrap();
    }
}

fn look_at(program: &std::path::Path, page: &std::path::Path, name: &str) {
    let mut chromium = Chromium::start(program);
    chromium.open(page);
    let ids = chromium.evaluate("[...document.querySelectorAll('svg.chart')].map((svg) => svg.id)");
    let ids: Vec<String> = serde_json::from_value(ids).unwrap();
    let expected: &[&str] = match name {
        "whole" => &[
            "distribution-0",
            "distribution-1",
            "timeline-1",
            "timeline-2",
            "throughput",
            "rounds-0",
            "rounds-1",
        ],
        _ => &[
            "distribution-0",
            "distribution-1",
            "timeline-1",
            "throughput",
        ],
    };
    assert_eq!(ids, expected);
    for width in [1100, 400] {
        chromium.set_width(width);
        let faults = chromium.evaluate(FAULTS);
        assert_eq!(faults, serde_json::json!([]), "{name}, {width} wide");
    }
    chromium.set_width(1100);
    let hidden = "document.querySelectorAll('.toggles button')[1].click(); \
                  getComputedStyle(document.querySelector('svg .curve.c1')).visibility";
    assert_eq!(chromium.evaluate(hidden), "hidden");
    chromium.evaluate("document.querySelectorAll('.toggles button')[1].click()");
    for (scheme, media) in [("light", "screen"), ("dark", "screen"), ("dark", "print")] {
        chromium.set_media(scheme, media);
        let contrast = chromium.evaluate(CONTRAST).as_f64().unwrap();
        assert!(
            contrast >= 4.5,
            "{name}, {scheme} {media}: contrast {contrast}"
        );
        keep_picture(&mut chromium, &format!("{name}-{scheme}-{media}"));
    }
    assert_eq!(chromium.complaints, Vec::<String>::new());
    assert_eq!(chromium.requests, Vec::<String>::new());
}
