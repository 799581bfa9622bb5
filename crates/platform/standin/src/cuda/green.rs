//! Green contexts: parts of a device, with streams of their own, in the primary context's memory. Here a
//! part has no resources; what counts is how long its streams and contexts live.

use super::{
    abi::{Handle, Out},
    api,
    driver::Driver,
    result::{INVALID_CONTEXT, INVALID_HANDLE, Result},
    stream::Kind,
};

pub(crate) struct Green {
    device: usize,
    primary: Handle,
    /// The context that it was converted to.
    context: Option<Handle>,
}

impl Driver {
    fn create_green(&self, device: usize) -> Result<Handle> {
        let primary = self.retain_primary(device)?;
        let mut tables = self.tables();
        let green = tables.handle();
        let state = Green {
            device,
            primary,
            context: None,
        };
        tables.greens.insert(green, state);
        Ok(green)
    }

    /// The streams that are left are detached: nothing can be submitted to them any more.
    fn destroy_green(&self, green: Handle) -> Result<()> {
        let state = self.tables().greens.remove(&green).ok_or(INVALID_CONTEXT)?;
        for stream in self.tables().streams.values_mut() {
            stream.is_detached |= stream.green == green;
        }
        if let Some(context) = state.context {
            self.destroy_context(context)?;
        }
        self.release_primary(state.device)
    }

    fn convert_green(&self, green: Handle) -> Result<Handle> {
        let mut tables = self.tables();
        let state = tables.greens.get(&green).ok_or(INVALID_CONTEXT)?;
        if let Some(context) = state.context {
            return Ok(context);
        }
        let device = state.device;
        drop(tables);
        let context = self.create_context(device, 0, false)?;
        tables = self.tables();
        tables
            .greens
            .get_mut(&green)
            .ok_or(INVALID_CONTEXT)?
            .context = Some(context);
        Ok(context)
    }
}

api! {
    fn cuGreenCtxCreate(green: Out<Handle>, _resources: Handle, device: i32, _flags: u32) |driver| {
        green.set(driver.create_green(driver.device(device)?)?)
    }
    fn cuGreenCtxDestroy(green: Handle) |driver| {
        driver.destroy_green(green)
    }
    fn cuCtxFromGreenCtx(context: Out<Handle>, green: Handle) |driver| {
        context.set(driver.convert_green(green)?)
    }
    fn cuGreenCtxStreamCreate(stream: Out<Handle>, green: Handle, flags: u32, priority: i32) |driver| {
        let primary = driver.tables().greens.get(&green).ok_or(INVALID_CONTEXT)?.primary;
        let handle = driver.open_stream(primary, Kind::Created, flags, priority)?;
        driver.tables().stream(handle)?.green = green;
        stream.set(handle)
    }
    fn cuStreamGetCtx_v2(stream: Handle, context: Out<Handle>, green: Out<Handle>) |driver| {
        let stream = driver.stream(stream, super::stream::Null::Legacy)?;
        let mut tables = driver.tables();
        let stream = tables.stream(stream).map_err(|_| INVALID_HANDLE)?;
        context.set_if_wanted(stream.context);
        green.set_if_wanted(stream.green);
        Ok(())
    }
}
