//! What processes and threads cost: processor time and memory, from `/proc`.

use std::time::Instant;

use rustix::process::Pid;

/// Names of the threads that scheduling has in a program: the agent's, and that of shims which open
/// gates from the host.
const AGENT_THREADS: [&str; 2] = ["xsched-agent", "xsched-gates"];

/// Processor time and memory of a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Of all its threads so far, seconds.
    pub cpu_s: f64,
    /// Resident now, KiB.
    pub resident_kib: u64,
}

impl Usage {
    /// `None` if there is no such process any more.
    pub fn of(pid: Pid) -> Option<Usage> {
        let folder = format!("/proc/{}", pid.as_raw_nonzero());
        let status = std::fs::read_to_string(format!("{folder}/status")).ok()?;
        Some(Usage {
            cpu_s: times_s(
                &std::fs::read_to_string(format!("{folder}/stat")).ok()?,
                OWN,
            )?,
            resident_kib: resident_kib(&status)?,
        })
    }
}

/// What the processors of this machine did so far, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    /// Busy, or taken by other guests of the same hardware.
    busy_s: f64,
    /// Of that, for this process and those of its descendants that have ended.
    own_s: f64,
    at: Instant,
    processors: usize,
}

/// Share of a machine's processors that others may take before that is said.
const NOTABLE: f64 = 0.1;

impl Load {
    /// `None` where `/proc` does not say.
    pub(crate) fn now() -> Option<Load> {
        let machine = std::fs::read_to_string("/proc/stat").ok()?;
        Some(Load {
            busy_s: busy_s(&machine)?,
            own_s: times_s(
                &std::fs::read_to_string("/proc/self/stat").ok()?,
                WITH_ENDED,
            )?,
            at: Instant::now(),
            processors: machine
                .lines()
                .filter(|line| line.starts_with("cpu"))
                .count()
                .checked_sub(1)?,
        })
    }

    /// What others took since an earlier look, for people; `None`: too little to matter.
    pub(crate) fn others_since(&self, before: &Load) -> Option<String> {
        let elapsed_s = (self.at - before.at).as_secs_f64();
        let others_s = (self.busy_s - before.busy_s) - (self.own_s - before.own_s);
        let (others, processors) = (others_s / elapsed_s, self.processors);
        (others > NOTABLE * processors as f64).then(|| {
            format!("other programs kept {others:.1} of {processors} processors busy: figures may be theirs")
        })
    }
}

/// Of `/proc/stat`: user, nice, system, interrupts and what other guests took, without idle and waiting time.
fn busy_s(stat: &str) -> Option<f64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Option<Vec<u64>> = line
        .split_whitespace()
        .map(|word| word.parse().ok())
        .collect();
    let ticks = ticks.filter(|ticks| ticks.len() >= 8)?;
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().map(|&field| ticks[field]).sum();
    Some(seconds(busy))
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Processor time of the agent in a program so far, seconds; `None` where there is none, or the program
/// is gone.
pub(crate) fn agent_cpu_s(pid: Pid) -> Option<f64> {
    let threads = format!("/proc/{}/task", pid.as_raw_nonzero());
    std::fs::read_dir(threads)
        .ok()?
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok())
        .filter(|stat| thread_name(stat).is_some_and(|name| AGENT_THREADS.contains(&name)))
        .filter_map(|stat| times_s(&stat, OWN))
        .reduce(|sum, seconds| sum + seconds)
}

/// Names may hold parentheses and blanks: the last parenthesis ends it.
fn thread_name(stat: &str) -> Option<&str> {
    Some(stat.split_once('(')?.1.rsplit_once(')')?.0)
}

/// User and system time of a `stat` file, from its 14th field on; then those of descendants that were waited for.
const OWN: usize = 2;
const WITH_ENDED: usize = 4;

/// The sum of so many of these fields, in ticks there.
fn times_s(stat: &str, fields: usize) -> Option<f64> {
    let times = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: Option<Vec<u64>> = times.take(fields).map(|word| word.parse().ok()).collect();
    let ticks = ticks.filter(|ticks| ticks.len() == fields)?;
    Some(seconds(ticks.iter().sum()))
}

fn resident_kib(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 0 9 0 0 0 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(thread_name(stat), Some("a) b (c"));
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(times_s(stat, OWN), Some(300.0 / per_second));
        assert_eq!(times_s("7 (a) S 1", OWN), None);
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t  123 kB\n"), Some(123));
    }

    #[test]
    fn what_others_take_is_what_is_neither_idle_nor_ours() {
        let tick = 1.0 / rustix::param::clock_ticks_per_second() as f64;
        let stat = "cpu  1 2 4 1000 1000 8 16 32 1 0\ncpu0 1 2 4 1000 1000 8 16 32 1 0\nintr 7\n";
        assert_eq!(busy_s(stat), Some(63.0 * tick));
        assert_eq!(busy_s("cpu 1 2 4\n"), None);
        let own = "7 (a) S 1 7 7 0 -1 0 9 0 0 0 1 2 4 8 20 0";
        assert_eq!(times_s(own, WITH_ENDED), Some(15.0 * tick));
        let at = Instant::now();
        let look = |busy_s, own_s, seconds| Load {
            busy_s,
            own_s,
            at: at + std::time::Duration::from_secs(seconds),
            processors: 4,
        };
        let before = look(100.0, 10.0, 0);
        assert_eq!(
            look(130.0, 37.0, 10).others_since(&before),
            None,
            "0.3 of 4"
        );
        let note = look(160.0, 40.0, 10).others_since(&before).unwrap();
        assert!(
            note.starts_with("other programs kept 3.0 of 4 processors busy"),
            "{note}"
        );
        let now = Load::now().unwrap();
        assert!(now.processors > 0 && now.busy_s > 0.0);
    }

    #[test]
    fn this_process_has_memory_and_no_agent() {
        let own = rustix::process::getpid();
        assert!(Usage::of(own).unwrap().resident_kib > 0);
        assert_eq!(agent_cpu_s(own), None);
    }
}
