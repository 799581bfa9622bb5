//! Initialisation, devices, versions, error names, and the stand-in's own accounts.

use super::{
    abi::{Handle, In, Out, Text},
    api,
    driver::Driver,
    lookup,
    result::{INVALID_VALUE, NOT_FOUND, Result, describe},
};

/// What a version-1 lookup cannot say and a version-2 lookup does.
const FOUND: u32 = 0;
const MISSING: u32 = 1;
const TOO_OLD: u32 = 2;

fn attribute(number: i32, device: usize) -> i32 {
    let ordinal = i32::try_from(device).unwrap_or(i32::MAX);
    match number {
        // Threads a block, then block and grid dimensions.
        1..=3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65_535,
        // Shared memory a block, constant memory, warp size, pitch, registers, clock (kHz).
        8 => 48 << 10,
        9 => 64 << 10,
        10 => 32,
        11 => i32::MAX,
        12 => 65_536,
        13 => 1_000_000,
        // Multiprocessors; mapping of host memory; concurrent kernels; bus address; copy engines.
        16 => 4,
        19 | 31 | 41 => 1,
        33 => ordinal + 1,
        40 => 2,
        // Compute capability 9.0.
        75 => 9,
        76 => 0,
        // Stream priorities, compute preemption, stream memory operations of version 1,
        // cooperative launch, registration of host memory, memory pools, and version 2 of the
        // operations on 64 bits and NOR.
        78 | 90 | 92..=94 | 95 | 99 | 115 | 122 | 123 => 1,
        _ => 0,
    }
}

fn uuid(physical: usize) -> [u8; 16] {
    let mut uuid = *b"stand-in-gpu\0\0\0\0";
    uuid[12..].copy_from_slice(&u32::try_from(physical).unwrap_or(u32::MAX).to_be_bytes());
    uuid
}

fn error_text(code: i32, text: Out<usize>, name: bool) -> Result<()> {
    let Some((own, meaning)) = describe(code) else {
        text.set_if_wanted(0);
        return Err(INVALID_VALUE);
    };
    text.set(
        if name { own } else { meaning }
            .as_ptr()
            .expose_provenance(),
    )
}

/// Number of the status, and the entry point where there is one.
fn find(driver: &Driver, symbol: Text, version: i32, flags: u64) -> Result<(u32, usize)> {
    const PER_THREAD: u64 = 1 << 1;
    let version = version.min(driver.config.driver_version);
    Ok(
        match lookup::find(&symbol.read()?, version, flags & PER_THREAD != 0) {
            lookup::Found::Entry(entry) => (FOUND, entry),
            lookup::Found::TooOld => (TOO_OLD, 0),
            lookup::Found::Nothing => (MISSING, 0),
        },
    )
}

api! {
    fn cuInit(flags: u32) |driver| {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        driver.initialise()
    }
    fn cuDriverGetVersion(version: Out<i32>) |driver| {
        version.set(driver.config.driver_version)
    }
    fn cuGetErrorName(code: i32, text: Out<usize>) |_driver| {
        error_text(code, text, true)
    }
    fn cuGetErrorString(code: i32, text: Out<usize>) |_driver| {
        error_text(code, text, false)
    }
    fn cuGetProcAddress(symbol: Text, entry: Out<usize>, version: i32, flags: u64) |driver| {
        let (_, found) = find(driver, symbol, version, flags)?;
        entry.set(found)?;
        if found == 0 { Err(NOT_FOUND) } else { Ok(()) }
    }
    fn cuGetProcAddress_v2(
        symbol: Text, entry: Out<usize>, version: i32, flags: u64, status: Out<u32>,
    ) |driver| {
        let (number, found) = find(driver, symbol, version, flags)?;
        entry.set(found)?;
        status.set_if_wanted(number);
        if found == 0 && status.is_null() { Err(NOT_FOUND) } else { Ok(()) }
    }
    fn cuDeviceGetCount(count: Out<i32>) |driver| {
        count.set(i32::try_from(driver.config.devices.len()).unwrap_or(i32::MAX))
    }
    fn cuDeviceGet(device: Out<i32>, ordinal: i32) |driver| {
        driver.device(ordinal)?;
        device.set(ordinal)
    }
    fn cuDeviceGetName(name: Out<u8>, room: i32, device: i32) |driver| {
        let index = driver.device(device)?;
        let room = usize::try_from(room).ok().filter(|&room| room > 0).ok_or(INVALID_VALUE)?;
        let mut text = format!("Stand-in GPU {}", driver.config.devices[index]).into_bytes();
        text.truncate(room - 1);
        text.push(0);
        name.set_all(&text, room)
    }
    fn cuDeviceGetUuid(id: Out<[u8; 16]>, device: i32) |driver| {
        id.set(uuid(driver.config.devices[driver.device(device)?]))
    }
    fn cuDeviceGetUuid_v2(id: Out<[u8; 16]>, device: i32) |driver| {
        id.set(uuid(driver.config.devices[driver.device(device)?]))
    }
    fn cuDeviceGetAttribute(value: Out<i32>, number: i32, device: i32) |driver| {
        let device = driver.device(device)?;
        // CU_DEVICE_ATTRIBUTE_MPS_ENABLED.
        if number == 133 {
            return value.set(i32::from(driver.config.mps));
        }
        value.set(attribute(number, driver.config.devices[device]))
    }
    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) |driver| {
        driver.device(device)?;
        bytes.set(driver.config.memory)
    }
    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) |driver| {
        driver.device(device)?;
        major.set(9)?;
        minor.set(0)
    }
    fn cuDeviceGetPCIBusId(name: Out<u8>, room: i32, device: i32) |driver| {
        let index = driver.device(device)?;
        let room = usize::try_from(room).ok().filter(|&room| room > 0).ok_or(INVALID_VALUE)?;
        let mut text = format!("0000:{:02X}:00.0", driver.config.devices[index] + 1).into_bytes();
        text.truncate(room - 1);
        text.push(0);
        name.set_all(&text, room)
    }
    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) |driver| {
        can.set(i32::from(driver.device(device)? != driver.device(peer)?))
    }
    fn cuCtxEnablePeerAccess(context: Handle, _flags: u32) |driver| {
        driver.tables().context(context).map(drop)
    }
    fn cuCtxDisablePeerAccess(context: Handle) |driver| {
        driver.tables().context(context).map(drop)
    }
    fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: i32) |driver| {
        pool.set(0x6000 + driver.device(device)?)
    }
    fn cuDeviceGetMemPool(pool: Out<Handle>, device: i32) |driver| {
        pool.set(0x6000 + driver.device(device)?)
    }
    fn cuDeviceSetMemPool(device: i32, _pool: Handle) |driver| {
        driver.device(device).map(drop)
    }
    fn cuMemPoolSetAttribute(_pool: Handle, _attribute: i32, _value: In<u64>) |_driver| {
        Ok(())
    }
    fn cuMemPoolGetAttribute(_pool: Handle, _attribute: i32, value: Out<u64>) |_driver| {
        value.set(0)
    }
    fn cuMemPoolTrimTo(_pool: Handle, _keep: usize) |_driver| {
        Ok(())
    }
    // The stand-in's own: kernel time in ns and turns that this process got, and its slice in ns.
    fn standin_account(device: i32, served: Out<u64>, turns: Out<u64>, slice: Out<u64>) |driver| {
        let device = driver.device(device)?;
        let (now, slot) = driver
            .machine
            .edit(device, |engine, _| {
                (engine.served(), engine.share().with(|table, me| table.slots[me]))
            })
            .map_err(super::driver::broken)?;
        served.set(now)?;
        turns.set(slot.turns)?;
        slice.set(slot.slice)
    }
    // The stand-in's own: pid, kernel time in ns, turns and slice in ns of every process on a
    // device, in 4 words each; the number of processes.
    fn standin_accounts(device: i32, words: Out<u64>, room: usize, count: Out<usize>) |driver| {
        let device = driver.device(device)?;
        let slots = driver
            .machine
            .edit(device, |engine, _| engine.share().with(|table, _| table.slots.clone()))
            .map_err(super::driver::broken)?;
        let taken: Vec<_> = slots.iter().filter(|slot| slot.pid != 0).collect();
        let list: Vec<_> = taken
            .iter()
            .flat_map(|slot| [slot.pid, slot.served, slot.turns, slot.slice])
            .collect();
        words.set_all(&list, room * 4)?;
        count.set(taken.len())
    }
}
