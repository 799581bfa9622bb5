"""Whether the shim acts in this program: the level of a queue is the one that is expected, 0 without it."""
import ctypes
import os
import time

import numpy
import pyopencl


def level(queue):
    try:
        ask = ctypes.CDLL(None).xsched_opencl_level
    except AttributeError:
        return 0
    return ask(ctypes.c_void_p(queue.int_ptr))


def test_level():
    context = pyopencl.Context(pyopencl.get_platforms()[0].get_devices()[:1])
    queue = pyopencl.CommandQueue(context)
    buffer = pyopencl.Buffer(context, pyopencl.mem_flags.READ_WRITE, 64)
    pyopencl.enqueue_fill_buffer(queue, buffer, numpy.uint32(7), 0, 64)
    queue.finish()
    expected = int(os.environ["EXPECTED_LEVEL"])
    patience = time.monotonic() + 30
    while level(queue) != expected and time.monotonic() < patience:
        time.sleep(0.01)
    assert level(queue) == expected
