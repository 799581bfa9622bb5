//! OpenCL devices: what the scheduler calls them, and what works on them.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
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

/// A device, or a part of one.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    raw: usize,
    /// The device that it is, or is a part of.
    whole: usize,
    /// Of the whole.
    name: String,
}

/// How a trial of gates on a device came out.
struct Trial {
    device: usize,
    refusal: Option<String>,
}

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

    /// What works on this device, found out with a queue of our own in this context.
    pub(crate) fn support(
        &self,
        context: Opaque,
        workers: &Result<Arc<Workers>, String>,
    ) -> Support {
        let (level, reason) = match (self.refusal(context), workers) {
            (Some(reason), _) => (Level::Lv1, Some(reason)),
            (None, Err(reason)) => (Level::Lv2, Some(reason.clone())),
            (None, Ok(_)) => (Level::Lv3, None),
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

    /// Why gates do not work; `None`: they do. Tried once a device, with the part that this context has.
    fn refusal(&self, context: Opaque) -> Option<String> {
        static TRIED: PerProcess<Mutex<Vec<Trial>>> = PerProcess::new();
        let mut tried = TRIED.get().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tried.iter().find(|trial| trial.device == self.whole) {
            return known.refusal.clone();
        }
        let refusal = try_gate(context, self.raw as Opaque).err();
        tried.push(Trial {
            device: self.whole,
            refusal: refusal.clone(),
        });
        refusal
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
fn try_gate(context: Opaque, device: Opaque) -> Result<(), String> {
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
        result
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
