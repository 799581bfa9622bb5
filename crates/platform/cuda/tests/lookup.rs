//! Every way to a driver function leads to its hook, and lookups of others stay what they were.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CString, c_char, c_void},
    path::Path,
    process::{Command, Output},
};

use common::{
    LOCAL, compile, observed, preloaded, scene, shim, shimmed,
    support::{self, Cuda, SUCCESS, driver_folder},
    symbol_at, text,
};

const SHIM: &str = "libshimcuda.so";

/// What the stand-in does not have; real drivers do.
const LACKING: [&str; 26] = [
    "cuFuncLoad",
    "cuGraphInstantiate",
    "cuKernelGetFunction",
    "cuLibraryGetKernel",
    "cuLibraryGetModule",
    "cuLibraryLoadData",
    "cuLibraryLoadFromFile",
    "cuLibraryUnload",
    "cuMemMap",
    "cuMemPoolDestroy",
    "cuMemRelease",
    "cuMemUnmap",
    "cuMemcpy3DBatchAsync",
    "cuMemcpy3DBatchAsync_ptsz",
    "cuMemcpy3DBatchAsync_v2",
    "cuMemcpy3DBatchAsync_v2_ptsz",
    "cuMemcpyBatchAsync",
    "cuMemcpyBatchAsync_ptsz",
    "cuMemcpyBatchAsync_v2",
    "cuMemcpyBatchAsync_v2_ptsz",
    "cuMipmappedArrayDestroy",
    "cuModuleLoad",
    "cuStreamBeginCapture",
    "cuStreamBeginCaptureToGraph",
    "cuStreamBeginCaptureToGraph_ptsz",
    "cuStreamBeginCapture_ptsz",
];

/// Every function that has a hook, by the table itself.
fn hooked() -> BTreeSet<String> {
    let names = include_str!("../src/hooks.rs").split("c\"cu").skip(1);
    let names = names.filter_map(|rest| rest.split('"').next());
    names.map(|name| format!("cu{name}")).collect()
}

/// The same, of those that the stand-in has.
fn reachable() -> BTreeSet<String> {
    let lacking = LACKING.map(str::to_owned).into();
    let hooked = hooked();
    assert!(
        hooked.is_superset(&lacking),
        "LACKING names what has no hook"
    );
    hooked.difference(&lacking).cloned().collect()
}

/// The answer of a hook without a driver.
const NOT_FOUND: i32 = 500;

/// Driver functions without a hook.
const OTHERS: [&str; 5] = [
    "cuInit",
    "cuMemGetInfo_v2",
    "cuEventCreate",
    "cuCtxGetDevice",
    "cuStreamGetFlags_ptsz",
];

/// The preloaded shim, or any other file.
fn is_shim(file: &str) -> bool {
    file == SHIM
}

#[test]
fn dlopen_and_dlsym_find_every_hook() {
    shimmed(&[], |_| {
        for library in [c"libcuda.so.1", c"libcuda.so"] {
            // SAFETY: a C string; the stand-in does nothing when it is loaded.
            let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_LAZY) };
            assert!(!handle.is_null());
            let find = |name: &str| {
                let name = CString::new(name).unwrap();
                // SAFETY: a handle and a C string.
                let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
                symbol_at(found)
            };
            for name in hooked() {
                let expected = (SHIM.to_owned(), name.clone());
                let expected = (!LACKING.contains(&name.as_str())).then_some(expected);
                assert_eq!(find(&name), expected, "{library:?}");
            }
            for name in OTHERS {
                let (file, symbol) = find(name).unwrap();
                assert!(!is_shim(&file) && symbol == name, "{name}: {file} {symbol}");
            }
        }
    });
}

#[test]
fn a_hook_that_is_called_before_the_driver_is_there_finds_it_later() {
    let output = observed(&preloaded(&shim(), &[]), || {
        // SAFETY: a C string; the shim exports this name.
        let early = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"cuGetProcAddress_v2".as_ptr()) };
        // SAFETY: the shim's own, of this type.
        let early: GetProcAddressV2 = unsafe { std::mem::transmute(early) };
        let (mut place, mut status) = (std::ptr::null_mut(), 0);
        let mut ask = || early(c"cuInit".as_ptr(), &mut place, 12_000, 0, &mut status);
        assert_eq!(ask(), NOT_FOUND);
        Cuda::load().start();
        assert_eq!(ask(), SUCCESS);
    });
    if let Some(output) = output {
        assert!(output.status.success(), "{}", text(&output));
    }
}

/// Versions of the API for which programs ask.
const VERSIONS: [i32; 14] = [
    2000, 3020, 5050, 7000, 8000, 10_000, 10_010, 11_000, 11_040, 11_070, 12_000, 12_020, 12_080,
    13_000,
];
/// Default, legacy default stream, per-thread default stream.
const FLAGS: [u64; 3] = [0, 1, 2];

type GetProcAddress = extern "C" fn(*const c_char, *mut *mut c_void, i32, u64) -> i32;
type GetProcAddressV2 = extern "C" fn(*const c_char, *mut *mut c_void, i32, u64, *mut u32) -> i32;

/// A client that prints what it finds by `cuGetProcAddress`: question, file and symbol.
fn list() {
    let cuda = Cuda::load();
    ok!(cuda, cuInit(0 => u32));
    let (old, new): (GetProcAddress, GetProcAddressV2) = (
        cuda.symbol("cuGetProcAddress"),
        cuda.symbol("cuGetProcAddress_v2"),
    );
    let names: BTreeSet<_> = hooked()
        .iter()
        .map(String::as_str)
        .chain(OTHERS)
        .map(base)
        .collect();
    for name in names {
        let symbol = CString::new(name.as_str()).unwrap();
        for (version, flags) in VERSIONS.iter().flat_map(|v| FLAGS.map(|flags| (*v, flags))) {
            let (mut first, mut second) = (std::ptr::null_mut(), std::ptr::null_mut());
            let mut status = 9;
            let results = (
                old(symbol.as_ptr(), &mut first, version, flags),
                new(symbol.as_ptr(), &mut second, version, flags, &mut status),
            );
            assert_eq!(first, second);
            let (file, found) = symbol_at(first).unwrap_or_default();
            println!("found {name},{version},{flags},{results:?},{status}={file}={found}");
        }
    }
}

/// `cuMemAlloc` for `cuMemAlloc_v2`, as `cuGetProcAddress` takes names.
fn base(name: &str) -> String {
    let name = name.trim_end_matches("_ptsz").trim_end_matches("_ptds");
    name.trim_end_matches(['2', '3', '4'])
        .trim_end_matches("_v")
        .to_owned()
}

/// File and symbol by question.
fn answers(environment: &[(&str, &str)]) -> BTreeMap<String, (String, String)> {
    let output = support::command("list", environment).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines.lines().filter_map(|line| line.split("found ").nth(1));
    lines
        .map(|line| {
            let mut parts = line.split('=').map(str::to_owned);
            let mut part = || parts.next().unwrap();
            (part(), (part(), part()))
        })
        .collect()
}

#[test]
fn get_proc_address_finds_every_hook() {
    scene(&[("list", list)], || {
        let (plain, hooks) = (answers(&[]), answers(&preloaded(&shim(), &[])));
        assert!(
            plain.keys().eq(hooks.keys()),
            "results and status are the driver's"
        );
        let hooked = hooked();
        let mut found = BTreeSet::new();
        for (question, (file, symbol)) in hooks {
            assert_eq!(symbol, plain[&question].1, "{question}");
            assert_eq!(
                is_shim(&file),
                hooked.contains(&symbol),
                "{question}: {symbol}"
            );
            found.insert(symbol);
        }
        let missed: Vec<_> = reachable().difference(&found).cloned().collect();
        assert!(missed.is_empty(), "{missed:?}");
    });
}

/// Runs a program over the stand-in.
fn run(program: &Path, environment: &[(&str, &str)]) -> Output {
    let output = Command::new(program)
        .env("LD_LIBRARY_PATH", driver_folder())
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    output
}

const DIRECT: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#define CHECK(call) do { int r = (call); if (r) { printf("%s: %d\n", #call, r); exit(1); } } while (0)
extern int cuInit(unsigned), cuCtxCreate_v2(void **, unsigned, int),
    cuStreamCreate(void **, unsigned), cuMemAllocHost_v2(void **, unsigned long),
    cuModuleLoadData(void **, const void *), cuModuleGetFunction(void **, void *, const char *),
    cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
        void *, void **, void **), cuStreamSynchronize(void *);
DECLARATIONS
static struct { const char *name; void *address; } table[] = { TABLE };
int main(void) {
    for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
        Dl_info info;
        if (dladdr(table[i].address, &info) && info.dli_saddr == table[i].address)
            printf("%s=%s=%s\n", table[i].name, info.dli_fname, info.dli_sname);
    }
    void *context, *stream, *module, *function;
    volatile unsigned *word;
    CHECK(cuInit(0));
    CHECK(cuCtxCreate_v2(&context, 0, 0));
    CHECK(cuStreamCreate(&stream, 1));
    CHECK(cuMemAllocHost_v2((void **)&word, 4));
    CHECK(cuModuleLoadData(&module, ""));
    CHECK(cuModuleGetFunction(&function, module, "write_u32"));
    int (*level)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "xsched_level");
    unsigned value = 42;
    void *parameters[] = {&word, &value};
    do {
        CHECK(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, parameters, 0));
        CHECK(cuStreamSynchronize(stream));
        usleep(1000);
    } while (level && level() == 0);
    printf("value=%u\nlevel=%d\n", *word, level ? level() : -1);
    return 0;
}
"#;

#[test]
fn direct_linking_finds_every_hook() {
    let names = reachable();
    let declarations: String = names
        .iter()
        .filter(|name| !["cuLaunchKernel", "cuStreamSynchronize"].contains(&name.as_str()))
        .map(|name| format!("extern int {name}();\n"))
        .collect();
    let table: String = names
        .iter()
        .map(|name| format!("{{\"{name}\", (void *){name}}},\n"))
        .collect();
    let source = DIRECT
        .replace("DECLARATIONS", &declarations)
        .replace("TABLE", &table);
    let folder = driver_folder();
    let program = compile(
        "direct",
        &source,
        &[
            "-fPIE",
            "-pie",
            "-L",
            folder.to_str().unwrap(),
            "-lcuda",
            "-ldl",
        ],
    );

    let plain = String::from_utf8(run(&program, &[]).stdout).unwrap();
    assert!(plain.ends_with("value=42\nlevel=-1\n"), "{plain}");
    assert_eq!(plain.lines().count(), names.len() + 2);

    let shim = shim();
    let output = run(&program, &preloaded(&shim, &[LOCAL]));
    let lines = String::from_utf8(output.stdout).unwrap();
    for name in &names {
        let line = format!("{name}={}={name}\n", shim.display());
        assert!(lines.contains(&line), "{name} in {lines}");
    }
    assert!(lines.ends_with("value=42\nlevel=3\n"), "{lines}");
}

const DEEP: &str = "int which(void) { return 4; } int of_deep(void) { return 44; }";
const THIRD: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
int which(void) { return 3; }
static int call(void *found) { return found ? ((int (*)(void))found)() : -1; }
int next_which(void) { return call(dlsym(RTLD_NEXT, "which")); }
int default_of_deep(void) { return call(dlsym(RTLD_DEFAULT, "of_deep")); }
int own_which(void *self) { return call(dlsym(self, "which")); }
"#;
const MAIN: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
int which(void) { return 1; }
int main(int count, char **arguments) {
    void *third = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (!third) { puts(dlerror()); return 1; }
    int (*next)(void) = (int (*)(void))dlsym(third, "next_which");
    int (*inner)(void) = (int (*)(void))dlsym(third, "default_of_deep");
    int (*own)(void *) = (int (*)(void *))dlsym(third, "own_which");
    int (*mine)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "which");
    printf("%d %d %d %d %s %s\n", next(), inner(), own(third), mine(),
        dlsym(RTLD_DEFAULT, "of_deep") ? "seen" : "hidden",
        dlsym(RTLD_NEXT, "which") ? "seen" : "hidden");
    dlerror();
    dlsym(third, "nothing_at_all");
    puts(dlerror() ? "error" : "no error");
    return 0;
}
"#;

#[test]
fn pseudo_handles_mean_what_the_caller_sees() {
    let deep = compile("libdeep.so", DEEP, &["-shared", "-fPIC"]);
    let third = compile(
        "libthird.so",
        THIRD,
        &[
            "-shared",
            "-fPIC",
            "-Wl,--no-as-needed",
            deep.to_str().unwrap(),
            "-ldl",
        ],
    );
    let program = compile("lookups", MAIN, &["-rdynamic", "-ldl"]);
    for environment in [&[][..], &preloaded(&shim(), &[])] {
        let output = Command::new(&program)
            .arg(&third)
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        let said = text(&output);
        assert!(said.contains("\n4 44 3 1 hidden hidden\nerror\n"), "{said}");
    }
}
