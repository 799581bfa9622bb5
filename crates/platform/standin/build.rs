//! Names the library as the driver that it stands in for, and keeps it loaded once its threads run.
//! Its own entry points are what it means by their names, as a driver's are, whatever is preloaded.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic-functions");
    // Tests that look at the requests as a preloaded shim would define `ioctl` themselves.
    println!("cargo::rustc-link-arg-tests=-Wl,--export-dynamic-symbol=ioctl");
}
