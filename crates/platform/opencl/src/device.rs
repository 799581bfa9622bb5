//! OpenCL devices: what the scheduler calls them, and what works on them.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use xsched_wire::Level;
use xsched_xqueue::Support;

use crate::{
    driver::{self, property, text},
    sys::*,
    workers::{self, Workers},
};
use xsched_shim::process::PerProcess;

/// A driver that takes longer than this to hand over what waits for a user event waits for it too.
const PATIENCE: Duration = Duration::from_millis(200);

/// How often the pause at a gate is measured.
const PAUSES: usize = 8;
/// A driver that takes longer than this for a gate has none that are worth it.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// How often a mark is looked at meanwhile.
const LOOK: Duration = Duration::from_micros(20);

/// A device, or a part of one.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    raw: usize,
    /// The device that it is, or is a part of.
    whole: usize,
    /// Of the whole.
    name: String,
}

/// How a trial of gates on a device came out: how long the device stands still at one that is completed
/// just in time, or why they do not work.
pub(crate) type Trial = Result<Duration, String>;

impl Device {
    /// The device that a handle means.
    pub(crate) fn of(raw: Opaque) -> Self {
        let mut whole = raw;
        while let Some(parent) =
            property::<usize>(driver::device_info, whole, CL_DEVICE_PARENT_DEVICE)
            && parent != 0
        {
            whole = parent as Opaque;
        }
        Device {
            raw: raw as usize,
            whole: whole as usize,
            name: name(whole),
        }
    }

    /// The same in every process that uses the same device.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What works on this device.
    pub(crate) fn support(&self, trial: &Trial, workers: &Result<Arc<Workers>, String>) -> Support {
        let (level, reason) = match (trial, workers) {
            (Err(reason), _) => (Level::Lv1, Some(reason.clone())),
            (Ok(_), Err(reason)) => (Level::Lv2, Some(reason.clone())),
            (Ok(_), Ok(_)) => (Level::Lv3, None),
        };
        Support {
            level,
            reason,
            one_background: false,
            independent: false,
        }
    }

    /// The threads that execute its commands, or why their class cannot be set.
    pub(crate) fn workers(&self, context: Opaque) -> Result<Arc<Workers>, String> {
        if self.name != xsched_cpu::DEVICE {
            return Err("OpenCL has no time slices".into());
        }
        workers::of(context, self.whole as Opaque, self.raw != self.whole)
    }

    /// How gates work, tried once a device with a queue of our own in this context, on the part of the
    /// device that the context has.
    pub(crate) fn trial(&self, context: Opaque) -> Trial {
        static TRIED: PerProcess<Mutex<Vec<(usize, Trial)>>> = PerProcess::new();
        let mut tried = TRIED.lock();
        if let Some((_, known)) = tried.iter().find(|(device, _)| *device == self.whole) {
            return known.clone();
        }
        let trial = try_gate(context, self.raw as Opaque);
        tried.push((self.whole, trial.clone()));
        trial
    }
}

// ---- names ----

fn name(device: Opaque) -> String {
    let info = driver::device_info as driver::Info;
    let kind = property::<u64>(info, device, CL_DEVICE_TYPE).unwrap_or(0);
    if kind & CL_DEVICE_TYPE_CPU != 0 {
        // The cores are one device, whoever drives them.
        return xsched_cpu::DEVICE.into();
    }
    let extensions = text(info, device, CL_DEVICE_EXTENSIONS).unwrap_or_default();
    let has = |name: &str| extensions.split_whitespace().any(|word| word == name);
    if has("cl_khr_device_uuid")
        && let Some(uuid) = property::<[u8; 16]>(info, device, CL_DEVICE_UUID_KHR)
    {
        // CUDA programs name a GPU of NVIDIA's so, and it is the same device.
        let is_nvidia = property::<u32>(info, device, CL_DEVICE_VENDOR_ID) == Some(NVIDIA);
        let family = if is_nvidia { "cuda:GPU" } else { "opencl" };
        return format!("{family}-{}", uuid_text(uuid));
    }
    if has("cl_khr_pci_bus_info")
        && let Some([domain, bus, slot, function]) =
            property::<[u32; 4]>(info, device, CL_DEVICE_PCI_BUS_INFO_KHR)
    {
        return format!("opencl-pci-{domain:04x}:{bus:02x}:{slot:02x}.{function}");
    }
    let platform = property::<usize>(info, device, CL_DEVICE_PLATFORM).unwrap_or(0) as Opaque;
    let platform_name = text(driver::platform_info, platform, CL_PLATFORM_NAME);
    let device_name = text(info, device, CL_DEVICE_NAME);
    format!(
        "opencl:{}/{}/{}",
        platform_name.unwrap_or_default(),
        device_name.unwrap_or_default(),
        place(platform, device)
    )
}

fn uuid_text(uuid: [u8; 16]) -> String {
    let mut text = String::new();
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A device's place among those of its platform.
fn place(platform: Opaque, device: Opaque) -> usize {
    let mut devices = [std::ptr::null_mut(); 64];
    let mut found = 0;
    let room = devices.len() as u32;
    // SAFETY: the platform of a device of the program's; places for as many results as is said.
    unsafe {
        driver::device_ids(
            platform,
            CL_DEVICE_TYPE_ALL,
            room,
            devices.as_mut_ptr(),
            &mut found,
        )
    };
    let place = devices.iter().position(|known| *known == device);
    place.unwrap_or(0)
}

// ---- the trial ----

/// Tries a gate: what stands behind it must wait, the driver must not, and completing it must let
/// everything go on.
fn try_gate(context: Opaque, device: Opaque) -> Trial {
    if let Some(version) = text(driver::device_info, device, CL_DEVICE_VERSION)
        && (version.starts_with("OpenCL 1.0") || version.starts_with("OpenCL 1.1"))
    {
        return Err(format!("{version} has no barriers that wait for events"));
    }
    if runs_in_the_calling_thread(device) {
        return Err("the driver waits for itself where a user event is completed".into());
    }
    let mut error = CL_SUCCESS;
    // SAFETY: the program's own context and device; a valid place for the error.
    let queue = unsafe { driver::create_queue(context, device, 0, &mut error) };
    if queue.is_null() {
        return Err(format!("no queue to try gates with (error {error})"));
    }
    // SAFETY: as above.
    let event = unsafe { driver::create_user_event(context, &mut error) };
    let result = if event.is_null() {
        Err(format!("the driver has no user events (error {error})"))
    } else {
        let result = try_with(queue, event);
        // SAFETY: made above, complete, and used by nobody any more.
        unsafe { driver::release_event(event) };
        result.and_then(|()| least_pause(context, queue))
    };
    // SAFETY: made above and empty.
    unsafe { driver::release_queue(queue) };
    result
}

/// Whether this is PoCL's device without threads of its own. There `clSetUserEventStatus` executes what
/// waited, and never returns (seen with 3.1), so that not even a trial is possible.
fn runs_in_the_calling_thread(device: Opaque) -> bool {
    let info = driver::device_info as driver::Info;
    let version = text(info, device, CL_DEVICE_VERSION).unwrap_or_default();
    let name = text(info, device, CL_DEVICE_NAME).unwrap_or_default();
    version.contains("PoCL") && name.starts_with("basic")
}

/// How long a device stands still at a gate that is completed just in time, since other programs
/// lengthen it the shortest of some.
fn least_pause(context: Opaque, queue: Queue) -> Trial {
    let mut least = PATIENCE;
    for _ in 0..PAUSES {
        match pause(context, queue)? {
            Some(one) => least = least.min(one),
            // This thread may be the one that would execute it.
            None => return Ok(Duration::ZERO),
        }
    }
    if least > LONGEST_PAUSE {
        let ms = least.as_secs_f64() * 1e3;
        return Err(format!("the driver takes {ms:.0} ms to pass a gate"));
    }
    Ok(least)
}

/// From the completion of a gate until the mark behind it calls back or is seen to be reached, as some drivers call back
/// late; `None`: neither.
fn pause(context: Opaque, queue: Queue) -> Result<Option<Duration>, String> {
    /// Says when the mark was reached.
    unsafe extern "C" fn on_mark(_: Event, _: i32, data: Opaque) {
        // SAFETY: made by `pause` from a box; a callback runs once.
        let reached = unsafe { Box::from_raw(data.cast::<mpsc::Sender<Instant>>()) };
        let _late = reached.send(Instant::now());
    }
    let mut error = CL_SUCCESS;
    // SAFETY: the program's own context; a valid place for the error.
    let gate = unsafe { driver::create_user_event(context, &mut error) };
    if gate.is_null() {
        return Err(format!("the driver has no user events (error {error})"));
    }
    let mut mark = std::ptr::null_mut();
    // SAFETY: a queue of our own, an event that is held over the call.
    let barrier = unsafe { driver::barrier(queue, 1, &gate, std::ptr::null_mut()) };
    // SAFETY: as above; a valid place for the event.
    let marker = unsafe { driver::marker(queue, 0, std::ptr::null(), &mut mark) };
    let (sender, reached) = mpsc::channel::<Instant>();
    let data = Box::into_raw(Box::new(sender));
    let noted = match marker {
        // SAFETY: an event that we hold; the callback matches the data.
        CL_SUCCESS => unsafe {
            driver::event_callback(mark, CL_COMPLETE, Some(on_mark), data.cast())
        },
        failure => failure,
    };
    if noted != CL_SUCCESS {
        // SAFETY: no callback was taken, so the box is still ours.
        drop(unsafe { Box::from_raw(data) });
    }
    // SAFETY: a queue of our own.
    unsafe { driver::flush(queue) };
    let completed = Instant::now();
    // SAFETY: the user event made above, which nobody else completes.
    unsafe { driver::set_user_event(gate, CL_COMPLETE) };
    let mut at = None;
    while noted == CL_SUCCESS && at.is_none() && completed.elapsed() < PATIENCE {
        let is_over = driver::event_status(mark).is_some_and(|status| status <= CL_COMPLETE);
        let seen = is_over.then(Instant::now);
        at = seen.or_else(|| reached.recv_timeout(LOOK).ok());
    }
    // SAFETY: a queue of our own.
    unsafe { driver::finish(queue) };
    if marker == CL_SUCCESS {
        // SAFETY: made above; nothing waits for it any more.
        unsafe { driver::release_event(mark) };
    }
    // SAFETY: as above.
    unsafe { driver::release_event(gate) };
    if [barrier, marker, noted] != [CL_SUCCESS; 3] {
        return Err(format!(
            "the driver refused a gate (errors {barrier}, {marker}, {noted})"
        ));
    }
    Ok(at.map(|at| at.saturating_duration_since(completed)))
}

fn try_with(queue: Queue, gate: Event) -> Result<(), String> {
    let complete = |event: usize| {
        // SAFETY: the user event of this trial, which nobody else completes.
        unsafe { driver::set_user_event(event as Event, CL_COMPLETE) };
    };
    // If the driver waits for the event while we are inside it, another thread must complete it.
    let (done, is_done) = mpsc::channel::<()>();
    let event = gate as usize;
    let rescue = move || match is_done.recv_timeout(PATIENCE) {
        Err(RecvTimeoutError::Timeout) => {
            complete(event);
            true
        }
        _ => false,
    };
    let (outcome, rescued) = mpsc::channel();
    xsched_agent::spawn("xsched-probe", move || {
        let _ = outcome.send(rescue());
    })
    .map_err(|error| format!("no thread to try gates with ({error})"))?;

    let mut mark = std::ptr::null_mut();
    // SAFETY: a queue of our own, an event that is held over the call.
    let barrier = unsafe { driver::barrier(queue, 1, &gate, std::ptr::null_mut()) };
    // SAFETY: as above; a valid place for the event.
    let marker = unsafe { driver::marker(queue, 0, std::ptr::null(), &mut mark) };
    // SAFETY: as above.
    let flushed = unsafe { driver::flush(queue) };
    let before = (marker == CL_SUCCESS)
        .then(|| driver::event_status(mark))
        .flatten();
    drop(done);
    let was_rescued = rescued.recv().unwrap_or(true);
    if !was_rescued {
        complete(event);
    }
    let finish = || {
        // SAFETY: a queue of our own.
        unsafe { driver::finish(queue) }
    };
    let finished = finish();
    let after = (marker == CL_SUCCESS).then(|| {
        let status = driver::event_status(mark);
        // SAFETY: made above.
        unsafe { driver::release_event(mark) };
        status
    });
    if [barrier, marker, flushed, finished] != [CL_SUCCESS; 4] {
        return Err(format!(
            "the driver refused a gate (errors {barrier}, {marker}, {flushed}, {finished})"
        ));
    }
    if was_rescued {
        return Err("the driver itself waits at a gate".into());
    }
    match (before, after.flatten()) {
        (Some(CL_COMPLETE), _) => Err("the driver passes a closed gate".into()),
        (Some(_), Some(CL_COMPLETE)) => Ok(()),
        _ => Err("a command behind a gate did not complete".into()),
    }
}
