//! The report that people look at: `report.html`, one page without anything from elsewhere, which
//! is as complete without its script and legible on light and dark grounds and on paper.

pub(crate) mod charts;
mod svg;
mod thin;
mod timeline;

use std::path::{Path, PathBuf};

use minijinja::{Environment, context};
use serde::Serialize;

use super::figures::RunReport;
use super::tables::{CheckRow, FigureRow, check_rows, figure_rows, headlines, task_rows, why};
use crate::criteria::Verdict;

pub(crate) use svg::short;

/// Name of the file in the folder of a run.
pub const FILE: &str = "report.html";

const STYLE: &str = include_str!("style.css");

/// A drawing with what stands over it.
#[derive(Serialize)]
struct Chart {
    title: String,
    svg: String,
}

/// Writes the report of the run in this folder, from its record and samples; gives its path.
pub fn write(folder: &Path) -> anyhow::Result<PathBuf> {
    write_report(folder, &RunReport::read(folder)?)
}

/// Writes a report that has been read already.
pub fn write_report(folder: &Path, report: &RunReport) -> anyhow::Result<PathBuf> {
    let path = folder.join(FILE);
    crate::store::write_whole(&path, page(report)?.as_bytes())?;
    Ok(path)
}

/// The page.
pub fn page(report: &RunReport) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.add_filter("figure", short);
    // The name says that what is put in is to be escaped.
    environment.add_template("page.html", include_str!("page.html.j2"))?;
    let run = &report.run;
    let tasks = || run.tasks.iter().enumerate();
    let distributions: Vec<Chart> = tasks()
        .filter_map(|(number, task)| {
            Some(Chart {
                title: format!("{} ({}, {} priority)", task.name, task.model, task.priority),
                svg: charts::distribution(report, task, number)?,
            })
        })
        .collect();
    let rounds: Vec<Chart> = tasks()
        .filter_map(|(number, task)| {
            Some(Chart {
                title: task.name.clone(),
                svg: charts::rounds(report, task, number)?,
            })
        })
        .collect();
    let timelines: Vec<Chart> = match timeline::range(report) {
        None => Vec::new(),
        Some(range) => run
            .contenders
            .iter()
            .enumerate()
            .filter_map(|(number, contender)| {
                Some(Chart {
                    title: contender.title.clone(),
                    svg: timeline::drawing(report, contender, number, range)?,
                })
            })
            .collect(),
    };
    let (class, sign) = match report.verdict {
        Verdict::Pass => ("good", "✓"),
        Verdict::Fail => ("bad", "✗"),
        Verdict::Measured => ("soft", "•"),
        _ => ("unsure", "?"),
    };
    let host = &run.manifest.host;
    let mut facts = vec![
        ("Version", format!("xsched {}", run.manifest.version)),
        ("Time", run.manifest.timestamp.clone()),
        (
            "Processor",
            format!("{}, {} cores", host.cpu_model, host.cores),
        ),
        ("Memory", format!("{} MiB", host.memory_mib)),
        ("Kernel", host.kernel.clone()),
        ("Device", run.device.clone()),
    ];
    if !host.accelerators.is_empty() {
        facts.push(("Accelerators", host.accelerators.join(", ")));
    }
    facts.extend(host.driver.clone().map(|driver| ("Driver", driver)));
    let checks: Vec<CheckRow> = check_rows(run);
    let rows: Vec<FigureRow> = figure_rows(report);
    let text = environment.get_template("page.html")?.render(context! {
        run,
        verdict => context! { text => report.verdict.text(), class, sign, why => why(report) },
        headlines => headlines(report),
        problems => report.problems,
        checks,
        rows,
        tasks => task_rows(run),
        distributions,
        timelines,
        throughput => charts::throughput(report),
        rounds,
        command => run.manifest.command_line(),
        facts,
        style => format!("{STYLE}{}", include_str!("page.css")),
        script => include_str!("page.js"),
    })?;
    Ok(text)
}

/// One drawing by itself, as an image that stands in other pages: the latencies of the most urgent
/// task. `None` without samples.
pub fn figure(report: &RunReport) -> Option<String> {
    let drawing = charts::distribution(report, report.run.tasks.first()?, 0)?;
    let (opening, rest) = drawing.split_once('\n')?;
    let (_, size) = opening.split_once("viewBox=\"0 0 ")?;
    let (width, height) = size.split_once('"')?.0.split_once(' ')?;
    // An image has a size of its own.
    let opening = opening.replacen(
        "<svg ",
        &format!("<svg width=\"{width}\" height=\"{height}\" "),
        1,
    );
    let ground = r#"<rect width="100%" height="100%" fill="var(--page)"/>"#;
    Some(format!(
        "{opening}\n<style>\n{STYLE}</style>\n{ground}\n{rest}\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::examples_of_runs::{large, run, with_samples};
    use super::*;

    #[test]
    fn the_page_stands_by_itself_and_shows_everything() {
        let page = page(&with_samples(run())).unwrap();
        for id in [
            "criteria",
            "figures",
            "distribution-0",
            "distribution-1",
            "timeline-1",
            "timeline-2",
            "throughput",
            "rounds-0",
            "notes",
            "machine",
        ] {
            assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
        }
        let elsewhere = page.replace("http://www.w3.org/2000/svg", "");
        for way in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!elsewhere.contains(way), "{way}");
        }
    }

    #[test]
    fn what_a_record_says_is_only_ever_text() {
        let mut run = run();
        let hostile = "</script><img src=x onerror=alert(1)>\"'&";
        run.description = hostile.into();
        run.device = hostile.into();
        run.notes.push(hostile.into());
        run.manifest.command.push(hostile.into());
        run.manifest.host.cpu_model = hostile.into();
        run.manifest
            .environment
            .push((hostile.into(), hostile.into()));
        run.tasks[0].model = hostile.into();
        run.contenders[2].title = hostile.into();
        run.checks[0].what = hostile.into();
        run.checks[0].note = Some(hostile.into());
        run.failure = Some(crate::run::Failure {
            phase: hostile.into(),
            message: hostile.into(),
            partial_samples: Some(hostile.into()),
        });
        let rename = |name: &mut String| {
            if name == "high" {
                *name = hostile.into();
            }
        };
        rename(&mut run.tasks[0].name);
        for phase in &mut run.phases {
            phase
                .tasks
                .iter_mut()
                .for_each(|task| rename(&mut task.task));
        }
        let mut report = with_samples(run);
        report.problems.push(hostile.into());
        let page = page(&report).unwrap();
        assert!(!page.contains("<img"), "{page}");
        assert_eq!(page.matches("</script>").count(), 1);
        assert!(page.matches("&lt;img").count() > 12);
        assert!(!figure(&report).unwrap().contains("<img"));
    }

    #[test]
    fn a_hundred_thousand_samples_are_less_than_two_megabytes() {
        let page = page(&with_samples(large(100_000))).unwrap();
        assert!(page.len() < 2_000_000, "{} bytes", page.len());
        assert!(page.len() > 50_000, "{} bytes", page.len());
    }

    #[test]
    fn without_samples_or_phases_the_rest_is_shown() {
        let run = run();
        let empty = RunReport::new(run.clone(), Vec::new(), vec!["native-1.csv: gone".into()]);
        let text = page(&empty).unwrap();
        assert!(text.contains("native-1.csv: gone") && text.contains("id=\"figures\""));
        assert!(!text.contains("id=\"distribution-0\"") && figure(&empty).is_none());
        let bare = crate::run::Run {
            tasks: Vec::new(),
            phases: Vec::new(),
            checks: Vec::new(),
            ..run
        };
        let text = page(&RunReport::new(bare, Vec::new(), Vec::new())).unwrap();
        assert!(text.contains("NOTHING TO JUDGE"));
    }
}
