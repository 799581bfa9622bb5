//! Failures as people see them: one line `xsched: what: why: what to do`, and an exit code.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use xsched_bench::UsageError;
use xsched_server::{BadOption, ClientError};

/// Exit code for input that cannot be used.
pub(crate) const BAD_INPUT: u8 = 2;
/// Exit code for everything else that fails.
const FAILED: u8 = 1;

/// The caller's to change: exit code 2.
#[derive(Debug)]
pub(crate) struct BadInput(pub(crate) String);

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// Says it on stderr; returns the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    say(&format!("{error:#}"));
    ExitCode::from(exit_code(error))
}

/// One line on stderr, whatever `text` holds.
pub(crate) fn say(text: &str) {
    // Nobody is left to tell when stderr is gone.
    let _ = writeln!(io::stderr(), "xsched: {}", one_line(text));
}

/// Text on stdout. A reader that went away (`xsched list | head`) is no failure.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write to stdout"))
        }
        _ => Ok(()),
    }
}

/// clap's answer to a command line: help and version as they are, errors in one line.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(BAD_INPUT)
        }
        _ => {
            say(&usage_line(&error.render().to_string()));
            ExitCode::from(BAD_INPUT)
        }
    }
}

/// What clap says in paragraphs, without its usage text.
fn usage_line(rendered: &str) -> String {
    let rendered = rendered.strip_prefix("error: ").unwrap_or(rendered);
    let said: Vec<&str> = rendered
        .split("\n\n")
        .map(str::trim)
        .filter(|part| !part.is_empty() && !part.starts_with("Usage:"))
        .map(|part| {
            part.strip_prefix("For more information, try ")
                .map_or(part, |_| "see --help")
        })
        .collect();
    one_line(&said.join(": "))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let bad_input = error.chain().any(|cause| {
        cause.is::<BadInput>()
            || cause.is::<BadOption>()
            || cause.is::<UsageError>()
            || cause.downcast_ref().is_some_and(refused_as_bad_input)
    });
    if bad_input { BAD_INPUT } else { FAILED }
}

/// The daemon did not understand what it was asked for, as opposed to not allowing it.
fn refused_as_bad_input(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Api {
            status: 400 | 422,
            ..
        }
    )
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn bad_input_is_found_under_any_context() {
        let error = anyhow::Error::new(BadInput("no".into())).context("while asking");
        assert_eq!(exit_code(&error), BAD_INPUT);
        let error = std::fs::read("/does/not/exist")
            .context("reading")
            .unwrap_err();
        assert_eq!(exit_code(&error), FAILED);
    }

    #[test]
    fn paragraphs_of_clap_become_a_line() {
        let rendered = "error: the following required arguments were not provided:\n  \
                        <CMD>...\n\nUsage: xsched run -- <CMD>...\n\nFor more information, try \
                        '--help'.\n";
        assert_eq!(
            usage_line(rendered),
            "the following required arguments were not provided: <CMD>...: see --help"
        );
    }
}
