//! What processes and threads cost: processor time and memory, from `/proc`.

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
            cpu_s: cpu_s(&std::fs::read_to_string(format!("{folder}/stat")).ok()?)?,
            resident_kib: resident_kib(&status)?,
        })
    }
}

/// Processor time of the agent in a program so far, seconds; `None` where there is none, or the program
/// is gone.
pub(crate) fn agent_cpu_s(pid: Pid) -> Option<f64> {
    let threads = format!("/proc/{}/task", pid.as_raw_nonzero());
    std::fs::read_dir(threads)
        .ok()?
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok())
        .filter(|stat| thread_name(stat).is_some_and(|name| AGENT_THREADS.contains(&name)))
        .filter_map(|stat| cpu_s(&stat))
        .reduce(|sum, seconds| sum + seconds)
}

/// Names may hold parentheses and blanks: the last parenthesis ends it.
fn thread_name(stat: &str) -> Option<&str> {
    Some(stat.split_once('(')?.1.rsplit_once(')')?.0)
}

/// User and system time of a `stat` file: its 14th and 15th fields, in ticks.
fn cpu_s(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
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
        assert_eq!(cpu_s(stat), Some(300.0 / per_second));
        assert_eq!(cpu_s("7 (a) S 1"), None);
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t  123 kB\n"), Some(123));
    }

    #[test]
    fn this_process_has_memory_and_no_agent() {
        let own = rustix::process::getpid();
        assert!(Usage::of(own).unwrap().resident_kib > 0);
        assert_eq!(agent_cpu_s(own), None);
    }
}
