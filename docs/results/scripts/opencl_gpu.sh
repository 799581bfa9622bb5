#!/bin/sh
# Measures OpenCL on a machine with an NVIDIA GPU, without a network: opencl_gpu.sh FOLDER SECTION...
#
# Needs `xsched` and `libshimopencl.so` in the folder BIN (default: the current one), opencl.py beside this
# script, Python with NumPy, and PyOpenCL: installed, or as wheels in the folder WHEELS, fetched elsewhere by
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
#     pyopencl pytools platformdirs siphash24 typing_extensions
# The driver's library is looked for, or named by VENDOR; a loader is the system's, or the wheel's. Each
# section leaves its text and its exit code in FOLDER; one that fails does not stop the others. Sections:
#   programs   two PyOpenCL programs, unscheduled and scheduled: 90 s
#   kill       the same, and the daemon killed half way: 65 s
#   models     ResNet-18 against ResNet-50 in OpenCL C, two rounds of 42 s: 4 minutes
#   overhead   ResNet-50 alone, without and with the shim
set -u
bin=$(cd "${BIN:-.}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 2 ] || { sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 2; }
[ -x "$bin/xsched" ] && [ -f "$bin/libshimopencl.so" ] || {
    echo "opencl_gpu.sh: $bin has no xsched and libshimopencl.so: set BIN" >&2
    exit 2
}
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
shift
vendor=${VENDOR:-$(find /usr /opt /lib /lib64 -name 'libnvidia-opencl.so.1' 2>/dev/null | head -n 1)}
[ -n "$vendor" ] || {
    echo "opencl_gpu.sh: no libnvidia-opencl.so.1 here: set VENDOR" >&2
    exit 2
}

# What the driver loads itself lies beside it.
case $vendor in
/*) export LD_LIBRARY_PATH="$(dirname "$vendor")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" ;;
esac

work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
mkdir "$work/vendors" "$work/lib"
echo "$vendor" >"$work/vendors/only.icd"
export OCL_ICD_VENDORS="$work/vendors"
if [ -n "${WHEELS:-}" ]; then
    python3 -m pip install -q --no-index --no-deps --no-cache-dir --target "$work/site" "$WHEELS"/*.whl || exit 2
    export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}"
    # The benchmark loads libOpenCL.so.1. This loader reads the variable, and fails without it.
    for loader in "$work"/site/pyopencl/.libs/libOpenCL-*.so* "$work"/site/pyopencl.libs/libOpenCL-*.so*; do
        [ -e "$loader" ] && ln -sf "$loader" "$work/lib/libOpenCL.so.1"
    done
    export PYOPENCL_HOME="$work/site/pyopencl"
    ldconfig -p 2>/dev/null | grep -q 'libOpenCL\.so\.1' ||
        export LD_LIBRARY_PATH="$work/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi

failed=0
# step NAME WORDS...: a command, its text and its exit code.
step() {
    name=$1
    shift
    echo "== $*"
    timeout 470 "$@" >"$out/$name.txt" 2>&1
    code=$?
    cat "$out/$name.txt"
    echo "== exit code $code" | tee "$out/$name.exit_code.txt"
    [ $code -eq 0 ] || failed=1
}
programs() {
    name=$1
    shift
    step "$name" python3 "$here/opencl.py" --xsched "$bin/xsched" --vendor "$vendor" \
        --device-kind "${KIND:-gpu}" --rounds 1 "$@"
}

step devices "$bin/xsched" doctor --platform opencl
for section; do
    case $section in
    programs) programs programs --seconds 24 --alone-seconds 4 ;;
    kill) programs kill --seconds 12 --alone-seconds 2 --kill ;;
    models) step models "$bin/xsched" bench dual-model --device opencl --rounds 2 --duration 42 --out "$out/models" ;;
    overhead) step overhead "$bin/xsched" bench overhead --device opencl --model resnet50 --out "$out/overhead" ;;
    *)
        echo "opencl_gpu.sh: there is no section $section" >&2
        failed=1
        ;;
    esac
done
exit $failed
