//! The command line's side of the HTTP API: one blocking request at a time.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, runtime::Runtime};
use xsched_wire::endpoint::http_socket;

use crate::api::ErrorBody;

/// A daemon that does not answer within this time hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer that is read: more than 65,536 queues fill.
const MAX_ANSWER: usize = 64 << 20;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No daemon serves this socket.
    #[error("no xsched daemon serves {}: start one with `xsched serve` or name another socket", .socket.display())]
    NotRunning {
        /// The socket that was asked for.
        socket: PathBuf,
    },
    /// This user may not talk to that daemon.
    #[error("the xsched daemon at {} belongs to another user: ask its owner, or use your own", .socket.display())]
    NotAllowed {
        /// The socket that was asked for.
        socket: PathBuf,
    },
    /// A daemon is there, but does not answer.
    #[error("the xsched daemon at {} does not answer: look at its log, restart it", .socket.display())]
    NoAnswer {
        /// The socket that was asked for.
        socket: PathBuf,
    },
    /// The daemon refused the request.
    #[error("{message}")]
    Api {
        /// HTTP status.
        status: u16,
        /// Stable word for programs.
        code: String,
        /// One line for people.
        message: String,
    },
    /// The answer is not one of an xsched daemon of this release.
    #[error("the answer from {} cannot be understood ({detail}): use the same xsched release on both sides", .socket.display())]
    Malformed {
        /// The socket that was asked for.
        socket: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The system refused.
    #[error("cannot talk to the xsched daemon at {}: {source}", .socket.display())]
    System {
        /// The socket that was asked for.
        socket: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// A blocking client of one daemon.
pub struct Client {
    /// The agents' socket, as people name the daemon.
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// Checks that a daemon serves `socket` (the one that programs register at).
    pub fn connect(socket: &Path) -> Result<Client, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| ClientError::System {
                socket: socket.into(),
                source,
            })?;
        let client = Client {
            socket: socket.into(),
            runtime,
        };
        client.runtime.block_on(client.open())?;
        Ok(client)
    }

    /// `GET`.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, Bytes::new())
    }

    /// `POST`.
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.request(Method::POST, path, self.json(body)?)
    }

    /// `PUT`.
    pub fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.request(Method::PUT, path, self.json(body)?)
    }

    fn json(&self, body: &impl Serialize) -> Result<Bytes, ClientError> {
        serde_json::to_vec(body)
            .map(Bytes::from)
            .map_err(|error| self.malformed(error))
    }

    fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        // Made inside, since a timeout needs the runtime's clock.
        let exchange =
            async { tokio::time::timeout(PATIENCE, self.exchange(method, path, body)).await };
        let (status, bytes) =
            self.runtime
                .block_on(exchange)
                .map_err(|_| ClientError::NoAnswer {
                    socket: self.socket.clone(),
                })??;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| self.malformed(error));
        }
        let ErrorBody { error } =
            serde_json::from_slice(&bytes).map_err(|error| self.malformed(error))?;
        Err(ClientError::Api {
            status: status.as_u16(),
            code: error.code,
            message: error.message,
        })
    }

    /// A connection a request: callers make few, and a restarted daemon is found again.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = self.open().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.malformed(error))?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "xsched")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.malformed(error))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.malformed(error))?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| self.malformed(error))?
            .to_bytes();
        connection.abort();
        Ok((status, bytes))
    }

    async fn open(&self) -> Result<UnixStream, ClientError> {
        let socket = self.socket.clone();
        UnixStream::connect(http_socket(&self.socket))
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::NotRunning { socket }
                }
                io::ErrorKind::PermissionDenied => ClientError::NotAllowed { socket },
                // A full backlog: nobody accepts.
                io::ErrorKind::WouldBlock => ClientError::NoAnswer { socket },
                _ => ClientError::System { socket, source },
            })
    }

    fn malformed(&self, error: impl ToString) -> ClientError {
        ClientError::Malformed {
            socket: self.socket.clone(),
            detail: error.to_string(),
        }
    }
}
