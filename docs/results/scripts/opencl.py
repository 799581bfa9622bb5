"""Two PyOpenCL programs on one device, unscheduled and scheduled in turns: opencl.py --help.

Stands beside `xsched` and `libshimopencl.so`, or is told where they are. The same file is the
programs: `high` answers requests of ten kernels at 20 % load, `low` runs kernels back to back.
Every request and every batch is compared with the first one, bit for bit."""
import argparse
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
WORDS, GROUP = 512, 16


class Chain:
    """Kernels that feed each other, on the first device."""

    def __init__(self, rounds):
        import numpy
        import pyopencl as cl

        self.cl, self.rounds = cl, numpy.uint32(rounds)
        context = cl.Context(cl.get_platforms()[0].get_devices()[:1])
        self.queue = cl.CommandQueue(context)
        self.kernel = cl.Kernel(cl.Program(context, SOURCE).build(), "work")
        self.host = numpy.arange(WORDS, dtype=numpy.uint32)
        self.buffers = [cl.Buffer(context, cl.mem_flags.READ_WRITE, self.host.nbytes) for _ in "ab"]

    def run(self, kernels):
        """Uploads the input, runs the kernels, and gives a digest of the output."""
        one, two = self.buffers
        out = self.host.copy()
        self.cl.enqueue_copy(self.queue, one, self.host, is_blocking=False)
        for _ in range(kernels):
            self.kernel(self.queue, (WORDS,), (GROUP,), one, two, self.rounds)
            one, two = two, one
        self.cl.enqueue_copy(self.queue, out, one)
        return hashlib.sha256(out.tobytes()).hexdigest()[:16]


def calibrate(milliseconds):
    """Rounds for a kernel of that length, by the fastest of several tries."""
    probe = 200_000
    chain = Chain(probe)
    chain.run(2)
    best = min(timed(lambda: chain.run(2))[0] for _ in range(10)) / 2
    print(max(1, round(probe * milliseconds / best)))


def timed(body):
    start = time.monotonic()
    result = body()
    return (time.monotonic() - start) * 1e3, result


def same(digests):
    assert len(set(digests)) == 1, "results differ"
    return digests[0]


def high(rounds, seconds, kernels, alone_ms):
    chain = Chain(rounds)
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
    print(*(f"{latency:.3f}" for latency in latencies), same(digests), flush=True)


def low(rounds, seconds, kernels):
    chain = Chain(rounds)
    chain.run(kernels)
    ready()
    start = time.monotonic()
    digests = []
    while time.monotonic() - start < seconds:
        digests.append(chain.run(kernels))
    done = len(digests) * kernels / (time.monotonic() - start)
    print(f"{done:.3f}", same(digests), flush=True)


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

    def serve(self):
        if self.daemon is None or self.daemon.poll() is not None:
            self.daemon = subprocess.Popen(
                [self.options.xsched, "serve", "--socket", self.socket],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(0.5)

    def command(self, role):
        o = self.options
        if role == "calibrate":
            return [sys.executable, __file__, role]
        arguments = [self.rounds[role], o.seconds, o.kernels]
        if role == "high":
            arguments.append(o.kernels * o.high_ms)
        return [sys.executable, __file__, role, *map(str, arguments)]

    def start(self, role, mode):
        environment = dict(os.environ)
        command = self.command(role)
        if mode == "xsched":
            environment["XSCHED_SOCKET"] = self.socket
            level = ["--level", self.options.level]
            command = [self.options.xsched, "run", "--priority", role, *level, "--", *command]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, roles, mode, kill=False):
        self.serve()
        programs = [self.start(role, mode) for role in roles]
        try:
            for program in programs:
                assert program.stdout.readline() == "ready\n", "a program did not start"
            time.sleep(0.3)
            for program in programs:
                program.stdin.write("\n")
                program.stdin.flush()
            if kill:
                time.sleep(self.options.seconds / 2)
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
        for role, length in (("high", o.high_ms), ("low", o.low_ms)):
            command = [*self.command("calibrate"), str(length)]
            self.rounds[role] = subprocess.check_output(command, text=True).strip()
        kinds = [("alone", ["high"], "native"), ("alone", ["low"], "native")]
        kinds += [("unscheduled", ["high", "low"], "native"), ("scheduled", ["high", "low"], "xsched")]
        kinds += [("scheduled alone", ["high"], "xsched"), ("scheduled alone", ["low"], "xsched")]
        if o.kill:
            kinds.append(("daemon killed", ["high", "low"], "xsched"))
        latencies, rates, digests = {}, {}, {}
        for number in range(o.rounds):
            for name, roles, mode in kinds:
                results = self.run(roles, mode, kill=name == "daemon killed")
                for role, (*values, digest) in zip(roles, results):
                    values = [float(value) for value in values]
                    into = latencies if role == "high" else rates
                    into.setdefault(name, []).extend(values)
                    digests.setdefault(role, set()).add(digest)
                load = os.getloadavg()[0]
                print(f"round {number + 1}: {name}: {'+'.join(roles)}, load {load:.1f}", flush=True)
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
        kinds = [float, float] if sys.argv[1] == "calibrate" else [int, float, int, float]
        return roles[sys.argv[1]](*(kind(text) for kind, text in zip(kinds, sys.argv[2:])))
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30, help="length of a run")
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
