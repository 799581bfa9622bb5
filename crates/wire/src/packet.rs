//! Packets on a `SOCK_SEQPACKET` socket: encode, send, receive, refuse.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
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
    /// More than [`MAX_PACKET`] bytes, or more descriptors than a hello has.
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

/// Receives one message.
pub fn recv<M: DeserializeOwned>(socket: impl AsFd) -> Result<M, PacketError> {
    let mut buffer = [0; MAX_PACKET];
    let (len, fds) = recv_bytes(socket.as_fd(), &mut buffer)?;
    if !fds.is_empty() {
        return Err(PacketError::Malformed("unexpected descriptors".into()));
    }
    decode(&buffer[..len])
}

/// Receives a hello: the message, the segment's descriptor, the doorbell's descriptor.
pub fn recv_hello(socket: impl AsFd) -> Result<(Hello, OwnedFd, OwnedFd), PacketError> {
    let mut buffer = [0; MAX_PACKET];
    let (len, fds) = recv_bytes(socket.as_fd(), &mut buffer)?;
    let body = buffer[..len]
        .strip_prefix(&HELLO_MAGIC)
        .ok_or_else(|| PacketError::Malformed("no xsched hello".into()))?;
    let (version, body) = body
        .split_first_chunk::<2>()
        .ok_or_else(|| PacketError::Malformed("hello cut short".into()))?;
    let theirs = u16::from_le_bytes(*version);
    if theirs != VERSION {
        return Err(PacketError::Version { theirs });
    }
    let hello = decode(body)?;
    let [segment, doorbell] = <[OwnedFd; HELLO_FDS]>::try_from(fds).map_err(|fds| {
        PacketError::Malformed(format!("hello with {} descriptors, not 2", fds.len()))
    })?;
    Ok((hello, segment, doorbell))
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

fn recv_bytes(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> Result<(usize, Vec<OwnedFd>), PacketError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HELLO_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(PacketError::TooLong);
    }
    if received.bytes == 0 {
        return Err(PacketError::Closed);
    }
    Ok((received.bytes, fds))
}

#[cfg(test)]
mod tests {
    use rustix::{
        fs::{MemfdFlags, memfd_create},
        net::{AddressFamily, SocketFlags, SocketType, socketpair},
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
                priority: Some(100),
            },
        }
    }

    #[test]
    fn hello_arrives_with_its_descriptors() {
        let (a, b) = pair();
        let fd = memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        send_hello(&a, &hello(), fd.as_fd(), fd.as_fd()).unwrap();
        let (got, _, _) = recv_hello(&b).unwrap();
        assert_eq!(got, hello());
    }

    #[test]
    fn another_version_is_named() {
        let (a, b) = pair();
        let mut bytes = Vec::from(HELLO_MAGIC);
        bytes.extend(999u16.to_le_bytes());
        bytes.extend(b"whatever that version says");
        send_bytes(a.as_fd(), &bytes, &[]).unwrap();
        let error = recv_hello(&b).unwrap_err();
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

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = decode::<ToScheduler>(&bytes);
            let _ = decode::<FromScheduler>(&bytes);
            let _ = decode::<Hello>(&bytes);
        }
    }
}
