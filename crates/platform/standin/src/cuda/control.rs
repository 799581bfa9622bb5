//! The control channel to the kernel driver: channel groups and their time slices, by `ioctl`.
//!
//! A real driver allocates channel groups (class `0xa06c`) by `NV_ESC_RM_ALLOC` (nr `0x2b`), sets the
//! compute group's slice (command `0xa06c0103`, one `u64` of µs) by `NV_ESC_RM_CONTROL` (nr `0x2a`),
//! and frees objects by `NV_ESC_RM_FREE` (nr `0x29`), through libc's `ioctl` on `/dev/nvidiactl`. So does
//! the stand-in, with the same structures, on a descriptor of its own (a memfd called
//! `standin-nvidiactl`), and by whichever `ioctl` comes first among the process's symbols: a preloaded
//! shim sees every request.
//!
//! Who answers in the kernel's place: `core/channel.rs`.

use std::{
    cell::Cell,
    collections::HashMap,
    ffi::{c_int, c_ulong, c_void},
    ptr,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use super::driver::Driver;
use crate::core::{channel::Channel, slices::SLICE};

const ESCAPE_FREE: u32 = 0x29;
const ESCAPE_CONTROL: u32 = 0x2a;
const ESCAPE_ALLOC: u32 = 0x2b;
/// `NV_IOCTL_MAGIC`.
const MAGIC: u32 = b'F' as u32;

const CLASS_CHANNEL_GROUP: u32 = 0xa06c;
const GET_TIMESLICE: u32 = 0xa06c_0104;
const SET_TIMESLICE: u32 = 0xa06c_0103;

/// `NV2080_ENGINE_TYPE`: compute, and two copy engines.
const COMPUTE: u32 = 1;
const ENGINES: [u32; 3] = [COMPUTE, 9, 10];

/// `NV_STATUS`.
const OK: u32 = 0;
const INVALID_ARGUMENT: u32 = 0x1f;
const INVALID_OBJECT: u32 = 0x33;
const NOT_SUPPORTED: u32 = 0x56;

/// `NVOS64_PARAMETERS`; `NVOS21_PARAMETERS` is the shorter form of the same.
#[derive(Clone, Copy)]
#[repr(C)]
struct Alloc {
    root: u32,
    parent: u32,
    object: u32,
    class: u32,
    parameters: *mut GroupParameters,
    rights: *mut c_void,
    size: u32,
    flags: u32,
    status: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct ShortAlloc {
    root: u32,
    parent: u32,
    object: u32,
    class: u32,
    parameters: *mut GroupParameters,
    size: u32,
    status: u32,
}

/// `NV_CHANNEL_GROUP_ALLOCATION_PARAMETERS`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct GroupParameters {
    error_object: u32,
    ecc_error_object: u32,
    address_space: u32,
    engine: u32,
    is_virtual: u32,
}

/// `NVOS54_PARAMETERS`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Control {
    client: u32,
    object: u32,
    command: u32,
    flags: u32,
    parameters: *mut u64,
    size: u32,
    status: u32,
}

/// `NVOS00_PARAMETERS`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Free {
    root: u32,
    parent: u32,
    object: u32,
    status: u32,
}

const _: () = {
    assert!(size_of::<Alloc>() == 48);
    assert!(size_of::<ShortAlloc>() == 32);
    assert!(size_of::<Control>() == 32);
    assert!(size_of::<Free>() == 16);
};

#[derive(Clone, Copy)]
struct Group {
    device: usize,
    engine: u32,
    /// µs.
    slice: u64,
}

/// The channel groups of a context.
pub(crate) struct Channels {
    root: u32,
    objects: Vec<u32>,
}

thread_local! {
    /// Device of the request that the stand-in itself is making.
    static OWN: Cell<Option<usize>> = const { Cell::new(None) };
}

impl Channels {
    pub(crate) fn open(driver: &Driver, device: usize) -> Self {
        static OBJECTS: AtomicU32 = AtomicU32::new(1);
        let root = 0xc1d0_0000 + OBJECTS.fetch_add(1, Ordering::Relaxed);
        let mut objects = Vec::new();
        for engine in ENGINES {
            let object = 0x5c00_0000 + OBJECTS.fetch_add(1, Ordering::Relaxed);
            let mut parameters = GroupParameters {
                engine,
                ..GroupParameters::default()
            };
            let mut alloc = Alloc {
                root,
                parent: root + 1,
                object,
                class: CLASS_CHANNEL_GROUP,
                parameters: &raw mut parameters,
                rights: ptr::null_mut(),
                size: 20,
                flags: 0,
                status: 0,
            };
            request(driver, device, ESCAPE_ALLOC, &mut alloc);
            objects.push(object);
        }
        let mut microseconds = SLICE / 1_000;
        let mut control = Control {
            client: root,
            object: objects[0],
            command: SET_TIMESLICE,
            flags: 0,
            parameters: &raw mut microseconds,
            size: 8,
            status: 0,
        };
        request(driver, device, ESCAPE_CONTROL, &mut control);
        Self { root, objects }
    }

    pub(crate) fn close(self, driver: &Driver) {
        for object in self.objects {
            let device = groups().get(&object).map_or(0, |group| group.device);
            let mut free = Free {
                root: self.root,
                parent: self.root + 1,
                object,
                status: 0,
            };
            request(driver, device, ESCAPE_FREE, &mut free);
        }
    }
}

/// Makes a request as a real driver would; answers it itself if nobody can on this machine.
fn request<T>(driver: &Driver, device: usize, number: u32, argument: &mut T) {
    let size = u32::try_from(size_of::<T>()).expect("a small structure");
    // _IOWR.
    let request = c_ulong::from((3 << 30) | (size << 16) | (MAGIC << 8) | number);
    OWN.set(Some(device));
    let argument = ptr::from_mut(argument).cast::<c_void>();
    if CHANNEL.send(request, argument).is_err() {
        let _answered = answer(driver, request, argument);
    }
    OWN.set(None);
}

static CHANNEL: Channel = Channel::new(c"standin-nvidiactl", MAGIC, |request, argument| {
    answer(Driver::get(), request, argument)
});

/// Answers in the kernel's place. The error is an `errno`.
fn answer(driver: &Driver, request: c_ulong, argument: *mut c_void) -> Result<(), c_int> {
    let request = u32::try_from(request).map_err(|_| libc::EINVAL)?;
    let (number, magic, size) = (request & 0xff, request >> 8 & 0xff, request >> 16 & 0x3fff);
    if magic != MAGIC || argument.is_null() {
        return Err(libc::ENOTTY);
    }
    if OWN.get().is_none()
        && let Some(errno) = driver.config.failure("ioctl")
    {
        return Err(errno);
    }
    match (number, size as usize) {
        (ESCAPE_ALLOC, size) if size == size_of::<Alloc>() => {
            // SAFETY: the caller promised the structure of this request, whose size it named.
            let alloc = unsafe { &mut *argument.cast::<Alloc>() };
            alloc.status = allocate(alloc.object, alloc.class, alloc.parameters);
        }
        (ESCAPE_ALLOC, size) if size == size_of::<ShortAlloc>() => {
            // SAFETY: as above.
            let alloc = unsafe { &mut *argument.cast::<ShortAlloc>() };
            alloc.status = allocate(alloc.object, alloc.class, alloc.parameters);
        }
        (ESCAPE_CONTROL, size) if size == size_of::<Control>() => {
            // SAFETY: as above.
            let request = unsafe { &mut *argument.cast::<Control>() };
            request.status = control(driver, request);
        }
        (ESCAPE_FREE, size) if size == size_of::<Free>() => {
            // SAFETY: as above.
            let free = unsafe { &mut *argument.cast::<Free>() };
            groups().remove(&free.object);
            free.status = OK;
        }
        _ => return Err(libc::EINVAL),
    }
    Ok(())
}

fn allocate(object: u32, class: u32, parameters: *const GroupParameters) -> u32 {
    if class != CLASS_CHANNEL_GROUP {
        return OK;
    }
    if parameters.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: the caller promised the parameters of the class it named.
    let engine = unsafe { (*parameters).engine };
    let group = Group {
        device: OWN.get().unwrap_or(0),
        engine,
        slice: SLICE / 1_000,
    };
    groups().insert(object, group);
    OK
}

fn control(driver: &Driver, request: &Control) -> u32 {
    if !matches!(request.command, GET_TIMESLICE | SET_TIMESLICE) {
        return NOT_SUPPORTED;
    }
    if request.size != 8 || request.parameters.is_null() {
        return INVALID_ARGUMENT;
    }
    let Some(mut group) = groups().get(&request.object).copied() else {
        return INVALID_OBJECT;
    };
    if request.command == GET_TIMESLICE {
        // SAFETY: the caller promised a place of the size it named.
        unsafe { request.parameters.write(group.slice) };
        return OK;
    }
    // SAFETY: as above.
    group.slice = unsafe { request.parameters.read() };
    if group.slice == 0 {
        return INVALID_ARGUMENT;
    }
    groups().insert(request.object, group);
    if group.engine == COMPUTE {
        // The process has one slice on a device: that which was set last.
        let set = driver.machine.edit(group.device, |engine, _| {
            let slice = group.slice.saturating_mul(1_000);
            engine
                .share()
                .with(|table, me| table.slots[me].slice = slice);
        });
        return if set.map_err(super::driver::broken).is_ok() {
            OK
        } else {
            NOT_SUPPORTED
        };
    }
    OK
}

fn groups() -> MutexGuard<'static, HashMap<u32, Group>> {
    static GROUPS: OnceLock<Mutex<HashMap<u32, Group>>> = OnceLock::new();
    let groups = GROUPS.get_or_init(Mutex::default);
    groups.lock().unwrap_or_else(PoisonError::into_inner)
}
