//! `xsched active-window`: tells the daemon whose window is active, for the policy `awf`.

use std::process::ExitCode;

use xsched_server::api::{ActiveWindow, path};
use xsched_x11::Display;

use crate::daemon;

/// Report the active window's process to the daemon, until Ctrl-C (X11).
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The policy awf heeds it: `xsched policy awf`. The process and its children go first."
)]
pub(crate) struct ActiveWindowArgs {
    /// The display, instead of DISPLAY
    #[arg(long, value_name = "NAME")]
    display: Option<String>,
}

/// Returns when the display or the daemon is gone.
pub(crate) fn run(args: &ActiveWindowArgs) -> anyhow::Result<ExitCode> {
    let display = Display::open(args.display.as_deref())?;
    let daemon = daemon::connect()?;
    let mut reported = None;
    loop {
        let window = ActiveWindow {
            pid: display.active_process()?,
        };
        if reported != Some(window) {
            let _: ActiveWindow = daemon.put(path::ACTIVE_WINDOW, &window)?;
            reported = Some(window);
        }
        display.wait()?;
    }
}
