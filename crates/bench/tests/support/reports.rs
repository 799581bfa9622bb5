//! What a worker's reports say.

use xsched_bench::worker::protocol::Report;

/// Commands of a request, level, and the digest of the outputs.
pub(crate) fn measured(reports: &[Report]) -> (usize, u8, String) {
    let (
        Some(Report::Ready {
            commands, level, ..
        }),
        Some(result),
    ) = (reports.first(), reports.last())
    else {
        panic!("{reports:?}")
    };
    let Report::Result {
        completed,
        digest,
        digests_equal,
        ..
    } = result
    else {
        panic!("{reports:?}")
    };
    assert!(*completed > 0 && *digests_equal);
    (*commands, *level, digest.clone())
}
