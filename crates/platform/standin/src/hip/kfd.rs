//! The stand-in for `/dev/kfd`: queues of a process, and whether they are on the device.
//!
//! A context has one compute queue and one copy queue at first, and a compute queue more with each
//! created stream, up to four, as ROCm has by default. While all compute queues that a process has on a
//! device are at 0 %, none of its kernels runs there, and what had begun waits.
//!
//! Every request is checked as the kernel would, and more: an update has to name a queue that exists,
//! the ring that it was created with, 0 or 100 %, the priority of the creation, and to change
//! something or repeat the creation. What is wrong is refused (EINVAL) and counted, and
//! `standin_kfd` tells a test.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::{c_int, c_ulong, c_void},
    ptr,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use crate::{
    core::channel::Channel,
    cuda::{abi::Out, driver::Driver},
};

/// `AMDKFD_IOCTL_BASE`, and numbers of requests.
const MAGIC: u32 = b'K' as u32;
const CREATE_QUEUE: u32 = 0x02;
const DESTROY_QUEUE: u32 = 0x03;
const UPDATE_QUEUE: u32 = 0x07;
/// Directions of `_IOW` and `_IOWR`.
const WRITES: u32 = 1;
const BOTH: u32 = 3;

const COPIES: u32 = 1;
const COMPUTES: u32 = 2;
const FULL: u32 = 100;
/// Compute queues of a process on a device.
const MOST: usize = 4;

/// `struct kfd_ioctl_create_queue_args`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
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
    more: [u64; 3],
    sizes: [u32; 2],
}

/// `struct kfd_ioctl_update_queue_args`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Update {
    ring: u64,
    queue: u32,
    ring_size: u32,
    percentage: u32,
    priority: u32,
}

/// `struct kfd_ioctl_destroy_queue_args`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Destroy {
    queue: u32,
    pad: u32,
}

const _: () = {
    assert!(size_of::<Create>() == 88);
    assert!(size_of::<Update>() == 24);
    assert!(size_of::<Destroy>() == 8);
};

struct Queue {
    device: usize,
    created: Create,
    percentage: u32,
}

#[derive(Default)]
struct State {
    queues: BTreeMap<u32, Queue>,
    last: u32,
    /// Updates to 0 %, to 100 % of what was at 0 %, and wrong requests.
    taken_off: u64,
    put_back: u64,
    wrong: u64,
}

thread_local! {
    /// Device of the request that the stand-in itself is making.
    static OWN: Cell<Option<usize>> = const { Cell::new(None) };
}

static CHANNEL: Channel = Channel::new(c"standin-kfd", MAGIC, answer);

fn state() -> MutexGuard<'static, State> {
    static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The context of a device comes.
pub(super) fn open(device: usize) {
    create(device, COMPUTES);
    create(device, COPIES);
}

/// A stream was created.
pub(super) fn another_stream(device: usize) {
    let count = of(device, |queue| queue.created.kind == COMPUTES).len();
    if count < MOST {
        create(device, COMPUTES);
    }
}

/// The context of a device goes.
pub(super) fn close(device: usize) {
    for queue in of(device, |_| true) {
        let mut destroy = Destroy { queue, pad: 0 };
        request(device, BOTH, DESTROY_QUEUE, &mut destroy);
    }
}

fn of(device: usize, matches: impl Fn(&Queue) -> bool) -> Vec<u32> {
    let state = state();
    let own = state.queues.iter();
    let own = own.filter(|(_, queue)| queue.device == device && matches(queue));
    own.map(|(&number, _)| number).collect()
}

fn create(device: usize, kind: u32) {
    let gpu = Driver::get().config.devices[device];
    let mut create = Create {
        ring: 0x7f00_0000_0000 + u64::from(state().last) * 0x1_0000,
        ring_size: 0x4000,
        gpu: 0x1000 + u32::try_from(gpu).unwrap_or(0),
        kind,
        percentage: FULL,
        priority: 7,
        ..Create::default()
    };
    request(device, BOTH, CREATE_QUEUE, &mut create);
}

/// Makes a request as a real runtime would; answers it itself if nobody can on this machine.
fn request<T>(device: usize, direction: u32, number: u32, argument: &mut T) {
    let size = u32::try_from(size_of::<T>()).expect("a small structure");
    let request = c_ulong::from((direction << 30) | (size << 16) | (MAGIC << 8) | number);
    let argument = ptr::from_mut(argument).cast::<c_void>();
    OWN.set(Some(device));
    if CHANNEL.send(request, argument).is_err() {
        let _answered = answer(request, argument);
    }
    OWN.set(None);
}

/// Answers in the kernel's place. The error is an `errno`.
fn answer(request: c_ulong, argument: *mut c_void) -> Result<(), c_int> {
    let request = u32::try_from(request).map_err(|_| libc::EINVAL)?;
    if argument.is_null() {
        return Err(libc::EFAULT);
    }
    if OWN.get().is_none()
        && let Some(errno) = Driver::get().config.failure("ioctl")
    {
        return Err(errno);
    }
    let expected =
        |direction: u32, size: usize| (direction, u32::try_from(size).unwrap_or(u32::MAX));
    let found = (request >> 30, request >> 16 & 0x3fff);
    let result = match request & 0xff {
        CREATE_QUEUE if found == expected(BOTH, size_of::<Create>()) => {
            // SAFETY: the caller promised the structure of this request, whose size it named.
            created(unsafe { &mut *argument.cast::<Create>() })
        }
        UPDATE_QUEUE if found == expected(WRITES, size_of::<Update>()) => {
            // SAFETY: as above.
            updated(unsafe { *argument.cast::<Update>() })
        }
        DESTROY_QUEUE if found == expected(BOTH, size_of::<Destroy>()) => {
            // SAFETY: as above.
            destroyed(unsafe { *argument.cast::<Destroy>() })
        }
        _ => Err(libc::EINVAL),
    };
    if result.is_err() {
        state().wrong += 1;
    }
    result
}

fn created(create: &mut Create) -> Result<(), c_int> {
    let device = OWN.get().unwrap_or(0);
    let mut state = state();
    state.last += 1;
    create.queue = state.last;
    let queue = Queue {
        device,
        created: *create,
        percentage: create.percentage,
    };
    state.queues.insert(create.queue, queue);
    drop(state);
    settle(device);
    Ok(())
}

fn updated(update: Update) -> Result<(), c_int> {
    let mut state = state();
    let queue = state.queues.get_mut(&update.queue).ok_or(libc::EFAULT)?;
    let created = queue.created;
    let as_created = update.ring == created.ring
        && update.ring_size == created.ring_size
        && update.priority == created.priority;
    let may = created.kind == COMPUTES && matches!(update.percentage, 0 | FULL);
    if !as_created || !may || (update.percentage, queue.percentage) == (0, 0) {
        return Err(libc::EINVAL);
    }
    let device = queue.device;
    let before = std::mem::replace(&mut queue.percentage, update.percentage);
    match (before, update.percentage) {
        (_, 0) => state.taken_off += 1,
        (0, _) => state.put_back += 1,
        _ => {}
    }
    drop(state);
    settle(device);
    Ok(())
}

fn destroyed(destroy: Destroy) -> Result<(), c_int> {
    let gone = state().queues.remove(&destroy.queue).ok_or(libc::EINVAL)?;
    settle(gone.device);
    Ok(())
}

/// Whether a process has the device follows from its compute queues.
fn settle(device: usize) {
    let any = |matches: fn(&Queue) -> bool| !of(device, matches).is_empty();
    let off = any(|queue| queue.created.kind == COMPUTES)
        && !any(|queue| queue.created.kind == COMPUTES && queue.percentage > 0);
    let machine = Driver::get().machine;
    let edit = machine.edit(device, |engine, now| engine.withdraw(off, now));
    edit.expect("a device that is in use");
}

/// The stand-in's own: updates to 0 %, updates back to 100 %, wrong requests, compute queues.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub(super) extern "C" fn standin_kfd(counts: Out<[u64; 4]>) {
    let state = state();
    let compute = state.queues.values();
    let compute = compute
        .filter(|queue| queue.created.kind == COMPUTES)
        .count();
    counts.set_if_wanted([state.taken_off, state.put_back, state.wrong, compute as u64]);
}
