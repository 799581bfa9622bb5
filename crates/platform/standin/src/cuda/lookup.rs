//! What `cuGetProcAddress` finds: entry points by name, API version and default-stream flavour.

use std::{collections::HashMap, sync::OnceLock};

use super::{
    config::base, context, copy, device, event, graph_api, green, launch, memory, stream_api,
};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Entry(usize),
    /// There is such an entry point, but only in later versions of the API.
    TooOld,
    Nothing,
}

/// Versions of the API (1000 × major + 10 × minor) in which entry points came to be, where one name
/// has several or is recent: symbol, version. All others are as old as the API.
const SINCE: &[(&str, i32)] = &[
    ("cuStreamCreateWithPriority", 5050),
    ("cuStreamAddCallback", 5000),
    ("cuLaunchHostFunc", 10_000),
    ("cuLaunchCooperativeKernel", 9000),
    ("cuLaunchKernelEx", 11_080),
    ("cuStreamWaitValue32", 8000),
    ("cuStreamWaitValue64", 9000),
    ("cuStreamWriteValue32", 8000),
    ("cuStreamWriteValue64", 9000),
    ("cuStreamWaitValue32_v2", 11_070),
    ("cuStreamWaitValue64_v2", 11_070),
    ("cuStreamWriteValue32_v2", 11_070),
    ("cuStreamWriteValue64_v2", 11_070),
    ("cuStreamBatchMemOp_v2", 11_070),
    ("cuStreamBeginCapture_v2", 10_010),
    ("cuStreamEndCapture", 10_000),
    ("cuStreamIsCapturing", 10_000),
    ("cuThreadExchangeStreamCaptureMode", 10_010),
    ("cuStreamGetCaptureInfo", 10_010),
    ("cuStreamGetCaptureInfo_v2", 11_030),
    ("cuStreamGetCaptureInfo_v3", 12_030),
    ("cuStreamUpdateCaptureDependencies", 11_030),
    ("cuStreamUpdateCaptureDependencies_v2", 12_030),
    ("cuStreamGetCtx_v2", 12_050),
    ("cuGreenCtxCreate", 12_040),
    ("cuGreenCtxDestroy", 12_040),
    ("cuGreenCtxStreamCreate", 12_050),
    ("cuCtxFromGreenCtx", 12_040),
    ("cuStreamGetId", 12_000),
    ("cuStreamGetDevice", 12_080),
    ("cuEventRecordWithFlags", 11_010),
    ("cuEventElapsedTime_v2", 12_080),
    ("cuCtxCreate_v2", 3020),
    ("cuCtxCreate_v3", 11_040),
    ("cuCtxCreate_v4", 12_050),
    ("cuCtxGetDevice_v2", 13_000),
    ("cuCtxSynchronize_v2", 13_000),
    ("cuCtxGetId", 12_000),
    ("cuCtxSetFlags", 12_010),
    ("cuDevicePrimaryCtxRetain", 7000),
    ("cuDevicePrimaryCtxRelease_v2", 7000),
    ("cuDevicePrimaryCtxReset_v2", 7000),
    ("cuDevicePrimaryCtxSetFlags_v2", 7000),
    ("cuDeviceGetUuid", 9020),
    ("cuDeviceGetUuid_v2", 11_040),
    ("cuMemAllocAsync", 11_020),
    ("cuMemFreeAsync", 11_020),
    ("cuMemAllocFromPoolAsync", 11_020),
    ("cuDeviceGetDefaultMemPool", 11_020),
    ("cuDeviceGetMemPool", 11_020),
    ("cuDeviceSetMemPool", 11_020),
    ("cuMemPrefetchAsync", 8000),
    ("cuMemPrefetchAsync_v2", 12_020),
    ("cuModuleGetLoadingMode", 11_070),
    ("cuGetProcAddress", 11_030),
    ("cuGetProcAddress_v2", 12_000),
    ("cuGraphCreate", 10_000),
    ("cuGraphAddKernelNode", 10_000),
    ("cuGraphAddKernelNode_v2", 12_000),
    ("cuGraphAddBatchMemOpNode", 11_070),
    ("cuGraphBatchMemOpNodeGetParams", 11_070),
    ("cuGraphAddEventRecordNode", 11_010),
    ("cuGraphAddEventWaitNode", 11_010),
    ("cuGraphAddDependencies", 10_000),
    ("cuGraphAddDependencies_v2", 12_030),
    ("cuGraphGetEdges", 10_000),
    ("cuGraphGetEdges_v2", 12_030),
    ("cuGraphInstantiate_v2", 11_000),
    ("cuGraphInstantiateWithFlags", 11_040),
    ("cuGraphInstantiateWithParams", 12_000),
    ("cuGraphExecGetFlags", 12_000),
    ("cuGraphUpload", 11_010),
    ("cuGraphLaunch", 10_000),
    ("cuGraphExecUpdate", 10_020),
    ("cuGraphExecUpdate_v2", 12_000),
];

/// A symbol under another name: name, symbol, version.
const ALIASES: &[(&str, &str, i32)] =
    &[("cuGraphInstantiate", "cuGraphInstantiateWithFlags", 12_000)];

#[derive(Debug)]
struct Entry {
    since: i32,
    address: usize,
}

#[derive(Debug, Default)]
struct Versions {
    legacy: Vec<Entry>,
    per_thread: Vec<Entry>,
}

/// The newest entry point called `name` that a program made for `version` of the API may use.
pub(crate) fn find(name: &str, version: i32, per_thread: bool) -> Found {
    let Some(versions) = table().get(name) else {
        return Found::Nothing;
    };
    let list = if per_thread && !versions.per_thread.is_empty() {
        &versions.per_thread
    } else {
        &versions.legacy
    };
    let usable = list.iter().filter(|entry| entry.since <= version);
    usable
        .max_by_key(|entry| entry.since)
        .map_or(Found::TooOld, |entry| Found::Entry(entry.address))
}

fn table() -> &'static HashMap<String, Versions> {
    static TABLE: OnceLock<HashMap<String, Versions>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table: HashMap<String, Versions> = HashMap::new();
        for (symbol, address) in symbols() {
            let plain = symbol.trim_end_matches("_ptsz").trim_end_matches("_ptds");
            let since = SINCE.iter().find(|(name, _)| *name == plain);
            let since = since.map_or(2000, |(_, since)| *since);
            let aliases = ALIASES.iter().filter(|(_, target, _)| *target == plain);
            let names = aliases
                .map(|(name, _, since)| (*name, *since))
                .chain([(base(symbol), since)]);
            for (name, since) in names {
                let versions = table.entry(name.to_owned()).or_default();
                let list = if plain == symbol {
                    &mut versions.legacy
                } else {
                    &mut versions.per_thread
                };
                list.push(Entry { since, address });
            }
        }
        table
    })
}

fn symbols() -> impl Iterator<Item = (&'static str, usize)> {
    let files = [
        context::entries(),
        copy::entries(),
        device::entries(),
        event::entries(),
        graph_api::entries(),
        green::entries(),
        launch::entries(),
        memory::entries(),
        stream_api::entries(),
    ];
    files.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(symbol: &str) -> usize {
        symbols().find(|(name, _)| *name == symbol).unwrap().1
    }

    #[test]
    fn names_lead_to_the_newest_allowed_symbol() {
        for (name, version, per_thread, symbol) in [
            ("cuMemAlloc", 12_000, false, "cuMemAlloc_v2"),
            ("cuCtxCreate", 12_000, false, "cuCtxCreate_v3"),
            ("cuCtxCreate", 13_000, false, "cuCtxCreate_v4"),
            ("cuLaunchKernel", 12_000, true, "cuLaunchKernel_ptsz"),
            ("cuMemcpyHtoD", 12_000, true, "cuMemcpyHtoD_v2_ptds"),
            ("cuMemAlloc", 12_000, true, "cuMemAlloc_v2"),
            (
                "cuGraphInstantiate",
                12_000,
                false,
                "cuGraphInstantiateWithFlags",
            ),
            ("cuGraphInstantiate", 11_040, false, "cuGraphInstantiate_v2"),
            ("cuStreamWaitValue32", 11_000, false, "cuStreamWaitValue32"),
            (
                "cuStreamWaitValue32",
                12_000,
                true,
                "cuStreamWaitValue32_v2_ptsz",
            ),
            ("cuGetProcAddress", 12_000, false, "cuGetProcAddress_v2"),
        ] {
            let found = find(name, version, per_thread);
            assert_eq!(found, Found::Entry(address(symbol)), "{name} {version}");
        }
        assert_eq!(find("cuLaunchKernelEx", 11_000, false), Found::TooOld);
        assert_eq!(find("cuNothing", 13_000, false), Found::Nothing);
        assert_eq!(find("cuMemAlloc_v2", 13_000, false), Found::Nothing);
    }

    #[test]
    fn every_version_is_that_of_a_symbol() {
        for (name, _) in SINCE {
            assert!(symbols().any(|(symbol, _)| symbol == *name), "{name}");
        }
    }
}
