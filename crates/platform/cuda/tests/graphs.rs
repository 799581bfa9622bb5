//! Gates inside captured graphs: where they stand, what they stop, and that nothing else changes.

mod common;

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use common::{
    LEGACY, LOCAL, NO_RUN, NON_BLOCKING, View, a_moment, set_priority, shimmed,
    support::{Cuda, Handle, NOT_READY, SUCCESS, Value::*},
    until, value, write,
};

/// Commands of the graphs here: the second waits until a word is 1, the others add one to another.
const COMMANDS: u32 = 100;
const ADDS: u32 = COMMANDS - 1;
/// What is added before the first gate: node 31, counted from 0.
const BEFORE_GATE: u32 = 30;
/// Gates among so many nodes: every 32nd node is one.
const GATES: u32 = 3;
const RELAXED: u32 = 2;
const DEVICE_LAUNCH: u64 = 4;

/// Where the graphs here count, and what they wait for at first: two words that devices can reach.
#[derive(Clone, Copy)]
struct Places {
    count: usize,
    go: usize,
}

impl Places {
    fn mapped(cuda: &Cuda) -> (Places, &'static AtomicU32, &'static AtomicU32) {
        let (count, go) = (cuda.word(), cuda.word());
        let places = Places {
            count: count.as_ptr().addr(),
            go: go.as_ptr().addr(),
        };
        (places, count, go)
    }
}

/// Captures on a stream of its own, which is destroyed before the graph is used.
fn capture(cuda: &Cuda, places: Places) -> Handle {
    let (stream, add) = (cuda.stream(NON_BLOCKING), cuda.function("add_u32"));
    let wait = cuda.function("until_u32");
    ok!(cuda, cuStreamBeginCapture_v2(stream => Handle, RELAXED => u32));
    for command in 0..COMMANDS {
        let (function, place) = match command {
            1 => (wait, places.go),
            _ => (add, places.count),
        };
        let values = [Address(place), Word(1)];
        assert_eq!(cuda.launch(stream, function, &values), SUCCESS);
    }
    let mut graph = 0;
    ok!(cuda, cuStreamEndCapture(stream => Handle, &mut graph => &mut Handle));
    ok!(cuda, cuStreamDestroy_v2(stream => Handle));
    graph
}

fn instantiate(cuda: &Cuda, graph: Handle, flags: u64) -> Handle {
    let mut executable = 0;
    ok!(cuda, cuGraphInstantiateWithFlags(
        &mut executable => &mut Handle, graph => Handle, flags => u64,
    ));
    executable
}

fn launch(cuda: &Cuda, executable: Handle, stream: Handle) {
    ok!(cuda, cuGraphLaunch(executable => Handle, stream => Handle));
}

fn nodes(cuda: &Cuda, graph: Handle) -> u32 {
    let mut count = 0_usize;
    ok!(cuda, cuGraphGetNodes(graph => Handle, 0 => usize, &mut count => &mut usize));
    count.try_into().unwrap()
}

/// A client whose gates the local scheduler decides about.
fn start(cuda: &Cuda) -> Handle {
    let context = cuda.start();
    start_here(cuda);
    context
}

/// The same in the current context.
fn start_here(cuda: &Cuda) {
    let place = cuda.word();
    write(cuda, LEGACY, place, 1);
    cuda.synchronize(LEGACY);
}

/// Starts a graph, closes the process's gates while its second command runs, and sees it stop at its
/// first gate.
fn stop(cuda: &Cuda, executable: Handle, stream: Handle, count: &AtomicU32, go: &AtomicU32) {
    count.store(0, SeqCst);
    go.store(0, SeqCst);
    launch(cuda, executable, stream);
    until("the graph runs", || value(count) == 1);
    let view = View::own().expect("there are queues");
    until("the gates stand", || !view.all_are_held());
    assert_eq!(set_priority(LEGACY, NO_RUN), 0);
    until("the gates close", || view.all_are_held());
    go.store(1, SeqCst);
    until("it comes to its gate", || value(count) == BEFORE_GATE);
    a_moment();
    assert_eq!(value(count), BEFORE_GATE);
    assert_eq!(cuda.query(stream), NOT_READY);
}

/// The same, and sees it go on.
fn stops_in_its_middle(
    cuda: &Cuda,
    executable: Handle,
    stream: Handle,
    (count, go): (&AtomicU32, &AtomicU32),
) {
    stop(cuda, executable, stream, count, go);
    assert_eq!(set_priority(LEGACY, 0), 0);
    cuda.synchronize(stream);
    assert_eq!(value(count), ADDS);
}

/// A graph without gates executes each command once.
fn runs(cuda: &Cuda, executable: Handle, (count, go): (&AtomicU32, &AtomicU32)) {
    count.store(0, SeqCst);
    go.store(1, SeqCst);
    launch(cuda, executable, LEGACY);
    cuda.synchronize(LEGACY);
    assert_eq!(value(count), ADDS);
}

#[test]
fn a_running_graph_stops_in_its_middle_on_any_stream() {
    shimmed(&[LOCAL], |cuda| {
        start(cuda);
        let (places, count, go) = Places::mapped(cuda);
        let graph = capture(cuda, places);
        assert_eq!(nodes(cuda, graph), COMMANDS + GATES);
        let executable = instantiate(cuda, graph, 0);
        for stream in [cuda.stream(NON_BLOCKING), cuda.stream(0), LEGACY] {
            stops_in_its_middle(cuda, executable, stream, (count, go));
        }
    });
}

#[test]
fn a_graph_that_is_captured_again_updates_the_first() {
    shimmed(&[LOCAL], |cuda| {
        start(cuda);
        let (places, first, _) = Places::mapped(cuda);
        let executable = instantiate(cuda, capture(cuda, places), 0);
        let (places, second, go) = Places::mapped(cuda);
        let graph = capture(cuda, places);
        let mut result = [0_u64; 3];
        ok!(cuda, cuGraphExecUpdate_v2(
            executable => Handle, graph => Handle, &mut result => &mut [u64; 3],
        ));
        stops_in_its_middle(cuda, executable, LEGACY, (second, go));
        assert_eq!(value(first), 0);
    });
}

#[test]
fn a_child_graph_has_its_gates() {
    shimmed(&[LOCAL], |cuda| {
        start(cuda);
        let (places, count, go) = Places::mapped(cuda);
        let (mut parent, mut node) = (0, 0);
        ok!(cuda, cuGraphCreate(&mut parent => &mut Handle, 0 => u32));
        let child = capture(cuda, places);
        ok!(cuda, cuGraphAddChildGraphNode(
            &mut node => &mut Handle, parent => Handle, 0 => usize, 0 => usize, child => Handle,
        ));
        let executable = instantiate(cuda, parent, 0);
        stops_in_its_middle(cuda, executable, LEGACY, (count, go));
    });
}

#[test]
fn where_the_driver_refuses_gates_the_graph_goes_without() {
    shimmed(&[LOCAL], |cuda| {
        start(cuda);
        let (places, count, go) = Places::mapped(cuda);
        let mut parent = 0;
        ok!(cuda, cuGraphCreate(&mut parent => &mut Handle, 0 => u32));
        let (mut node, mut child) = (0, 0);
        let captured = capture(cuda, places);
        ok!(cuda, cuGraphAddChildGraphNode(
            &mut node => &mut Handle, parent => Handle, 0 => usize, 0 => usize, captured => Handle,
        ));
        for graph in [capture(cuda, places), parent] {
            let executable = instantiate(cuda, graph, DEVICE_LAUNCH);
            runs(cuda, executable, (count, go));
        }
        ok!(cuda, cuGraphChildGraphNodeGetGraph(node => Handle, &mut child => &mut Handle));
        assert_eq!(nodes(cuda, child), COMMANDS);

        // An executable graph without gates takes over a graph that was captured with some.
        let graph = capture(cuda, places);
        let executable = instantiate(cuda, graph, DEVICE_LAUNCH);
        assert_eq!(nodes(cuda, graph), COMMANDS);
        let again = capture(cuda, places);
        let mut result = [0_u64; 3];
        ok!(cuda, cuGraphExecUpdate_v2(
            executable => Handle, again => Handle, &mut result => &mut [u64; 3],
        ));
        runs(cuda, executable, (count, go));
    });
}

#[test]
fn a_gate_whose_neighbours_are_not_told_stays() {
    // As for edges that these calls cannot describe (CUDA_ERROR_LOSSY_QUERY).
    let fail = ("STANDIN_FAIL", "cuGraphNodeGetDependencies:402");
    shimmed(&[LOCAL, fail], |cuda| {
        start(cuda);
        let (places, count, go) = Places::mapped(cuda);
        let graph = capture(cuda, places);
        let mut executable = 0;
        let refused = cu!(cuda, cuGraphInstantiateWithFlags(
            &mut executable => &mut Handle, graph => Handle, DEVICE_LAUNCH => u64,
        ));
        assert_ne!(refused, SUCCESS);
        assert_eq!(nodes(cuda, graph), COMMANDS + GATES, "as it was");
        runs(cuda, instantiate(cuda, graph, 0), (count, go));
    });
}

#[test]
fn an_update_that_cannot_be_fails_as_without_the_shim() {
    shimmed(&[LOCAL], |cuda| {
        start(cuda);
        let (places, ..) = Places::mapped(cuda);
        let executable = instantiate(cuda, capture(cuda, places), 0);
        let mut empty = 0;
        ok!(cuda, cuGraphCreate(&mut empty => &mut Handle, 0 => u32));
        let mut result = [0_u64; 3];
        let update = cu!(cuda, cuGraphExecUpdate_v2(
            executable => Handle, empty => Handle, &mut result => &mut [u64; 3],
        ));
        assert_eq!(update, 910, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE");
    });
}

/// A graph of a process that nobody stops inside is what the program captured.
#[track_caller]
fn has_no_gates(environment: &[(&str, &str)]) {
    shimmed(environment, |cuda| {
        cuda.start();
        // Nothing that the host can reach: it may be that nothing can be mapped.
        let places = Places {
            count: cuda.alloc(4),
            go: cuda.alloc(4),
        };
        assert_eq!(nodes(cuda, capture(cuda, places)), COMMANDS);
    });
}

#[test]
fn the_off_switch_leaves_graphs_alone() {
    has_no_gates(&[("XSCHED_DISABLE", "1")]);
}

#[test]
fn level_one_leaves_graphs_alone() {
    has_no_gates(&[LOCAL, ("XSCHED_AUTO_XQUEUE_LEVEL", "1")]);
}

#[test]
fn without_mapped_gates_graphs_are_left_alone() {
    has_no_gates(&[LOCAL, ("STANDIN_FAIL", "cuMemHostRegister:801")]);
}

/// Starts a graph and stops it in its middle; gives the context.
fn stopped(cuda: &Cuda) -> Handle {
    let context = start(cuda);
    let (places, count, go) = Places::mapped(cuda);
    let executable = instantiate(cuda, capture(cuda, places), 0);
    stop(cuda, executable, LEGACY, count, go);
    context
}

#[test]
fn the_end_of_a_context_takes_no_gates_from_graphs_of_others() {
    shimmed(&[LOCAL], |cuda| {
        // The first one, whose gates are mapped first.
        let first = start(cuda);
        cuda.context(0);
        start_here(cuda);
        let (places, count, go) = Places::mapped(cuda);
        let executable = instantiate(cuda, capture(cuda, places), 0);
        stops_in_its_middle(cuda, executable, LEGACY, (count, go));
        ok!(cuda, cuCtxDestroy_v2(first => Handle));
        stops_in_its_middle(cuda, executable, LEGACY, (count, go));
        // What the first one left is the third one's.
        cuda.context(0);
        start_here(cuda);
        let (places, count, go) = Places::mapped(cuda);
        let executable = instantiate(cuda, capture(cuda, places), 0);
        stops_in_its_middle(cuda, executable, LEGACY, (count, go));
    });
}

#[test]
fn a_context_ends_with_a_graph_that_is_held() {
    shimmed(&[LOCAL], |cuda| {
        let context = stopped(cuda);
        ok!(cuda, cuCtxDestroy_v2(context => Handle));
    });
}

#[test]
fn a_process_ends_with_a_graph_that_is_held() {
    shimmed(&[LOCAL], |cuda| {
        stopped(cuda);
    });
}
