//! Logging to stderr, as `XSCHED_LOG` says.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::filter::LevelFilter;
use xsched_wire::env;

use crate::failure;

/// Sets up logging once for the process; `standard` holds where `XSCHED_LOG` is unset or nonsense.
pub(crate) fn start(standard: LevelFilter) {
    let level = env::LOG.get().map_or(standard, |text| {
        text.parse().unwrap_or_else(|_| {
            failure::say(&format!(
                "{}='{text}' is ignored: use error, warn, info, debug or trace",
                env::LOG.name
            ));
            standard
        })
    });
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .init();
}
