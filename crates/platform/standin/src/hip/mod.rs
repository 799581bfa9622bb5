//! The HIP runtime API: a layer on the driver in `cuda`, as HIP on NVIDIA GPUs is one. Each device has
//! its primary context; a thread has a device, 0 at first, and an error that it asks for.

mod copies;
pub(crate) mod kfd;
mod launch;
mod memory;
mod runtime;
mod stream;

use std::{
    cell::Cell,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::cuda::{
    abi::Handle,
    driver::{Driver, with_stack},
    result,
};

thread_local! {
    static DEVICE: Cell<usize> = const { Cell::new(0) };
    static LAST_ERROR: Cell<i32> = const { Cell::new(0) };
}

static IN_FRONT: AtomicBool = AtomicBool::new(false);

/// Whether programs see HIP, and the kernel driver is AMD's.
pub(crate) fn is_in_front() -> bool {
    IN_FRONT.load(Ordering::Relaxed)
}

/// Defines entry points whose bodies, with the calling thread's context current, give a code; after a
/// semicolon those with a variant whose null stream is the thread's, whose body sees which it is.
macro_rules! api {
    (
        $(fn $name:ident $arguments:tt $body:block)*
        $(; $(fn $both:ident / $per_thread:ident $both_arguments:tt |$null:ident| $both_body:block)*)?
    ) => {
        $($crate::hip::entry!($name $arguments $body);)*
        $($(
            $crate::hip::entry!($both $both_arguments {
                let $null = $crate::cuda::stream::Null::Legacy;
                $both_body
            });
            $crate::hip::entry!($per_thread $both_arguments {
                let $null = $crate::cuda::stream::Null::PerThread;
                $both_body
            });
        )*)?

        /// Symbols and addresses of this file's entry points.
        pub(in crate::hip) fn entries() -> Vec<(&'static str, usize)> {
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

/// Defines one entry point.
macro_rules! entry {
    ($name:ident ($($argument:ident: $type:ty),* $(,)?) $body:block) => {
        #[cfg_attr(not(test), unsafe(no_mangle))]
        #[allow(non_snake_case, reason = "the API's own names")]
        #[allow(clippy::too_many_arguments, reason = "the API's signature")]
        pub(crate) extern "C" fn $name($($argument: $type),*) -> i32 {
            $crate::hip::enter(stringify!($name), || $body)
        }
    };
}

use {api, entry};

/// Entry points that need no context, and whose success is no news.
const LIGHT: [&str; 6] = [
    "hipGetDevice",
    "hipSetDevice",
    "hipGetDeviceCount",
    "hipGetLastError",
    "hipPeekAtLastError",
    "hipGetProcAddress",
];

/// Every entry point passes here: told to fail? initialised? on which device?
fn enter(name: &str, body: impl FnOnce() -> i32) -> i32 {
    IN_FRONT.store(true, Ordering::Relaxed);
    let driver = Driver::get();
    let is_question = name.ends_with("LastError");
    let result = match driver.config.failure(name) {
        Some(code) => code,
        None if LIGHT.contains(&name) => body(),
        None if crate::core::machine::in_host_function() => result::NOT_PERMITTED.0,
        None => match context(driver) {
            Ok(_) => body(),
            Err(error) => error.0,
        },
    };
    if result != 0 && result != result::NOT_READY.0 && !is_question {
        LAST_ERROR.set(result);
    }
    result
}

/// The calling thread's context, made if need be.
fn context(driver: &Driver) -> result::Result<Handle> {
    driver.initialise()?;
    let device = DEVICE.get();
    let known = driver.tables().primaries[device].context;
    let context = match known {
        Some(context) => context,
        None => {
            let context = driver.retain_primary(device)?;
            kfd::open(device);
            context
        }
    };
    with_stack(|stack| *stack = vec![context]);
    Ok(context)
}

/// Symbols and addresses of all entry points.
fn all_entries() -> Vec<(&'static str, usize)> {
    let lists = [
        copies::entries(),
        launch::entries(),
        memory::entries(),
        runtime::entries(),
        stream::entries(),
    ];
    let mut all = lists.concat();
    all.extend(launch::registration());
    all.push((
        "hipGetStreamDeviceId",
        stream::hipGetStreamDeviceId as *const () as usize,
    ));
    all.push((
        "hipGetErrorName",
        runtime::hipGetErrorName as *const () as usize,
    ));
    all.push(("standin_kfd", kfd::standin_kfd as *const () as usize));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_point_has_a_version_but_the_stand_ins_own() {
        let map = include_str!("../../hip.map");
        let words = map.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        let begins = ["hip", "__hip", "_Z24hip"];
        let is_name = |word: &&str| begins.iter().any(|begin| word.starts_with(begin));
        let mut versioned: Vec<_> = words.filter(is_name).collect();
        versioned.retain(|word| !word.starts_with("hip_"));
        let mut entries: Vec<_> = all_entries().into_iter().map(|entry| entry.0).collect();
        entries.retain(|name| *name != "standin_kfd");
        versioned.sort_unstable();
        entries.sort_unstable();
        assert_eq!(versioned, entries);
    }
}
