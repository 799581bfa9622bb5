//! Names the library as the driver that it stands in for, and keeps it loaded once its threads run.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // Tests that look at the requests as a preloaded shim would define `ioctl` themselves.
    println!("cargo::rustc-link-arg-tests=-Wl,--export-dynamic-symbol=ioctl");
}
