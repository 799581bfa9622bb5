//! The HTTP API, on a thread and a runtime of its own: requests go to the scheduler thread as
//! functions, and their answers come back by channel. The connection's peer credentials say who
//! asks.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{FromRequest, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::de::DeserializeOwned;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::oneshot,
};
use tracing::{debug, warn};
use xsched_sched::{HintError, Nanos, policy};

use crate::{
    admin::{HintFor, Refusal},
    api::{self, path},
    host::Host,
    permission::Actor,
    scheduler::Requests,
};

/// Connections of one user at a time.
const MAX_CONNECTIONS_OF_ONE_USER: usize = 32;
/// A caller must send a request within this time, and then its body.
const CALLER_LIMIT: Duration = Duration::from_secs(10);

/// What the daemon is, as far as it never changes.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) socket: PathBuf,
    pub(crate) owner: u32,
    pub(crate) min_share: f64,
    pub(crate) started: Instant,
    /// Whoever calls keeps it from ending.
    pub(crate) ends_unused: bool,
}

#[derive(Clone)]
struct Daemon {
    about: Arc<About>,
    requests: Requests,
}

/// Serves `listener` until `stop` is dropped or sent to.
pub(crate) async fn serve(
    listener: OwnedFd,
    about: About,
    requests: Requests,
    stop: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(listener))?;
    let owner = about.owner;
    let kept_by_callers = about.ends_unused.then(|| requests.clone());
    let router = router(Daemon {
        about: Arc::new(about),
        requests,
    });
    let callers = Callers::default();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stop => return Ok(()),
        };
        match accepted {
            Ok((stream, _)) => {
                if let Some(requests) = &kept_by_callers {
                    note_caller(&stream, requests);
                }
                connected(stream, owner, &router, &callers);
            }
            Err(error) => {
                warn!(%error, "cannot accept HTTP connections for a while");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Lets the scheduler thread know of a caller before it hears the question.
fn note_caller(stream: &UnixStream, requests: &Requests) {
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    // No number: it runs in another PID namespace. No pidfd: it is gone.
    if let Some(pid) = pid.and_then(Pid::from_raw)
        && let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
    {
        requests.send(move |host, _| host.called(pid, pidfd));
    }
}

fn connected(stream: UnixStream, owner: u32, router: &Router, callers: &Callers) {
    let uid = match stream.peer_cred() {
        Ok(peer) => peer.uid(),
        Err(error) => return debug!(%error, "HTTP caller without credentials"),
    };
    let Some(place) = callers.enter(uid) else {
        return debug!(uid, "HTTP caller has too many connections");
    };
    let service = router.clone().layer(Extension(Actor { uid, owner }));
    tokio::spawn(async move {
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(CALLER_LIMIT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
            .await;
        if let Err(error) = served {
            debug!(uid, %error, "HTTP connection broke");
        }
        drop(place);
    });
}

/// How many connections each user has.
#[derive(Clone, Default)]
struct Callers(Arc<Mutex<HashMap<u32, usize>>>);

impl Callers {
    /// A place for one more connection, free again when it is dropped.
    fn enter(&self, uid: u32) -> Option<CallerPlace> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = users.entry(uid).or_default();
        if *connections >= MAX_CONNECTIONS_OF_ONE_USER {
            return None;
        }
        *connections += 1;
        Some(CallerPlace {
            callers: self.clone(),
            uid,
        })
    }
}

struct CallerPlace {
    callers: Callers,
    uid: u32,
}

impl Drop for CallerPlace {
    fn drop(&mut self) {
        let mut users = self
            .callers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(connections) = users.get_mut(&self.uid) {
            *connections -= 1;
            if *connections == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

/// All routes. Other views of the same daemon (`/metrics`, a page at `/`) are merged here.
fn router(daemon: Daemon) -> Router {
    Router::new()
        .merge(api_v1())
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "not_found", "no such path"))
        .method_not_allowed_fallback(async || {
            let status = StatusCode::METHOD_NOT_ALLOWED;
            ApiError::new(status, "method_not_allowed", "this path has other methods")
        })
        .with_state(daemon)
}

fn api_v1() -> Router<Daemon> {
    Router::new()
        .route(path::STATUS, get(status))
        .route(path::QUEUES, get(queues))
        .route(path::HINTS, post(hint))
        .route(path::POLICIES, get(policies))
        .route(path::POLICY, get(current_policy).put(set_policy))
        .route(
            path::ACTIVE_WINDOW,
            get(active_window).put(set_active_window),
        )
}

async fn status(State(daemon): State<Daemon>) -> Result<Json<api::Status>, ApiError> {
    let ask = |host: &mut Host, _| (host.counts(), host.engine.policy_name());
    let ((clients, queues), policy) = daemon.ask(ask).await?;
    Ok(Json(api::Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        owner_uid: daemon.about.owner,
        policy: policy.into(),
        min_share: daemon.about.min_share,
        uptime_ms: daemon.about.started.elapsed().as_millis() as f64,
        clients,
        queues,
        socket: daemon.about.socket.clone(),
    }))
}

async fn queues(State(daemon): State<Daemon>) -> Result<Json<api::Queues>, ApiError> {
    let queues = daemon.ask(|host, now| host.queues(now)).await?;
    Ok(Json(api::Queues { queues }))
}

async fn hint(
    State(daemon): State<Daemon>,
    Extension(actor): Extension<Actor>,
    Body(request): Body<api::HintRequest>,
) -> Result<Json<api::HintAnswer>, ApiError> {
    let whom = match (request.pid, request.queue, request.name) {
        (Some(pid), None, None) => HintFor::Pid(pid),
        (None, Some(queue), None) => HintFor::Queue(queue),
        (None, None, Some(name)) => HintFor::Name(name),
        _ => {
            let message = "a hint is for one of pid, queue, name: give exactly one";
            return Err(ApiError::bad_request("bad_request", message));
        }
    };
    let hints = api::read_hints(&request.hints).map_err(|error| {
        let code = match error {
            HintError::OutOfRange(..) => "out_of_range",
            HintError::Unknown(_) => "bad_request",
        };
        ApiError::bad_request(code, error)
    })?;
    if hints.iter().next().is_none() {
        let message = "no hint is given, for instance a priority";
        return Err(ApiError::bad_request("bad_request", message));
    }
    let pids = daemon
        .ask(move |host, now| host.hint(actor, &whom, hints, now))
        .await??;
    let hints = api::hints(hints);
    Ok(Json(api::HintAnswer { pids, hints }))
}

async fn policies(State(daemon): State<Daemon>) -> Result<Json<api::Policies>, ApiError> {
    let active = daemon.ask(|host, _| host.engine.policy_name()).await?;
    let policies = policy::POLICIES
        .iter()
        .map(|about| api::PolicyEntry {
            name: about.name.into(),
            summary: about.summary.into(),
            hints: about.hints.iter().map(|kind| kind.name().into()).collect(),
            active: about.name == active,
        })
        .collect();
    Ok(Json(api::Policies { policies }))
}

async fn current_policy(State(daemon): State<Daemon>) -> Result<Json<api::Policy>, ApiError> {
    let name = daemon.ask(|host, _| host.engine.policy_name()).await?;
    Ok(Json(api::Policy { name: name.into() }))
}

async fn set_policy(
    State(daemon): State<Daemon>,
    Extension(actor): Extension<Actor>,
    Body(request): Body<api::Policy>,
) -> Result<Json<api::Policy>, ApiError> {
    let policy = policy::by_name(&request.name)
        .map_err(|error| ApiError::bad_request("unknown_policy", error))?;
    let name = daemon
        .ask(move |host, now| host.change_policy(actor, policy, now))
        .await??;
    Ok(Json(api::Policy { name: name.into() }))
}

async fn active_window(State(daemon): State<Daemon>) -> Result<Json<api::ActiveWindow>, ApiError> {
    let pid = daemon.ask(|host, _| host.active_window).await?;
    Ok(Json(api::ActiveWindow { pid }))
}

async fn set_active_window(
    State(daemon): State<Daemon>,
    Extension(actor): Extension<Actor>,
    Body(window): Body<api::ActiveWindow>,
) -> Result<Json<api::ActiveWindow>, ApiError> {
    daemon
        .ask(move |host, now| host.report_active_window(actor, window.pid, now))
        .await??;
    Ok(Json(window))
}

impl Daemon {
    /// Runs a function on the scheduler thread.
    async fn ask<T: Send + 'static>(
        &self,
        function: impl FnOnce(&mut Host, Nanos) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (sender, answer) = oneshot::channel();
        self.requests.send(move |host, now| {
            // Nobody waits for it any more: fine.
            let _ = sender.send(function(host, now));
        });
        answer.await.map_err(|_| {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            ApiError::new(status, "ending", "the daemon is about to end: try again")
        })
    }
}

/// A JSON body, whatever its content type, with our own errors.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = tokio::time::timeout(CALLER_LIMIT, Bytes::from_request(request, state))
            .await
            .map_err(|_| {
                let status = StatusCode::REQUEST_TIMEOUT;
                ApiError::new(status, "too_slow", "the body did not come within 10 s")
            })?
            .map_err(|error| ApiError::new(error.status(), "bad_request", error.body_text()))?;
        serde_json::from_slice(&bytes).map(Body).map_err(|error| {
            let message = format!("the body is not what is expected here: {error}");
            ApiError::bad_request("bad_request", message)
        })
    }
}

/// An answer that is not a success.
#[derive(Debug)]
struct ApiError {
    status: StatusCode,
    info: api::ErrorInfo,
}

impl ApiError {
    fn new(status: StatusCode, code: &str, message: impl ToString) -> Self {
        ApiError {
            status,
            info: api::ErrorInfo {
                code: code.into(),
                message: message.to_string(),
            },
        }
    }

    fn bad_request(code: &str, message: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let (status, code) = match &refusal {
            Refusal::Denied(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Refusal::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Refusal::NotForPolicy(_) => (StatusCode::UNPROCESSABLE_ENTITY, "not_for_policy"),
            Refusal::DoesNotFit(_) => (StatusCode::UNPROCESSABLE_ENTITY, "does_not_fit"),
        };
        Self::new(status, code, refusal)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = api::ErrorBody { error: self.info };
        (self.status, Json(body)).into_response()
    }
}
