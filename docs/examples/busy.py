"""Keeps an OpenCL device busy and says how fast that goes, once a second: busy.py [SECONDS]

Any program will do; this one is there to try `xsched run`, `list` and `hint` on a machine without a GPU,
where PoCL makes an OpenCL device of the CPU (Debian: python3-pyopencl, pocl-opencl-icd)."""
import sys
import time

try:
    import numpy
    import pyopencl as cl
except ModuleNotFoundError as error:
    sys.exit(f"busy.py: {sys.executable} has no {error.name}: on Debian install python3-pyopencl and pocl-opencl-icd")

SOURCE = """
__kernel void work(__global uint *words) {
    uint word = words[get_global_id(0)];
    for (uint i = 0; i < 100000; i++) word = word * 1664525u + 1013904223u + (word >> 16);
    words[get_global_id(0)] = word;
}
"""

context = cl.Context([cl.get_platforms()[0].get_devices()[0]])
queue = cl.CommandQueue(context)
work = cl.Kernel(cl.Program(context, SOURCE).build(), "work")
words = cl.Buffer(context, cl.mem_flags.READ_WRITE, 256 * numpy.uint32(0).nbytes)
end = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else "inf")
while time.monotonic() < end:
    begin, kernels = time.monotonic(), 0
    while time.monotonic() < min(begin + 1, end):
        for _ in range(4):
            work(queue, (256,), (64,), words)
        queue.finish()
        kernels += 4
    print(f"{kernels / (time.monotonic() - begin):.0f} kernels/s", flush=True)
