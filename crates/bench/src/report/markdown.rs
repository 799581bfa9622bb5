//! The report as Markdown, from the template `report.md.j2`.

use minijinja::{Environment, context};

use super::table::{interval, summary};
use super::{Record, change, reading_text};

/// Renders `phase4_dual_model_report.md`.
pub fn markdown(record: &Record) -> anyhow::Result<String> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.add_filter("fixed", |value: f64, digits: usize| {
        format!("{value:.digits$}")
    });
    environment.add_filter("change", |after: f64, before: f64| change(before, after));
    // In a table cell and outside of code spans.
    environment.add_filter("cell", |text: String| text.replace('|', r"\|"));
    let template = environment.template_from_str(include_str!("report.md.j2"))?;

    let p99_interval = |phase: &Option<crate::results::PhaseResult>| {
        phase
            .as_ref()
            .map(|phase| interval(phase.high_priority.latency_p99_interval_ms))
    };
    let text = template.render(context! {
        record,
        verdict => record.verdict().text(),
        command => record.manifest.command_line(),
        summary => match (&record.scheduled, &record.comparison) {
            (Some(scheduled), Some(comparison)) => summary(scheduled, comparison),
            _ => Vec::new(),
        },
        reading => record.comparison.as_ref().map(reading_text),
        baseline_interval => p99_interval(&record.baseline),
        scheduled_interval => p99_interval(&record.scheduled),
    })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::examples;
    use super::*;

    #[test]
    fn reports() {
        insta::assert_snapshot!("report", markdown(&examples::record()).unwrap());
        insta::assert_snapshot!(
            "report_interrupted",
            markdown(&examples::interrupted()).unwrap()
        );
        let only = super::super::Record {
            only: Some("baseline".into()),
            standalone: None,
            scheduled: None,
            comparison: None,
            ..examples::record()
        };
        insta::assert_snapshot!("report_only_baseline", markdown(&only).unwrap());
    }

    #[test]
    fn a_run_that_measured_nothing_still_has_a_report() {
        let mut record = examples::interrupted();
        record.baseline = None;
        record.standalone = None;
        record.facts = None;
        let text = markdown(&record).unwrap();
        assert!(text.contains("INCOMPLETE") && text.contains("interrupted by Ctrl-C"));
    }
}
