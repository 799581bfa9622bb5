"""Two PyOpenCL programs on one device, unscheduled and scheduled in turns: opencl.py --help.

Stands beside `xsched` and `libshimopencl.so`, or is told where they are. The same file is the
programs: `high` answers requests of ten kernels at 20 % load, `low` runs kernels back to back, both on
the first device of the kind that is asked for, with as many work items as fill it. How much a kernel
computes is found out first. Every request and every batch is compared with the first one, bit for bit.

Any PyOpenCL does, also one from PyPI, which brings an ICD loader of its own. A driver without a file in
/etc/OpenCL/vendors is named with --vendor. opencl_gpu.sh does so for an NVIDIA GPU."""
import argparse
import ctypes
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

SOURCE = """
__kernel void work(__global const uint *from, __global uint *to, uint rounds) {
    uint word = from[get_global_id(0)];
    for (uint i = 0; i < rounds; i++) word = word * 1664525u + (word >> 16) + 1013904223u;
    to[get_global_id(0)] = word;
}
"""

class Chain:
    """Kernels that feed each other, on the first device of a kind."""

    def __init__(self, kind, rounds):
        import numpy
        import pyopencl as cl

        self.cl, self.rounds = cl, rounds
        types = {"cpu": cl.device_type.CPU, "gpu": cl.device_type.GPU, "any": cl.device_type.ALL}
        devices = [d for p in cl.get_platforms() for d in p.get_devices(types[kind])]
        if not devices:
            sys.exit(f"no OpenCL device of the kind {kind}")
        self.device = devices[0]
        # A GPU needs many work items to be busy; a CPU's kernels are long with few.
        is_cpu = self.device.type & cl.device_type.CPU
        self.group = 16 if is_cpu else min(256, self.device.max_work_group_size)
        self.words = 512 if is_cpu else 8 * self.group * self.device.max_compute_units
        context = cl.Context([self.device])
        self.queue = cl.CommandQueue(context)
        self.kernel = cl.Kernel(cl.Program(context, SOURCE).build(), "work")
        self.host = numpy.arange(self.words, dtype=numpy.uint32)
        self.buffers = [cl.Buffer(context, cl.mem_flags.READ_WRITE, self.host.nbytes) for _ in "ab"]

    def run(self, kernels):
        """Uploads the input, runs the kernels, and gives a digest of the output."""
        one, two = self.buffers
        out, rounds = self.host.copy(), self.host.dtype.type(self.rounds)
        self.cl.enqueue_copy(self.queue, one, self.host, is_blocking=False)
        for _ in range(kernels):
            self.kernel(self.queue, (self.words,), (self.group,), one, two, rounds)
            one, two = two, one
        self.cl.enqueue_copy(self.queue, out, one)
        return hashlib.sha256(out.tobytes()).hexdigest()[:16]

    def level(self):
        """The level in force; 0: nobody schedules this program."""
        try:
            level = ctypes.CDLL(None).xsched_opencl_level
        except AttributeError:
            return 0
        return level(ctypes.c_void_p(self.queue.int_ptr))


def calibrate(kind, *lengths):
    """The device, and rounds for kernels of these lengths in ms, by the fastest of several tries."""
    chain = Chain(kind, 1000)
    chain.run(2)

    def time_of_one():
        return timed(lambda: chain.run(4))[0] / 4

    # Long enough to say something, and at the device's full clock.
    while (took := time_of_one()) < 10:
        chain.rounds *= 2 if took > 1 else 10
    start = time.monotonic()
    times = []
    while time.monotonic() - start < 1 or len(times) < 10:
        times.append(time_of_one())
    each = min(times) / chain.rounds
    print(*(max(1, round(length / each)) for length in lengths), chain.device.name)


def timed(body):
    start = time.monotonic()
    result = body()
    return (time.monotonic() - start) * 1e3, result


def same(digests):
    assert len(set(digests)) == 1, "results differ"
    return digests[0]


def high(kind, rounds, seconds, kernels, alone_ms):
    chain = Chain(kind, rounds)
    chain.run(kernels)
    ready()
    pause = alone_ms / 1e3 / 0.2
    chance = random.Random(7)
    start = due = time.monotonic()
    latencies, digests = [], []
    while due - start < seconds:
        time.sleep(max(0.0, due - time.monotonic()))
        digests.append(chain.run(kernels))
        latencies.append((time.monotonic() - due) * 1e3)
        due += pause * chance.uniform(0.5, 1.5)
    print(*(f"{latency:.3f}" for latency in latencies), chain.level(), same(digests), flush=True)


def low(kind, rounds, seconds, kernels):
    chain = Chain(kind, rounds)
    chain.run(kernels)
    ready()
    start = time.monotonic()
    digests = []
    while time.monotonic() - start < seconds:
        digests.append(chain.run(kernels))
    done = len(digests) * kernels / (time.monotonic() - start)
    print(f"{done:.3f}", chain.level(), same(digests), flush=True)


def ready():
    print("ready", flush=True)
    sys.stdin.readline()


# ---- the rounds ----


class Rounds:
    def __init__(self, options):
        self.options = options
        self.folder = tempfile.TemporaryDirectory()
        self.socket = os.path.join(self.folder.name, "xsched.sock")
        self.daemon = None
        self.rounds = {}
        if options.vendor:
            # A folder: what a file alone means differs between loaders.
            with open(os.path.join(self.folder.name, "only.icd"), "w") as icd:
                icd.write(options.vendor + "\n")
            os.environ["OCL_ICD_VENDORS"] = self.folder.name

    def serve(self):
        if self.daemon is None or self.daemon.poll() is not None:
            self.daemon = subprocess.Popen(
                [self.options.xsched, "serve", "--socket", self.socket],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(0.5)

    def calibrate(self):
        """How much each program's kernels compute."""
        o = self.options
        command = [sys.executable, __file__, "calibrate", o.device_kind, str(o.high_ms), str(o.low_ms)]
        answer = subprocess.check_output(command, text=True).split(maxsplit=2)
        self.rounds["high"], self.rounds["low"], device = answer
        print(f"{device.strip()}: kernels of {o.high_ms:g} and {o.low_ms:g} ms", flush=True)

    def start(self, role, mode, seconds):
        o = self.options
        environment = dict(os.environ)
        arguments = [o.device_kind, self.rounds[role], seconds, o.kernels]
        if role == "high":
            arguments.append(o.kernels * o.high_ms)
        command = [sys.executable, __file__, role, *map(str, arguments)]
        if mode == "xsched":
            environment["XSCHED_SOCKET"] = self.socket
            level = ["--level", self.options.level]
            command = [self.options.xsched, "run", "--priority", role, *level, "--", *command]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, roles, mode, kill=False):
        self.serve()
        seconds = self.options.seconds
        if len(roles) == 1:
            seconds = self.options.alone_seconds or seconds
        programs = [self.start(role, mode, seconds) for role in roles]
        try:
            for program in programs:
                assert program.stdout.readline() == "ready\n", "a program did not start"
            time.sleep(0.3)
            for program in programs:
                program.stdin.write("\n")
                program.stdin.flush()
            if kill:
                time.sleep(seconds / 2)
                self.daemon.send_signal(signal.SIGKILL)
                self.daemon.wait()
            results = [program.stdout.readline().split() for program in programs]
            assert [program.wait() for program in programs] == [0] * len(roles), "a program failed"
        finally:
            for program in programs:
                program.kill()
        return results

    def all(self):
        o = self.options
        self.calibrate()
        kinds = [("alone", ["high"], "native"), ("alone", ["low"], "native")]
        kinds += [("unscheduled", ["high", "low"], "native"), ("scheduled", ["high", "low"], "xsched")]
        kinds += [("scheduled alone", ["high"], "xsched"), ("scheduled alone", ["low"], "xsched")]
        if o.kill:
            kinds.append(("daemon killed", ["high", "low"], "xsched"))
        latencies, rates, digests, levels = {}, {}, {}, set()
        for number in range(o.rounds):
            for name, roles, mode in kinds:
                results = self.run(roles, mode, kill=name == "daemon killed")
                for role, (*values, level, digest) in zip(roles, results):
                    values = [float(value) for value in values]
                    into = latencies if role == "high" else rates
                    into.setdefault(name, []).extend(values)
                    digests.setdefault(role, set()).add(digest)
                    if mode == "xsched" and not name == "daemon killed":
                        levels.add(level)
                load = os.getloadavg()[0]
                print(f"round {number + 1}: {name}: {'+'.join(roles)}, load {load:.1f}", flush=True)
        print(f"\nlevel in force where scheduled: {', '.join(sorted(levels))}", end="")
        self.report(latencies, rates, digests)

    def report(self, latencies, rates, digests):
        print(f"\n{'':16} {'requests':>8} {'P50 ms':>8} {'P99 ms':>8} {'max ms':>8} {'low kernels/s':>14}")
        for name in dict.fromkeys([*latencies, *rates]):
            values = sorted(latencies.get(name, []))
            rate = rates.get(name, [])
            row = [f"{name:16}", f"{len(values):8}"]
            for share in (0.5, 0.99, 1.0):
                at = min(len(values) - 1, int(len(values) * share))
                row.append(f"{values[at]:8.1f}" if values else " " * 8)
            row.append(f"{sum(rate) / len(rate):14.2f}" if rate else "")
            print(*row)
        p99 = {name: sorted(v)[min(len(v) - 1, int(len(v) * 0.99))] for name, v in latencies.items()}
        mean = {name: sum(v) / len(v) for name, v in rates.items()}
        if "unscheduled" in p99:
            print(f"high P99, scheduled / unscheduled: {p99['scheduled'] / p99['unscheduled']:.3f}")
            print(f"low, scheduled / unscheduled: {mean['scheduled'] / mean['unscheduled']:.3f}")
        equal = all(len(values) == 1 for values in digests.values())
        print(f"results: {'bit-identical in every run' if equal else 'DIFFERENT'}")
        sys.exit(0 if equal else 1)


def main():
    roles = {"calibrate": calibrate, "high": high, "low": low}
    if sys.argv[1:2] and sys.argv[1] in roles:
        types = [str, float, float] if sys.argv[1] == "calibrate" else [str, int, float, int, float]
        return roles[sys.argv[1]](*(convert(text) for convert, text in zip(types, sys.argv[2:])))
    here = os.path.dirname(os.path.abspath(__file__))
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--device-kind", choices=["any", "cpu", "gpu"], default="any")
    parser.add_argument("--vendor", help="the vendor's library, if the loader would not find it")
    parser.add_argument("--seconds", type=float, default=30, help="length of a run")
    parser.add_argument("--alone-seconds", type=float, help="of one with a single program [the same]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--level", default="auto", help="1, 2, 3 or auto")
    parser.add_argument("--kernels", type=int, default=10, help="kernels a request, and a batch of the low one")
    parser.add_argument("--high-ms", type=float, default=15, help="length of a kernel alone")
    parser.add_argument("--low-ms", type=float, default=20)
    parser.add_argument("--kill", action="store_true", help="also kill the daemon half way")
    parser.add_argument("--xsched", default=os.path.join(here, "xsched"), help="the command")
    rounds = Rounds(parser.parse_args())
    try:
        rounds.all()
    finally:
        if rounds.daemon:
            rounds.daemon.terminate()
            rounds.daemon.wait()


if __name__ == "__main__":
    main()
