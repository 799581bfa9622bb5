//! Contexts: primary and created, the thread's stack of them, and what waits for a whole context.

use std::{collections::HashMap, thread::ThreadId};

use super::{
    abi::{Handle, In, Out},
    api, control,
    driver::{Driver, Mark, Tables, broken, with_stack},
    result::{INVALID_CONTEXT, INVALID_VALUE, Result},
    stream::{Kind, Stream},
};

pub(crate) struct Context {
    pub(crate) device: usize,
    pub(crate) flags: u32,
    pub(crate) primary: bool,
    /// The legacy default stream.
    pub(crate) legacy: Handle,
    pub(crate) per_thread: HashMap<ThreadId, Handle>,
    /// Last commands of streams that were destroyed.
    pub(crate) draining: Vec<Mark>,
    /// None where HIP stands in front.
    channels: Option<control::Channels>,
}

#[derive(Default)]
pub(crate) struct Primary {
    pub(crate) context: Option<Handle>,
    retained: u32,
    flags: u32,
}

impl Driver {
    pub(crate) fn create_context(
        &self,
        device: usize,
        flags: u32,
        primary: bool,
    ) -> Result<Handle> {
        let channels = (!crate::hip::is_in_front()).then(|| control::Channels::open(self, device));
        let lane = self.machine.edit(device, |engine, _| engine.open(0));
        let lane = lane.map_err(broken)?;
        let mut tables = self.tables();
        let context = tables.handle();
        let legacy = tables.handle();
        let stream = Stream::new(context, device, lane, Kind::Legacy, 0, 0);
        tables.streams.insert(legacy, stream);
        let state = Context {
            device,
            flags,
            primary,
            legacy,
            per_thread: HashMap::new(),
            draining: Vec::new(),
            channels,
        };
        tables.contexts.insert(context, state);
        Ok(context)
    }

    /// Waits for the context's work, then destroys it with all that belongs to it.
    pub(crate) fn destroy_context(&self, context: Handle) -> Result<()> {
        self.wait_for_context(context)?;
        let mut tables = self.tables();
        let state = tables.contexts.remove(&context).ok_or(INVALID_CONTEXT)?;
        let device = state.device;
        let mut lanes = Vec::new();
        tables.streams.retain(|_, stream| {
            if stream.context == context {
                lanes.push(stream.lane);
            }
            stream.context != context
        });
        tables.events.retain(|_, event| event.context != context);
        tables
            .captures
            .retain(|_, capture| capture.context != context);
        let freed: Vec<_> = tables
            .memory
            .iter()
            .filter(|(_, range)| range.context == context)
            .map(|(&start, _)| start)
            .collect();
        for start in freed {
            tables.forget(start);
        }
        drop(tables);
        if let Some(channels) = state.channels {
            channels.close(self);
        }
        let close = self.machine.edit(device, |engine, _| {
            for lane in lanes {
                engine.close(lane);
            }
        });
        close.map_err(broken)
    }

    /// Waits until all that was submitted to the context has completed: what `cuCtxSynchronize`
    /// does, and calls that a driver can only make on an idle context.
    pub(crate) fn wait_for_context(&self, context: Handle) -> Result<()> {
        let marks = self.tables().marks(context)?;
        self.machine.wait(&marks);
        Ok(())
    }

    pub(crate) fn retain_primary(&self, device: usize) -> Result<Handle> {
        let existing = self.tables().primaries[device].context;
        let context = if let Some(context) = existing {
            context
        } else {
            let flags = self.tables().primaries[device].flags;
            let context = self.create_context(device, flags, true)?;
            let winner = *self.tables().primaries[device]
                .context
                .get_or_insert(context);
            if winner != context {
                self.destroy_context(context)?;
            }
            winner
        };
        self.tables().primaries[device].retained += 1;
        Ok(context)
    }

    pub(crate) fn release_primary(&self, device: usize) -> Result<()> {
        let last = {
            let mut tables = self.tables();
            let primary = &mut tables.primaries[device];
            primary.retained = primary.retained.checked_sub(1).ok_or(INVALID_CONTEXT)?;
            primary.retained == 0
        };
        if last {
            self.reset_primary(device)
        } else {
            Ok(())
        }
    }

    pub(crate) fn reset_primary(&self, device: usize) -> Result<()> {
        let context = {
            let mut tables = self.tables();
            let primary = &mut tables.primaries[device];
            primary.retained = 0;
            primary.context.take()
        };
        context.map_or(Ok(()), |context| self.destroy_context(context))
    }
}

impl Tables {
    /// Last commands of everything in a context.
    fn marks(&mut self, context: Handle) -> Result<Vec<Mark>> {
        let state = self.context(context)?;
        state.draining.retain(|mark| !mark.is_done());
        let mut marks = state.draining.clone();
        let streams = self.streams.values();
        let streams = streams.filter(|stream| stream.context == context);
        marks.extend(streams.filter_map(|stream| stream.last.clone()));
        Ok(marks)
    }
}

/// From now on the exit of the process waits for all its work, as a real driver's teardown may.
pub(crate) fn wait_at_exit() -> Result<()> {
    extern "C" fn wait() {
        let driver = Driver::get();
        if !driver.is_initialised() {
            return; // a fork's child
        }
        let contexts: Vec<_> = driver.tables().contexts.keys().copied().collect();
        for context in contexts {
            let _gone = driver.wait_for_context(context);
        }
    }
    // SAFETY: the library is never unloaded.
    unsafe { libc::atexit(wait) };
    Ok(())
}

fn create(driver: &Driver, context: Out<Handle>, flags: u32, device: i32) -> Result<()> {
    if context.is_null() {
        return Err(INVALID_VALUE);
    }
    let device = driver.device(device)?;
    let handle = driver.create_context(device, flags, false)?;
    with_stack(|stack| stack.push(handle));
    context.set(handle)
}

fn current_or(driver: &Driver, context: Handle) -> Result<Handle> {
    if context == 0 {
        driver.current()
    } else {
        Ok(context)
    }
}

api! {
    fn cuCtxCreate_v2(context: Out<Handle>, flags: u32, device: i32) |driver| {
        create(driver, context, flags, device)
    }
    fn cuCtxCreate_v3(
        context: Out<Handle>, _affinity: In<u64>, _count: i32, flags: u32, device: i32,
    ) |driver| {
        create(driver, context, flags, device)
    }
    fn cuCtxCreate_v4(context: Out<Handle>, _parameters: In<u64>, flags: u32, device: i32) |driver| {
        create(driver, context, flags, device)
    }
    fn cuCtxDestroy_v2(context: Handle) |driver| {
        driver.check_capture()?;
        if driver.tables().context(context)?.primary {
            return Err(INVALID_CONTEXT);
        }
        with_stack(|stack| if stack.last() == Some(&context) { stack.pop(); });
        driver.destroy_context(context)
    }
    fn cuCtxPushCurrent_v2(context: Handle) |driver| {
        driver.tables().context(context)?;
        with_stack(|stack| stack.push(context));
        Ok(())
    }
    fn cuCtxPopCurrent_v2(context: Out<Handle>) |_driver| {
        let top = with_stack(Vec::pop).ok_or(INVALID_CONTEXT)?;
        context.set_if_wanted(top);
        Ok(())
    }
    fn cuCtxSetCurrent(context: Handle) |driver| {
        if context != 0 {
            driver.tables().context(context)?;
        }
        with_stack(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }
    fn cuCtxGetCurrent(context: Out<Handle>) |_driver| {
        context.set(with_stack(|stack| stack.last().copied().unwrap_or(0)))
    }
    fn cuCtxGetDevice(device: Out<i32>) |driver| {
        device.set(i32::try_from(driver.current_device()?).unwrap_or(i32::MAX))
    }
    fn cuCtxGetDevice_v2(device: Out<i32>, context: Handle) |driver| {
        let context = current_or(driver, context)?;
        let index = driver.tables().context(context)?.device;
        device.set(i32::try_from(index).unwrap_or(i32::MAX))
    }
    fn cuCtxGetFlags(flags: Out<u32>) |driver| {
        let context = driver.current()?;
        flags.set(driver.tables().context(context)?.flags)
    }
    fn cuCtxSetFlags(flags: u32) |driver| {
        let context = driver.current()?;
        driver.tables().context(context)?.flags = flags;
        Ok(())
    }
    fn cuCtxGetId(context: Handle, id: Out<u64>) |driver| {
        let context = current_or(driver, context)?;
        driver.tables().context(context)?;
        id.set(context as u64)
    }
    fn cuCtxGetApiVersion(context: Handle, version: Out<u32>) |driver| {
        let context = current_or(driver, context)?;
        driver.tables().context(context)?;
        version.set(3020)
    }
    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) |driver| {
        driver.current()?;
        least.set_if_wanted(super::stream::PRIORITIES.1);
        greatest.set_if_wanted(super::stream::PRIORITIES.0);
        Ok(())
    }
    fn cuCtxGetLimit(value: Out<usize>, _limit: u32) |driver| {
        driver.current()?;
        value.set(8 << 20)
    }
    fn cuCtxSetLimit(_limit: u32, _value: usize) |driver| {
        driver.current().map(drop)
    }
    fn cuCtxSynchronize() |driver| {
        let context = driver.current()?;
        driver.check_no_capture_in(context)?;
        driver.check_capture()?;
        driver.wait_for_context(context)
    }
    fn cuCtxSynchronize_v2(context: Handle) |driver| {
        let context = current_or(driver, context)?;
        driver.check_no_capture_in(context)?;
        driver.check_capture()?;
        driver.wait_for_context(context)
    }
    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: i32) |driver| {
        context.set(driver.retain_primary(driver.device(device)?)?)
    }
    fn cuDevicePrimaryCtxRelease_v2(device: i32) |driver| {
        driver.release_primary(driver.device(device)?)
    }
    fn cuDevicePrimaryCtxReset_v2(device: i32) |driver| {
        driver.reset_primary(driver.device(device)?)
    }
    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) |driver| {
        let device = driver.device(device)?;
        driver.tables().primaries[device].flags = flags;
        Ok(())
    }
    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) |driver| {
        let device = driver.device(device)?;
        let tables = driver.tables();
        let primary = &tables.primaries[device];
        flags.set(primary.flags)?;
        active.set(i32::from(primary.context.is_some()))
    }
}
