#!/bin/sh
# Measures rows of docs/results/h200.md on a machine with one GPU: h200.sh FOLDER SECTION...
#
# Needs `xsched` and `libshimcuda.so` in the folder BIN (default: the current one), no Rust. Each section
# takes less than 8 minutes and writes its records to FOLDER/SECTION; a section that fails does not stop
# the others, and the exit code is then 1. Sections:
#   headline     ResNet-18 as CUDA graph, 100/s, against ResNet-50 batch 256
#   kernels      1 ms of kernels, 100/s, against kernels of 10 ms
#   two-low      the headline against two background processes
#   document     dual-model as in the document (10/s, batch 8, eager), three rounds of 17 s
#   intensive    20/s against batch 1024, three rounds of 16 s
#   launch       host cost of an intercepted launch
#   overhead-8 overhead-256 overhead-gpt2    a model alone, with and without the shim
#   two-gpus     data-parallel training on both GPUs of a machine with two, and the high job on one
#   threads      two Python threads of one process with priorities of their own, level 2
#   conformance  programs compute and end the same with the shim, preempted, as without it
#   systematic   threads of one process under its own scheduler
#   multi-tenant realtime-batch     two rounds of 10 s, beside CUDA MPS
#   partition    shares of 75 and 25, two rounds of 8 s
#   preempt-1 preempt-2 preempt-3   preemption latency at each level, commands of 0.5 ms
#   preempt-3-long                  at level 3 with commands of 10 ms
set -u
bin=$(cd "${BIN:-.}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 2 ] || { sed -n '2,24s/^# \{0,1\}//p' "$0"; exit 2; }
[ -x "$bin/xsched" ] && [ -f "$bin/libshimcuda.so" ] || {
    echo "h200.sh: $bin has no xsched and libshimcuda.so: set BIN" >&2
    exit 2
}
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
shift
failed=0

# bench RECORD WORDS...: one benchmark, its text and its exit code beside its records.
bench() {
    record=$out/$1
    shift
    mkdir -p "$record"
    echo "== xsched bench $*"
    timeout 470 "$bin/xsched" bench "$@" --out "$record" >"$record/text.txt" 2>&1
    code=$?
    cat "$record/text.txt"
    echo "== exit code $code" | tee "$record/exit_code.txt"
    [ $code -eq 0 ] || failed=1
}
dual() {
    name=$1
    shift
    bench "$name" dual-model --device cuda "$@"
}

# The first import on a fresh machine takes a minute, and none is compiled twice.
export PYTHONPYCACHEPREFIX="${PYTHONPYCACHEPREFIX:-${TMPDIR:-/tmp}/xsched-pycache}"
unset PYTHONDONTWRITEBYTECODE
python3 -c "import torch, torchvision" 2>/dev/null

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader >"$out/device.txt" 2>&1
for section; do
    case $section in
    headline) dual headline --cuda-graph --rate 100 --low-batch 256 --rounds 3 --duration 6 ;;
    kernels) dual kernels --high-model kernels:20x50 --low-model spin:10000 --rate 100 --rounds 3 --duration 6 ;;
    two-low) dual two-low --cuda-graph --rate 100 --low-batch 256 --low-copies 2 --rounds 3 --duration 6 ;;
    document) dual document --rounds 3 --duration 17 ;;
    intensive) dual intensive --rate 20 --low-batch 1024 --rounds 3 --duration 16 ;;
    launch) bench launch overhead --device cuda --launch ;;
    overhead-8) bench overhead-8 overhead --device cuda --model resnet50 --batch 8 ;;
    overhead-256) bench overhead-256 overhead --device cuda --model resnet50 --batch 256 ;;
    overhead-gpt2) bench overhead-gpt2 overhead --device cuda --model gpt2-small --seconds 3 ;;
    two-gpus)
        mkdir -p "$out/two-gpus"
        timeout 470 python3 "$here/two_gpus.py" "$bin" "$out/two-gpus" || failed=1
        ;;
    threads)
        mkdir -p "$out/threads"
        timeout 470 python3 "$here/threads.py" "$bin" "$out/threads" || failed=1
        ;;
    conformance) bench conformance conformance --jobs 12 ;;
    systematic) bench systematic systematic --device cuda --rounds 2 --tasks 100 ;;
    multi-tenant | realtime-batch)
        bench $section $section --device cuda --rounds 2 --duration 10s --standalone 5s --peer mps
        ;;
    partition) bench partition partition --device cuda --rounds 2 --duration 8s --standalone 4s --peer none ;;
    preempt-[123]) bench $section preempt-latency --device cuda --level ${section#preempt-} --kernel-us 500 ;;
    preempt-3-long) bench $section preempt-latency --device cuda --level 3 --kernel-us 10000 ;;
    *)
        echo "h200.sh: there is no section $section" >&2
        failed=1
        ;;
    esac
done
exit $failed
