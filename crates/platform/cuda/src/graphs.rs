//! Gates inside captured graphs, so that a long graph stops in its middle.
//!
//! A graph is replayed on other streams than the one it was captured from, and outlives that. So its
//! gates wait on a word of the process and the device, which is closed while all of the process's
//! queues there are, and which lasts as long as the process.
//!
//! Every [`EVERY`]th node of a capture is a gate. That depends on nothing but the node's index, so a
//! graph that is captured again has the same shape, and an executable graph can be updated with it.
//! Where the driver refuses a graph with gates in it (for launches from the device, say), they are
//! taken out and it is asked again.

use std::{
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use xsched_wire::{ControlBlock, Level, Share, segment::Layout};
use xsched_xqueue::{HwError, HwQueue, Spacing, Support, XQueue};

use crate::{
    captures, driver, segment,
    state::{self, guarded},
    stream,
    streams::{self, Flavour},
    sys::*,
};

/// Nodes from one gate to the next. An open gate costs about 2.3 µs of the device's time, so that
/// this stays under 1 % with kernels of 8 µs and more.
const EVERY: usize = 32;

/// Devices of a process at most.
const DEVICES: usize = 64;

/// The word that gates in graphs wait for: the gate of a queue that never has a command.
struct GraphGate {
    queue: XQueue<Common>,
    layout: &'static Layout,
}

static GATES: [OnceLock<Option<GraphGate>>; DEVICES] = [const { OnceLock::new() }; DEVICES];

/// Before a command that a capture makes a node of.
#[cold]
pub(crate) fn before_node(stream: CUstream, flavour: Flavour) {
    static REFUSED: AtomicBool = AtomicBool::new(false);
    if REFUSED.load(Ordering::Relaxed) {
        return;
    }
    guarded(|| {
        let key = streams::key(stream, flavour);
        let stream = stream::explicit(stream, flavour);
        if !is_due(stream) {
            return;
        }
        let context = match stream::home_of(key) {
            Some(home) => home.context as CUcontext,
            None => driver::current_context(),
        };
        let Some(address) = gate_address(context) else {
            return;
        };
        // SAFETY: the program's own stream, which captures; the device only reads the word.
        let result =
            unsafe { driver::stream_wait_value(stream, address, 1, CU_STREAM_WAIT_VALUE_GEQ) };
        if result != CUDA_SUCCESS && !REFUSED.swap(true, Ordering::Relaxed) {
            state::say(&format!(
                "graphs of this program are stopped between launches only: the driver refused a \
                 gate in a capture (error {result})"
            ));
        }
    });
}

/// Whether the next node of this stream's capture is to be a gate.
fn is_due(stream: CUstream) -> bool {
    let mut status = CU_STREAM_CAPTURE_STATUS_NONE;
    let mut graph: CUgraph = ptr::null_mut();
    let (id, last, count) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    // SAFETY: the program's own stream; valid places for the results, null for those not wanted.
    let result = unsafe {
        driver::stream_get_capture_info(stream, &mut status, id, &mut graph, last, count)
    };
    if result != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_ACTIVE || graph.is_null() {
        return false;
    }
    let mut nodes = 0;
    // SAFETY: the graph of a capture in progress may be looked at; only the number is asked for.
    let result = unsafe { driver::graph_get_nodes(graph, ptr::null_mut(), &mut nodes) };
    result == CUDA_SUCCESS && nodes % EVERY == EVERY - 1 && !captures::adds_to(graph)
}

/// Where a context's device sees the gate of graphs there; `None`: they are not stopped.
fn gate_address(context: CUcontext) -> Option<CUdeviceptr> {
    let device = stream::device_of(context)?;
    let place = GATES.get(usize::try_from(device).ok()?)?;
    let gate = place
        .get_or_init(|| GraphGate::new(context, device))
        .as_ref()?;
    if gate.queue.level() < Some(Level::Lv2) {
        return None;
    }
    let segment = segment::in_context(context, gate.layout).ok()?;
    let word = gate.queue.slot().block.gate_address();
    Some(segment + segment::offset(gate.layout, word))
}

impl GraphGate {
    fn new(context: CUcontext, device: CUdevice) -> Option<Self> {
        let agent = state::agent()?;
        let layout = agent.layout();
        let support = stream::support(device, segment::in_context(context, layout).err());
        if support.level < Level::Lv2 {
            return None;
        }
        let queue = agent
            .attach_common(Common { support }, &stream::device_name(device))
            .ok()?;
        Some(GraphGate { queue, layout })
    }
}

/// A hw queue that is none: its gate is all that counts.
struct Common {
    support: Support,
}

impl Common {
    fn none<T>() -> Result<T, HwError> {
        Err(HwError::Unsupported("this queue takes no commands".into()))
    }
}

impl HwQueue for Common {
    type Command = ();

    fn support(&self) -> Support {
        self.support.clone()
    }

    fn launch(&self, (): ()) -> Result<(), HwError> {
        Self::none()
    }

    fn synchronize(&self) -> Result<(), HwError> {
        Ok(())
    }

    fn is_drained(&self) -> bool {
        true
    }

    fn mark(&self, _: &'static ControlBlock, _: u32) -> Result<(), HwError> {
        Self::none()
    }

    fn gate(&self, _: &'static ControlBlock) -> Result<(), HwError> {
        Self::none()
    }

    fn set_share(&self, _: Share) -> Result<(), HwError> {
        Ok(()) // the streams' queues set that of the device
    }

    fn spacing(&self, _: Level) -> Spacing {
        Spacing::Commands(1)
    }
}

// ---- taking gates out again ----

/// Around a call that takes a graph as a whole: if it fails, and the graph has gates, it is done again
/// without them.
pub(crate) fn whole(graph: CUgraph, mut call: impl FnMut() -> CUresult) -> CUresult {
    let result = call();
    if result != CUDA_SUCCESS
        && state::is_active()
        && guarded(|| take_gates_out(graph)).unwrap_or(false)
    {
        return call();
    }
    result
}

/// Takes every gate out of a graph and its child graphs, its neighbours tied to each other. True:
/// there were some.
fn take_gates_out(graph: CUgraph) -> bool {
    let mut found = false;
    // SAFETY: the graph that the program has passed to the call that failed.
    let nodes = list(|nodes, count| unsafe { driver::graph_get_nodes(graph, nodes, count) });
    for node in nodes.unwrap_or_default() {
        match kind(node) {
            Some(CU_GRAPH_NODE_TYPE_GRAPH) => {
                let mut child: CUgraph = ptr::null_mut();
                // SAFETY: a node with a child graph; a valid place for the result.
                let result = unsafe { driver::graph_child(node, &mut child) };
                found |= result == CUDA_SUCCESS && take_gates_out(child);
            }
            Some(CU_GRAPH_NODE_TYPE_BATCH_MEM_OP) if is_gate(node) => {
                found |= take_out(graph, node).is_some();
            }
            _ => {}
        }
    }
    found
}

fn kind(node: CUgraphNode) -> Option<i32> {
    let mut kind = 0;
    // SAFETY: a node of a graph of the program; a valid place for the result.
    let result = unsafe { driver::graph_node_get_type(node, &mut kind) };
    (result == CUDA_SUCCESS).then_some(kind)
}

/// Whether the node waits on one of our words.
fn is_gate(node: CUgraphNode) -> bool {
    let mut parameters = CUDA_BATCH_MEM_OP_NODE_PARAMS {
        context: ptr::null_mut(),
        count: 0,
        operations: ptr::null_mut(),
        flags: 0,
    };
    // SAFETY: a node of this type; a valid place for the result.
    if unsafe { driver::graph_memory_operations(node, &mut parameters) } != CUDA_SUCCESS
        || parameters.count != 1
        || parameters.operations.is_null()
    {
        return false;
    }
    // SAFETY: the driver has said that there is one operation, which lasts as long as the node.
    let operation = unsafe { parameters.operations.read() };
    segment::has(operation.address)
}

/// `None`: it stays, since the driver does not say what stands before or behind it (an edge may say
/// more than these calls can give), and its neighbours would be no longer in order.
fn take_out(graph: CUgraph, gate: CUgraphNode) -> Option<()> {
    // SAFETY: a node of this graph.
    let before = list(|nodes, count| unsafe { driver::graph_node_before(gate, nodes, count) })?;
    // SAFETY: as above.
    let after = list(|nodes, count| unsafe { driver::graph_node_after(gate, nodes, count) })?;
    for from in &before {
        for to in &after {
            // An error says that this edge exists already.
            // SAFETY: two nodes of this graph; places for one edge.
            unsafe { driver::graph_add_edges(graph, from, to, 1) };
        }
    }
    // SAFETY: a node that the shim itself has put there.
    unsafe { driver::graph_destroy_node(gate) };
    Some(())
}

/// A list that the driver gives in two steps: how many, then which. `None`: it refused.
fn list(ask: impl Fn(*mut CUgraphNode, *mut usize) -> CUresult) -> Option<Vec<CUgraphNode>> {
    let mut count = 0;
    if ask(ptr::null_mut(), &mut count) != CUDA_SUCCESS {
        return None;
    }
    let mut nodes = vec![ptr::null_mut(); count];
    if count != 0 && ask(nodes.as_mut_ptr(), &mut count) != CUDA_SUCCESS {
        return None;
    }
    nodes.truncate(count);
    Some(nodes)
}
