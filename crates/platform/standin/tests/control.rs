//! The control channel as a shim sees it: groups and slices by `ioctl`, in every way of loading.

mod support;

#[path = "support/channel.rs"]
mod channel;

use channel::{ALLOC, CONTROL, FREE, GET_TIMESLICE, SET_TIMESLICE};
use support::{Cuda, Handle, client, driver_folder};

/// Runs `body` in a client that loads the driver by `dlopen`, and in one that has it preloaded.
fn however_loaded(environment: &[(&str, &str)], body: fn(&Cuda)) {
    let preloaded = driver_folder().join("libcuda.so.1");
    let mut environment = environment.to_vec();
    client(&environment, body);
    if support::role().is_some() {
        return;
    }
    environment.push(("LD_PRELOAD", preloaded.to_str().unwrap()));
    client(&environment, body);
}

#[test]
fn a_context_allocates_groups_sets_a_slice_and_frees_them() {
    however_loaded(&[], |cuda| {
        let context = cuda.start();
        let engines: Vec<_> = channel::seen()
            .iter()
            .filter(|seen| seen.number == ALLOC)
            .map(|seen| (seen.kind, seen.value))
            .collect();
        assert_eq!(engines, [(0xa06c, 1), (0xa06c, 9), (0xa06c, 10)]);
        let compute = channel::compute();
        let set: Vec<_> = channel::seen()
            .into_iter()
            .filter(|seen| seen.number == CONTROL)
            .collect();
        assert_eq!(set.len(), 1);
        let expected = (compute.object, SET_TIMESLICE, 2_000);
        assert_eq!((set[0].object, set[0].kind, set[0].value), expected);
        ok!(cuda, cuCtxDestroy_v2(context => Handle));
        let freed = channel::seen();
        let mut freed = freed.iter().filter(|seen| seen.number == FREE);
        assert!(freed.any(|seen| seen.object == compute.object));
    });
}

#[test]
fn a_slice_can_be_set_and_read_by_libc_and_by_system_call() {
    however_loaded(&[], |cuda| {
        cuda.start();
        let group = channel::compute();
        let control = |command, value, raw| {
            channel::control(
                group.descriptor,
                group.client,
                group.object,
                command,
                value,
                raw,
            )
            .unwrap()
        };
        for (raw, slice) in [(false, 500), (true, 1)] {
            assert_eq!(control(SET_TIMESLICE, slice, raw), (0, slice));
            assert_eq!(control(GET_TIMESLICE, 0, raw), (0, slice));
            assert_eq!(cuda.account().2, slice * 1_000);
        }
        // No such slice, no such command, no such object.
        assert_eq!(control(SET_TIMESLICE, 0, false).0, 0x1f);
        assert_eq!(control(0xa06c_0101, 1, false).0, 0x56);
        let stranger = channel::control(group.descriptor, group.client, 1, SET_TIMESLICE, 1, false);
        assert_eq!(stranger.unwrap().0, 0x33);
        assert_eq!(cuda.account().2, 1_000);
    });
}

#[test]
fn other_engines_leave_the_slice_alone() {
    client(&[], |cuda| {
        cuda.start();
        let groups = channel::seen();
        let copy = groups
            .iter()
            .find(|seen| seen.number == ALLOC && seen.value == 9);
        let copy = copy.unwrap();
        let set = channel::control(
            copy.descriptor,
            copy.client,
            copy.object,
            SET_TIMESLICE,
            7,
            false,
        );
        assert_eq!((set.unwrap(), cuda.account().2), ((0, 7), 2_000_000));
    });
}

#[test]
fn requests_of_others_are_refused_when_told_to() {
    however_loaded(&[("STANDIN_FAIL", "ioctl:EPERM")], |cuda| {
        cuda.start();
        let group = channel::compute();
        for raw in [false, true] {
            let refused = channel::control(
                group.descriptor,
                group.client,
                group.object,
                SET_TIMESLICE,
                1,
                raw,
            );
            assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EPERM));
        }
        assert_eq!(cuda.account().2, 2_000_000);
    });
}

#[test]
fn requests_on_other_descriptors_go_to_the_kernel() {
    however_loaded(&[], |cuda| {
        cuda.start();
        let null = std::fs::File::open("/dev/null").unwrap();
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&null);
        for raw in [false, true] {
            let refused = channel::control(descriptor, 1, 1, SET_TIMESLICE, 1, raw);
            assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        }
    });
}
