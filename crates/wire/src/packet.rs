//! Packets on a `SOCK_SEQPACKET` socket: encode, send, receive, refuse.
//!
//! Closing a descriptor can wait for whoever made it (a TCP socket that lingers, a file that the
//! sender's own process serves), so receiving closes none, and neither does the kernel on behalf
//! of the receiver: a packet is looked at first, and taken out of the socket only if it brought no
//! descriptors, or all of them are in the caller's hands. Any other stays unread, and whoever
//! closes the socket closes what is in it.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recv as discard, recvmsg, sendmsg,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    VERSION,
    message::{HELLO_MAGIC, Hello, MAX_PACKET},
};

/// Why a packet was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The peer closed its end.
    #[error("the peer closed the connection")]
    Closed,
    /// Nothing to read, or no room to write, on a non-blocking socket.
    #[error("would block")]
    WouldBlock,
    /// The system refused.
    #[error("socket error: {0}")]
    System(Errno),
    /// More than [`MAX_PACKET`] bytes, or more descriptors than belong to it.
    #[error("packet longer than {MAX_PACKET} bytes or with too many descriptors")]
    TooLong,
    /// Not a message of this protocol.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// Another version of the protocol.
    #[error(
        "protocol version {theirs}, but this side speaks {VERSION}: use the same xsched release on both sides"
    )]
    Version {
        /// What the peer speaks.
        theirs: u16,
    },
}

impl PacketError {
    /// The peer broke the protocol, as opposed to going away.
    pub fn is_violation(&self) -> bool {
        matches!(
            self,
            PacketError::TooLong | PacketError::Malformed(_) | PacketError::Version { .. }
        )
    }
}

impl From<Errno> for PacketError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN => PacketError::WouldBlock,
            Errno::PIPE | Errno::CONNRESET => PacketError::Closed,
            other => PacketError::System(other),
        }
    }
}

/// Descriptors that a hello carries: segment, doorbell.
const HELLO_FDS: usize = 2;

/// Sends one message. Never raises `SIGPIPE`.
pub fn send<M: Serialize>(socket: impl AsFd, message: &M) -> Result<(), PacketError> {
    send_bytes(socket.as_fd(), &encode(message)?, &[])
}

/// Sends the hello with its two descriptors.
pub fn send_hello(
    socket: impl AsFd,
    hello: &Hello,
    segment: BorrowedFd<'_>,
    doorbell: BorrowedFd<'_>,
) -> Result<(), PacketError> {
    let mut bytes = Vec::from(HELLO_MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(encode(hello)?);
    send_bytes(socket.as_fd(), &bytes, &[segment, doorbell])
}

/// Receives one message. One with descriptors is refused and stays in the socket.
pub fn recv<M: DeserializeOwned>(socket: impl AsFd) -> Result<M, PacketError> {
    let mut buffer = [0; MAX_PACKET];
    let len = recv_bytes(socket.as_fd(), &mut buffer, &mut [], &mut Vec::new())?;
    decode(&buffer[..len])
}

/// Receives a hello: the message, the segment's descriptor, the doorbell's descriptor.
///
/// If it is refused, those of its descriptors that were received are added to `strays`, for the
/// caller to close where that may take its time; the others stay in the socket.
pub fn recv_hello(
    socket: impl AsFd,
    strays: &mut Vec<OwnedFd>,
) -> Result<(Hello, OwnedFd, OwnedFd), PacketError> {
    let mut buffer = [0; MAX_PACKET];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HELLO_FDS))];
    let mut fds = Vec::new();
    let hello = recv_bytes(socket.as_fd(), &mut buffer, &mut room, &mut fds)
        .and_then(|len| decode_hello(&buffer[..len]));
    let count = fds.len();
    match (hello, <[OwnedFd; HELLO_FDS]>::try_from(fds)) {
        (Ok(hello), Ok([segment, doorbell])) => Ok((hello, segment, doorbell)),
        (hello, fds) => {
            match fds {
                Ok(fds) => strays.extend(fds),
                Err(fds) => strays.extend(fds),
            }
            let reason = format!("hello with {count} descriptors, not {HELLO_FDS}");
            Err(hello.err().unwrap_or(PacketError::Malformed(reason)))
        }
    }
}

fn decode_hello(bytes: &[u8]) -> Result<Hello, PacketError> {
    let body = bytes
        .strip_prefix(&HELLO_MAGIC)
        .ok_or_else(|| PacketError::Malformed("no xsched hello".into()))?;
    let (version, body) = body
        .split_first_chunk::<2>()
        .ok_or_else(|| PacketError::Malformed("hello cut short".into()))?;
    let theirs = u16::from_le_bytes(*version);
    if theirs != VERSION {
        return Err(PacketError::Version { theirs });
    }
    decode(body)
}

fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, PacketError> {
    let bytes =
        postcard::to_stdvec(message).map_err(|error| PacketError::Malformed(error.to_string()))?;
    if bytes.len() > MAX_PACKET - HELLO_MAGIC.len() - size_of_val(&VERSION) {
        return Err(PacketError::TooLong);
    }
    Ok(bytes)
}

fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, PacketError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(PacketError::Malformed(format!(
            "{} bytes too many",
            rest.len()
        ))),
        Err(error) => Err(PacketError::Malformed(error.to_string())),
    }
}

fn send_bytes(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), PacketError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HELLO_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(PacketError::TooLong);
    }
    sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Receives a packet and as many of its descriptors as there is `room` for.
fn recv_bytes(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    room: &mut [MaybeUninit<u8>],
    fds: &mut Vec<OwnedFd>,
) -> Result<usize, PacketError> {
    let mut control = RecvAncillaryBuffer::new(room);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut control,
        RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC,
    )?;
    fds.extend(control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds).into_iter().flatten(),
        _ => None.into_iter().flatten(),
    }));
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(PacketError::TooLong);
    }
    if received.bytes == 0 {
        return Err(PacketError::Closed);
    }
    // The same packet: nobody else reads here.
    discard(socket, &mut [0; 0], RecvFlags::DONTWAIT)?;
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(PacketError::TooLong);
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use rustix::{
        fs::{MemfdFlags, memfd_create},
        net::{AddressFamily, SocketFlags, SocketType, socketpair},
        pipe::PipeFlags,
    };

    use super::*;
    use crate::message::{FromScheduler, Hints, ToScheduler};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    fn hello() -> Hello {
        Hello {
            name: "test".into(),
            job: 7,
            hints: Hints {
                priority: Some(xsched_hint::Priority::HIGH),
                ..Hints::default()
            },
        }
    }

    #[test]
    fn a_hint_out_of_range_cannot_be_read() {
        let rest = [None::<u64>; 7];
        let bytes = |priority: i32| postcard::to_stdvec(&(Some(priority), rest)).unwrap();
        let read = |priority| postcard::from_bytes::<Hints>(&bytes(priority));
        assert_eq!(read(100).unwrap(), hello().hints);
        assert!(read(256).is_err() && read(-257).is_err());
    }

    #[test]
    fn hello_arrives_with_its_descriptors() {
        let (a, b) = pair();
        let fd = memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        send_hello(&a, &hello(), fd.as_fd(), fd.as_fd()).unwrap();
        let mut strays = Vec::new();
        let (got, _, _) = recv_hello(&b, &mut strays).unwrap();
        assert_eq!((got, strays.len()), (hello(), 0));
        drop(a);
        let next = recv_hello(&b, &mut strays).unwrap_err();
        assert!(matches!(next, PacketError::Closed), "received twice");
    }

    #[test]
    fn another_version_is_named() {
        let (a, b) = pair();
        let mut bytes = Vec::from(HELLO_MAGIC);
        bytes.extend(999u16.to_le_bytes());
        bytes.extend(b"whatever that version says");
        send_bytes(a.as_fd(), &bytes, &[]).unwrap();
        let error = recv_hello(&b, &mut Vec::new()).unwrap_err();
        assert!(
            matches!(error, PacketError::Version { theirs: 999 }),
            "{error}"
        );
        assert!(error.to_string().contains("999"));
    }

    #[test]
    fn oversized_trailing_and_garbage_are_violations() {
        let (a, b) = pair();
        for bytes in [vec![0; MAX_PACKET + 1], vec![0xff; 16], {
            let mut bytes = encode(&ToScheduler::DestroyQueue { slot: 3 }).unwrap();
            bytes.push(0);
            bytes
        }] {
            send_bytes(a.as_fd(), &bytes, &[]).unwrap();
            let error = recv::<ToScheduler>(&b).unwrap_err();
            assert!(error.is_violation(), "{error}");
        }
        drop(a);
        assert!(matches!(recv::<ToScheduler>(&b), Err(PacketError::Closed)));
    }

    /// Sends `bytes` with `count` descriptors of one pipe, whose reading end it returns.
    fn send_with_fds(socket: &OwnedFd, bytes: &[u8], count: usize) -> OwnedFd {
        let (reader, writer) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let fds = vec![writer.as_fd(); count];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let flags = SendFlags::NOSIGNAL;
        sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags).unwrap();
        reader
    }

    /// Whether nobody has the pipe's other end any more.
    fn is_hung_up(reader: &OwnedFd) -> bool {
        rustix::io::read(reader, &mut [0; 1]) == Ok(0)
    }

    #[test]
    fn receiving_closes_no_descriptor() {
        let message = encode(&ToScheduler::DestroyQueue { slot: 3 }).unwrap();
        for count in [1, 2, 3, 253] {
            for (bytes, is_message) in [(&message[..], true), (b"?", false), (b"?", true)] {
                let (a, b) = pair();
                let reader = send_with_fds(&a, bytes, count);
                let mut strays = Vec::new();
                let error = if is_message {
                    recv::<ToScheduler>(&b).unwrap_err()
                } else {
                    recv_hello(&b, &mut strays).unwrap_err()
                };
                assert!(error.is_violation(), "{error}");
                assert!(!is_hung_up(&reader), "{count} {is_message}");
                assert_eq!(strays.is_empty(), is_message);
                drop(b);
                assert_eq!(is_hung_up(&reader), strays.is_empty());
                drop(strays);
                assert!(is_hung_up(&reader), "{count} {is_message}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = decode::<ToScheduler>(&bytes);
            let _ = decode::<FromScheduler>(&bytes);
            let _ = decode::<Hello>(&bytes);
        }
    }
}
