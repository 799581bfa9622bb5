//! `xsched list`: the registered queues, as a table or as JSON.

use std::process::ExitCode;

use xsched_server::api::{self, Queue, Queues};

use crate::{
    daemon, failure,
    table::{self, Align},
};

/// Show the queues that the daemon schedules.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "STATE: running (its commands may execute), held (has commands, waits for \
                        its turn), idle (has none), stalled (makes no progress), stopped (its \
                        program is, by a signal or a debugger); the last two hold nobody back. A larger PRIORITY is more urgent. SERVED, \
                        WAITING and PREEMPTIONS are those of the queue's task group; MIN SHARE is what it is guaranteed of \
                        the device while it waits."
)]
pub(crate) struct ListArgs {
    /// Everything that the daemon knows, for programs
    #[arg(long)]
    json: bool,
}

/// Prints them.
pub(crate) fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let queues: Queues = daemon::connect()?.get(api::path::QUEUES)?;
    if args.json {
        failure::print(&(serde_json::to_string_pretty(&queues)? + "\n"))?;
    } else if queues.queues.is_empty() {
        failure::print("no queues: no program that uses an accelerator is registered\n")?;
    } else {
        failure::print(&text(&queues.queues))?;
    }
    Ok(ExitCode::SUCCESS)
}

const COLUMNS: [(&str, Align); 13] = [
    ("QUEUE", Align::Right),
    ("PID", Align::Right),
    ("NAME", Align::Left),
    ("DEVICE", Align::Left),
    ("PRIORITY", Align::Right),
    ("LEVEL", Align::Right),
    ("STATE", Align::Left),
    ("SERVED", Align::Right),
    ("WAITING", Align::Right),
    ("PREEMPTIONS", Align::Right),
    ("MIN SHARE", Align::Right),
    ("HINTS", Align::Left),
    ("WHY NO HIGHER LEVEL", Align::Left),
];

fn text(queues: &[Queue]) -> String {
    // The last columns only where somebody has something to read in them.
    let reasons = queues.iter().any(|queue| queue.reason.is_some());
    let hinted = queues.iter().any(|queue| !hints(queue).is_empty());
    let columns: Vec<_> = COLUMNS
        .into_iter()
        .filter(|(name, _)| match *name {
            "HINTS" => hinted,
            "WHY NO HIGHER LEVEL" => reasons,
            _ => true,
        })
        .collect();
    let rows: Vec<Vec<String>> = queues
        .iter()
        .map(|queue| {
            let mut row = vec![
                queue.id.to_string(),
                queue.pid.to_string(),
                queue.name.to_string(),
                queue.device.to_string(),
                queue.priority.to_string(),
                queue.level.to_string(),
                state(queue).into(),
                table::duration(queue.served_ms),
                table::duration(queue.waiting_ms),
                queue.preemptions.to_string(),
                format!("{:.1} %", queue.min_share * 100.0),
            ];
            if hinted {
                row.push(hints(queue));
            }
            if reasons {
                row.push(queue.reason.as_deref().unwrap_or_default().into());
            }
            row
        })
        .collect();
    table::render(&columns, &rows)
}

/// All but the priority, which has a column of its own.
fn hints(queue: &Queue) -> String {
    let mut hints = queue.hints.clone();
    hints.remove("priority");
    super::hint::text(&hints)
}

/// One word; the help text says what each means.
fn state(queue: &Queue) -> &'static str {
    match queue {
        Queue { stopped: true, .. } => "stopped",
        Queue { stalled: true, .. } => "stalled",
        Queue { held: true, .. } => "held",
        Queue { ready: false, .. } => "idle",
        Queue { open: false, .. } => "held",
        _ => "running",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        Queue {
            id: 1,
            pid: 4711,
            uid: 1000,
            name: "train".into(),
            job: 0,
            device: "cpu:0".into(),
            group: 1,
            priority: -100,
            hints: [("priority".to_owned(), serde_json::json!(-100))]
                .into_iter()
                .collect(),
            min_share: 0.05,
            level: 2,
            max_level: 3,
            reason: None,
            ready: true,
            open: true,
            held: false,
            stalled: false,
            stopped: false,
            share: api::Share::Normal,
            served_ms: 1234.0,
            waiting_ms: 5.0,
            preemptions: 3,
            submitted: 10,
            completed: 8,
        }
    }

    #[test]
    fn state_is_one_word() {
        let check = |queue: Queue, expect| assert_eq!(state(&queue), expect);
        check(queue(), "running");
        check(
            Queue {
                open: false,
                ..queue()
            },
            "held",
        );
        check(
            Queue {
                held: true,
                ready: false,
                ..queue()
            },
            "held",
        );
        check(
            Queue {
                ready: false,
                ..queue()
            },
            "idle",
        );
        check(
            Queue {
                ready: false,
                open: false,
                ..queue()
            },
            "idle",
        );
        check(
            Queue {
                stalled: true,
                ..queue()
            },
            "stalled",
        );
    }

    #[test]
    fn the_table() {
        let other = Queue {
            id: 12,
            priority: 100,
            level: 3,
            ready: false,
            name: "serve".into(),
            ..queue()
        };
        insta::assert_snapshot!(text(&[queue(), other.clone()]), @r"
        QUEUE   PID  NAME   DEVICE  PRIORITY  LEVEL  STATE    SERVED  WAITING  PREEMPTIONS  MIN SHARE
            1  4711  train  cpu:0       -100      2  running   1.2 s   5.0 ms            3      5.0 %
           12  4711  serve  cpu:0        100      3  idle      1.2 s   5.0 ms            3      5.0 %
        ");
        let refused = Queue {
            reason: Some("RLIMIT_NICE is too low".into()),
            ..queue()
        };
        let table = text(&[refused, other]);
        let ends: Vec<&str> = table.lines().map(|line| &line[93..]).collect();
        assert_eq!(
            ends,
            ["  WHY NO HIGHER LEVEL", "  RLIMIT_NICE is too low", ""]
        );
        let hinted = Queue {
            hints: [
                ("laxity".to_owned(), serde_json::json!("5000:0:255")),
                ("utilization".to_owned(), serde_json::json!(30)),
            ]
            .into_iter()
            .collect(),
            ..queue()
        };
        let table = text(&[queue(), hinted]);
        let ends: Vec<&str> = table.lines().map(|line| &line[93..]).collect();
        assert_eq!(ends, ["  HINTS", "", "  laxity 5000:0:255, utilization 30"]);
    }
}
