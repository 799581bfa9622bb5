//! One line on stderr, if `XSCHED_LOG` lets it through. A guest never panics over its log.

use std::{
    io::Write,
    sync::atomic::{AtomicUsize, Ordering},
};

use xsched_wire::env;

/// Something that people should know by default.
pub(crate) fn warn(message: &str) {
    say(2, message);
}

/// Something that explains what happened.
pub(crate) fn info(message: &str) {
    say(3, message);
}

const NAMES: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Up to which of these lines go through.
static LIMIT: AtomicUsize = AtomicUsize::new(2);

/// Reads how much to say.
pub(crate) fn read_environment() {
    let wanted = env::LOG.get();
    let known = wanted.and_then(|wanted| NAMES.iter().position(|name| *name == wanted));
    LIMIT.store(known.unwrap_or(2), Ordering::Relaxed);
}

fn say(level: usize, message: &str) {
    if level <= LIMIT.load(Ordering::Relaxed) {
        let pid = std::process::id();
        let _ = writeln!(std::io::stderr(), "xsched[{pid}]: {message}");
    }
}
