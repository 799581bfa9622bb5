//! Hooks of functions that no loader exports: vendors hand them out by name.
//!
//! Each platform has its own function behind a name, so a hook asks the platform of what it is called
//! with.

use std::{
    ffi::{CStr, c_void},
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::{
    command_buffers,
    driver::{self, Outcome, property},
    hooks::{Hook, submit, submit_and_wait},
    queues,
    release::{self, Kind},
    sys::*,
};

/// One name's function on each platform.
pub(crate) struct Vendors {
    name: &'static CStr,
    known: [(AtomicUsize, AtomicUsize); 8],
}

impl Vendors {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Vendors {
            name,
            known: [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; 8],
        }
    }

    /// The function of this platform; `None`, for arguments that are not valid: of any, to refuse them.
    pub(crate) fn get(&self, platform: Option<usize>) -> Option<*mut c_void> {
        let Some(platform) = platform else {
            return self.any();
        };
        for (owner, address) in &self.known {
            match owner.load(Ordering::Acquire) {
                0 => break,
                known if known == platform => {
                    let address = address.load(Ordering::Acquire);
                    return (address != 0).then_some(address as *mut c_void);
                }
                _ => {}
            }
        }
        self.ask(platform)
    }

    #[cold]
    fn ask(&self, platform: usize) -> Option<*mut c_void> {
        // SAFETY: the platform of a device of the program's; a terminated string.
        let found = unsafe { driver::extension(platform as Opaque, self.name.as_ptr()) };
        if found.is_null() {
            return None;
        }
        let free = self.known.iter().find(|(owner, address)| {
            // The address first: whoever sees the owner sees it.
            let taken =
                address.compare_exchange(0, found as usize, Ordering::AcqRel, Ordering::Relaxed);
            taken.is_ok() && owner.load(Ordering::Relaxed) == 0
        });
        if let Some((owner, _)) = free {
            owner.store(platform, Ordering::Release);
        }
        Some(found)
    }

    #[cold]
    fn any(&self) -> Option<*mut c_void> {
        let mut platforms = [std::ptr::null_mut(); 16];
        let mut found = 0;
        let room = platforms.len() as u32;
        // SAFETY: places for as many results as is said.
        unsafe { driver::platform_ids(room, platforms.as_mut_ptr(), &mut found) };
        let mut platforms = platforms.into_iter().take(found as usize);
        platforms.find_map(|platform| self.ask(platform as usize))
    }
}

fn platform_of_device(device: Opaque) -> Option<usize> {
    property(driver::device_info, device, CL_DEVICE_PLATFORM)
}

fn platform_of_queue(queue: Queue) -> Option<usize> {
    let device = property::<usize>(driver::queue_info, queue, CL_QUEUE_DEVICE)?;
    platform_of_device(device as Opaque)
}

/// The platform of the first of several queues.
pub(crate) fn platform_of_first(queues: &[Queue]) -> Option<usize> {
    queues.first().and_then(|&queue| platform_of_queue(queue))
}

/// Defines functions that run `$around` with a closure that calls the vendor's.
macro_rules! extensions {
    ($table:ident -> $result:ty, by $platform:path; $($name:ident / $symbol:literal ($($arg:ident: $kind:ty),*) of $owner:expr => $around:expr;)*) => {
        $(
            unsafe extern "C" fn $name($($arg: $kind),*) -> $result {
                static VENDORS: Vendors = Vendors::new($symbol);
                let Some(real) = VENDORS.get($platform($owner)) else { return <$result as Outcome>::MISSING };
                let call = || {
                    type Real = unsafe extern "C" fn($($kind),*) -> $result;
                    // SAFETY: the function of that name, whose signature this is (cl_ext.h).
                    let real = unsafe { std::mem::transmute::<*mut c_void, Real>(real) };
                    // SAFETY: the caller's arguments, passed on untouched.
                    unsafe { real($($arg),*) }
                };
                $around(call)
            }
        )*
        const $table: &[Hook] = &[$(Hook { name: $symbol, address: $name as *const c_void }),*];
    };
}

extensions! { SUBMITTING -> i32, by platform_of_queue;
    mem_fill_intel / c"clEnqueueMemFillINTEL" (queue: Queue, to: Opaque, pattern: Opaque, pattern_bytes: usize, bytes: usize, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
    memcpy_intel / c"clEnqueueMemcpyINTEL" (queue: Queue, blocking: u32, to: Opaque, from: Opaque, bytes: usize, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit_and_wait(queue, blocking, (count, list), event, call);
    migrate_mem_intel / c"clEnqueueMigrateMemINTEL" (queue: Queue, pointer: Opaque, bytes: usize, flags: u64, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
    mem_advise_intel / c"clEnqueueMemAdviseINTEL" (queue: Queue, pointer: Opaque, bytes: usize, advice: u32, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
    memset_intel / c"clEnqueueMemsetINTEL" (queue: Queue, to: Opaque, value: i32, bytes: usize, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
    read_host_pipe_intel / c"clEnqueueReadHostPipeINTEL" (queue: Queue, program: Opaque, pipe: Opaque, blocking: u32, to: Opaque, bytes: usize, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit_and_wait(queue, blocking, (count, list), event, call);
    write_host_pipe_intel / c"clEnqueueWriteHostPipeINTEL" (queue: Queue, program: Opaque, pipe: Opaque, blocking: u32, from: Opaque, bytes: usize, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit_and_wait(queue, blocking, (count, list), event, call);
    acquire_va_intel / c"clEnqueueAcquireVA_APIMediaSurfacesINTEL" (queue: Queue, objects: u32, object_list: *const Event, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
    release_va_intel / c"clEnqueueReleaseVA_APIMediaSurfacesINTEL" (queue: Queue, objects: u32, object_list: *const Event, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
    migrate_mem_object_ext / c"clEnqueueMigrateMemObjectEXT" (queue: Queue, objects: u32, object_list: *const Event, flags: u64, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
    generate_mipmap_img / c"clEnqueueGenerateMipmapIMG" (queue: Queue, from: Opaque, to: Opaque, filter: u32, array_region: Opaque, mip_region: Opaque, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
    svm_free_arm / c"clEnqueueSVMFreeARM" (queue: Queue, pointers: u32, pointer_list: *const Event, callback: Opaque, data: Opaque, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
    svm_memcpy_arm / c"clEnqueueSVMMemcpyARM" (queue: Queue, blocking: u32, to: Opaque, from: Opaque, bytes: usize, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit_and_wait(queue, blocking, (count, list), event, call);
    svm_mem_fill_arm / c"clEnqueueSVMMemFillARM" (queue: Queue, pointer: Opaque, pattern: Opaque, pattern_bytes: usize, bytes: usize, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
    svm_map_arm / c"clEnqueueSVMMapARM" (queue: Queue, blocking: u32, flags: u64, pointer: Opaque, bytes: usize, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit_and_wait(queue, blocking, (count, list), event, call);
    svm_unmap_arm / c"clEnqueueSVMUnmapARM" (queue: Queue, pointer: Opaque, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
    acquire_external / c"clEnqueueAcquireExternalMemObjectsKHR" (queue: Queue, objects: u32, object_list: *const Event, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
    release_external / c"clEnqueueReleaseExternalMemObjectsKHR" (queue: Queue, objects: u32, object_list: *const Event, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
    wait_semaphores / c"clEnqueueWaitSemaphoresKHR" (queue: Queue, semaphores: u32, semaphore_list: *const Event, payloads: Opaque, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
    signal_semaphores / c"clEnqueueSignalSemaphoresKHR" (queue: Queue, semaphores: u32, semaphore_list: *const Event, payloads: Opaque, count: u32, list: *const Event, event: *mut Event) of queue => |call| submit(queue, (count, list), event, call);
}

extensions! { MAKING -> Opaque, by platform_of_device;
    create_queue / c"clCreateCommandQueueWithPropertiesKHR" (context: Opaque, device: Opaque, properties: Opaque, error: *mut i32) of device => |call| queues::create(context, device, call);
}

extensions! { RECORDING -> Opaque, by platform_of_first;
    create_command_buffer / c"clCreateCommandBufferKHR" (count: u32, queues: *const Queue, properties: Opaque, error: *mut i32) of command_buffers::list(count, queues) => |call| command_buffers::create(count, queues, call);
}

extensions! { REMAPPING -> Opaque, by command_buffers::platform;
    remap_command_buffer / c"clRemapCommandBufferKHR" (buffer: Opaque, automatic: u32, count: u32, queues: *const Queue, commands: u32, command_list: Opaque, commands_made: Opaque, error: *mut i32) of buffer => |call| command_buffers::create(count, queues, call);
}

extensions! { RECORDED -> i32, by command_buffers::platform;
    enqueue_command_buffer / c"clEnqueueCommandBufferKHR" (queues: u32, queue_list: *const Queue, buffer: Opaque, count: u32, list: *const Event, event: *mut Event) of buffer => |call| command_buffers::enqueue((queues, queue_list), buffer, (count, list), event, call);
    retain_command_buffer / c"clRetainCommandBufferKHR" (buffer: Opaque) of buffer => |call| command_buffers::retain(buffer, call);
    release_command_buffer / c"clReleaseCommandBufferKHR" (buffer: Opaque) of buffer => |call| release::around(Kind::CommandBuffer, buffer, || command_buffers::release(buffer, call));
}

/// The hook of this name.
pub(crate) fn by_name(name: &CStr) -> Option<*mut c_void> {
    let mut all = [SUBMITTING, MAKING, RECORDING, REMAPPING, RECORDED]
        .into_iter()
        .flatten();
    let hook = all.find(|hook| hook.name == name)?;
    Some(hook.address.cast_mut())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, ffi::CString, fs};

    use super::*;

    /// Parts of names: other systems', and a misspelling in a comment.
    const OTHERS: [&str; 5] = ["D3D10", "D3D11", "DX9", "Gralloc", "UnMap"];

    #[test]
    fn every_enqueue_of_the_headers_has_a_hook() {
        let names: BTreeSet<_> = fs::read_dir("/usr/include/CL")
            .expect("the headers are installed")
            .map(|file| fs::read(file.unwrap().path()).unwrap())
            .flat_map(|text| {
                let text = String::from_utf8_lossy(&text);
                let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let enqueues = words.filter(|word| word.starts_with("clEnqueue"));
                // Also as types of pointers.
                enqueues
                    .map(|word| word.trim_end_matches("_fn").to_owned())
                    .collect::<Vec<_>>()
            })
            .filter(|name| !OTHERS.iter().any(|part| name.contains(part)))
            .collect();
        assert!(names.len() > 40, "{names:?}");
        let without: Vec<_> = names
            .into_iter()
            .filter(|name| {
                let name = CString::new(name.as_str()).unwrap();
                crate::hooks::by_name(&name).is_none() && by_name(&name).is_none()
            })
            .collect();
        assert_eq!(without, [""; 0]);
    }
}
