//! The README shows what the records under docs/results say: its marked regions, and the images in
//! them, are made from those records and by nobody's hand.
//!
//! `cargo xtask readme` writes them: it sets `README_WRITE`.

use std::fs;
use std::path::{Path, PathBuf};

use xsched_bench::manifest::without_folders;
use xsched_bench::report::{RunReport, html, summary, tables};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file whose text follows from records.
struct Made {
    path: PathBuf,
    text: String,
}

/// What stands between `<!-- figure: RECORD IMAGE -->` or `<!-- table: RECORD -->` and `<!-- end -->`
/// in a page, made anew; first the page, then its images.
fn make(page: &Path) -> Vec<Made> {
    let (old, folder) = (read(page), page.parent().unwrap());
    let mut text = String::new();
    let mut images = Vec::new();
    let mut lines = old.lines();
    while let Some(line) = lines.next() {
        text.push_str(line);
        text.push('\n');
        let marker = line
            .strip_prefix("<!-- ")
            .and_then(|line| line.strip_suffix(" -->"));
        let Some((kind, words)) = marker.and_then(|marker| marker.split_once(": ")) else {
            continue;
        };
        let words: Vec<&str> = words.split_whitespace().collect();
        let report = |record: &str| {
            let report = RunReport::read(&folder.join(record)).unwrap();
            assert_eq!(report.problems, Vec::<String>::new(), "{record}");
            report
        };
        text.push_str(&match (kind, words.as_slice()) {
            ("figure", [record, image]) => {
                let report = report(record);
                images.push(Made {
                    path: folder.join(image),
                    text: html::figure(&report).expect("a record with samples"),
                });
                let task = &report.run.tasks[0];
                let said = tables::headlines(&report).join(" ");
                format!(
                    "![Latencies of {name}]({image})\n\n\
                     Which share of the requests of {name} ({model}) took at most so long; the upper \
                     axis stretches the tail. {said}\n",
                    name = task.name,
                    model = task.model
                )
            }
            ("table", [record]) => table(&report(record), record),
            other => panic!("{}: no marker: {other:?}", page.display()),
        });
        let rest = lines.by_ref().find(|line| *line == "<!-- end -->");
        text.push_str(rest.expect("a region has an end"));
        text.push('\n');
    }
    let page = page.to_owned();
    std::iter::once(Made { path: page, text })
        .chain(images)
        .collect()
}

/// The figures, the verdict, and where all that comes from.
fn table(report: &RunReport, record: &str) -> String {
    let manifest = &report.run.manifest;
    format!(
        "{}\n{}: {} `{}`, xsched {}, {}; {}. The record: [{record}]({record}).\n",
        summary::markdown_figures(report),
        report.verdict.text(),
        tables::why(report),
        manifest.command_line(),
        manifest.version,
        manifest.host,
        manifest.timestamp.split('T').next().unwrap_or_default(),
    )
}

#[test]
fn the_readme_shows_what_the_records_say() {
    let made = make(&root().join("README.md"));
    let images = made.len() - 1;
    let tables = made[0].text.matches("<!-- table: ").count();
    assert!(
        images >= 1 && tables >= 1,
        "{images} figures, {tables} tables"
    );
    for Made { path, text } in made {
        if std::env::var_os("README_WRITE").is_some() {
            fs::write(&path, text).unwrap();
        } else {
            let same = fs::read_to_string(&path).is_ok_and(|old| old == text);
            let path = path.display();
            assert!(
                same,
                "{path} is not what the records say: run `cargo xtask readme`"
            );
        }
    }
}

#[test]
fn a_region_is_replaced_and_the_rest_stays() {
    let folder = tempfile::tempdir().unwrap();
    let record = root().join(record_of_the_readme());
    let page = folder.path().join("page.md");
    let record = record.display();
    let marked = format!(
        "# Title\n<!-- figure: {record} a.svg -->\nold\n<!-- end -->\nbetween\n\
         <!-- table: {record} -->\n<!-- end -->\nrest\n"
    );
    fs::write(&page, &marked).unwrap();
    let made = make(&page);
    let text = &made[0].text;
    assert!(text.starts_with("# Title\n<!-- figure: ") && text.ends_with("<!-- end -->\nrest\n"));
    assert!(text.contains("\n<!-- end -->\nbetween\n<!-- table: ") && !text.contains("old"));
    assert!(text.contains("](a.svg)\n") && text.contains("| Task | Contender |"));
    assert!(made[1].path.ends_with("a.svg") && made[1].text.starts_with("<svg "));
    // What was made is made again.
    fs::write(&page, text).unwrap();
    assert_eq!(&make(&page)[0].text, text);
}

fn record_of_the_readme() -> String {
    let readme = read(&root().join("README.md"));
    let (_, marker) = readme.split_once("<!-- table: ").unwrap();
    marker.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn no_record_names_a_folder_of_the_machine_that_made_it() {
    let mut folders = vec![root().join("docs/results")];
    let mut records = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let value: serde_json::Value = serde_json::from_str(&read(&path)).unwrap();
                check(&path, &value);
                records += 1;
            }
        }
    }
    assert!(records > 0);
}

fn check(path: &Path, value: &serde_json::Value) {
    match value {
        serde_json::Value::String(text) => {
            assert_eq!(*text, without_folders(text), "{}", path.display());
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| check(path, value)),
        serde_json::Value::Object(values) => values.values().for_each(|value| check(path, value)),
        _ => {}
    }
}
