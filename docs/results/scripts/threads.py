"""Two Python threads of one process with priorities of their own, unscheduled and at level 2 in turn.

    python3 threads.py BIN FOLDER     BIN holds xsched and libshimcuda.so

The high thread replays ResNet-18 as a CUDA graph 100 times a second, the low one runs ResNet-50, batch
256, back to back, each on a stream of its own. Three rounds of 6 s a side; writes FOLDER/threads.json,
and exits with 0 if the scheduled P99 is at most half of the unscheduled one.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

ROUNDS = 3
SECONDS = 6
RATE = 100


def work():
    """The process with the two threads; prints its figures as JSON."""
    import torch
    import torchvision

    torch.manual_seed(0)
    high_stream, low_stream = torch.cuda.Stream(), torch.cuda.Stream()
    high = torchvision.models.resnet18(weights=None).cuda().eval()
    low = torchvision.models.resnet50(weights=None).cuda().eval()
    small = torch.randn(1, 3, 224, 224, device="cuda")
    large = torch.randn(256, 3, 224, 224, device="cuda")
    torch.cuda.synchronize()
    with torch.inference_mode():
        with torch.cuda.stream(high_stream):
            for _ in range(5):
                high(small)
        high_stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=high_stream):
            high(small)
        with torch.cuda.stream(low_stream):
            for _ in range(3):
                low(large)
        torch.cuda.synchronize()

    level = 0
    shim = ctypes.CDLL(None)
    if hasattr(shim, "xsched_set_stream_priority"):
        for stream, priority in ((high_stream, 100), (low_stream, -100)):
            # 2: not scheduled, as in the unscheduled rounds.
            shim.xsched_set_stream_priority(ctypes.c_void_p(stream.cuda_stream), priority)
        time.sleep(0.5)
        level = shim.xsched_level()

    begin = time.monotonic() + 0.5
    end = begin + SECONDS
    latencies, iterations, errors = [], [0], []

    def high_thread():
        arrival = begin
        while arrival < end:
            left = arrival - time.monotonic()
            if left > 0.0003:
                time.sleep(left - 0.0002)
            while time.monotonic() < arrival:
                pass
            with torch.cuda.stream(high_stream):
                graph.replay()
            high_stream.synchronize()
            # From the arrival, so that a late start counts.
            latencies.append((time.monotonic() - arrival) * 1e3)
            arrival += 1 / RATE

    def low_thread():
        with torch.inference_mode(), torch.cuda.stream(low_stream):
            while time.monotonic() < end:
                low(large)
                low_stream.synchronize()
                iterations[0] += 1

    def guarded(body):
        try:
            body()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(t,)) for t in (high_thread, low_thread)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    figures = {"level": level, "low_ips": iterations[0] / SECONDS, "latencies_ms": latencies}
    print(json.dumps(figures))


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(p * len(values)))]


def main(folder, out):
    os.makedirs(out, exist_ok=True)
    xsched = os.path.join(folder, "xsched")
    # A socket's path must be short.
    socket = os.path.join(tempfile.mkdtemp(), "xsched.sock")
    command = [xsched, "run", "--name", "threads", "--", sys.executable, __file__, "--work"]
    sides = {
        "unscheduled": {"XSCHED_DISABLE": "1"},
        "scheduled": {"XSCHED_SOCKET": socket, "XSCHED_AUTO_XQUEUE_LEVEL": "2"},
    }
    results = {side: [] for side in sides}
    daemon = subprocess.Popen([xsched, "serve", "--socket", socket])
    try:
        time.sleep(0.5)
        for _ in range(ROUNDS):
            for side, variables in sides.items():
                environment = {**os.environ, **variables}
                run = subprocess.run(
                    command, env=environment, stdout=subprocess.PIPE, check=True, timeout=120
                )
                results[side].append(json.loads(run.stdout.splitlines()[-1]))
    finally:
        daemon.terminate()
        daemon.wait()
    summary = {}
    for side, rounds in results.items():
        pooled = [latency for one in rounds for latency in one["latencies_ms"]]
        summary[side] = {
            "requests": len(pooled),
            "level": min(one["level"] for one in rounds),
            "p50_ms": percentile(pooled, 0.50),
            "p99_ms": percentile(pooled, 0.99),
            "p99_ms_by_round": [percentile(one["latencies_ms"], 0.99) for one in rounds],
            "low_ips": sum(one["low_ips"] for one in rounds) / len(rounds),
        }
    ratio = summary["scheduled"]["p99_ms"] / summary["unscheduled"]["p99_ms"]
    passed = ratio <= 0.5 and summary["scheduled"]["level"] == 2
    summary.update(p99_ratio=ratio, passed=passed)
    print(json.dumps(summary, indent=2))
    with open(os.path.join(out, "threads.json"), "w", encoding="utf-8") as file:
        json.dump({**summary, "rounds": results}, file)
    return 0 if passed else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        work()
    elif len(sys.argv) == 3:
        sys.exit(main(sys.argv[1], sys.argv[2]))
    else:
        sys.exit(__doc__)
