//! Ctrl-C and SIGTERM as a flag that every wait looks at.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Remembers the signal that asked the benchmark to end.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    /// Number of the signal; 0 = none yet.
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Takes SIGINT and SIGTERM over for this process.
    pub fn on_signals() -> io::Result<Interrupt> {
        let interrupt = Interrupt::default();
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register_usize(
                signal,
                Arc::clone(&interrupt.signal),
                signal as usize,
            )?;
        }
        Ok(interrupt)
    }

    /// The name of the signal that came, if one did.
    pub fn received(&self) -> Option<&'static str> {
        match self.signal.load(Ordering::Relaxed) as i32 {
            0 => None,
            SIGTERM => Some("SIGTERM"),
            _ => Some("Ctrl-C"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_come_at_first() {
        assert_eq!(Interrupt::default().received(), None);
    }
}
