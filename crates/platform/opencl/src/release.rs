//! Releases of OpenCL objects, deferred while a gate stands in a queue.

use crate::{command_buffers, driver, keeper, queues, sys::*};
use xsched_shim::state;

/// What is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Queue,
    Context,
    Device,
    /// The same by the name that it had as an extension of OpenCL 1.1.
    DeviceExt,
    Mem,
    Kernel,
    Program,
    Sampler,
    CommandBuffer,
}

/// One reference to an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object {
    kind: Kind,
    handle: usize,
}

impl Object {
    pub(crate) fn new(kind: Kind, handle: Opaque) -> Self {
        Object {
            kind,
            handle: handle as usize,
        }
    }

    fn raw(self) -> Opaque {
        self.handle as Opaque
    }

    /// Whether it exists, so that releasing it later would succeed.
    fn exists(self) -> bool {
        let (info, count): (driver::Info, u32) = match self.kind {
            Kind::Queue => (driver::queue_info, CL_QUEUE_REFERENCE_COUNT),
            Kind::Context => (driver::context_info, CL_CONTEXT_REFERENCE_COUNT),
            Kind::Device => (driver::device_info, CL_DEVICE_REFERENCE_COUNT),
            Kind::DeviceExt => (driver::device_info, CL_DEVICE_REFERENCE_COUNT_EXT),
            Kind::Mem => (driver::mem_info, CL_MEM_REFERENCE_COUNT),
            Kind::Kernel => (driver::kernel_info, CL_KERNEL_REFERENCE_COUNT),
            Kind::Program => (driver::program_info, CL_PROGRAM_REFERENCE_COUNT),
            Kind::Sampler => (driver::sampler_info, CL_SAMPLER_REFERENCE_COUNT),
            Kind::CommandBuffer => return command_buffers::platform(self.raw()).is_some(),
        };
        driver::property::<u32>(info, self.raw(), count).is_some()
    }

    /// Memory of the application's may be gone when it thinks that the object is.
    fn must_go_now(self) -> bool {
        self.kind == Kind::Mem
            && driver::property::<u64>(driver::mem_info, self.raw(), CL_MEM_FLAGS)
                .is_none_or(|flags| flags & CL_MEM_USE_HOST_PTR != 0)
    }

    /// Releases it.
    pub(crate) fn release(self) {
        let release = match self.kind {
            Kind::Queue => {
                queues::retire(self.raw());
                driver::release_queue
            }
            Kind::Context => driver::release_context,
            Kind::Device => driver::release_device,
            Kind::DeviceExt => driver::release_device_ext,
            Kind::Mem => driver::release_mem,
            Kind::Kernel => driver::release_kernel,
            Kind::Program => driver::release_program,
            Kind::Sampler => driver::release_sampler,
            Kind::CommandBuffer => {
                command_buffers::release_now(self.raw());
                return;
            }
        };
        // SAFETY: a reference that the application has given up to us.
        unsafe { release(self.raw()) };
    }
}

/// Around the release of an object.
#[inline]
pub(crate) fn around(kind: Kind, handle: Opaque, call: impl FnOnce() -> i32) -> i32 {
    if keeper::any_armed() && defer(Object::new(kind, handle)) {
        return CL_SUCCESS;
    }
    call()
}

/// Around the release of a queue: only the last one ends it.
pub(crate) fn queue(queue: Queue, call: impl FnOnce() -> i32) -> i32 {
    if !queues::drop_reference(queue) {
        return call();
    }
    if keeper::any_armed() && defer(Object::new(Kind::Queue, queue)) {
        return CL_SUCCESS;
    }
    queues::retire(queue);
    call()
}

#[cold]
fn defer(object: Object) -> bool {
    let defer = || object.exists() && !object.must_go_now() && keeper::get().defer(object);
    state::guarded(defer).unwrap_or(false)
}
