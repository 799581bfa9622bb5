//! Graphs: execution, replay, update, child graphs, and destruction in every order.

mod support;

use std::sync::atomic::Ordering::SeqCst;

use support::{Cuda, Handle, NOT_READY, SUCCESS, Value::*, client};

const NON_BLOCKING: u32 = 1;
const RELAXED: u32 = 2;
const UPDATE_FAILURE: i32 = 910;
const TOPOLOGY_CHANGED: u32 = 2;
const NODE_TYPE_CHANGED: u32 = 3;

/// Captures what `commands` submits to a stream made for it, and destroyed with it.
fn capture(cuda: &Cuda, commands: impl FnOnce(Handle)) -> Handle {
    let stream = cuda.stream(NON_BLOCKING);
    ok!(cuda, cuStreamBeginCapture_v2(stream => Handle, RELAXED => u32));
    commands(stream);
    let mut graph = 0;
    ok!(cuda, cuStreamEndCapture(stream => Handle, &mut graph => &mut Handle));
    ok!(cuda, cuStreamDestroy_v2(stream => Handle));
    graph
}

fn instantiate(cuda: &Cuda, graph: Handle) -> Handle {
    let mut executable = 0;
    ok!(cuda, cuGraphInstantiateWithFlags(
        &mut executable => &mut Handle, graph => Handle, 0 => u64,
    ));
    executable
}

fn launch(cuda: &Cuda, executable: Handle, stream: Handle) {
    ok!(cuda, cuGraphLaunch(executable => Handle, stream => Handle));
}

struct Log<'a> {
    cuda: &'a Cuda,
    address: usize,
    append: Handle,
}

impl<'a> Log<'a> {
    fn new(cuda: &'a Cuda) -> Self {
        Self {
            cuda,
            address: cuda.alloc(4096),
            append: cuda.function("append_u32"),
        }
    }

    fn append(&self, stream: Handle, value: u32) {
        let values = [Address(self.address), Word(value)];
        assert_eq!(self.cuda.launch(stream, self.append, &values), SUCCESS);
    }

    fn read(&self) -> Vec<u32> {
        let count = self.cuda.words(self.address, 1)[0] as usize;
        self.cuda.words(self.address, count + 1)[1..].to_vec()
    }
}

#[test]
fn a_graph_is_replayed_on_any_stream_in_its_order() {
    client(&[], |cuda| {
        cuda.start();
        let log = Log::new(cuda);
        let graph = capture(cuda, |stream| {
            (1..=3).for_each(|value| log.append(stream, value))
        });
        let executable = instantiate(cuda, graph);
        let stream = cuda.stream(NON_BLOCKING);
        log.append(stream, 0);
        launch(cuda, executable, stream);
        log.append(stream, 9);
        launch(cuda, executable, stream);
        cuda.synchronize(stream);
        launch(cuda, executable, 0);
        cuda.synchronize(0);
        assert_eq!(log.read(), [0, 1, 2, 3, 9, 1, 2, 3, 1, 2, 3]);
    });
}

#[test]
fn a_wait_in_a_graph_stops_it_there() {
    client(&[], |cuda| {
        cuda.start();
        let log = Log::new(cuda);
        let (gate, reached) = (cuda.word(), cuda.word());
        let reached_at = reached.as_ptr().addr();
        let graph = capture(cuda, |stream| {
            log.append(stream, 1);
            ok!(cuda, cuStreamWriteValue32_v2(
                stream => Handle, reached_at => usize, 1 => u32, 0 => u32,
            ));
            cuda.gate(stream, gate, 1);
            log.append(stream, 2);
        });
        let executable = instantiate(cuda, graph);
        let stream = cuda.stream(NON_BLOCKING);
        launch(cuda, executable, stream);
        while reached.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(cuda.query(stream), NOT_READY);
        let other = cuda.event();
        assert_eq!(cuda.record(other, stream), SUCCESS);
        assert_eq!(cu!(cuda, cuEventQuery(other => Handle)), NOT_READY);
        cuda.open(gate);
        cuda.synchronize(stream);
        assert_eq!(log.read(), [1, 2]);
    });
}

#[test]
fn branches_run_side_by_side() {
    client(&[], |cuda| {
        cuda.start();
        let log = Log::new(cuda);
        let word = cuda.word();
        let (one, other) = (cuda.stream(NON_BLOCKING), cuda.stream(NON_BLOCKING));
        let (fork, join) = (cuda.event(), cuda.event());
        ok!(cuda, cuStreamBeginCapture_v2(one => Handle, RELAXED => u32));
        assert_eq!(cuda.record(fork, one), SUCCESS);
        ok!(cuda, cuStreamWaitEvent(other => Handle, fork => Handle, 0 => u32));
        // This branch waits for what the other, captured later, does.
        cuda.gate(one, word, 1);
        log.append(one, 2);
        log.append(other, 1);
        ok!(cuda, cuStreamWriteValue32_v2(
            other => Handle, word.as_ptr().addr() => usize, 1 => u32, 0 => u32,
        ));
        assert_eq!(cuda.record(join, other), SUCCESS);
        ok!(cuda, cuStreamWaitEvent(one => Handle, join => Handle, 0 => u32));
        let mut graph = 0;
        ok!(cuda, cuStreamEndCapture(one => Handle, &mut graph => &mut Handle));
        let executable = instantiate(cuda, graph);
        launch(cuda, executable, one);
        cuda.synchronize(one);
        assert_eq!(log.read(), [1, 2]);
    });
}

#[repr(C)]
struct UpdateResult {
    result: u32,
    node: Handle,
    from: Handle,
}

fn update(cuda: &Cuda, executable: Handle, graph: Handle) -> (i32, u32) {
    let mut result = UpdateResult {
        result: 99,
        node: 0,
        from: 0,
    };
    let code = cu!(cuda, cuGraphExecUpdate_v2(
        executable => Handle, graph => Handle, &mut result => &mut UpdateResult,
    ));
    (code, result.result)
}

#[test]
fn an_executable_takes_over_graphs_of_its_shape_only() {
    client(&[], |cuda| {
        cuda.start();
        let log = Log::new(cuda);
        let gate = cuda.word();
        let stream = cuda.stream(NON_BLOCKING);
        let values = |values: &'static [u32]| {
            capture(cuda, |stream| {
                values.iter().for_each(|value| log.append(stream, *value))
            })
        };
        let executable = instantiate(cuda, values(&[1, 2]));
        let same = values(&[3, 4]);
        cuda.hold(stream, gate, 1);
        launch(cuda, executable, stream);
        // What is under way keeps what it was launched with.
        assert_eq!(update(cuda, executable, same), (SUCCESS, 0));
        cuda.open(gate);
        launch(cuda, executable, stream);
        let longer = values(&[5, 6, 7]);
        assert_eq!(
            update(cuda, executable, longer),
            (UPDATE_FAILURE, TOPOLOGY_CHANGED)
        );
        let gated = capture(cuda, |stream| {
            log.append(stream, 5);
            cuda.gate(stream, gate, 1);
        });
        assert_eq!(
            update(cuda, executable, gated),
            (UPDATE_FAILURE, NODE_TYPE_CHANGED)
        );
        launch(cuda, executable, stream);
        cuda.synchronize(stream);
        assert_eq!(log.read(), [1, 2, 3, 4, 3, 4]);
    });
}

#[test]
fn a_child_graph_is_a_copy() {
    client(&[], |cuda| {
        cuda.start();
        let log = Log::new(cuda);
        let child = capture(cuda, |stream| {
            (1..=2).for_each(|value| log.append(stream, value))
        });
        let mut parent = 0;
        ok!(cuda, cuGraphCreate(&mut parent => &mut Handle, 0 => u32));
        let (mut first, mut second) = (0, 0);
        ok!(cuda, cuGraphAddChildGraphNode(
            &mut first => &mut Handle, parent => Handle, 0 => usize, 0 => usize, child => Handle,
        ));
        ok!(cuda, cuGraphAddChildGraphNode(
            &mut second => &mut Handle, parent => Handle, &first => &Handle, 1 => usize,
            child => Handle,
        ));
        ok!(cuda, cuGraphDestroy(child => Handle));
        let executable = instantiate(cuda, parent);
        launch(cuda, executable, 0);
        // A launch inside a capture is a child graph, too.
        let outer = capture(cuda, |stream| {
            log.append(stream, 8);
            launch(cuda, executable, stream);
        });
        let outer = instantiate(cuda, outer);
        launch(cuda, outer, 0);
        cuda.synchronize(0);
        assert_eq!(log.read(), [1, 2, 1, 2, 8, 1, 2, 1, 2]);
    });
}

#[test]
fn everything_may_be_destroyed_while_a_launch_is_under_way() {
    client(&[], |cuda| {
        let context = cuda.start();
        let log = Log::new(cuda);
        let gate = cuda.word();
        let stream = cuda.stream(NON_BLOCKING);
        let graph = capture(cuda, |stream| {
            cuda.gate(stream, gate, 1);
            log.append(stream, 1);
        });
        let executable = instantiate(cuda, graph);
        launch(cuda, executable, stream);
        ok!(cuda, cuGraphExecDestroy(executable => Handle));
        ok!(cuda, cuGraphDestroy(graph => Handle));
        ok!(cuda, cuStreamDestroy_v2(stream => Handle));
        let gone = cu!(cuda, cuGraphLaunch(executable => Handle, 0 => Handle));
        assert_eq!(gone, support::INVALID_VALUE);
        cuda.open(gate);
        ok!(cuda, cuCtxSynchronize());
        assert_eq!(log.read(), [1]);
        ok!(cuda, cuCtxDestroy_v2(context => Handle));
    });
}

/// `CUDA_KERNEL_NODE_PARAMS`, version 1.
#[repr(C)]
struct KernelNode {
    function: Handle,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    parameters: *const *const u8,
    extra: usize,
}

#[test]
fn a_graph_can_be_built_by_hand() {
    client(&[], |cuda| {
        cuda.start();
        let log = Log::new(cuda);
        let mut graph = 0;
        ok!(cuda, cuGraphCreate(&mut graph => &mut Handle, 0 => u32));
        let add = |value: u32| {
            let pointers: [*const u8; 2] = [
                std::ptr::from_ref(&log.address).cast(),
                std::ptr::from_ref(&value).cast(),
            ];
            let kernel = KernelNode {
                function: log.append,
                grid: [1; 3],
                block: [1; 3],
                shared: 0,
                parameters: pointers.as_ptr(),
                extra: 0,
            };
            let mut node = 0;
            ok!(cuda, cuGraphAddKernelNode(
                &mut node => &mut Handle, graph => Handle, 0 => usize, 0 => usize,
                &kernel => &KernelNode,
            ));
            node
        };
        let (late, early) = (add(2), add(1));
        ok!(cuda, cuGraphAddDependencies(
            graph => Handle, &early => &Handle, &late => &Handle, 1 => usize,
        ));
        let mut kind = 9;
        ok!(cuda, cuGraphNodeGetType(late => Handle, &mut kind => &mut u32));
        assert_eq!(kind, 0);
        let executable = instantiate(cuda, graph);
        launch(cuda, executable, 0);
        cuda.synchronize(0);
        assert_eq!(log.read(), [1, 2]);
    });
}
