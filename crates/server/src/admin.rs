//! What the HTTP API asks of the host, as functions that run on the scheduler thread.
//!
//! They only read and copy small things there: texts are shared, JSON is made by the HTTP thread.

use std::collections::HashMap;

use tracing::info;
use xsched_sched::{
    EventError, GroupId, GroupStatus, Hint, Hints, HwShare, Nanos, Policy, ProcessId, Target,
    policy,
};

use crate::{
    api,
    host::Host,
    permission::{Actor, Denied},
};

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// This user may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// It names nobody.
    #[error("{0}")]
    NotFound(String),
    /// The policy in force would not heed it.
    #[error("{0}")]
    NotForPolicy(String),
    /// There is no room for it.
    #[error("{0}")]
    DoesNotFit(String),
}

/// Whom a hint is for.
#[derive(Clone, Debug)]
pub(crate) enum HintFor {
    Pid(u32),
    Queue(u64),
    Name(String),
}

impl Host {
    /// Registered programs and queues.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let clients = self.sessions.values().filter_map(|s| s.client.as_ref());
        clients.fold((0, 0), |(clients, queues), client| {
            (clients + 1, queues + client.queues().count())
        })
    }

    /// All queues, oldest first.
    pub(crate) fn queues(&mut self, now: Nanos) -> Vec<api::Queue> {
        self.hear_quiet(now);
        let groups: HashMap<GroupId, GroupStatus> = self
            .engine
            .groups(now)
            .map(|group| (group.group, group))
            .collect();
        let mut queues: Vec<_> = self
            .engine
            .queues(now)
            .filter_map(|status| {
                let place = self.place_of(status.queue)?;
                let session = self.sessions.get(&place.session)?;
                let client = session.client.as_ref()?;
                let queue = client.queues.get(usize::from(place.slot))?.as_ref()?;
                let block = client.segment.layout().block(place.slot)?;
                let group = groups.get(&status.group)?;
                Some(api::Queue {
                    id: status.queue.0,
                    pid: session.peer.pid_number(),
                    uid: session.peer.uid,
                    name: client.name.clone(),
                    job: client.job,
                    device: queue.device_name.clone(),
                    group: status.group.0,
                    priority: status.priority.get(),
                    hints: api::hints(group.hints),
                    min_share: group.min_share,
                    level: queue.level.level as u8,
                    max_level: queue.level.max as u8,
                    reason: queue.level.reason.clone(),
                    ready: status.ready,
                    open: status.open,
                    held: status.held,
                    stalled: status.stalled,
                    stopped: group.stopped,
                    share: match status.share {
                        HwShare::Background => api::Share::Background,
                        HwShare::Slice(micros) => api::Share::Slice(micros),
                        _ => api::Share::Normal,
                    },
                    served_ms: milliseconds(group.served_ns),
                    waiting_ms: milliseconds(group.waiting_ns),
                    preemptions: group.preemptions,
                    submitted: block.state().submitted(),
                    completed: block.completed(),
                })
            })
            .collect();
        queues.sort_unstable_by_key(|queue| queue.id);
        queues
    }

    /// Gives hints to everybody that is meant, or to nobody.
    pub(crate) fn hint(
        &mut self,
        actor: Actor,
        whom: &HintFor,
        hints: Hints,
        now: Nanos,
    ) -> Result<Vec<u32>, Refusal> {
        let targets = self.targets(whom)?;
        for (session, _) in &targets {
            if let Some(session) = self.sessions.get(session) {
                actor.may_change(session.peer.uid)?;
            }
        }
        let whose: Vec<Target> = targets.iter().map(|(_, target)| *target).collect();
        for hint in hints.iter() {
            actor.may_give(hint)?;
            self.heeded(hint)?;
            self.fits(&whose, hint)?;
        }
        let mut pids = Vec::new();
        for (session, target) in targets {
            self.give_hints(session, target, hints, now);
            if let Some(session) = self.sessions.get(&session) {
                pids.push(session.peer.pid_number());
            }
        }
        self.settle(now);
        pids.dedup();
        for hint in hints.iter() {
            info!(uid = actor.uid, ?whom, hint = hint.kind().name(), value = %hint, "hint");
        }
        Ok(pids)
    }

    /// Whether there is room for a hint.
    fn fits(&self, whose: &[Target], hint: Hint) -> Result<(), Refusal> {
        self.engine.check(whose, hint).map_err(|error| match error {
            EventError::OverCommitted { .. } => Refusal::DoesNotFit(self.why_unfit(error)),
            other => Refusal::NotFound(other.to_string()),
        })
    }

    /// Why a hint was not heeded, one line.
    pub(crate) fn why_unfit(&self, error: EventError) -> String {
        let EventError::OverCommitted {
            device,
            wanted,
            left,
        } = error
        else {
            return error.to_string();
        };
        let clients = self.sessions.values().filter_map(|s| s.client.as_ref());
        let mut queues = clients.flat_map(|client| client.queues());
        let name = queues.find(|(_, queue, _)| queue.device == device);
        let name = name.map_or_else(|| device.to_string(), |(_, q, _)| q.device_name.to_string());
        format!(
            "utilization {wanted} does not fit on {name}: use {left} percent at most, or lower others' first"
        )
    }

    /// Whether the policy in force heeds a hint. All heed "do not run", and its end.
    fn heeded(&self, hint: Hint) -> Result<(), Refusal> {
        let name = self.engine.policy_name();
        let kind = hint.kind();
        let own = policy::about(name).ok();
        let Some(about) = own.filter(|about| !about.heeds(hint)) else {
            return Ok(());
        };
        let list = |names: Vec<&str>| match names.is_empty() {
            true => "no hints".to_owned(),
            false => names.join(", "),
        };
        let others = policy::POLICIES.iter().filter(|about| about.heeds(hint));
        Err(Refusal::NotForPolicy(format!(
            "policy {name} does not heed {kind}: it heeds {}; {kind} ({}) is for {}",
            list(about.hints.iter().map(|kind| kind.name()).collect()),
            kind.allowed(),
            list(others.map(|about| about.name).collect()),
        )))
    }

    /// Sessions and what of them a hint is for; never empty.
    fn targets(&self, whom: &HintFor) -> Result<Vec<(u64, Target)>, Refusal> {
        if let HintFor::Queue(number) = *whom {
            let queue = xsched_sched::QueueId(number);
            let place = self.place_of(queue).ok_or_else(|| {
                Refusal::NotFound(format!("queue {number} does not exist: see `xsched list`"))
            })?;
            return Ok(vec![(place.session, Target::Queue(queue))]);
        }
        let found: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| {
                let Some(client) = &session.client else {
                    return false;
                };
                match whom {
                    HintFor::Pid(pid) => session.peer.pid_number() == *pid,
                    HintFor::Name(name) => *client.name == **name,
                    HintFor::Queue(_) => false,
                }
            })
            .map(|(&id, _)| (id, Target::Process(ProcessId(id))))
            .collect();
        if found.is_empty() {
            let what = match whom {
                HintFor::Pid(pid) => format!("process {pid} is not registered"),
                HintFor::Name(name) => format!("no registered program is called '{name}'"),
                HintFor::Queue(number) => format!("queue {number} does not exist"),
            };
            return Err(Refusal::NotFound(format!("{what}: see `xsched list`")));
        }
        Ok(found)
    }

    /// Notes whose window is active.
    pub(crate) fn report_active_window(
        &mut self,
        actor: Actor,
        pid: Option<u32>,
        now: Nanos,
    ) -> Result<(), Refusal> {
        actor.may_set_policy()?;
        self.set_active_window(pid, now);
        Ok(())
    }

    /// Puts another policy in force, at once.
    pub(crate) fn change_policy(
        &mut self,
        actor: Actor,
        policy: Box<dyn Policy>,
        now: Nanos,
    ) -> Result<&'static str, Refusal> {
        actor.may_set_policy()?;
        self.set_policy(policy, now);
        let name = self.engine.policy_name();
        info!(uid = actor.uid, policy = name, "policy changed");
        Ok(name)
    }
}

fn milliseconds(ns: Nanos) -> f64 {
    // Microseconds are exact enough, and read better.
    (ns / 1_000) as f64 / 1_000.0
}
