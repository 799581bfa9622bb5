"""Stands in for PyTorch in the tests of the torch workload: the calls that the workload makes, on the
CPU, with arithmetic that the tests know. Never shipped; its times mean nothing.

`FAKE_TORCH` makes it fail: missing, broken, cpu-build, no-gpu, out-of-memory, changing.
`FAKE_TORCH_TRACE` names a file that gets a line for each piece of device work.
"""

import contextlib
import ctypes
import math
import os
from types import SimpleNamespace

FAULT = os.environ.get("FAKE_TORCH", "")
if FAULT == "missing":
    raise ModuleNotFoundError("No module named 'torch'", name="torch")
if FAULT == "broken":
    raise OSError("libcudnn.so.9: cannot open shared object file")

# A library that prints must not break the protocol.
print("hello from a library")

__version__ = "0.0-stand-in"
version = SimpleNamespace(cuda=None if FAULT == "cpu-build" else "0.0")
float32, float16 = "float32", "float16"

_trace = open(os.environ.get("FAKE_TORCH_TRACE", os.devnull), "a", buffering=1)


def trace(line):
    _trace.write(line + "\n")


trace(f"pid {os.getpid()}")
trace(f"LD_PRELOAD {os.environ.get('LD_PRELOAD')}")


class OutOfMemoryError(RuntimeError):
    pass


class Tensor:
    def __init__(self, shape, device="cpu", dtype=float32, memory=None):
        self.shape, self.device, self.dtype = tuple(shape), device, dtype
        self.memory = memory or (ctypes.c_float * math.prod(self.shape))()

    def numel(self):
        return math.prod(self.shape)

    def element_size(self):
        return 4

    def data_ptr(self):
        return ctypes.addressof(self.memory)

    def tolist(self):
        return list(self.memory)

    def pin_memory(self):
        self.device = "pinned"
        return self

    def to(self, target=None, device=None, dtype=None):
        device = target if target == "cuda" else device or self.device
        copy = Tensor(self.shape, device, self.dtype)
        ctypes.memmove(copy.memory, self.memory, 4 * self.numel())
        return copy

    def copy_(self, other, non_blocking=False):
        assert self.shape == other.shape and non_blocking
        trace(f"copy {other.device} to {self.device}")
        ctypes.memmove(self.memory, other.memory, 4 * self.numel())


def empty(*shape, dtype=float32, device="cpu", pin_memory=False):
    shape = shape[0] if isinstance(shape[0], tuple) else shape
    return Tensor(shape, "pinned" if pin_memory else device, dtype)


def randn(*shape, generator):
    made = Tensor(shape)
    for i in range(made.numel()):
        made.memory[i] = (generator.seed * 31 + i) % 17
    return made


class Generator:
    def manual_seed(self, seed):
        self.seed = seed
        return self


def manual_seed(seed):
    trace(f"seed {seed}")


def set_num_threads(count):
    trace(f"threads {count}")


inference_mode = contextlib.nullcontext

_hooks = []


def register_module_forward_hook(hook):
    _hooks.append(hook)
    return SimpleNamespace(remove=lambda: _hooks.remove(hook))


nn = SimpleNamespace(
    modules=SimpleNamespace(
        module=SimpleNamespace(register_module_forward_hook=register_module_forward_hook)
    )
)


class Layer:
    def children(self):
        return iter(())


class Model:
    """Three layers; an image's ten scores are its sum plus 0 … 9."""

    layers = (Layer(), Layer(), Layer())

    def children(self):
        return iter(self.layers)

    def eval(self):
        return self

    def to(self, device, dtype):
        self.dtype = dtype
        return self

    def __call__(self, images):
        batch = images.shape[0]
        if FAULT == "out-of-memory" and batch > 4:
            raise OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
                "8.00 GiB of which 1.00 GiB is free.\nSee documentation for Memory Management"
            )
        for layer in (*self.layers, self):
            for hook in _hooks:
                hook(layer, None, None)
        scores = Tensor([batch, 10], "cuda", self.dtype)

        def compute():
            trace("forward")
            pixels = images.tolist()
            size = len(pixels) // batch
            for i in range(batch):
                total = sum(pixels[i * size : (i + 1) * size])
                scores.memory[10 * i : 10 * i + 10] = [total + k for k in range(10)]
            if FAULT == "changing":
                Model.calls = getattr(Model, "calls", 0) + 1
                scores.memory[9] += Model.calls

        cuda._do(compute)
        return scores


from . import cuda
