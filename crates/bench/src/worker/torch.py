"""The torch workload of `xsched worker --device cuda`: serves a model's requests on an NVIDIA GPU.

`torch.rs` checks the options and becomes `python3 -c` with this text. It speaks the worker protocol
(`protocol.rs`) with the schedule of `pace.rs`: one thread, CLOCK_MONOTONIC, times in nanoseconds.

A request is what a server does: copy the input from pinned memory to the device, compute, copy the
output back to pinned memory, synchronize the current stream. PyTorch's defaults stay as they are.
"""

import argparse
import ctypes
import gc
import inspect
import json
import math
import os
import random
import re
import select
import sys
import time
import traceback
from array import array

# As `python3 -c` a file of the working directory would hide the installed package of its name.
if sys.path and sys.path[0] == "":
    sys.path.pop(0)

DEVICE = "cuda"

SECOND = 1_000_000_000
# How long requests that have arrived may still be served after the end of the duration.
OVERTIME = 30 * SECOND
# A sleep may end late by about a timer tick and a wake-up: the last part of a wait spins.
SPIN = 200_000

# Every output up to this size is compared with the first; of larger ones, whose comparison would
# keep the device idle, every eighth and the last. Bytes.
SMALL_OUTPUT = 64 * 1024
COMPARE_EVERY = 8

# Eager requests before a capture, on a side stream, as PyTorch's notes on CUDA graphs ask for.
CAPTURE_WARMUP = 3

# In pieces: pyenv takes a program whose text has the command in one for a call of pip, and runs it as
# a child.
INSTALL = " ".join(["python3", "-m", "pip", "install", "torch", "torchvision"])


class Failure(Exception):
    """Why the worker gives up: the protocol's kind and one line."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def main():
    harness = Harness()
    options = parse(sys.argv[1:])
    try:
        work(harness, options)
    except Exception as error:
        kind, message = explain(error, options)
        if not isinstance(error, Failure):
            traceback.print_exc()
        try:
            harness.report(event="error", kind=kind, message=message)
        except OSError:
            # Nobody listens there any more.
            pass
        return 1
    return 0


def parse(words):
    parser = argparse.ArgumentParser(prog="xsched worker --device cuda", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--arrival", choices=["open", "poisson", "closed"], required=True)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--drop-late", action="store_true")
    parser.add_argument("--duration", type=float, required=True)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp32")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--in-turns", action="store_true")
    parser.add_argument("--cuda-graph", action="store_true")
    return parser.parse_args(words)


def work(harness, options):
    began = monotonic()
    torch = import_torch()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = torch.cuda.get_device_name()
    log(f"torch {torch.__version__}, CUDA {torch.version.cuda}, {device}")
    build = {GPT2_SMALL: build_gpt2, WHISPER: build_whisper}.get(options.model, build_model)
    host_input, forward = build(torch, options)
    with torch.inference_mode():
        request, outputs, commands = prepare(torch, host_input, forward, options)
        for _ in range(options.warmup):
            request()
            outputs.compare()
        harness.report(
            event="ready",
            model=options.model,
            batch=options.batch,
            commands=commands,
            setup_ms=milliseconds(monotonic() - began),
            level=level_in_force(),
        )
        # What lives until the end need not be looked at again in the middle of a request.
        gc.collect()
        gc.freeze()
        for _ in range(options.repeat):
            harness.wait_for_start()
            epoch, elapsed, samples, dropped = drive(harness, request, outputs, options)
            outputs.compare_last()
            harness.report(
                event="result",
                completed=len(samples),
                elapsed_ms=milliseconds(elapsed),
                start_ns=epoch,
                samples=samples,
                digest=outputs.digest(),
                digests_equal=outputs.equal,
                dropped=dropped,
            )
            if harness.stopped:
                break


# --- The harness: instructions on standard input, reports on standard output. ---


class Harness:
    def __init__(self):
        # Whatever a library prints goes to the log and not between the reports.
        self._reports = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._input = b""
        self._started = False
        self.stopped = False

    def report(self, **fields):
        self._reports.write(json.dumps(fields, separators=(",", ":")) + "\n")
        self._reports.flush()

    def wait_for_start(self):
        while not (self._started or self.stopped):
            self.listen(None)
        self._started = False

    def wait(self, deadline):
        """Sleeps until then, or until an instruction comes."""
        left = deadline - monotonic()
        if left > SPIN:
            self.listen((left - SPIN) / SECOND)
        else:
            while monotonic() < deadline:
                pass

    def listen(self, timeout):
        """Takes what has come within `timeout` seconds; None waits for ever. No thread reads the
        input: one that is blocked in a read would abort the interpreter's exit."""
        if self.stopped or not select.select([0], [], [], timeout)[0]:
            return
        data = os.read(0, 4096)
        # The end of the input means stop.
        self.stopped = not data
        *lines, self._input = (self._input + data).split(b"\n")
        for line in map(bytes.strip, lines):
            if line == b"start":
                self._started = True
            elif line == b"stop":
                self.stopped = True
            else:
                log(f"ignored the line {line!r}: say start or stop")


def log(text):
    print(f"xsched worker: {text}", file=sys.stderr)


def monotonic():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def milliseconds(nanos):
    """To the microsecond."""
    return round(nanos / 1e3) / 1e3


def drive(harness, request, outputs, options):
    """Serves requests until the schedule ends or the harness says stop, as `pace.rs` does. Gives
    the start, the time since then, of each request arrival, start and latency in ms, and how many
    were given up because the next one was there before they began."""
    duration = int(options.duration * SECOND)
    source = schedule(options, duration)
    upcoming, successor = next(source, None), next(source, None)
    dropped = 0
    arrivals, starts, ends = array("q"), array("q"), array("q")
    epoch = monotonic()
    next_progress = SECOND
    while True:
        now = monotonic() - epoch
        if options.arrival == "closed":
            upcoming = now if now < duration else None
        arrival, due = upcoming, upcoming is not None
        # After the last arrival the run still lasts its duration.
        until = arrival if due else duration
        while True:
            harness.listen(0)
            if harness.stopped:
                break
            if now >= next_progress:
                harness.report(
                    event="progress", completed=len(ends), elapsed_ms=milliseconds(now)
                )
                next_progress = now - now % SECOND + SECOND
            if now >= until:
                break
            harness.wait(epoch + min(until, next_progress))
            now = monotonic() - epoch
        if not due or harness.stopped or now >= duration + OVERTIME:
            break
        while options.drop_late and successor is not None and successor <= now:
            dropped += 1
            arrival, successor = successor, next(source, None)
        upcoming, successor = successor, next(source, None)
        if options.in_turns:
            set_enabled(len(ends) % 2)
        request()
        ends.append(monotonic() - epoch)
        arrivals.append(arrival)
        starts.append(now)
        outputs.check()
    elapsed = monotonic() - epoch
    if options.in_turns:
        set_enabled(1)
    samples = [
        [milliseconds(arrival), milliseconds(start), milliseconds(end - arrival)]
        for arrival, start, end in zip(arrivals, starts, ends)
    ]
    return epoch, elapsed, samples, dropped


def schedule(options, duration):
    """The arrivals of an open loop inside the duration."""
    if options.arrival == "closed":
        return
    gaps = random.Random(options.seed)
    count, last = 0, 0.0
    while True:
        if options.arrival == "poisson":
            last += gaps.expovariate(options.rate)
            arrival = int(last * SECOND)
        else:
            arrival = int(count * SECOND / options.rate)
        if arrival >= duration:
            return
        yield arrival
        count += 1


# --- A request, whatever it computes. ---


def prepare(torch, host_input, forward, options):
    """Gives the request as a function, its outputs, and the number of its commands."""
    current_stream = torch.cuda.current_stream
    device_input = host_input.to(DEVICE)

    def compute():
        return forward(device_input)

    with LayerCount(torch) as count:
        output = compute()
    commands = count()
    current_stream().synchronize()
    host_output = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
    if options.cuda_graph:
        compute = capture(torch, compute)
        commands = 1
    del output

    def request():
        device_input.copy_(host_input, non_blocking=True)
        host_output.copy_(compute(), non_blocking=True)
        current_stream().synchronize()

    # And the two copies.
    return request, Outputs(host_output), commands + 2


def capture(torch, compute):
    """Captures `compute` once; the function that it gives replays it on the current stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(CAPTURE_WARMUP):
            compute()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = compute()

    def replay():
        graph.replay()
        return output

    return replay


class Outputs:
    """The first output, and whether the others have its bits."""

    def __init__(self, host_output):
        self._tensor = host_output
        self._address = host_output.data_ptr()
        self._size = host_output.numel() * host_output.element_size()
        self._every = 1 if self._size <= SMALL_OUTPUT else COMPARE_EVERY
        self._count = 0
        self._first = None
        self._memcmp = ctypes.CDLL(None).memcmp
        self._memcmp.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
        self._memcmp.restype = ctypes.c_int
        self.equal = True

    def check(self):
        """After each measured request."""
        self._count += 1
        if self._first is None or self._count % self._every == 0:
            self.compare()

    def compare(self):
        if self._first is None:
            self._first = ctypes.string_at(self._address, self._size)
        elif self._memcmp(self._first, self._address, self._size) != 0:
            self.equal = False

    def compare_last(self):
        """Of the last request, which may have been left out."""
        if self._count > 0:
            self.compare()

    def digest(self):
        """FNV-1a, 64 bits; empty if there was no output."""
        if self._first is None:
            return ""
        value = 0xCBF2_9CE4_8422_2325
        for byte in self._first:
            value = ((value ^ byte) * 0x0100_0000_01B3) & 0xFFFF_FFFF_FFFF_FFFF
        return f"{value:016x}"


# --- Models by torchvision name. ---


def build_model(torch, options):
    builder = model_builder(options.model)
    torch.manual_seed(options.seed)
    wanted = {"weights": None}
    # Segmentation models would download those.
    if "weights_backbone" in inspect.signature(builder).parameters:
        wanted["weights_backbone"] = None
    dtype = torch.float16 if options.precision == "fp16" else torch.float32
    size = options.image_size or 224
    # Vision transformers are built for one size.
    if options.model.startswith("vit_") and size != 224:
        wanted["image_size"] = size
    model = builder(**wanted).eval().to(device=DEVICE, dtype=dtype)
    generator = torch.Generator().manual_seed(options.seed)
    images = torch.randn(options.batch, 3, size, size, generator=generator)
    host_input = images.to(dtype).pin_memory()

    def forward(device_input):
        return scores(torch, model(device_input), options.model)

    return host_input, forward


def model_builder(name):
    try:
        import torchvision
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise Failure(
            "usage", f"torchvision is not installed for {sys.executable}: {INSTALL}"
        ) from None
    models = torchvision.models
    segmentation = getattr(models, "segmentation", None)
    try:
        # Names in torchvision before 0.14 are functions of the module.
        find = getattr(models, "get_model_builder", None)
        if find:
            builder = find(name)
        else:
            builder = getattr(models, name, None) or getattr(segmentation, name)
    except (AttributeError, KeyError, ValueError):
        raise Failure(
            "usage",
            f"torchvision {torchvision.__version__} has no model {name}: use one such as resnet18, "
            "resnet50, mobilenet_v2 (torchvision.models.list_models() has all), gpt2-small or "
            "whisper_base_encoder",
        ) from None
    return builder


def scores(torch, output, name):
    """The tensor in what a model returns: some wrap it."""
    if isinstance(output, dict):
        output = next(iter(output.values()))
    elif isinstance(output, tuple):
        output = output[0]
    if not isinstance(output, torch.Tensor):
        raise Failure(
            "usage", f"model {name} takes no plain images or returns no tensor: use another"
        )
    return output


class LayerCount:
    """Counts the layers of a pass, the best known number of its commands: how many kernels a layer
    launches is the libraries' affair."""

    def __init__(self, torch):
        self._register = torch.nn.modules.module.register_module_forward_hook
        self._layers = 0

    def __enter__(self):
        self._handle = self._register(self._hook)
        return lambda: self._layers

    def __exit__(self, *_):
        self._handle.remove()

    def _hook(self, module, _inputs, _output):
        self._layers += next(module.children(), None) is None


# --- A decode loop of GPT-2's smallest size, with a key-value cache. ---

GPT2_SMALL = "gpt2-small"
PROMPT_TOKENS = 16
NEW_TOKENS = 8


def build_gpt2(torch, options):
    if options.cuda_graph:
        raise Failure("usage", f"{GPT2_SMALL} cannot be captured: leave out --cuda-graph")
    try:
        from transformers import GPT2Config, GPT2LMHeadModel
    except ImportError as error:
        raise Failure(
            "usage",
            f"transformers cannot be loaded ({one_line(error)}): {INSTALL} transformers",
        ) from None
    torch.manual_seed(options.seed)
    dtype = torch.float16 if options.precision == "fp16" else torch.float32
    # The defaults are the small one's; random weights, nothing is downloaded.
    config = GPT2Config()
    model = GPT2LMHeadModel(config).eval().to(device=DEVICE, dtype=dtype)
    random = torch.Generator().manual_seed(options.seed)
    shape = (options.batch, PROMPT_TOKENS)
    host_input = torch.randint(config.vocab_size, shape, generator=random).pin_memory()

    def forward(prompt):
        tokens, past, decoded = prompt, None, []
        for _ in range(NEW_TOKENS):
            output = model(input_ids=tokens, past_key_values=past, use_cache=True)
            past = output.past_key_values
            tokens = output.logits[:, -1:].argmax(dim=-1)
            decoded.append(tokens)
        return torch.cat(decoded, dim=1)

    return host_input, forward


# --- The encoder of Whisper base, with random weights. ---

WHISPER = "whisper_base_encoder"
BANDS, FRAMES = 80, 3000
WIDTH, HEADS, HIDDEN, LAYERS = 512, 8, 2048, 6


def build_whisper(torch, options):
    nn = torch.nn
    torch.manual_seed(options.seed)
    dtype = torch.float16 if options.precision == "fp16" else torch.float32
    frames = options.image_size or FRAMES
    convolutions = nn.Sequential(
        nn.Conv1d(BANDS, WIDTH, 3, padding=1),
        nn.GELU(),
        nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1),
        nn.GELU(),
    )
    # Its key has a bias, which Whisper's has not: 512 additions a token and layer.
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    layers = nn.TransformerEncoder(
        layer, LAYERS, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False
    )
    for part in (convolutions, layers):
        part.eval().to(device=DEVICE, dtype=dtype)
    # Sines and cosines of the position, wavelengths from 2 pi to 10000 * 2 pi.
    half = WIDTH // 2
    rates = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
    angles = torch.arange((frames + 1) // 2)[:, None] * rates[None, :]
    positions = torch.cat([angles.sin(), angles.cos()], dim=1).to(device=DEVICE, dtype=dtype)
    random = torch.Generator().manual_seed(options.seed)
    host_input = torch.randn(options.batch, BANDS, frames, generator=random).to(dtype).pin_memory()

    def forward(device_input):
        return layers(convolutions(device_input).permute(0, 2, 1) + positions)

    return host_input, forward


# --- What goes wrong, and the shim. ---


def check_driver():
    """Without a driver PyTorch is no remedy."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise Failure(
            "usage",
            f"no NVIDIA driver ({one_line(error)}): install one; `xsched doctor --platform cuda` tries it",
        ) from None


def import_torch():
    try:
        import torch
    except ModuleNotFoundError as error:
        check_driver()
        if error.name != "torch":
            raise Failure(
                "usage", f"PyTorch cannot be loaded ({one_line(error)}): {INSTALL}"
            ) from None
        raise Failure(
            "usage", f"PyTorch is not installed for {sys.executable}: {INSTALL}"
        ) from None
    except (ImportError, OSError) as error:
        raise Failure(
            "usage", f"PyTorch cannot be loaded ({one_line(error)}): {INSTALL}"
        ) from None
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            message = (
                f"PyTorch {torch.__version__} is built without CUDA: install a build with CUDA "
                "(pytorch.org/get-started)"
            )
        else:
            message = (
                f"PyTorch {torch.__version__} finds no GPU: check nvidia-smi, that the driver is "
                f"new enough for CUDA {torch.version.cuda}, and CUDA_VISIBLE_DEVICES"
            )
        raise Failure("usage", message)
    return torch


def level_in_force():
    """Preemption level that the preloaded shim has; 0 = unscheduled, or no shim."""
    try:
        ask = ctypes.CDLL(None).xsched_level
    except AttributeError:
        return 0
    ask.argtypes = ()
    ask.restype = ctypes.c_int
    return max(0, min(3, ask()))


def set_enabled(on):
    """Has the preloaded shim let everything pass (0), or schedule it again."""
    ask = ctypes.CDLL(None).xsched_set_enabled
    ask.argtypes = (ctypes.c_int,)
    if ask(on) != 0:
        raise Failure("other", "nobody schedules this process: `xsched doctor` says why")


# How libraries say that memory has run out, in small letters.
NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "alloc_failed",
    "size calculation overflowed",
)


def explain(error, options):
    """The protocol's kind of a failure, and one line."""
    if isinstance(error, Failure):
        return error.kind, one_line(error)
    text = str(error).lower()
    no_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if no_memory or any(words in text for words in NO_MEMORY):
        # What torch goes on to say are advice on its allocator and the figures of other processes.
        sentences = re.split(r"\. (?=[A-Z])", one_line(error, 1000))
        what = ". ".join(sentences[:2]).rstrip(". ") or "no more memory on the host"
        remedy = f"use a smaller batch than {options.batch}"
        if options.batch == 1:
            remedy = "end other programs on the device"
        return "out_of_memory", f"{what}; {remedy}"
    if isinstance(error, RuntimeError) and re.search(r"cuda|cudnn|cublas", text):
        return "device", one_line(error)
    return "other", f"{type(error).__name__}: {one_line(error)}"


def one_line(error, longest=400):
    return " ".join(str(error).split())[:longest]


if __name__ == "__main__":
    sys.exit(main())
