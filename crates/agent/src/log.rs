//! One line on stderr, if `XSCHED_LOG` lets it through. A guest never panics over its log.

use std::io::Write;

use xsched_wire::env;

/// Something that people should know by default.
pub(crate) fn warn(message: &str) {
    say(2, message);
}

/// Something that explains what happened.
pub(crate) fn info(message: &str) {
    say(3, message);
}

fn say(level: usize, message: &str) {
    const NAMES: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let wanted = env::LOG.get();
    let limit = match wanted.as_deref() {
        Some(name) => NAMES.iter().position(|known| *known == name).unwrap_or(2),
        None => 2,
    };
    if level <= limit {
        let pid = std::process::id();
        let _ = writeln!(std::io::stderr(), "xsched[{pid}]: {message}");
    }
}
