//! Level 3: this process's compute queues, taken off the device and put back.
//!
//! The runtime makes its queues through `ioctl` on `/dev/kfd`; a preloaded `ioctl` sees them. The same
//! file takes a queue off (0 %), with the kernel that it executes, whose state is saved, and puts it
//! back: what ROCr itself does to suspend a queue. It acts on the caller's own queues only, needs no
//! privilege, and ends with them. Structures and numbers: `linux/kfd_ioctl.h`.
//!
//! Queues are off while every stream of the process is closed and any has work: a process without
//! work may be waited for by the runtime, for what no hook sees.

use std::{
    ffi::{c_int, c_ulong, c_void},
    sync::{
        Mutex,
        atomic::{AtomicPtr, Ordering},
    },
};

use xsched_shim::{
    process::PerProcess,
    state::{self, guarded},
};
use xsched_wire::Level;

use crate::streams;

/// `AMDKFD_IOCTL_BASE`, and numbers of requests.
const MAGIC: c_ulong = b'K' as c_ulong;
const CREATE_QUEUE: c_ulong = 0x02;
const DESTROY_QUEUE: c_ulong = 0x03;
const UPDATE_QUEUE: c_ulong = 0x07;
/// `KFD_IOC_QUEUE_TYPE_COMPUTE` and `…_COMPUTE_AQL`.
const COMPUTE: [u32; 2] = [0, 2];

/// `struct kfd_ioctl_create_queue_args`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Create {
    ring: u64,
    write_pointer: u64,
    read_pointer: u64,
    doorbell: u64,
    ring_size: u32,
    gpu: u32,
    kind: u32,
    percentage: u32,
    priority: u32,
    queue: u32,
    buffers: [u64; 3],
    sizes: [u32; 2],
}

/// `struct kfd_ioctl_update_queue_args`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Update {
    ring: u64,
    queue: u32,
    ring_size: u32,
    percentage: u32,
    priority: u32,
}

/// A compute queue of this process.
struct Queue {
    fd: c_int,
    gpu: u32,
    /// What puts it as the runtime wants it.
    wanted: Update,
    is_off: bool,
}

#[derive(Default)]
struct Queues {
    known: Vec<Queue>,
    /// The kernel refused; queues are left alone from then on.
    refused: Option<String>,
    /// That there is a second runtime.
    is_said: bool,
}

/// A forked child has none of its parent's queues.
static QUEUES: PerProcess<Mutex<Queues>> = PerProcess::new();

/// Why level 3 is refused; `None`: it works.
pub(crate) fn refusal() -> Option<String> {
    let mut queues = QUEUES.lock();
    if queues.refused.is_some() {
        return queues.refused.clone();
    }
    if queues.known.is_empty() {
        return Some("no compute queue of this process was seen".into());
    }
    if let Some(reason) = queues.ambiguity() {
        return Some(reason.into());
    }
    // Setting what is set already shows whether it may be set.
    let first = queues.known.iter().find(|queue| !queue.is_off)?;
    queues.refused = first.update(first.wanted.percentage).err();
    queues.refused.clone()
}

/// Takes the process's queues off or puts them back, as its gates say now.
pub(crate) fn settle() {
    let mut queues = QUEUES.lock();
    if queues.known.is_empty() {
        return;
    }
    let off = queues.refused.is_none() && queues.ambiguity().is_none() && all_are_held();
    if let Err(reason) = queues.set(off) {
        let _ = queues.set(false);
        state::say(&format!("level 3 is off: {reason}"));
        queues.refused = Some(reason);
    }
}

/// Whether every stream is closed, and any has work.
fn all_are_held() -> bool {
    let mut any_work = false;
    let closed = streams::all_queues(|queue| {
        let block = queue.slot().block;
        any_work |= block.state().is_ready();
        queue.level() == Some(Level::Lv3) && !block.is_open()
    });
    closed && any_work
}

impl Queues {
    /// Why it is not known which queues are those of the streams that are scheduled.
    fn ambiguity(&self) -> Option<&'static str> {
        let first = self.known.first()?;
        if self.known.iter().any(|queue| queue.fd != first.fd) {
            return Some("which compute queue belongs to which of several runtimes is not known");
        }
        let several = self.known.iter().any(|queue| queue.gpu != first.gpu);
        several.then_some("which compute queue belongs to which of several GPUs is not known")
    }

    fn set(&mut self, off: bool) -> Result<(), String> {
        for queue in &mut self.known {
            if queue.is_off != off {
                queue.update(if off { 0 } else { queue.wanted.percentage })?;
                queue.is_off = off;
            }
        }
        Ok(())
    }
}

impl Queue {
    fn update(&self, percentage: u32) -> Result<(), String> {
        let mut update = Update {
            percentage,
            ..self.wanted
        };
        // _IOW.
        let size = size_of::<Update>() as c_ulong;
        let request = (1 << 30) | (size << 16) | (MAGIC << 8) | UPDATE_QUEUE;
        // SAFETY: the structure that this request names, valid for the duration of the call.
        let result = unsafe { real_ioctl(self.fd, request, (&raw mut update).cast()) };
        if result < 0 {
            let error = std::io::Error::last_os_error();
            return Err(format!("the kernel refused to update a queue: {error}"));
        }
        Ok(())
    }
}

/// The wrapped `ioctl`: calls libc's, then looks at what became of the process's queues.
///
/// # Safety
/// As libc's. (Variadic there; every request takes at most one argument.)
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    let number = request & 0xff;
    let is_ours = (request >> 8) & 0xff == MAGIC
        && matches!(number, CREATE_QUEUE | DESTROY_QUEUE | UPDATE_QUEUE)
        && !argument.is_null();
    if is_ours && number == DESTROY_QUEUE {
        // Before the call: nobody may name a queue that is gone.
        // SAFETY: the request's argument begins with the queue's number.
        let queue = unsafe { argument.cast::<u32>().read_unaligned() };
        guarded(|| {
            QUEUES
                .lock()
                .known
                .retain(|known| known.wanted.queue != queue)
        });
    }
    // SAFETY: the caller's arguments, passed on.
    let result = unsafe { real_ioctl(fd, request, argument) };
    if is_ours && number != DESTROY_QUEUE && result == 0 {
        // The program must see its own result, whatever happens here.
        let errno = std::io::Error::last_os_error().raw_os_error();
        guarded(|| observe(fd, number, (request >> 16) as usize & 0x3fff, argument));
        if let Some(errno) = errno {
            // SAFETY: has no preconditions.
            let place = unsafe { libc::__errno_location() };
            // SAFETY: this thread's own errno.
            unsafe { *place = errno };
        }
    }
    result
}

/// Looks at a request of the runtime's that has succeeded.
fn observe(fd: c_int, number: c_ulong, size: usize, argument: *mut c_void) {
    if number == CREATE_QUEUE && size >= size_of::<Create>() {
        // SAFETY: the request's argument begins with this structure, whose size it named.
        let create = unsafe { argument.cast::<Create>().read_unaligned() };
        if COMPUTE.contains(&create.kind) {
            let mut queues = QUEUES.lock();
            // Each runtime opens the file for itself.
            if queues.known.iter().any(|queue| queue.fd != fd) && !queues.is_said {
                queues.is_said = true;
                state::say("a second HIP runtime in this process: its streams are not scheduled");
            }
            queues.known.push(Queue {
                fd,
                gpu: create.gpu,
                wanted: Update {
                    ring: create.ring,
                    queue: create.queue,
                    ring_size: create.ring_size,
                    percentage: create.percentage,
                    priority: create.priority,
                },
                is_off: false,
            });
        }
    }
    if number == UPDATE_QUEUE && size >= size_of::<Update>() {
        // SAFETY: as above.
        let update = unsafe { argument.cast::<Update>().read_unaligned() };
        let mut queues = QUEUES.lock();
        let mut known = queues.known.iter_mut();
        if let Some(queue) = known.find(|queue| queue.wanted.queue == update.queue) {
            // The runtime's own word: the queue is as it says now.
            queue.wanted = update;
            queue.is_off = false;
        }
    }
}

/// libc's `ioctl`, or whichever comes next.
///
/// # Safety
/// As libc's.
unsafe fn real_ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    let mut real = REAL.load(Ordering::Relaxed);
    if real.is_null() {
        // SAFETY: a pseudo-handle.
        real = unsafe { xsched_shim::dlsym::real(libc::RTLD_NEXT, c"ioctl") };
        REAL.store(real, Ordering::Relaxed);
    }
    if real.is_null() {
        // SAFETY: the caller's arguments, passed on.
        return unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) } as c_int;
    }
    type Ioctl = unsafe extern "C" fn(c_int, c_ulong, *mut c_void) -> c_int;
    // SAFETY: the address is that of libc's `ioctl`; on x86-64 a variadic function takes its
    // arguments in the same registers.
    let real: Ioctl = unsafe { std::mem::transmute(real) };
    // SAFETY: the caller's arguments, passed on.
    unsafe { real(fd, request, argument) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!(size_of::<Create>(), 88);
        assert_eq!(std::mem::offset_of!(Create, queue), 52);
        assert_eq!(size_of::<Update>(), 24);
    }
}
