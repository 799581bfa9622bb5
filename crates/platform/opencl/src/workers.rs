//! Level 3 on CPU devices: the scheduling class of the driver's worker threads.
//!
//! Which threads those are, OpenCL itself tells: as many native kernels as the device has compute
//! units, each of which waits for the others, must run on as many threads. A driver where they do
//! not meet gets no level 3.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::thread::Pid;
use xsched_cpu::class::{self, Normal};
use xsched_wire::Share;

use crate::{
    driver::{self, property},
    sys::*,
};
use xsched_shim::process::PerProcess;

/// How long native kernels wait for each other.
const PATIENCE: Duration = Duration::from_millis(200);

/// The threads of one device, which all queues of the process share.
pub(crate) struct Workers {
    threads: Vec<Pid>,
    normal: Normal,
    wanted: Mutex<Wanted>,
    /// How many queues they execute; a copy.
    queues: AtomicUsize,
}

#[derive(Default)]
struct Wanted {
    /// The share of each queue, by handle.
    queues: Vec<(usize, Share)>,
    is_background: bool,
}

/// The device's threads, or why their class cannot be set. Looked for once a device; in a context that has
/// only a part of it they may not be found where another shows them.
pub(crate) fn of(
    context: Opaque,
    device: Opaque,
    has_part_only: bool,
) -> Result<Arc<Workers>, String> {
    static KNOWN: PerProcess<Mutex<Vec<Known>>> = PerProcess::new();
    let mut known = KNOWN.lock();
    if let Some(known) = known.iter().find(|known| known.device == device as usize) {
        return known.workers.clone();
    }
    let workers = class::probe().and_then(|normal| {
        Ok(Arc::new(Workers {
            threads: meet(context, device)?,
            normal,
            wanted: Mutex::default(),
            queues: AtomicUsize::new(0),
        }))
    });
    if workers.is_ok() || !has_part_only {
        known.push(Known {
            device: device as usize,
            workers: workers.clone(),
        });
    }
    workers
}

struct Known {
    device: usize,
    workers: Result<Arc<Workers>, String>,
}

impl Workers {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a queue's share: the threads are in the background while every queue is.
    pub(crate) fn set_share(&self, queue: Queue, share: Share) -> Result<(), String> {
        let mut wanted = self.wanted();
        wanted.set(queue, share);
        self.apply(&mut wanted)
    }

    /// Whether they execute one queue, so that their class stops just that one. Otherwise a queue beside
    /// one that goes on is stopped by its gates alone.
    pub(crate) fn are_of_one_queue(&self) -> bool {
        self.queues.load(Ordering::Relaxed) == 1
    }

    /// A queue ends.
    pub(crate) fn forget(&self, queue: Queue) {
        let mut wanted = self.wanted();
        wanted.forget(queue);
        let _ = self.apply(&mut wanted);
    }

    fn apply(&self, wanted: &mut Wanted) -> Result<(), String> {
        self.queues.store(wanted.queues.len(), Ordering::Relaxed);
        let is_background = wanted.all_in_background();
        if is_background == wanted.is_background {
            return Ok(());
        }
        for &thread in &self.threads {
            let set = if is_background {
                class::set_idle(thread)
            } else {
                class::set_normal(thread, self.normal)
            };
            set.map_err(|error| format!("the scheduling class could not be set: {error}"))?;
        }
        wanted.is_background = is_background;
        Ok(())
    }
}

impl Wanted {
    fn set(&mut self, queue: Queue, share: Share) {
        self.forget(queue);
        self.queues.push((queue as usize, share));
    }

    fn all_in_background(&self) -> bool {
        let mut shares = self.queues.iter().map(|&(_, share)| share);
        !self.queues.is_empty() && shares.all(|share| share == Share::Background)
    }

    fn forget(&mut self, queue: Queue) {
        self.queues.retain(|(known, _)| *known != queue as usize);
    }
}

// ---- finding the threads ----

/// Where native kernels wait for each other.
struct Meeting {
    present: Mutex<Present>,
    arrived: Condvar,
    expected: usize,
}

#[derive(Clone, Default)]
struct Present {
    threads: Vec<Pid>,
    /// Somebody has waited in vain: nobody else does.
    is_over: bool,
}

/// The body of a native kernel: notes its thread, and waits for the others.
unsafe extern "C" fn attend(arguments: *mut usize) {
    // SAFETY: the driver's copy of what `meet` passed.
    let meeting = unsafe { *arguments } as *const Meeting;
    // SAFETY: a count of its own, given away by `meet` for exactly this call.
    let meeting = unsafe { Arc::from_raw(meeting) };
    let lock = meeting.present.lock();
    let mut present = lock.unwrap_or_else(PoisonError::into_inner);
    present.threads.push(rustix::thread::gettid());
    meeting.arrived.notify_all();
    let missing =
        |present: &mut Present| present.threads.len() < meeting.expected && !present.is_over;
    let waited = meeting
        .arrived
        .wait_timeout_while(present, PATIENCE, missing);
    let (mut present, _) = waited.unwrap_or_else(PoisonError::into_inner);
    present.is_over = true;
}

/// The threads that execute a device's commands.
fn meet(context: Opaque, device: Opaque) -> Result<Vec<Pid>, String> {
    let info = driver::device_info as driver::Info;
    let can = property::<u64>(info, device, CL_DEVICE_EXECUTION_CAPABILITIES).unwrap_or(0);
    if can & CL_EXEC_NATIVE_KERNEL == 0 {
        return Err("the driver has no native kernels, which would show its threads".into());
    }
    let units = property::<u32>(info, device, CL_DEVICE_MAX_COMPUTE_UNITS).unwrap_or(0) as usize;
    let mut error = CL_SUCCESS;
    let properties = CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE;
    // SAFETY: the program's own context and device; a valid place for the error.
    let queue = unsafe { driver::create_queue(context, device, properties, &mut error) };
    if queue.is_null() {
        return Err("the driver has no out-of-order queues, which would show its threads".into());
    }
    let meeting = Arc::new(Meeting {
        present: Mutex::default(),
        arrived: Condvar::new(),
        expected: units,
    });
    let mut result = CL_SUCCESS;
    for _ in 0..units {
        let mut argument = Arc::into_raw(meeting.clone()) as usize;
        // SAFETY: a queue of our own; the driver copies the one argument, which the body takes.
        result = unsafe {
            driver::native_kernel(
                queue,
                Some(attend),
                &mut argument,
                size_of::<usize>(),
                0,
                std::ptr::null(),
                std::ptr::null(),
                0,
                std::ptr::null(),
                std::ptr::null_mut(),
            )
        };
        if result != CL_SUCCESS {
            // SAFETY: not enqueued, so the count is still ours.
            drop(unsafe { Arc::from_raw(argument as *const Meeting) });
            break;
        }
    }
    // SAFETY: a queue of our own.
    let finished = unsafe { driver::finish(queue) };
    // SAFETY: as above; it is empty.
    unsafe { driver::release_queue(queue) };
    if [result, finished] != [CL_SUCCESS; 2] {
        return Err(format!(
            "a native kernel failed (errors {result}, {finished})"
        ));
    }
    let lock = meeting.present.lock();
    let present = lock.unwrap_or_else(PoisonError::into_inner).clone();
    let mut threads = present.threads;
    threads.sort_unstable_by_key(|thread| thread.as_raw_nonzero());
    threads.dedup();
    if threads.len() != units || threads.contains(&rustix::thread::gettid()) {
        return Err(format!(
            "of the driver's {units} threads {} could be found",
            threads.len()
        ));
    }
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_in_the_background_while_every_queue_is() {
        let [first, second] = [0x10 as Queue, 0x20 as Queue];
        let mut wanted = Wanted::default();
        assert!(!wanted.all_in_background(), "nobody's");
        wanted.set(first, Share::Background);
        assert!(wanted.all_in_background());
        wanted.set(second, Share::Normal);
        assert_eq!(
            (wanted.all_in_background(), wanted.queues.len()),
            (false, 2)
        );
        wanted.set(second, Share::Background);
        assert_eq!((wanted.all_in_background(), wanted.queues.len()), (true, 2));
        wanted.set(first, Share::Normal);
        wanted.forget(first);
        assert_eq!((wanted.all_in_background(), wanted.queues.len()), (true, 1));
    }
}
