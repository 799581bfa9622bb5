//! `xsched bench diff A B`: two runs of a scenario, figure by figure.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;

use crate::report::{RunReport, diff};
use crate::store::json_text;
use crate::{Context, UsageError};

/// Arguments of `xsched bench diff`.
#[derive(Debug, Clone, clap::Args)]
pub struct DiffArgs {
    /// Folder of the earlier run.
    a: PathBuf,
    /// Folder of the later run.
    b: PathBuf,
    /// What to print.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Markdown,
    Json,
}

pub(crate) fn run(args: &DiffArgs, context: &mut Context) -> anyhow::Result<ExitCode> {
    let read = |dir: &Path| RunReport::read(dir).map_err(|error| UsageError(error.to_string()));
    let difference = diff::compare(&read(&args.a)?, &read(&args.b)?)?;
    let text = match args.format {
        Format::Text => diff::text(&difference),
        Format::Markdown => diff::markdown(&difference),
        Format::Json => json_text(&difference)?,
    };
    context.stdout.write_all(text.as_bytes())?;
    context.stdout.flush()?;
    Ok(ExitCode::SUCCESS)
}
