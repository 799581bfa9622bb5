//! The CUDA driver API in front of the device: entry points, handles, contexts, streams, graphs.

pub(crate) mod abi;
pub(crate) mod capture;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod control;
pub(crate) mod copy;
pub(crate) mod device;
pub(crate) mod driver;
pub(crate) mod event;
pub(crate) mod graph;
pub(crate) mod graph_api;
pub(crate) mod green;
pub(crate) mod launch;
pub(crate) mod lookup;
pub(crate) mod memory;
pub(crate) mod result;
pub(crate) mod stream;
pub(crate) mod stream_api;
pub(crate) mod submit;

use driver::Driver;
use result::Result;

/// Defines entry points: first those without a variant for per-thread default streams, then, after a
/// semicolon, those with one. The latter's body sees which stream a null handle means.
macro_rules! api {
    (
        $(fn $name:ident $arguments:tt |$driver:ident| $body:block)*
        $(; $(fn $both:ident / $per_thread:ident $both_arguments:tt
            |$both_driver:ident, $null:ident| $both_body:block)*)?
    ) => {
        $($crate::cuda::entry!($name $arguments |$driver| $body);)*
        $($(
            $crate::cuda::entry!($both $both_arguments |$both_driver| {
                let $null = $crate::cuda::stream::Null::Legacy;
                $both_body
            });
            $crate::cuda::entry!($per_thread $both_arguments |$both_driver| {
                let $null = $crate::cuda::stream::Null::PerThread;
                $both_body
            });
        )*)?

        /// Symbols and addresses of this file's entry points.
        pub(crate) fn entries() -> Vec<(&'static str, usize)> {
            vec![
                $((stringify!($name), $name as *const () as usize),)*
                $($(
                    (stringify!($both), $both as *const () as usize),
                    (stringify!($per_thread), $per_thread as *const () as usize),
                )*)?
            ]
        }
    };
}

/// Defines one entry point. Unit tests do not export it: they would stand in for themselves.
macro_rules! entry {
    ($name:ident ($($argument:ident: $type:ty),* $(,)?) |$driver:ident| $body:block) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        #[allow(non_snake_case, reason = "the API's own names")]
        pub(crate) extern "C" fn $name($($argument: $type),*) -> i32 {
            $crate::cuda::enter(stringify!($name), |$driver| $body)
        }
    };
}

use {api, entry};

/// Entry points that work before `cuInit`.
const EARLY: [&str; 6] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuGetProcAddress",
    "cuGetProcAddress_v2",
    "cuGetErrorName",
    "cuGetErrorString",
];

/// Every entry point passes here: told to fail? initialised? in a host function?
fn enter(name: &str, body: impl FnOnce(&'static Driver) -> Result<()>) -> i32 {
    let driver = Driver::get();
    let early = EARLY.contains(&name);
    if let Some(code) = driver.config.failure(name) {
        return code;
    }
    if !early && crate::core::machine::in_host_function() {
        return result::NOT_PERMITTED.0;
    }
    if !early && !driver.is_initialised() {
        return result::NOT_INITIALIZED.0;
    }
    abi::code(body(driver))
}
