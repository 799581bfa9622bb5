//! The driver of this process: its configuration, its devices, and the table of all handles.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    process,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use super::{
    abi::{Handle, MemoryOperation},
    capture::Capture,
    config::Config,
    context::{Context, Primary},
    event::Event,
    graph::{Executable, Graph},
    green::Green,
    launch::Function,
    memory::{Array, Range},
    result::{
        CONTEXT_IS_DESTROYED, Error, INVALID_CONTEXT, INVALID_HANDLE, NO_DEVICE, Result, UNKNOWN,
    },
    stream::Stream,
};
use crate::core::{machine::Machine, share};

pub(crate) struct Driver {
    pub(crate) config: Config,
    pub(crate) machine: &'static Machine,
    tables: Mutex<Tables>,
    /// The process that called `cuInit`; a fork's child is not initialised.
    initialised_by: AtomicU32,
}

/// Everything that a handle can name.
#[derive(Default)]
pub(crate) struct Tables {
    last_handle: Handle,
    pub(crate) primaries: Vec<Primary>,
    pub(crate) contexts: HashMap<Handle, Context>,
    pub(crate) greens: HashMap<Handle, Green>,
    pub(crate) streams: HashMap<Handle, Stream>,
    pub(crate) events: HashMap<Handle, Event>,
    /// Functions of each module.
    pub(crate) modules: HashMap<Handle, Vec<Handle>>,
    pub(crate) functions: HashMap<Handle, Function>,
    pub(crate) graphs: BTreeMap<Handle, Graph>,
    pub(crate) executables: HashMap<Handle, Executable>,
    /// What `cuGraphBatchMemOpNodeGetParams` pointed a caller to, by node.
    pub(crate) shown: HashMap<Handle, Box<[MemoryOperation]>>,
    pub(crate) captures: HashMap<Handle, Capture>,
    pub(crate) arrays: HashMap<Handle, Array>,
    /// By address of the first byte.
    pub(crate) memory: BTreeMap<usize, Range>,
    /// Bytes allocated on each device.
    pub(crate) used: Vec<usize>,
}

thread_local! {
    static CONTEXTS: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    static CAPTURE_MODE: Cell<u32> = const { Cell::new(0) };
}

impl Driver {
    pub(crate) fn get() -> &'static Self {
        static DRIVER: OnceLock<Driver> = OnceLock::new();
        DRIVER.get_or_init(|| {
            let config = Config::from_environment();
            let file = config.shared.as_ref().map(|path| {
                share::open(path).unwrap_or_else(|error| {
                    panic!("stand-in driver: STANDIN_SHM {}: {error}", path.display())
                })
            });
            let count = config.devices.len();
            let machine = Box::leak(Box::new(Machine::new(
                file,
                config.devices.clone(),
                config.connections,
            )));
            let tables = Tables {
                last_handle: 0x5000_0000_0000,
                primaries: (0..count).map(|_| Primary::default()).collect(),
                used: vec![0; count],
                ..Tables::default()
            };
            Self {
                config,
                machine,
                tables: Mutex::new(tables),
                initialised_by: AtomicU32::new(0),
            }
        })
    }

    pub(crate) fn is_initialised(&self) -> bool {
        self.initialised_by.load(Ordering::Relaxed) == process::id()
    }

    pub(crate) fn initialise(&self) -> Result<()> {
        if self.config.devices.is_empty() {
            return Err(NO_DEVICE);
        }
        let me = process::id();
        let by = self
            .initialised_by
            .compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed);
        match by {
            Err(other) if other != me => Err(super::result::NOT_INITIALIZED),
            Ok(_) if self.config.exit_waits => super::context::wait_at_exit(),
            _ => Ok(()),
        }
    }

    /// Never held while waiting for the device.
    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn device(&self, ordinal: i32) -> Result<usize> {
        let index = usize::try_from(ordinal).ok();
        let index = index.filter(|&index| index < self.config.devices.len());
        index.ok_or(super::result::INVALID_DEVICE)
    }

    /// The calling thread's context.
    pub(crate) fn current(&self) -> Result<Handle> {
        let top = CONTEXTS.with_borrow(|stack| stack.last().copied());
        let context = top.filter(|&context| context != 0).ok_or(INVALID_CONTEXT)?;
        if self.tables().contexts.contains_key(&context) {
            Ok(context)
        } else {
            Err(CONTEXT_IS_DESTROYED)
        }
    }

    pub(crate) fn current_device(&self) -> Result<usize> {
        let context = self.current()?;
        let tables = self.tables();
        let context = tables.contexts.get(&context).ok_or(CONTEXT_IS_DESTROYED)?;
        Ok(context.device)
    }
}

impl Tables {
    pub(crate) fn handle(&mut self) -> Handle {
        self.last_handle += 16;
        self.last_handle
    }

    pub(crate) fn stream(&mut self, handle: Handle) -> Result<&mut Stream> {
        self.streams.get_mut(&handle).ok_or(INVALID_HANDLE)
    }

    pub(crate) fn event(&mut self, handle: Handle) -> Result<&mut Event> {
        self.events.get_mut(&handle).ok_or(INVALID_HANDLE)
    }

    pub(crate) fn context(&mut self, handle: Handle) -> Result<&mut Context> {
        self.contexts.get_mut(&handle).ok_or(INVALID_CONTEXT)
    }

    pub(crate) fn graph(&mut self, handle: Handle) -> Result<&mut Graph> {
        self.graphs
            .get_mut(&handle)
            .ok_or(super::result::INVALID_VALUE)
    }
}

/// The calling thread's stack of contexts.
pub(crate) fn with_stack<R>(change: impl FnOnce(&mut Vec<Handle>) -> R) -> R {
    CONTEXTS.with_borrow_mut(change)
}

/// The calling thread's mode of interaction with captures, as `cuda.h` numbers them.
pub(crate) fn capture_mode() -> &'static std::thread::LocalKey<Cell<u32>> {
    &CAPTURE_MODE
}

/// A failure of the host, which no program can expect.
pub(crate) fn broken(error: std::io::Error) -> Error {
    eprintln!("stand-in driver: {error}");
    UNKNOWN
}

/// Shorthand for completion marks.
pub(crate) type Mark = Arc<crate::core::work::Token>;
