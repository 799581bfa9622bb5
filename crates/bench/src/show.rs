//! `xsched bench show DIR`: the report of a run, made from its record.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::ValueEnum;

use crate::brief;
use crate::report::{RunReport, html, summary};
use crate::store::{holds_run, json_text};
use crate::{Context, UsageError};

/// Arguments of `xsched bench show`.
#[derive(Debug, Clone, clap::Args)]
pub struct ShowArgs {
    /// Folder of the run, as --out gave it.
    dir: PathBuf,
    /// What to print; html prints the page, svg the latencies of the most urgent task as an image,
    /// table the figures alone as Markdown.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Open report.html.
    #[arg(long)]
    open: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Markdown,
    Json,
    Csv,
    Html,
    Svg,
    Table,
}

pub(crate) fn run(args: &ShowArgs, context: &mut Context) -> anyhow::Result<ExitCode> {
    if !args.dir.join(crate::run::FILE).exists()
        && let Some(written) = brief::read(&args.dir)?
    {
        return show_brief(args, &written, context);
    }
    let report = RunReport::read(&args.dir).map_err(|error| {
        let below = runs_below(&args.dir);
        UsageError(match below.is_empty() {
            true => error.to_string(),
            false => format!(
                "{}: no run, but several in it: name one of {}",
                args.dir.display(),
                below.join(", ")
            ),
        })
    })?;
    let text = match args.format {
        Format::Text => summary::text(&report),
        Format::Markdown => summary::markdown(&report),
        Format::Json => json_text(&summary::document(&report)?)?,
        Format::Csv => summary::csv(&report)?,
        Format::Html => html::page(&report)?,
        Format::Table => summary::markdown_figures(&report),
        Format::Svg => html::figure(&report).ok_or_else(|| {
            UsageError(format!(
                "{}: no samples to draw; --format table shows the figures of the record",
                args.dir.display()
            ))
        })?,
    };
    context.stdout.write_all(text.as_bytes())?;
    if args.format != Format::Text && !args.open {
        context.stdout.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    // A folder of somebody else's is shown as well, without the page.
    let written = html::write_report(&args.dir, &report);
    let people = match args.format {
        Format::Text => &mut context.stdout,
        _ => &mut context.stderr,
    };
    let path = match written {
        Ok(path) => path,
        Err(error) => {
            writeln!(people, "no report.html: {error:#}")?;
            return Ok(ExitCode::from(u8::from(args.open)));
        }
    };
    writeln!(people, "{}", path.display())?;
    if args.open && !open(&path) {
        writeln!(
            context.stderr,
            "--open: no display, or xdg-open failed; open {} in a browser",
            path.display()
        )?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Folders of runs in a folder, as `bench all` leaves them.
fn runs_below(dir: &Path) -> Vec<String> {
    if holds_run(dir) {
        return Vec::new();
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let runs = entries
        .map(|entry| entry.path())
        .filter(|path| holds_run(path));
    let mut runs: Vec<String> = runs.map(|path| path.display().to_string()).collect();
    runs.sort();
    runs
}

/// A record without tasks has a text and a document.
fn show_brief(
    args: &ShowArgs,
    written: &brief::Written,
    context: &mut Context,
) -> anyhow::Result<ExitCode> {
    let refuse = |what: &str| UsageError(format!("{}: {what}", args.dir.display()));
    if args.open {
        return Err(refuse("this scenario has no page: leave out --open").into());
    }
    let text = match args.format {
        Format::Text => &written.text,
        Format::Json => written.document.as_ref().ok_or_else(|| {
            refuse("the run ended before it had a figure; --format text says how to run it again")
        })?,
        _ => {
            return Err(
                refuse("this scenario has a text and a document: --format text or json").into(),
            );
        }
    };
    context.stdout.write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path) -> bool {
    let display = ["DISPLAY", "WAYLAND_DISPLAY"];
    if display.iter().all(|name| std::env::var_os(name).is_none()) {
        return false;
    }
    let mut command = Command::new("xdg-open");
    command
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
