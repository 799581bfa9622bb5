//! Test double: a stand-in `libcuda.so.1`, and `libamdhip64.so.6`, for machines without a GPU. Never
//! shipped.
//!
//! It executes streams asynchronously and in order, as a device would, with set durations, and it
//! shares each device among all processes that name the same file. Its devices are called
//! "Stand-in GPU", and no figure that it produces is a result.
//!
//! # Use
//! `cargo` builds `libstandin_cuda.so` beside the tests of every package that has this one under
//! `[dev-dependencies]`. A test makes a folder with links `libcuda.so.1` and `libcuda.so` to it, and
//! starts clients with that folder in `LD_LIBRARY_PATH`. `tests/support` does that for the tests here.
//! How the channel for time slices works is said in `cuda/control.rs`, that for compute queues in
//! `hip/kfd.rs`. The HIP runtime is linked by the tests from `libstandin_cuda.a` with `hip.map`, which
//! gives its symbols their versions: `crates/platform/hip/tests/common`.
//!
//! # Environment, read at the first call
//! | name | meaning | default |
//! |---|---|---|
//! | `STANDIN_DEVICES` | number of devices | 1 |
//! | `STANDIN_SHM` | file through which processes share the devices | devices of this process alone |
//! | `STANDIN_FAIL` | `NAME:CODE,…`: these entry points, in all versions, fail with that `CUresult`; `ioctl:EPERM` (or `EINVAL`, `ENOTTY`, a number) refuses requests that others make on the control channel | none |
//! | `STANDIN_DRIVER_VERSION` | what `cuDriverGetVersion` says, and the newest that `cuGetProcAddress` gives | 13000 |
//! | `STANDIN_MPS` | anything: the devices say that they are shared through MPS | |
//! | `STANDIN_WAIT` | what a stream of HIP's waits on: `signals` (signal memory), `anywhere`, `none` | `signals` |
//! | `STANDIN_EXIT` | `wait`: the exit of a process waits for its commands | it does not |
//! | `STANDIN_MEMORY_MIB` | memory of a device, for each process | 4096 |
//! | `CUDA_VISIBLE_DEVICES`, `CUDA_LAUNCH_BLOCKING`, `CUDA_MODULE_LOADING=EAGER`, `HIP_VISIBLE_DEVICES` | as there (indices only) | |
//! | `CUDA_DEVICE_MAX_CONNECTIONS` | as there, for HIP's streams as well | 8 |
//!
//! # Kernels
//! Any image loads as a module, and every module has these functions. `address` is 8 bytes, every
//! other parameter a `u32`; the grid does not matter. A kernel has the whole device for its
//! duration, and its effect at its end.
//!
//! | function | parameters | duration | effect |
//! |---|---|---|---|
//! | `spin_us` | µs | µs | none |
//! | `write_u32`, `write_u32_us` | address, value (, µs) | 1 µs, or µs | stores value |
//! | `add_u32`, `add_u32_us` | address, value (, µs) | 1 µs, or µs | adds value |
//! | `append_u32`, `append_u32_us` | address, value (, µs) | 1 µs, or µs | the word counts the words behind it: adds one |
//! | `matmul_u32` | product, factor, factor, rows | 1 µs | multiplies square matrices of words |
//! | `until_u32` | address, value | until the word equals value | none |
//! | `xsched_bench_work` | data, counter, done (addresses), rounds, sequence | 1 µs and 10 ns a round | the rounds on the first 256 words of data, then done = sequence |
//! | `xsched_bench_empty` | none | 1 µs | none |
//!
//! The last two are those of the benchmarks' built-in workload (`crates/bench/src/worker/cuda`).
//!
//! # What it models
//! - **Time.** Device time is the clock's (`CLOCK_MONOTONIC`), but exact: a thread that wakes late
//!   changes when a completion is seen, not when it happened. Only kernels take device time. (A
//!   wait for a value that is first looked at more than 0.2 ms late ends with that look. A test that
//!   needs a stream to stand at a gate submits a write and the wait as one batch, and waits for the
//!   write: `Cuda::hold` in `tests/support`.)
//! - **Kernels** run one at a time, by stream priority, then by who was ready first. Copies, fills,
//!   events and values in memory are executed beside them; host functions in one thread.
//! - **Processes** on a device take turns of 2 ms, round robin, 0.2 ms a change, while more than one
//!   has kernels to run. `SET_TIMESLICE` changes the length of a process's turns. A process that ends
//!   or is killed loses its turn within 20 ms, a stopped one after 0.5 s.
//! - **Connections**: streams reach the device through eight of them, in turn. Kernels as they begin, and
//!   reads and writes of values in memory, leave a connection in the order of submission, so that a stream
//!   may stand behind a wait of another one. A graph's first branch has that of the stream it is launched in.
//! - **A full stream** (1,000 commands) makes a launch wait in the caller.
//! - **Waits for a whole context**: the first launch of a function (lazy loading), `cuStreamCreate`,
//!   freeing, unregistering, unloading, destroying a context. A real driver does so in part of the
//!   cases; here always, so that tests meet the worst.
//! - **The legacy default stream** waits for all blocking streams of its context, and they for it.
//! - **Captures** become graphs; calls that a capture forbids fail and spoil it. A graph's branches
//!   run side by side, launches of one executable graph one after another.
//! - Addresses that a device could not reach (pageable host memory) are refused for values in memory
//!   and as kernel parameters.
//!
//! `standin_account` and `standin_accounts` tell a test what each process got, in device time.
//!
//! Layout: `core` is the device, without a name from any platform's API; `cuda` stands before it; `hip`
//! is a layer on `cuda`, as HIP on NVIDIA GPUs is.

mod core;
mod cuda;
mod hip;
