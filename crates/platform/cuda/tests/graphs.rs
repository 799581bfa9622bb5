//! Gates inside captured graphs: where they stand, what they stop, and that nothing else changes.

mod common;

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use common::{
    LEGACY, LOCAL, NO_RUN, NON_BLOCKING, a_moment, set_priority, shimmed,
    support::{Cuda, Handle, NOT_READY, SUCCESS, Value::*},
    until, value, write,
};

/// Commands of the graphs here. Each is a kernel of 1 ms that adds one to a word.
const COMMANDS: u32 = 100;
/// Gates among so many nodes: every 32nd node is one.
const GATES: u32 = 3;
const RELAXED: u32 = 2;
const DEVICE_LAUNCH: u64 = 4;

/// Captures on a stream of its own, which is destroyed before the graph is used.
fn capture(cuda: &Cuda, place: &AtomicU32) -> Handle {
    capture_at(cuda, place.as_ptr().addr())
}

fn capture_at(cuda: &Cuda, address: usize) -> Handle {
    let (stream, add) = (cuda.stream(NON_BLOCKING), cuda.function("add_u32_us"));
    ok!(cuda, cuStreamBeginCapture_v2(stream => Handle, RELAXED => u32));
    for _ in 0..COMMANDS {
        let values = [Address(address), Word(1), Word(1_000)];
        assert_eq!(cuda.launch(stream, add, &values), SUCCESS);
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

/// The local scheduler has a queue, so that it decides about gates.
fn start(cuda: &Cuda) -> (Handle, &'static AtomicU32) {
    let context = cuda.start();
    let place = cuda.word();
    write(cuda, LEGACY, place, 0);
    cuda.synchronize(LEGACY);
    (context, place)
}

/// Closes the process's gates while a graph that counts runs, and sees it stop in its middle.
fn stops_in_its_middle(cuda: &Cuda, executable: Handle, stream: Handle, place: &AtomicU32) {
    place.store(0, SeqCst);
    launch(cuda, executable, stream);
    until("the graph runs", || value(place) > 0);
    assert_eq!(set_priority(LEGACY, NO_RUN), 0);
    // It comes to rest at a gate: nothing is added for many times the length of a command.
    let mut seen = value(place);
    until("the graph stops", || {
        for _ in 0..5 {
            a_moment();
        }
        std::mem::replace(&mut seen, value(place)) == value(place)
    });
    assert!(value(place) < COMMANDS, "it was stopped at its end only");
    assert_eq!(cuda.query(stream), NOT_READY);
    assert_eq!(set_priority(LEGACY, 0), 0);
    cuda.synchronize(stream);
    assert_eq!(value(place), COMMANDS);
}

#[test]
fn a_running_graph_stops_in_its_middle_on_any_stream() {
    shimmed(&[LOCAL], |cuda| {
        let (_, place) = start(cuda);
        let graph = capture(cuda, place);
        assert_eq!(nodes(cuda, graph), COMMANDS + GATES);
        let executable = instantiate(cuda, graph, 0);
        for stream in [cuda.stream(NON_BLOCKING), cuda.stream(0), LEGACY] {
            stops_in_its_middle(cuda, executable, stream, place);
        }
    });
}

#[test]
fn a_graph_that_is_captured_again_updates_the_first() {
    shimmed(&[LOCAL], |cuda| {
        let (_, first) = start(cuda);
        let executable = instantiate(cuda, capture(cuda, first), 0);
        let second = cuda.word();
        let graph = capture(cuda, second);
        let mut result = [0_u64; 3];
        ok!(cuda, cuGraphExecUpdate_v2(
            executable => Handle, graph => Handle, &mut result => &mut [u64; 3],
        ));
        stops_in_its_middle(cuda, executable, LEGACY, second);
        assert_eq!(value(first), 0);
    });
}

#[test]
fn a_child_graph_has_its_gates() {
    shimmed(&[LOCAL], |cuda| {
        let (_, place) = start(cuda);
        let (mut parent, mut node) = (0, 0);
        ok!(cuda, cuGraphCreate(&mut parent => &mut Handle, 0 => u32));
        let child = capture(cuda, place);
        ok!(cuda, cuGraphAddChildGraphNode(
            &mut node => &mut Handle, parent => Handle, 0 => usize, 0 => usize, child => Handle,
        ));
        stops_in_its_middle(cuda, instantiate(cuda, parent, 0), LEGACY, place);
    });
}

#[test]
fn where_the_driver_refuses_gates_the_graph_goes_without() {
    shimmed(&[LOCAL], |cuda| {
        let (_, place) = start(cuda);
        let mut parent = 0;
        ok!(cuda, cuGraphCreate(&mut parent => &mut Handle, 0 => u32));
        let (mut node, mut child) = (0, 0);
        let captured = capture(cuda, place);
        ok!(cuda, cuGraphAddChildGraphNode(
            &mut node => &mut Handle, parent => Handle, 0 => usize, 0 => usize, captured => Handle,
        ));
        for graph in [capture(cuda, place), parent] {
            let executable = instantiate(cuda, graph, DEVICE_LAUNCH);
            place.store(0, SeqCst);
            launch(cuda, executable, LEGACY);
            cuda.synchronize(LEGACY);
            assert_eq!(value(place), COMMANDS, "each command once, in its order");
        }
        ok!(cuda, cuGraphChildGraphNodeGetGraph(node => Handle, &mut child => &mut Handle));
        assert_eq!(nodes(cuda, child), COMMANDS);

        // An executable graph without gates takes over a graph that was captured with some.
        let graph = capture(cuda, place);
        let executable = instantiate(cuda, graph, DEVICE_LAUNCH);
        assert_eq!(nodes(cuda, graph), COMMANDS);
        let again = capture(cuda, place);
        let mut result = [0_u64; 3];
        ok!(cuda, cuGraphExecUpdate_v2(
            executable => Handle, again => Handle, &mut result => &mut [u64; 3],
        ));
        place.store(0, SeqCst);
        launch(cuda, executable, LEGACY);
        cuda.synchronize(LEGACY);
        assert_eq!(value(place), COMMANDS);
    });
}

#[test]
fn a_gate_whose_neighbours_are_not_told_stays() {
    // As for edges that these calls cannot describe (CUDA_ERROR_LOSSY_QUERY).
    let fail = ("STANDIN_FAIL", "cuGraphNodeGetDependencies:402");
    shimmed(&[LOCAL, fail], |cuda| {
        let (_, place) = start(cuda);
        let graph = capture(cuda, place);
        let mut executable = 0;
        let refused = cu!(cuda, cuGraphInstantiateWithFlags(
            &mut executable => &mut Handle, graph => Handle, DEVICE_LAUNCH => u64,
        ));
        assert_ne!(refused, SUCCESS);
        assert_eq!(nodes(cuda, graph), COMMANDS + GATES, "as it was");
        launch(cuda, instantiate(cuda, graph, 0), LEGACY);
        cuda.synchronize(LEGACY);
        assert_eq!(value(place), COMMANDS);
    });
}

#[test]
fn an_update_that_cannot_be_fails_as_without_the_shim() {
    shimmed(&[LOCAL], |cuda| {
        let (_, place) = start(cuda);
        let executable = instantiate(cuda, capture(cuda, place), 0);
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
        let address = cuda.alloc(4);
        assert_eq!(nodes(cuda, capture_at(cuda, address)), COMMANDS);
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

/// Starts a graph and stops it in its middle.
fn stopped(cuda: &Cuda) -> Handle {
    let (context, place) = start(cuda);
    let executable = instantiate(cuda, capture(cuda, place), 0);
    launch(cuda, executable, LEGACY);
    until("the graph runs", || value(place) > 0);
    assert_eq!(set_priority(LEGACY, NO_RUN), 0);
    until("it stops", || {
        let seen = value(place);
        for _ in 0..5 {
            a_moment();
        }
        seen == value(place)
    });
    assert!(value(place) < COMMANDS);
    context
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
