"""The programs of `xsched bench conformance`: what must be the same with the shim as without it.

    python3 rows.py --list                 the rows, as JSON
    python3 rows.py ROW FILE               runs one and writes its outputs to FILE, as JSON
    python3 rows.py ROW FILE --device cpu  the same without a GPU, to try a row

A row is a function that records what it computed. It sees to it that a second run would compute the
same, where the libraries allow that. Its exit code counts, too: 0 means that it came to its end.
"""

import argparse
import ctypes
import hashlib
import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading

ROWS = {}
OUTPUTS = {}
# Levels of child processes, where those do the row's work.
CHILDREN = []
# In the environment, so that spawned children have it, too.
DEVICE = os.environ.setdefault("XSCHED_ROW_DEVICE", "cuda")

# Values of an output that are written, for outputs that differ from run to run.
MOST_VALUES = 4096


class Skip(Exception):
    """Why a row cannot run here."""


def row(name, *packages, optional=False):
    """Makes a function a row; `optional`: it need not be there for a pass."""

    def add(function):
        ROWS[name] = (function, packages, optional)
        return function

    return add


def in_threads(work, values):
    """Does the work for each value in a thread of its own, and raises what one of them raised."""
    errors = []

    def guarded(value):
        try:
            work(value)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def record(name, value):
    """Keeps an output: a tensor, an array, or a list of numbers."""
    if hasattr(value, "detach"):
        import torch

        value = value.detach().cpu().contiguous()
        data = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        numbers = value.reshape(-1)
        step = max(1, numbers.numel() // MOST_VALUES)
        numbers = numbers[::step].double().tolist()
    elif hasattr(value, "tobytes"):
        data = value.tobytes()
        numbers = value.reshape(-1)
        numbers = [float(x) for x in numbers[:: max(1, numbers.size // MOST_VALUES)]]
    else:
        data = json.dumps(value).encode()
        numbers = [float(x) for x in value]
    OUTPUTS[name] = {"digest": hashlib.sha256(data).hexdigest()[:16], "values": numbers}


def level_in_force():
    """Preemption level that the preloaded shim has; 0 = unscheduled, or no shim."""
    try:
        return max(0, ctypes.CDLL(None).xsched_level())
    except AttributeError:
        return 0


# --- torch: what most rows need. ---


def torch_ready():
    import torch

    if DEVICE == "cuda" and not torch.cuda.is_available():
        raise Skip(f"torch {torch.__version__} finds no GPU")
    if DEVICE == "cpu":
        # The threads of a parent are not in its forked children, which would wait for them.
        torch.set_num_threads(1)
    torch.manual_seed(1)
    torch.backends.cudnn.deterministic = True
    return torch


def needs_cuda():
    if DEVICE != "cuda":
        raise Skip("needs a GPU")


def synchronize(torch):
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def model(torch, name):
    import torchvision

    wanted = {"weights": None}
    if name == "googlenet":
        wanted.update(init_weights=True, aux_logits=False)
    return torchvision.models.get_model(name, **wanted).to(DEVICE)


def images(torch, batch, size=224):
    return torch.randn(batch, 3, size, size).to(DEVICE)


def mlp(torch, width=512):
    nn = torch.nn
    layers = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
    return layers.to(DEVICE)


def infer(name, batch, times):
    torch = torch_ready()
    network, batch_of_images = model(torch, name).eval(), images(torch, batch)
    total = 0
    with torch.inference_mode():
        for _ in range(times):
            output = network(batch_of_images)
            total = total + output
    record("last", output)
    record("sum", total)


def train(name, optimizer, batch=16, steps=8):
    torch = torch_ready()
    network = model(torch, name).train()
    optimizer = optimizer(torch, network.parameters())
    labels = torch.randint(1000, (batch,)).to(DEVICE)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(images(torch, batch)), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    record("losses", torch.stack(losses))
    record("weights", next(network.parameters()))


# --- The fourteen models. ---


def add_inference(name):
    @row(name, "torch", "torchvision")
    def run():
        infer(name, batch=4, times=60)


for _name in (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "efficientnet_b0",
    "vit_b_16",
    "densenet121",
    "vgg16",
    "squeezenet1_0",
    "alexnet",
    "googlenet",
):
    add_inference(_name)


@row("train-resnet18", "torch", "torchvision")
def _():
    train("resnet18", lambda torch, weights: torch.optim.SGD(weights, lr=0.01, momentum=0.9))


@row("train-mobilenet_v2", "torch", "torchvision")
def _():
    train("mobilenet_v2", lambda torch, weights: torch.optim.Adam(weights, lr=0.001))


@row("batch-resnet50", "torch", "torchvision")
def _():
    infer("resnet50", batch=32, times=30)


@row("batch-efficientnet_b0", "torch", "torchvision")
def _():
    infer("efficientnet_b0", batch=16, times=30)


# --- Ways in which programs use the device. ---


@row("compile", "torch")
def _():
    torch = torch_ready()
    network = mlp(torch)
    compiled = torch.compile(network)
    x = torch.randn(64, 512).to(DEVICE)
    for _ in range(50):
        x = torch.tanh(compiled(x)).detach()
    record("output", x)


@row("cuda-graph", "torch", "torchvision")
def _():
    torch = torch_ready()
    needs_cuda()
    network = model(torch, "resnet18").eval()
    source = images(torch, 4)
    side = torch.cuda.Stream()
    with torch.inference_mode():
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                network(source)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = network(source)
        total = torch.zeros_like(output)
        for i in range(60):
            source.fill_(i / 60)
            graph.replay()
            total += output
            # On another stream, too.
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                graph.replay()
            torch.cuda.current_stream().wait_stream(side)
    record("sum", total)


@row("amp", "torch")
def _():
    torch = torch_ready()
    network = mlp(torch)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler(DEVICE)
    dtype = torch.float16 if DEVICE == "cuda" else torch.bfloat16
    x, losses = torch.randn(64, 512).to(DEVICE), []
    for _ in range(50):
        optimizer.zero_grad()
        with torch.autocast(DEVICE, dtype=dtype):
            loss = network(x).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.detach())
    record("losses", torch.stack(losses))


@row("multi-stream", "torch")
def _():
    torch = torch_ready()
    needs_cuda()
    first, second = torch.cuda.Stream(), torch.cuda.Stream(priority=-1)
    x = torch.randn(1024, 1024).to(DEVICE) / 32
    y = torch.eye(1024).to(DEVICE)
    torch.cuda.synchronize()
    for _ in range(100):
        with torch.cuda.stream(first):
            y = y @ x
            done = first.record_event()
        second.wait_event(done)
        with torch.cuda.stream(second):
            y = torch.tanh(y)
            done = second.record_event()
        first.wait_event(done)
    done.synchronize()
    torch.cuda.synchronize()
    record("output", y)


@row("autograd", "torch")
def _():
    torch = torch_ready()
    network = mlp(torch)
    x = torch.randn(64, 512).to(DEVICE).requires_grad_()
    for _ in range(20):
        loss = network(x).square().mean()
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        (loss + slope.square().sum()).backward()
    record("x", x.grad)
    record("weights", next(network.parameters()).grad)


@row("dataloader", "torch", "torchvision")
def _():
    torch = torch_ready()
    data = torch.utils.data.TensorDataset(torch.randn(64, 3, 64, 64), torch.arange(64) % 10)
    network = model(torch, "resnet18").eval()
    # The device is in use before the workers start, as in most programs.
    losses = [network(images(torch, 2, 64)).sum().detach()]
    loader = torch.utils.data.DataLoader(
        data, batch_size=8, num_workers=2, pin_memory=DEVICE == "cuda"
    )
    for _ in range(3):
        for x, label in loader:
            x, label = x.to(DEVICE, non_blocking=True), label.to(DEVICE, non_blocking=True)
            losses.append(torch.nn.functional.cross_entropy(network(x), label).detach())
    record("losses", torch.stack(losses))


def product(seed):
    """In a child: a product on the device, and whether it was scheduled."""
    torch = torch_ready()
    torch.manual_seed(seed)
    x = torch.randn(512, 512).to(DEVICE)
    for _ in range(50):
        x = torch.tanh(x @ x)
    return [float(x.sum()), float(x[0, 0])], level_in_force()


def refused(_):
    """In a child that was forked after its parent used the device: what torch says."""
    import torch

    try:
        torch.zeros(1, device=DEVICE)
    except RuntimeError as error:
        return type(error).__name__
    return "nothing"


@row("spawn", "torch")
def _():
    torch_ready()
    parent, _ = product(0)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        children = pool.map(product, [1, 2])
    record("sums", [*parent, *children[0][0], *children[1][0]])


@row("fork", "torch")
def _():
    # Otherwise the question whether there is a GPU spoils it for forked children.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    torch_ready()
    fork = multiprocessing.get_context("fork")
    # Before this process has used the device its children can; afterwards torch refuses.
    with fork.Pool(2) as pool:
        children = pool.map(product, [1, 2])
    parent, _ = product(0)
    with fork.Pool(1) as pool:
        answer = pool.map(refused, [0])[0]
    if DEVICE == "cuda" and answer != "RuntimeError":
        raise RuntimeError(f"a forked child got {answer}")
    again, _ = product(0)
    record("sums", [*parent, *children[0][0], *children[1][0], *again])


@row("threads", "torch", "torchvision")
def _():
    torch = torch_ready()
    needs_cuda()
    networks = [model(torch, "resnet18").eval() for _ in range(2)]
    sources = [images(torch, 4) for _ in range(2)]
    torch.cuda.synchronize()
    results = [None, None]

    def work(i):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), torch.inference_mode():
            networks[i](sources[i])
            try:
                # Groups of their own, one above the other.
                set_priority = ctypes.CDLL(None).xsched_set_stream_priority
                set_priority(ctypes.c_void_p(stream.cuda_stream), [-150, -50][i])
            except AttributeError:
                pass
            for _ in range(60):
                results[i] = networks[i](sources[i])
            stream.synchronize()

    in_threads(work, (0, 1))
    for i in range(2):
        record(f"thread-{i}", results[i])


ENDINGS = ("return", "exit", "exception", "_exit", "terminated", "aborted")


@row("exit-codes", "torch")
def _():
    torch_ready()

    def code(ending):
        command = [sys.executable, __file__, "--end", ending, "--device", DEVICE]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        CHILDREN.append(int(run.stdout or 0))
        return run.returncode

    record("codes", [code(ending) for ending in ENDINGS])


def end(ending):
    _, level = product(1)
    print(level, flush=True)
    if ending == "exit":
        sys.exit(3)
    if ending == "exception":
        raise ValueError("as asked for")
    if ending == "_exit":
        os._exit(4)
    if ending == "terminated":
        os.kill(os.getpid(), signal.SIGTERM)
    if ending == "aborted":
        os.abort()


@row("out-of-memory", "torch")
def _():
    torch = torch_ready()
    needs_cuda()
    x = torch.randn(512, 512).to(DEVICE)
    for _ in range(20):
        x = torch.tanh(x @ x)
        try:
            torch.empty(1 << 50, dtype=torch.uint8, device=DEVICE)
        except torch.OutOfMemoryError:
            pass
        else:
            raise RuntimeError("a petabyte was allocated")
    record("output", x)


# --- Programs without torch. ---


def driver():
    """The driver by ctypes, as small tools use it: a function that calls it and raises what fails."""
    if DEVICE != "cuda":
        raise Skip("needs a GPU")
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise Skip(f"no driver: {error}") from None

    def call(name, *arguments):
        code = getattr(cuda, name)(*arguments)
        if code:
            raise RuntimeError(f"{name}: CUDA error {code}")

    call("cuInit", 0)
    return call


@row("driver")
def _():
    """Copies and fills on a stream."""
    call = driver()
    size = ctypes.c_size_t(1 << 20)
    words = (1 << 20) // 4
    context, stream = ctypes.c_void_p(), ctypes.c_void_p()
    first, second = ctypes.c_uint64(), ctypes.c_uint64()
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    call("cuCtxSetCurrent", context)
    call("cuStreamCreate", ctypes.byref(stream), 1)
    call("cuMemAlloc_v2", ctypes.byref(first), size)
    call("cuMemAlloc_v2", ctypes.byref(second), size)
    host = (ctypes.c_uint32 * words)()
    sums = []
    for i in range(100):
        for j in range(20):
            value = ctypes.c_uint32(1000 * i + j)
            call("cuMemsetD32Async", first, value, ctypes.c_size_t(words), stream)
            call("cuMemcpyDtoDAsync_v2", second, first, size, stream)
        call("cuMemcpyDtoHAsync_v2", host, second, size, stream)
        call("cuStreamSynchronize", stream)
        sums.append(host[0] + host[words - 1])
    record("sums", sums)


# Every thread works for a good part of a millisecond; then the first one adds `value` to `place`.
ADD = b"""
.version 6.0
.target sm_60
.address_size 64

.visible .entry add_u32(.param .u64 place, .param .u32 value)
{
    .reg .pred %p<4>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<2>;

    ld.param.u64 %rd1, [place];
    ld.param.u32 %r1, [value];
    cvta.to.global.u64 %rd1, %rd1;
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, %ctaid.x;
    or.b32 %r4, %r2, %r3;
    mov.u32 %r5, 200000;
ROUND:
    mad.lo.u32 %r2, %r2, 1664525, 1013904223;
    sub.u32 %r5, %r5, 1;
    setp.ne.u32 %p1, %r5, 0;
    @%p1 bra ROUND;
    // Never so, which only the work says.
    setp.eq.u32 %p2, %r2, 1;
    @%p2 add.u32 %r1, %r1, 1;
    setp.ne.u32 %p3, %r4, 0;
    @%p3 ret;
    ld.global.u32 %r6, [%rd1];
    add.u32 %r6, %r6, %r1;
    st.global.u32 [%rd1], %r6;
    ret;
}
"""


@row("contexts")
def _():
    """Two contexts of one process on a device, both busy."""
    call = driver()
    sums = {}

    def work(number):
        context, module, function = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        stream, place, sum_so_far = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_uint32()
        call("cuCtxCreate_v2", ctypes.byref(context), 0, 0)
        call("cuModuleLoadData", ctypes.byref(module), ADD)
        call("cuModuleGetFunction", ctypes.byref(function), module, b"add_u32")
        call("cuStreamCreate", ctypes.byref(stream), 1)
        call("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(4))
        call("cuMemsetD32Async", place, 0, ctypes.c_size_t(1), stream)
        value = ctypes.c_uint32(number)
        parameters = (ctypes.c_void_p * 2)(ctypes.addressof(place), ctypes.addressof(value))
        sums[number] = []
        for _ in range(50):
            for _ in range(10):
                call("cuLaunchKernel", function, 1024, 1, 1, 128, 1, 1, 0, stream, parameters, None)
            size = ctypes.c_size_t(4)
            call("cuMemcpyDtoHAsync_v2", ctypes.byref(sum_so_far), place, size, stream)
            call("cuStreamSynchronize", stream)
            sums[number].append(sum_so_far.value)

    in_threads(work, (1, 2))
    record("sums", sums[1] + sums[2])


@row("jax", "jax", optional=True)
def _():
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    # Or kernels are chosen by the time that they take, and a neighbour changes that.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0".strip()
    import jax

    if DEVICE == "cuda" and jax.default_backend() == "cpu":
        raise Skip(f"jax {jax.__version__} finds no GPU")
    import jax.numpy as jnp

    x = jax.random.normal(jax.random.key(1), (512, 512)) / 32
    step = jax.jit(lambda y: jnp.tanh(y @ x + y))
    slope = jax.jit(jax.grad(lambda y: jnp.sum(step(y) ** 2)))
    y = x
    for _ in range(100):
        y = step(y) + 0.01 * slope(y)
    import numpy

    record("output", numpy.asarray(y))


@row("cupy", "cupy", optional=True)
def _():
    needs_cuda()
    import cupy

    source = "extern \"C\" __global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }"
    twice = cupy.RawKernel(source, "twice")
    x = cupy.linspace(-1, 1, 512 * 512, dtype=cupy.float32).reshape(512, 512)
    y = x
    for _ in range(100):
        y = cupy.tanh(y @ x)
        twice((1,), (512,), (y,))
    side = cupy.cuda.Stream(non_blocking=True)
    with side:
        z = y.T.copy()
    side.synchronize()
    record("output", cupy.asnumpy(y))
    record("transposed", cupy.asnumpy(z))


def main():
    global DEVICE
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("row", nargs="?", choices=list(ROWS))
    parser.add_argument("file", nargs="?")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--end", choices=ENDINGS)
    parser.add_argument("--device", choices=["cuda", "cpu"], default=DEVICE)
    options = parser.parse_args()
    DEVICE = os.environ["XSCHED_ROW_DEVICE"] = options.device
    if options.list:
        rows = [{"name": name, "optional": entry[2]} for name, entry in ROWS.items()]
        return print(json.dumps(rows))
    if options.end:
        return end(options.end)
    if options.file is None:
        parser.error("give a row and a file")
    function, packages, _ = ROWS[options.row]
    result = {"level": 0, "outputs": OUTPUTS}
    try:
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            raise Skip(f"{' and '.join(missing)} not installed for {sys.executable}")
        function()
        result["level"] = min(CHILDREN, default=level_in_force())
    except Skip as reason:
        result["skipped"] = str(reason)
    with open(options.file, "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
