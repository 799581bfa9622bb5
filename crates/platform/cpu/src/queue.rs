//! The hw queue: a FIFO of commands, marks and gates, executed by one worker of a rayon pool.
//!
//! The pool belongs to the queue. Whatever a command does in parallel (`par_iter`, matrix
//! products) runs on that pool, so the scheduling class covers all of it.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use rustix::thread::Pid;
use xsched_wire::{ControlBlock, Level, Share};
use xsched_xqueue::{HwError, HwQueue, Spacing, Support};

use crate::class::{self, Normal};

/// A piece of work; its error is reported at synchronization.
pub type Command = Box<dyn FnOnce() -> Result<(), String> + Send + 'static>;

/// An in-order, asynchronous queue on all or some cores.
pub struct CpuQueue {
    fifo: Arc<Fifo>,
    workers: Vec<Pid>,
    /// How to leave `SCHED_IDLE`, or why level 3 is refused.
    normal: Result<Normal, String>,
    // Last: the workers end when the pool goes.
    _pool: rayon::ThreadPool,
}

enum Entry {
    Command(Command),
    Mark(&'static ControlBlock, u32),
    Gate(&'static ControlBlock),
    Stop,
}

#[derive(Default)]
struct Fifo {
    state: Mutex<State>,
    /// Signalled when an entry arrives.
    arrived: Condvar,
    /// Signalled when an entry is finished.
    finished: Condvar,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    /// Entries ever pushed, and those of them that are finished.
    pushed: u64,
    finished: u64,
    /// The first failure since the last synchronization; commands after it are skipped.
    failure: Option<String>,
}

impl CpuQueue {
    /// A queue with a pool of `threads` workers (≥ 1).
    pub fn new(threads: usize) -> io::Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("xsched-cpu-{index}"))
            .build()
            .map_err(io::Error::other)?;
        let workers = pool.broadcast(|_| rustix::thread::gettid());
        let fifo = Arc::new(Fifo::default());
        pool.spawn({
            let fifo = fifo.clone();
            move || fifo.run()
        });
        Ok(CpuQueue {
            fifo,
            workers,
            normal: class::probe(),
            _pool: pool,
        })
    }

    /// The workers' thread ids.
    pub fn workers(&self) -> &[Pid] {
        &self.workers
    }

    fn push(&self, entry: Entry) {
        let mut state = self.fifo.lock();
        state.entries.push_back(entry);
        state.pushed += 1;
        drop(state);
        self.fifo.arrived.notify_one();
    }
}

impl Drop for CpuQueue {
    fn drop(&mut self) {
        self.push(Entry::Stop);
    }
}

impl HwQueue for CpuQueue {
    type Command = Command;

    fn support(&self) -> Support {
        match &self.normal {
            Ok(_) => Support {
                level: Level::Lv3,
                reason: None,
                one_background: false,
                independent: true,
            },
            Err(reason) => Support {
                level: Level::Lv2,
                reason: Some(reason.clone()),
                one_background: false,
                independent: true,
            },
        }
    }

    fn launch(&self, command: Command) -> Result<(), HwError> {
        self.push(Entry::Command(command));
        Ok(())
    }

    fn synchronize(&self) -> Result<(), HwError> {
        let mut state = self.fifo.lock();
        let last = state.pushed;
        while state.finished < last {
            state = self
                .fifo
                .finished
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state
            .failure
            .take()
            .map_or(Ok(()), |failure| Err(HwError::Command(failure)))
    }

    fn is_drained(&self) -> bool {
        self.fifo.lock().is_drained()
    }

    fn mark(&self, block: &'static ControlBlock, value: u32) -> Result<(), HwError> {
        self.push(Entry::Mark(block, value));
        Ok(())
    }

    fn gate(&self, block: &'static ControlBlock) -> Result<(), HwError> {
        self.push(Entry::Gate(block));
        Ok(())
    }

    fn set_share(&self, share: Share) -> Result<(), HwError> {
        let normal = self
            .normal
            .as_ref()
            .map_err(|why| HwError::Unsupported(why.clone()))?;
        for &worker in &self.workers {
            let result = match share {
                // The scheduling class has no slices: gates divide the CPU.
                Share::Normal | Share::Slice(_) => class::set_normal(worker, *normal),
                Share::Background => class::set_idle(worker),
            };
            result.map_err(|error| {
                HwError::Unsupported(format!("the scheduling class could not be set: {error}"))
            })?;
        }
        Ok(())
    }

    fn spacing(&self, _: Level) -> Spacing {
        Spacing::Commands(1) // an open gate costs one load
    }
}

impl State {
    fn is_drained(&self) -> bool {
        self.finished == self.pushed
    }
}

impl Fifo {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let (entry, failed) = self.take();
            let result = match entry {
                // What it captured may panic when it is dropped.
                Entry::Command(command) if failed => execute(Box::new(move || {
                    drop(command);
                    Ok(())
                })),
                Entry::Command(command) => execute(command),
                Entry::Mark(block, value) => {
                    block.complete(value);
                    block.wake_completed();
                    Ok(())
                }
                Entry::Gate(block) => {
                    block.wait_open();
                    Ok(())
                }
                Entry::Stop => return,
            };
            self.finish(result);
        }
    }

    fn take(&self) -> (Entry, bool) {
        let mut state = self.lock();
        loop {
            if let Some(entry) = state.entries.pop_front() {
                return (entry, state.failure.is_some());
            }
            state = self
                .arrived
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, result: Result<(), String>) {
        let mut state = self.lock();
        state.finished += 1;
        if let Err(failure) = result {
            state.failure.get_or_insert(failure);
        }
        self.finished.notify_all();
    }
}

/// Runs a command; a panic in it is its failure, not the worker's end.
fn execute(command: Command) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "unknown".into());
        Err(format!("command panicked: {text}"))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn leaked_block() -> &'static ControlBlock {
        Box::leak(Box::new(ControlBlock::new()))
    }

    #[test]
    fn commands_run_in_order_and_launching_does_not_wait() {
        let queue = CpuQueue::new(2).unwrap();
        let (release, held) = mpsc::channel::<()>();
        let (out, results) = mpsc::channel();
        queue
            .launch(Box::new(move || held.recv().map_err(|e| e.to_string())))
            .unwrap();
        for index in 0..10 {
            let out = out.clone();
            queue
                .launch(Box::new(move || out.send(index).map_err(|e| e.to_string())))
                .unwrap();
        }
        assert!(!queue.is_drained());
        assert!(results.try_recv().is_err(), "the first command is not over");
        release.send(()).unwrap();
        queue.synchronize().unwrap();
        assert!(queue.is_drained());
        assert_eq!(
            results.try_iter().collect::<Vec<_>>(),
            (0..10).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_failure_shows_at_synchronization_once_and_skips_the_rest() {
        let queue = CpuQueue::new(1).unwrap();
        let (out, results) = mpsc::channel();
        queue
            .launch(Box::new(|| Err("no such layer".into())))
            .unwrap();
        queue
            .launch(Box::new(move || out.send(()).map_err(|e| e.to_string())))
            .unwrap();
        assert_eq!(
            queue.synchronize(),
            Err(HwError::Command("no such layer".into()))
        );
        assert!(results.try_recv().is_err());
        queue.launch(Box::new(|| panic!("out of range"))).unwrap();
        let error = queue.synchronize().unwrap_err();
        assert!(error.to_string().contains("out of range"), "{error}");
        queue.launch(Box::new(|| Ok(()))).unwrap();
        assert_eq!(queue.synchronize(), Ok(()));
    }

    #[test]
    fn gates_hold_and_marks_report() {
        let queue = CpuQueue::new(1).unwrap();
        let block = leaked_block();
        let _ = block.set_bypass(false);
        queue.mark(block, 1).unwrap();
        queue.gate(block).unwrap();
        queue.mark(block, 2).unwrap();
        queue.wait_mark(block, 1);
        assert!(!queue.is_drained());
        assert_eq!(block.completed(), 1);
        assert!(block.open_gate());
        block.wake_gate();
        queue.wait_mark(block, 2);
        queue.synchronize().unwrap();
    }

    #[test]
    fn parallel_work_stays_on_the_queues_own_threads() {
        use rayon::prelude::*;
        let queue = CpuQueue::new(2).unwrap();
        let (out, results) = mpsc::channel();
        queue
            .launch(Box::new(move || {
                (0..1000).into_par_iter().for_each_with(out, |out, _| {
                    let _ = out.send(rustix::thread::gettid());
                });
                Ok(())
            }))
            .unwrap();
        queue.synchronize().unwrap();
        assert!(
            results
                .iter()
                .all(|thread| queue.workers().contains(&thread))
        );
    }

    #[test]
    fn the_share_covers_every_worker_or_is_refused() {
        let queue = CpuQueue::new(2).unwrap();
        let all_idle = || {
            queue
                .workers()
                .iter()
                .all(|&worker| class::is_idle(worker).unwrap())
        };
        let any_idle = || {
            queue
                .workers()
                .iter()
                .any(|&worker| class::is_idle(worker).unwrap())
        };
        match queue.support().level {
            Level::Lv3 => {
                queue.set_share(Share::Background).unwrap();
                assert!(all_idle());
                queue.set_share(Share::Normal).unwrap();
                assert!(!any_idle());
            }
            _ => {
                let error = queue.set_share(Share::Background).unwrap_err();
                assert!(matches!(error, HwError::Unsupported(_)), "{error}");
                assert!(!any_idle());
            }
        }
    }
}
