//! What a person sees while a benchmark runs: numbered stages, and progress as bars or plain lines.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::phase::Progress;

/// Seconds between two plain progress lines.
const LINE_EVERY_S: u64 = 10;

/// Where the text for people goes.
pub struct Console {
    out: Box<dyn Write + Send>,
    interactive: bool,
    /// Number of stages.
    stages: usize,
}

impl Console {
    /// `interactive`: standard error is a terminal, so that progress may be drawn there.
    pub fn new(out: Box<dyn Write + Send>, interactive: bool, stages: usize) -> Console {
        Console {
            out,
            interactive,
            stages,
        }
    }

    /// Prints text and a line feed. That nobody reads any more ends no benchmark.
    pub fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}").and_then(|()| self.out.flush());
    }

    /// Opens stage `number`, counted from 1.
    pub fn stage(&mut self, number: usize, text: &str) {
        self.line(&format!("[{number}/{}] {text}", self.stages));
    }

    /// Progress of one phase.
    pub fn phase(&mut self, name: &str, duration: Duration) -> PhaseProgress<'_> {
        let bar = self.interactive.then(|| {
            let style = "      {msg}\n      {bar:40} {pos}/{len} s";
            let bar = ProgressBar::new(duration.as_secs().max(1));
            bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
            bar
        });
        PhaseProgress {
            console: self,
            bar,
            name: name.to_owned(),
            duration,
            next_line: None,
        }
    }
}

/// Shows how far a phase is.
pub struct PhaseProgress<'a> {
    console: &'a mut Console,
    bar: Option<ProgressBar>,
    name: String,
    duration: Duration,
    /// Second at which the next plain line is due; `None` until the workers have started.
    next_line: Option<u64>,
}

impl PhaseProgress<'_> {
    /// Shows the state.
    pub fn update(&mut self, progress: &Progress) {
        let text = progress_text(&self.name, progress, self.duration);
        let Some(elapsed) = progress.elapsed else {
            if let Some(bar) = &self.bar {
                bar.set_message(text);
            }
            return;
        };
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            bar.set_position(elapsed.min(self.duration).as_secs());
            return;
        }
        let next = *self.next_line.get_or_insert(LINE_EVERY_S);
        if elapsed.as_secs() >= next {
            self.next_line = Some((elapsed.as_secs() / LINE_EVERY_S + 1) * LINE_EVERY_S);
            self.console.line(&format!("      {text}"));
        }
    }
}

impl Drop for PhaseProgress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn progress_text(name: &str, progress: &Progress, duration: Duration) -> String {
    let Some(elapsed) = progress.elapsed else {
        return format!("{name}: building the models and warming up");
    };
    let done: Vec<String> = progress
        .completed
        .iter()
        .map(|(task, count)| format!("{task} {count}"))
        .collect();
    format!(
        "{name}: {} of {:.0} s; {}",
        elapsed.as_secs(),
        duration.as_secs_f64().ceil(),
        done.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A writer whose text can be looked at.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn without_a_terminal_there_is_a_line_every_ten_seconds() {
        let sink = Sink::default();
        let mut console = Console::new(Box::new(sink.clone()), false, 5);
        console.stage(2, "baseline: unscheduled");
        let mut phase = console.phase("baseline", Duration::from_secs(30));
        let mut at = |elapsed: Option<f64>, count| {
            phase.update(&Progress {
                elapsed: elapsed.map(Duration::from_secs_f64),
                completed: vec![("high".into(), count), ("low".into(), 2 * count)],
            });
        };
        at(None, 0);
        at(Some(1.0), 1);
        at(Some(10.1), 10);
        at(Some(10.2), 10);
        at(Some(25.0), 25);
        at(Some(29.0), 29);
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            "[2/5] baseline: unscheduled\n\
             \x20     baseline: 10 of 30 s; high 10, low 20\n\
             \x20     baseline: 25 of 30 s; high 25, low 50\n"
        );
    }
}
