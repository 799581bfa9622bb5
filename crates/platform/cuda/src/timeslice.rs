//! Level 3: the time slices of this process's channel groups, compute and copy.
//!
//! The driver allocates channel groups through `ioctl` on `/dev/nvidiactl` when it creates a
//! context, and sets their time slice. A preloaded `ioctl` sees both, and the same control sets
//! another slice later: it acts on the caller's own groups only, needs no privilege, and ends with
//! them. Structures and numbers: NVIDIA's open kernel modules (`nv_escape.h`, `nvos.h`,
//! `cla06c.h`, `ctrla06c/ctrla06cgpfifo.h`).

use std::{
    cell::Cell,
    ffi::{c_int, c_ulong, c_void},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use xsched_shim::process::PerProcess;
use xsched_wire::Share;

use crate::sys::*;

/// `NV_IOCTL_MAGIC`.
const NV_MAGIC: c_ulong = b'F' as c_ulong;
const NV_ESC_RM_FREE: c_ulong = 0x29;
const NV_ESC_RM_CONTROL: c_ulong = 0x2a;
const NV_ESC_RM_ALLOC: c_ulong = 0x2b;
/// `KEPLER_CHANNEL_GROUP_A`.
const CHANNEL_GROUP: u32 = 0xa06c;
/// `NVA06C_CTRL_CMD_SET_TIMESLICE`.
const SET_TIMESLICE: u32 = 0xa06c_0103;
/// `NVA06C_CTRL_CMD_GET_TIMESLICE`.
const GET_TIMESLICE: u32 = 0xa06c_0104;
/// `NV2080_ENGINE_TYPE_GRAPHICS`, which computes as well.
const ENGINE_COMPUTE: u32 = 1;

/// The slice of a program that is alone in the background. Shorter ones gain 2 % more for the others. Two busy programs
/// with such slices spend every one on the switch and starve for good.
const BACKGROUND_US: u64 = 50;
/// The least slice of programs that have company, and of contexts of one program, which have a channel group each: the
/// shortest with which they were seen to progress is 100 µs.
const SHORTEST_SHARED_US: u64 = 200;
/// What the driver sets when it was not seen to set anything.
const DEFAULT_US: u64 = 2048;

/// The start of `NVOS21_PARAMETERS` and `NVOS64_PARAMETERS`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Alloc {
    root: u32,
    parent: u32,
    object: u32,
    class: u32,
    parameters: *const u32,
}

/// `NVOS00_PARAMETERS`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Free {
    root: u32,
    parent: u32,
    object: u32,
    status: u32,
}

/// `NVOS54_PARAMETERS`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Control {
    client: u32,
    object: u32,
    command: u32,
    flags: u32,
    parameters: *mut u64,
    parameters_size: u32,
    status: u32,
}

/// A channel group of this process.
struct Group {
    /// Its engine computes; the others copy.
    computes: bool,
    fd: c_int,
    client: u32,
    object: u32,
    /// The device whose context was being created; `None` if that was not seen.
    device: Option<CUdevice>,
    /// What the driver set.
    default_us: u64,
}

#[derive(Default)]
struct Groups {
    known: Vec<Group>,
    wishes: Vec<Wish>,
    /// Devices of streams that came, and when.
    unsettled: Vec<(CUdevice, Instant)>,
    /// Devices whose groups have another slice than the driver's.
    changed: Vec<Changed>,
}

/// The driver puts its own slice back while a context is young, in a way that no `ioctl` shows, so
/// what was set is looked at again: soon, then less and less often.
struct Changed {
    device: CUdevice,
    slice_us: u64,
    look_at: Instant,
    pause: Duration,
}

/// Between two looks at a slice: at first, and in the long run.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_secs(2);

/// A forked child has none of its parent's groups, and a lock that nobody holds.
static GROUPS: PerProcess<Mutex<Groups>> = PerProcess::new();

thread_local! {
    /// The device whose context this thread is creating.
    static CREATING: Cell<Option<CUdevice>> = const { Cell::new(None) };
}

/// Around the creation of a context on a device.
pub(crate) fn creating(device: CUdevice, call: impl FnOnce() -> CUresult) -> CUresult {
    let outer = CREATING.replace(Some(device));
    let result = call();
    CREATING.set(outer);
    result
}

/// Why level 3 is refused on a device; `None`: it works.
pub(crate) fn refusal(device: CUdevice) -> Option<String> {
    let groups = GROUPS.lock();
    let mut own = groups.of(device).filter(|group| group.computes).peekable();
    if own.peek().is_none() {
        return Some("no channel group of this process was seen".into());
    }
    // Setting what is set already shows whether it may be set.
    let changed = groups.changed.iter().find(|own| own.device == device);
    own.find_map(|group| {
        let slice_us = changed.map_or(group.default_us, |changed| changed.slice_us);
        group.set(slice_us).err()
    })
}

/// What a stream's scheduler wants for it. The hardware slices channel groups, which all streams of
/// a process share, so that a process is in the background on a device when all its streams there are.
struct Wish {
    stream: StreamId,
    /// The stream's context, as a number that names it.
    context: usize,
    device: CUdevice,
    share: Share,
}

/// Names a stream among all that the process ever had.
pub(crate) type StreamId = u64;

/// What a device gets by the wishes for its streams: the longest slice, µs, or none for the driver's own, which one
/// normal stream is enough for.
fn agreed(wishes: &[Wish], device: CUdevice) -> Option<u64> {
    let own = || wishes.iter().filter(|wish| wish.device == device);
    let first = own().next()?;
    let alone = match own().all(|wish| wish.context == first.context) {
        true => BACKGROUND_US,
        false => SHORTEST_SHARED_US,
    };
    let slice = |wish: &Wish| match wish.share {
        Share::Normal => None,
        Share::Background => Some(alone),
        Share::Slice(micros) => Some(u64::from(micros).max(SHORTEST_SHARED_US)),
    };
    let slices: Option<Vec<u64>> = own().map(slice).collect();
    slices?.into_iter().max()
}

/// Some device's streams do not agree.
static DIVIDED: AtomicBool = AtomicBool::new(false);

/// Whether the streams of some device want different shares, so that none stops there by its slice.
pub(crate) fn is_divided() -> bool {
    DIVIDED.load(Ordering::Relaxed)
}

fn any_divided(wishes: &[Wish]) -> bool {
    let (normal, other): (Vec<&Wish>, Vec<&Wish>) =
        wishes.iter().partition(|wish| wish.share == Share::Normal);
    let is_normal_too = |wish: &&Wish| normal.iter().any(|normal| normal.device == wish.device);
    other.iter().any(is_normal_too)
}

/// A stream of a context comes; it counts as a normal one.
pub(crate) fn join(device: CUdevice, context: usize) -> StreamId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let stream = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut groups = GROUPS.lock();
    groups.wishes.push(Wish {
        stream,
        context,
        device,
        share: Share::Normal,
    });
    // Not settled here: its scheduler will say in a moment what it wants for it, mostly the same as
    // for the others.
    groups.unsettled.push((device, Instant::now()));
    stream
}

/// A stream has ended.
pub(crate) fn leave(device: CUdevice, stream: StreamId) {
    let mut groups = GROUPS.lock();
    groups.wishes.retain(|wish| wish.stream != stream);
    let _ = groups.settle(device);
}

/// Notes what is wanted for a stream, and sets the slice of all groups on its device accordingly.
pub(crate) fn set_share(device: CUdevice, stream: StreamId, share: Share) -> Result<(), String> {
    let mut groups = GROUPS.lock();
    let wish = groups.wishes.iter_mut().find(|wish| wish.stream == stream);
    if let Some(wish) = wish {
        wish.share = share;
    }
    groups.settle(device)
}

/// Looks, now and then, whether the slice that was set on a device still stands, and should.
pub(crate) fn tend(device: CUdevice) {
    look(device, Instant::now());
}

fn look(device: CUdevice, now: Instant) {
    let mut groups = GROUPS.lock();
    let waited =
        |&mut (own, since): &mut (CUdevice, Instant)| own == device && since + FIRST_LOOK <= now;
    if groups.unsettled.extract_if(.., waited).count() > 0 {
        let _ = groups.settle(device);
    }
    let due = |changed: &Changed| changed.device == device && changed.look_at <= now;
    let Some(index) = groups.changed.iter().position(due) else {
        return;
    };
    let slice_us = groups.changed[index].slice_us;
    let mut pause = (groups.changed[index].pause * 2).min(LAST_LOOK);
    for group in groups.of(device) {
        if group.get() != Ok(slice_us) {
            pause = FIRST_LOOK;
            let _ = group.set(slice_us);
        }
    }
    groups.changed[index] = Changed {
        device,
        slice_us,
        look_at: now + pause,
        pause,
    };
}

impl Groups {
    /// Gives a device what its streams agree on.
    fn settle(&mut self, device: CUdevice) -> Result<(), String> {
        DIVIDED.store(any_divided(&self.wishes), Ordering::Relaxed);
        let wanted = agreed(&self.wishes, device);
        let known = self
            .changed
            .iter()
            .position(|changed| changed.device == device);
        if wanted == known.map(|index| self.changed[index].slice_us) {
            return Ok(());
        }
        for group in self.of(device) {
            group.set(wanted.unwrap_or(group.default_us))?;
        }
        if let Some(index) = known {
            self.changed.remove(index);
        }
        self.changed.extend(wanted.map(|slice_us| Changed {
            device,
            slice_us,
            look_at: Instant::now() + FIRST_LOOK,
            pause: FIRST_LOOK,
        }));
        Ok(())
    }

    fn of(&self, device: CUdevice) -> impl Iterator<Item = &Group> {
        self.known
            .iter()
            .filter(move |group| group.device.is_none_or(|own| own == device))
    }
}

impl Group {
    fn set(&self, slice_us: u64) -> Result<(), String> {
        self.control(SET_TIMESLICE, slice_us).map(drop)
    }

    fn get(&self) -> Result<u64, String> {
        self.control(GET_TIMESLICE, 0)
    }

    /// A control whose parameter is one u64 of µs.
    fn control(&self, command: u32, value: u64) -> Result<u64, String> {
        let mut value = value;
        let mut control = Control {
            client: self.client,
            object: self.object,
            command,
            flags: 0,
            parameters: &mut value,
            parameters_size: size_of::<u64>() as u32,
            status: 0,
        };
        let request = request(NV_ESC_RM_CONTROL, size_of::<Control>());
        // SAFETY: the structure that this request names, valid for the duration of the call.
        let result = unsafe { real_ioctl(self.fd, request, (&raw mut control).cast()) };
        if result < 0 {
            let error = std::io::Error::last_os_error();
            return Err(format!("the kernel driver refused a time slice: {error}"));
        }
        match control.status {
            0 => Ok(value),
            status => Err(format!(
                "the kernel driver refused a time slice (status {status:#x})"
            )),
        }
    }
}

/// `_IOWR('F', number, size)`.
fn request(number: c_ulong, size: usize) -> c_ulong {
    (3 << 30) | ((size as c_ulong) << 16) | (NV_MAGIC << 8) | number
}

/// The wrapped `ioctl`: calls libc's, then looks at what the NVIDIA driver did.
///
/// # Safety
/// As libc's. (Variadic there; every request takes at most one argument.)
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // SAFETY: the caller's arguments, passed on.
    let result = unsafe { real_ioctl(fd, request, argument) };
    let number = request & 0xff;
    let is_nvidia = (request >> 8) & 0xff == NV_MAGIC
        && matches!(number, NV_ESC_RM_FREE | NV_ESC_RM_CONTROL | NV_ESC_RM_ALLOC);
    if is_nvidia && result == 0 && !argument.is_null() {
        // The program must see its own result, whatever happens here.
        let errno = std::io::Error::last_os_error().raw_os_error();
        crate::state::guarded(|| observe(fd, number, argument));
        if let Some(errno) = errno {
            // SAFETY: has no preconditions.
            let place = unsafe { libc::__errno_location() };
            // SAFETY: this thread's own errno.
            unsafe { *place = errno };
        }
    }
    result
}

/// Looks at an ioctl of the NVIDIA driver that has succeeded.
fn observe(fd: c_int, number: c_ulong, argument: *mut c_void) {
    match number {
        NV_ESC_RM_ALLOC => {
            // SAFETY: the request's argument begins with this structure.
            let alloc = unsafe { argument.cast::<Alloc>().read_unaligned() };
            if alloc.class == CHANNEL_GROUP && !alloc.parameters.is_null() {
                let parameters = alloc.parameters.cast::<[u32; 4]>();
                // SAFETY: NV_CHANNEL_GROUP_ALLOCATION_PARAMETERS begins with four words.
                let [_, _, _, engine] = unsafe { parameters.read_unaligned() };
                GROUPS.lock().known.push(Group {
                    computes: engine == ENGINE_COMPUTE,
                    fd,
                    client: alloc.root,
                    object: alloc.object,
                    device: CREATING.get(),
                    default_us: DEFAULT_US,
                });
            }
        }
        NV_ESC_RM_FREE => {
            // SAFETY: the request's argument is this structure.
            let free = unsafe { argument.cast::<Free>().read_unaligned() };
            GROUPS.lock().known.retain(|group| {
                group.client != free.root
                    || (group.object != free.object && group.client != free.object)
            });
        }
        _ => {
            // SAFETY: the request's argument is this structure.
            let control = unsafe { argument.cast::<Control>().read_unaligned() };
            if control.command == SET_TIMESLICE
                && control.status == 0
                && !control.parameters.is_null()
            {
                // SAFETY: NVA06C_CTRL_TIMESLICE_PARAMS: one u64.
                let slice_us = unsafe { control.parameters.read_unaligned() };
                driver_set(control.client, control.object, slice_us);
            }
        }
    }
}

/// The driver itself has set a slice: that is the group's default, and ours goes on top.
fn driver_set(client: u32, object: u32, slice_us: u64) {
    let mut groups = GROUPS.lock();
    let Groups { known, changed, .. } = &mut *groups;
    let own = |group: &&mut Group| group.client == client && group.object == object;
    let Some(group) = known.iter_mut().find(own) else {
        return;
    };
    group.default_us = slice_us;
    let ours = changed
        .iter()
        .find(|changed| group.device == Some(changed.device));
    if let Some(ours) = ours {
        let _ = group.set(ours.slice_us);
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
    fn a_device_gets_what_all_its_streams_agree_on() {
        use Share::{Background, Normal, Slice};
        let check = |wishes: &[(CUdevice, Share)], expect: Option<u64>| {
            let wish = |(index, &(device, share)): (usize, &(CUdevice, Share))| Wish {
                stream: index as StreamId,
                context: 1,
                device,
                share,
            };
            let wishes: Vec<_> = wishes.iter().enumerate().map(wish).collect();
            assert_eq!(agreed(&wishes, 0), expect);
            let background = wishes
                .iter()
                .any(|wish| wish.device == 0 && wish.share != Normal);
            assert_eq!(any_divided(&wishes), background && expect.is_none());
        };
        check(&[], None);
        check(&[(0, Background)], Some(BACKGROUND_US));
        check(&[(0, Background), (0, Normal)], None);
        check(
            &[(0, Background), (1, Normal), (0, Background)],
            Some(BACKGROUND_US),
        );
        check(&[(1, Background)], None);
        check(&[(0, Slice(1_500)), (0, Slice(600))], Some(1_500));
        check(&[(0, Slice(10))], Some(SHORTEST_SHARED_US));
        check(&[(0, Slice(1_500)), (0, Background)], Some(1_500));
        check(&[(0, Slice(1_500)), (0, Normal)], None);
    }

    #[test]
    fn contexts_of_one_program_have_slices_that_cannot_starve_each_other() {
        use Share::{Background, Normal, Slice};
        let slice = |shares: [Share; 2]| {
            let wish = |(context, share)| Wish {
                stream: context as StreamId,
                context,
                device: 0,
                share,
            };
            let wishes: Vec<_> = (0..).zip(shares).map(wish).collect();
            agreed(&wishes, 0)
        };
        assert_eq!(slice([Background, Background]), Some(SHORTEST_SHARED_US));
        assert_eq!(slice([Background, Slice(600)]), Some(600));
        assert_eq!(slice([Background, Normal]), None);
    }

    #[test]
    fn a_new_stream_counts_once_its_scheduler_had_time_to_say_what_it_wants() {
        const DEVICE: CUdevice = 7;
        let is_background = || GROUPS.lock().changed.iter().any(|own| own.device == DEVICE);
        let first = join(DEVICE, 1);
        let now = Instant::now();
        look(DEVICE, now + LAST_LOOK);
        set_share(DEVICE, first, Share::Background).unwrap();
        for wanted in [Share::Background, Share::Normal] {
            let (now, stream) = (Instant::now(), join(DEVICE, 1));
            look(DEVICE, now);
            assert!(is_background(), "nothing was said yet");
            if wanted == Share::Background {
                set_share(DEVICE, stream, wanted).unwrap();
            }
            look(DEVICE, now + LAST_LOOK);
            assert_eq!(is_background(), wanted == Share::Background);
        }
    }

    #[test]
    fn requests_and_layouts_are_the_kernels() {
        assert_eq!(size_of::<Control>(), 32);
        assert_eq!(size_of::<Free>(), 16);
        assert_eq!(std::mem::offset_of!(Alloc, parameters), 16);
        assert_eq!(request(NV_ESC_RM_CONTROL, 32), 0xc020_462a);
    }
}
