//! Descriptors whose closing waits, sent by a client, hold up that client's session alone.

mod common;

use std::{
    io::{ErrorKind, IoSlice, Write},
    mem::MaybeUninit,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
};

use common::*;
use rustix::{
    event::{EventfdFlags, eventfd},
    net::{
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg,
        sockopt::set_socket_linger,
    },
};
use xsched_server::api;
use xsched_wire::{VERSION, message::HELLO_MAGIC, packet, segment::OwnSegment};

/// A TCP socket that takes three times the tests' patience to close, unless its peer, which
/// comes with it, is closed before.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    set_socket_linger(&socket, Some(PATIENCE * 3)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let full = loop {
        if let Err(error) = socket.write(&[0; 1 << 16]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    (socket.into(), peer)
}

/// Sends `bytes` with `count` lingering descriptors, of which the packet then has the only copies.
/// Their peers keep them lingering.
fn send_lingering(socket: &OwnedFd, bytes: &[u8], count: usize) -> Vec<TcpStream> {
    let (fds, peers): (Vec<_>, Vec<_>) = (0..count).map(|_| lingering()).unzip();
    let fds: Vec<OwnedFd> = fds;
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    let flags = SendFlags::NOSIGNAL;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags).unwrap();
    peers
}

/// Somebody connected and sent, by `offend`, before the daemon looked: it serves others anyway.
/// A daemon that closed what was sent would stand still for longer than the others wait.
#[track_caller]
fn check_serves(offend: impl FnOnce(&OwnedFd) -> Vec<TcpStream>) {
    let mut offender = None;
    let daemon = TestDaemon::start_after(
        tempfile::tempdir().unwrap(),
        |_| {},
        |path| {
            let socket = connect_to(path);
            let peers = offend(&socket);
            offender = Some((socket, peers));
        },
    );
    let (high, low) = high_and_low(&daemon);
    check_scheduled(&high, &low);
    let status = || daemon.api().get::<api::Status>(api::path::STATUS).unwrap();
    wait_until("offender gone", || status().clients == 2);
    check_scheduled(&high, &low);
    drop(offender);
}

fn send_good_hello(socket: &OwnedFd) {
    let segment = OwnSegment::create().unwrap();
    let bell = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let hello = hello("offender", None);
    packet::send_hello(socket, &hello, segment.as_fd(), bell.as_fd()).unwrap();
}

/// A hello that is right but for its descriptors.
fn hello_bytes() -> Vec<u8> {
    let mut bytes = Vec::from(HELLO_MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend([0, 0, 0]); // no name, no job, no hints
    bytes
}

#[test]
fn descriptors_with_garbage_are_closed_elsewhere() {
    for count in [1, 2, 3, 8] {
        check_serves(|socket| send_lingering(socket, b"?", count));
    }
}

#[test]
fn descriptors_with_a_hello_are_closed_elsewhere() {
    for count in [1, 2, 3, 8] {
        check_serves(|socket| send_lingering(socket, &hello_bytes(), count));
    }
}

#[test]
fn descriptors_with_a_message_are_closed_elsewhere() {
    check_serves(|socket| {
        send_good_hello(socket);
        send_lingering(socket, &[0xff; 9], 1)
    });
}

#[test]
fn descriptors_that_nobody_received_are_closed_elsewhere() {
    check_serves(|socket| {
        send(socket, b"?", SendFlags::NOSIGNAL).unwrap();
        send_lingering(socket, b"?", 1)
    });
}
