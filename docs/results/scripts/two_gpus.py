"""Data-parallel training by NCCL on two GPUs and an urgent job on the first, native and scheduled in turn.

    python3 two_gpus.py BIN FOLDER     BIN holds xsched and libshimcuda.so

The low job trains ResNet-50, batch 64 a GPU, in two processes with DistributedDataParallel; the high one
runs ResNet-18 as a CUDA graph 100 times a second, a request being input copy, replay, output copy and
synchronization. Each side's three processes start once and stay; three rounds of 6 s a side. Writes
FOLDER/two_gpus.json, and exits with 0 if the scheduled P99 is at most 0.30 of the native one and 1.35 of
the one alone, and if every training step has the same loss with and without the shim.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

ROUNDS = 3
SECONDS = 6
RATE = 100
BATCH = 64
# Training steps between two looks at the time.
STEPS = 10
# Losses that must be there to be compared.
LEAST_STEPS = 100


def phases(run):
    """Says that the process is ready, and runs a phase for each line, which holds when it begins."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(float(line))), flush=True)


def high():
    import torch
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).cuda().eval()
    pinned = torch.randn(1, 3, 224, 224).pin_memory()
    given, stream = pinned.cuda(), torch.cuda.Stream()
    result = torch.empty(1, 1000).pin_memory()
    with torch.inference_mode():
        with torch.cuda.stream(stream):
            for _ in range(5):
                model(given)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            computed = model(given)

    def request():
        with torch.inference_mode(), torch.cuda.stream(stream):
            given.copy_(pinned, non_blocking=True)
            graph.replay()
            result.copy_(computed, non_blocking=True)
        stream.synchronize()

    def phase(begin):
        latencies, arrival = [], begin
        while arrival < begin + SECONDS:
            left = arrival - time.monotonic()
            # A sleep may end late by much of a request.
            if left > 0.002:
                time.sleep(left - 0.0015)
            while time.monotonic() < arrival:
                pass
            request()
            # From the arrival, so that a late start counts.
            latencies.append((time.monotonic() - arrival) * 1e3)
            arrival += 1 / RATE
        return latencies

    for _ in range(50):
        request()
    phases(phase)


def train(rank, store):
    import torch
    import torch.distributed as dist
    import torchvision

    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=2)
    model = torchvision.models.resnet50(weights=None).cuda()
    model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    generator = torch.Generator().manual_seed(rank)
    images = torch.randn(4, BATCH, 3, 224, 224, generator=generator).cuda()
    labels = torch.randint(1000, (4, BATCH), generator=generator).cuda()
    losses = []

    def step():
        number = len(losses) % len(images)
        loss = torch.nn.functional.cross_entropy(model(images[number]), labels[number])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    def phase(begin):
        time.sleep(max(0, begin - time.monotonic()))
        first, more = len(losses), torch.ones(1, device="cuda")
        while more.item():
            for _ in range(STEPS):
                step()
            # The first process decides for both, so that neither waits for a step of the other's.
            more.fill_(time.monotonic() < begin + SECONDS)
            dist.broadcast(more, 0)
        took = time.monotonic() - begin
        return {"steps_per_second": (len(losses) - first) / took, "losses": torch.stack(losses).tolist()}

    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    phases(phase)
    dist.destroy_process_group()


class Side:
    """The processes of one side."""

    def __init__(self, xsched, socket, folder):
        self.processes = {}
        store = os.path.join(folder, "store")
        roles = {"high": ["--high"], "rank0": ["--train", "0", store], "rank1": ["--train", "1", store]}
        environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        if socket:
            environment["XSCHED_SOCKET"] = socket
        for role, arguments in roles.items():
            command = [sys.executable, __file__, *arguments]
            if socket:
                priority = "high" if role == "high" else "low"
                command = [xsched, "run", "--priority", priority, "--name", role, "--", *command]
            pipe = subprocess.PIPE
            self.processes[role] = subprocess.Popen(
                command, env=environment, stdin=pipe, stdout=pipe, text=True
            )

    def line(self, role):
        line = self.processes[role].stdout.readline()
        if not line:
            sys.exit(f"{role} ended early")
        return line

    def wait_ready(self):
        for role in self.processes:
            # NCCL may write lines of its own.
            while self.line(role) != "ready\n":
                pass

    def run(self, roles):
        begin = time.monotonic() + 0.5
        for role in roles:
            self.processes[role].stdin.write(f"{begin}\n")
            self.processes[role].stdin.flush()
        return {role: json.loads(self.line(role)) for role in roles}

    def end(self):
        for process in self.processes.values():
            process.stdin.close()
        return [process.wait(timeout=60) for process in self.processes.values()]

    def kill(self):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(p * len(values)))]


def figures(rounds):
    pooled = [latency for one in rounds for latency in one["high"]]
    summary = {
        "requests": len(pooled),
        "p50_ms": percentile(pooled, 0.50),
        "p99_ms": percentile(pooled, 0.99),
        "p99_ms_by_round": [percentile(one["high"], 0.99) for one in rounds],
    }
    if "rank0" in rounds[0]:
        speeds = [one["rank0"]["steps_per_second"] for one in rounds]
        summary["steps_per_second"] = sum(speeds) / len(speeds)
    return summary


def main(folder, out):
    os.makedirs(out, exist_ok=True)
    xsched = os.path.join(folder, "xsched")
    # A socket's path must be short.
    temporary = tempfile.mkdtemp()
    socket = os.path.join(temporary, "xsched.sock")
    daemon = subprocess.Popen([xsched, "serve", "--socket", socket])
    sides = {}
    try:
        time.sleep(0.5)
        for name, at in (("native", None), ("scheduled", socket)):
            store = os.path.join(temporary, name)
            os.mkdir(store)
            sides[name] = Side(xsched, at, store)
        for side in sides.values():
            side.wait_ready()
        subprocess.run([xsched, "list"], env={**os.environ, "XSCHED_SOCKET": socket}, check=False)
        results = {"alone": [], "native": [], "scheduled": []}
        for _ in range(ROUNDS):
            results["alone"].append(sides["native"].run(["high"]))
            for name, side in sides.items():
                results[name].append(side.run(["high", "rank0", "rank1"]))
        codes = {name: side.end() for name, side in sides.items()}
    finally:
        for side in sides.values():
            side.kill()
        daemon.terminate()
        daemon.wait()

    summary = {name: figures(rounds) for name, rounds in results.items()}
    equal, compared = True, None
    for rank in ("rank0", "rank1"):
        native, scheduled = (results[name][-1][rank]["losses"] for name in ("native", "scheduled"))
        compared = min(len(native), len(scheduled))
        equal = equal and compared >= LEAST_STEPS and native[:compared] == scheduled[:compared]
    p99 = {name: one["p99_ms"] for name, one in summary.items()}
    summary |= {
        "p99_over_native": p99["scheduled"] / p99["native"],
        "p99_over_alone": p99["scheduled"] / p99["alone"],
        "losses_compared": compared,
        "losses_equal": equal,
        "exit_codes": codes,
    }
    ended = all(code == 0 for side in codes.values() for code in side)
    fast = summary["p99_over_native"] <= 0.30 and summary["p99_over_alone"] <= 1.35
    summary["passed"] = fast and equal and ended
    print(json.dumps(summary, indent=2))
    with open(os.path.join(out, "two_gpus.json"), "w", encoding="utf-8") as file:
        json.dump({**summary, "rounds": results}, file)
    return 0 if summary["passed"] else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["--high"]:
        high()
    elif sys.argv[1:2] == ["--train"] and len(sys.argv) == 4:
        train(int(sys.argv[2]), sys.argv[3])
    elif len(sys.argv) == 3:
        sys.exit(main(sys.argv[1], sys.argv[2]))
    else:
        sys.exit(__doc__)
