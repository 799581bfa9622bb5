"""The stand-in's device: work happens at once, or is recorded while a graph is captured."""

import contextlib

import torch

_capturing = None


def _do(work):
    if _capturing is None:
        work()
    else:
        _capturing.work.append(work)


class Stream:
    cuda_stream = 0

    def synchronize(self):
        assert _capturing is None
        torch.trace("synchronize")

    def wait_stream(self, other):
        pass


def current_stream():
    return Stream()


def stream(side):
    return contextlib.nullcontext()


def synchronize():
    pass


class CUDAGraph:
    def __init__(self):
        self.work = []

    def replay(self):
        torch.trace("replay")
        for work in self.work:
            work()


@contextlib.contextmanager
def graph(captured):
    global _capturing
    torch.trace("capture")
    _capturing = captured
    yield
    _capturing = None


def is_available():
    return torch.FAULT not in ("no-gpu", "cpu-build")


def get_device_name():
    return "Stand-in"
