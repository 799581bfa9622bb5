//! The engine's host: sessions and queues on one side, the engine on the other.
//!
//! Everything here runs on the scheduler thread and never waits. A session that breaks a rule, or
//! leaves, is only marked (`ended`) where that is found, and closed by [`Host::settle`], which
//! also carries out what the engine asks for; whatever is called from outside ends with it.
//!
//! A program that has its devices to itself is *quiet*: whether it has work decides nothing, so it need not
//! ring, and the round over all sessions looks. It rings again from the moment when a gate of it closes, or
//! anybody comes, on.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    os::fd::OwnedFd,
};

use rustix::process::Pid;
use tracing::{debug, info, warn};
use xsched_sched::{Action, DeviceId, Event, Hints, HwShare, Nanos, ProcessId, QueueId, Target};
use xsched_wire::{
    Admitted, Attributes, FromScheduler, QueueInfo, Share, ToScheduler,
    packet::{self, PacketError},
};

use crate::{
    callers::Callers,
    devices::Devices,
    permission::{Actor, Denied},
    reactor::{Reactor, Source},
    reaper::Reaper,
    session::{self, Client, Condition, End, Peer, Queue, SegmentId, Session},
    trace::{Observed, Owner},
};

/// The heartbeat advances at least this often; see [`Host::tend`].
pub(crate) const HEARTBEAT_MS: u32 = 200;
/// Sessions at most; each has socket, process and doorbell, and a refused one two more descriptors.
const MAX_SESSIONS: usize = 4096;
/// Sessions that one user may have, unless it owns the daemon.
const MAX_SESSIONS_OF_ONE_USER: usize = MAX_SESSIONS / 4;
/// A client must say its hello within this time.
const HELLO_LIMIT: Nanos = 2_000_000_000;
/// Sessions that one step of [`Host::tend`] looks at.
const STEP: usize = 16;

/// Where a queue is.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) session: u64,
    pub(crate) slot: u16,
}

/// Sessions, queues, engine.
pub(crate) struct Host {
    pub(crate) reactor: Reactor,
    pub(crate) reaper: Reaper,
    pub(crate) engine: Observed,
    /// By number, which is also the engine's [`ProcessId`]; numbers are never used again.
    pub(crate) sessions: BTreeMap<u64, Session>,
    callers: Callers,
    places: HashMap<QueueId, Place>,
    devices: Devices,
    /// The process whose window is active.
    pub(crate) active_window: Option<u32>,
    /// The user that the daemon runs as.
    pub(crate) owner: u32,
    last_session: u64,
    last_queue: u64,
    /// What the engine asked for and is not done yet.
    actions: Vec<Action>,
    ended: Vec<(u64, End)>,
    /// No longer quiet: what they did not ring for is yet to be heard.
    unheard: Vec<u64>,
}

impl Host {
    pub(crate) fn new(reactor: Reactor, reaper: Reaper, engine: Observed, owner: u32) -> Self {
        Host {
            reactor,
            reaper,
            engine,
            sessions: BTreeMap::new(),
            callers: Callers::default(),
            places: HashMap::new(),
            devices: Devices::default(),
            active_window: None,
            owner,
            last_session: 0,
            last_queue: 0,
            actions: Vec::new(),
            ended: Vec::new(),
            unheard: Vec::new(),
        }
    }

    // ---- urgent ----

    /// A doorbell rang: some of the client's queues became ready or idle.
    pub(crate) fn rung(&mut self, id: u64, now: Nanos) {
        self.hear(id, now);
        self.settle(now);
    }

    fn hear(&mut self, id: u64, now: Nanos) {
        let Some(Session {
            client: Some(client),
            ..
        }) = self.sessions.get_mut(&id)
        else {
            return;
        };
        let layout = client.segment.layout();
        layout.take_dirty(|slot| {
            let queue = client.queues.get_mut(usize::from(slot));
            // A slot that is not registered (yet): its state is read when it is.
            let (Some(Some(queue)), Some(block)) = (queue, layout.block(slot)) else {
                return;
            };
            queue.seen.0 = block.state();
            tell(&mut self.engine, now, queue.event(), &mut self.actions);
        });
    }

    /// Hears what quiet programs did not ring for, which go on being quiet.
    pub(crate) fn hear_quiet(&mut self, now: Nanos) {
        for id in self.quiet(|_| true) {
            self.hear(id, now);
        }
        self.settle(now);
    }

    fn quiet(&self, which: impl Fn(&Client) -> bool) -> Vec<u64> {
        let clients = self.sessions.iter().filter_map(|(&id, session)| {
            let client = session.client.as_ref()?;
            (client.quiet && which(client)).then_some(id)
        });
        clients.collect()
    }

    /// From now on a program's changes ring. The caller settles.
    fn end_quiet(&mut self, id: u64) {
        if let Ok(client) = self.client(id)
            && client.end_quiet()
        {
            self.unheard.push(id);
        }
    }

    /// Whether it decides nothing when a program has work: no other has a queue on its devices, its own are
    /// one group and open, and neither policy nor trace takes note.
    fn may_be_quiet(&self, client: &Client) -> bool {
        let remembers = xsched_sched::policy::about(self.engine.policy_name())
            .is_ok_and(|policy| policy.remembers);
        if remembers || self.engine.is_traced() || client.several_groups {
            return false;
        }
        let mut own: BTreeMap<DeviceId, usize> = BTreeMap::new();
        for (_, queue, block) in client.queues() {
            if !block.is_allowed() {
                return false;
            }
            *own.entry(queue.device).or_default() += 1;
        }
        !own.is_empty()
            && own
                .iter()
                .all(|(&device, &count)| self.devices.queues(device) == count)
    }

    /// The time that the engine asked for may have come.
    pub(crate) fn tick_engine(&mut self, now: Nanos) {
        if self.engine.next_timer().is_some_and(|at| at <= now) {
            tell(&mut self.engine, now, Event::Timer, &mut self.actions);
            self.settle(now);
        }
    }

    // ---- sessions come and go ----

    /// A client connected.
    pub(crate) fn connected(&mut self, socket: OwnedFd, peer: Peer, pidfd: OwnedFd, now: Nanos) {
        self.last_session += 1;
        let id = self.last_session;
        let session = Session::new(peer, socket, pidfd, now);
        if let Some(reason) = self.no_room_for(peer.uid) {
            warn!(pid = peer.pid_number(), reason, "client refused");
            session.refuse(&reason);
            self.reap(session);
            return;
        }
        let watched = self
            .reactor
            .watch(&session.socket, Source::Socket(id))
            .and_then(|()| self.reactor.watch(&session.pidfd, Source::Process(id)));
        self.sessions.insert(id, session);
        if let Err(error) = watched {
            let reason = format!("the daemon cannot watch it: {error}");
            self.ended.push((id, End::Refused(reason)));
        }
        self.settle(now);
    }

    /// Sessions that have ended count until all that they left is closed.
    fn no_room_for(&self, uid: u32) -> Option<String> {
        if self.sessions.len() + self.reaper.unfinished(MAX_SESSIONS_OF_ONE_USER) >= MAX_SESSIONS {
            return Some(format!("the daemon serves {MAX_SESSIONS} programs already"));
        }
        let theirs = self.sessions.values().filter(|s| s.peer.uid == uid).count();
        let theirs = theirs + self.reaper.unfinished_of(uid);
        (theirs >= MAX_SESSIONS_OF_ONE_USER && uid != self.owner).then(|| {
            format!("the daemon serves {MAX_SESSIONS_OF_ONE_USER} programs of this user already")
        })
    }

    fn reap(&mut self, session: Session) {
        self.reaper.take(session.peer.uid, session);
    }

    /// A session's socket is readable, or writable again.
    pub(crate) fn socket_ready(&mut self, id: u64, now: Nanos) {
        if let Err(end) = self.exchange(id, now) {
            self.ended.push((id, end));
        }
        self.settle(now);
    }

    /// A session's process ended.
    pub(crate) fn process_ended(&mut self, id: u64, now: Nanos) {
        self.ended.push((id, End::Gone));
        self.settle(now);
    }

    /// A process called the HTTP API.
    pub(crate) fn called(&mut self, pid: Pid, pidfd: OwnedFd) {
        self.callers.note(pid, pidfd, &self.reactor);
    }

    /// A process that had called the HTTP API ended.
    pub(crate) fn caller_ended(&mut self, pid: Pid) {
        self.callers.ended(pid, &self.reactor);
    }

    /// Whether there is anybody who is registered or may come to be.
    pub(crate) fn is_used(&self) -> bool {
        !self.sessions.is_empty() || !self.callers.is_empty()
    }

    /// The daemon ends: whoever is registered runs on unscheduled, at once.
    pub(crate) fn release_all(&mut self) {
        for client in self.sessions.values().filter_map(|s| s.client.as_ref()) {
            client.open_gates();
        }
        for session in mem::take(&mut self.sessions).into_values() {
            session.hang_up();
            self.reap(session);
        }
    }

    /// One bounded step of the round over all sessions: heartbeats, progress, stopped processes,
    /// clients that never said hello. Starts at session 0 and says where to go on.
    pub(crate) fn tend(&mut self, mut from: u64, now: Nanos) -> Option<u64> {
        for _ in 0..STEP {
            let Some((&id, session)) = self.sessions.range(from..).next() else {
                self.settle(now);
                return None;
            };
            from = id + 1;
            if let Some(client) = &session.client
                && !client.quiet
                && self.may_be_quiet(client)
            {
                client.segment.layout().set_quiet(true);
                if let Ok(client) = self.client(id) {
                    client.quiet = true;
                }
            }
            self.hear(id, now);
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            match &mut session.client {
                Some(client) => {
                    client.segment.layout().beat();
                    if !client.quiet {
                        // A scheduler before this one may have come back for a moment.
                        client.segment.layout().set_quiet(false);
                    }
                    if client.has_ready() || client.condition.stopped {
                        let pid = session.peer.pid;
                        sample(client, now, &mut self.engine, &mut self.actions);
                        let process = ProcessId(id);
                        let is = Condition::of(pid);
                        let was = mem::replace(&mut client.condition, is);
                        if was.stopped != is.stopped {
                            let stopped = is.stopped;
                            let event = Event::Stopped { process, stopped };
                            tell(&mut self.engine, now, event, &mut self.actions);
                        }
                        if was.nice != is.nice {
                            let nice = is.nice;
                            let event = Event::Nice { process, nice };
                            tell(&mut self.engine, now, event, &mut self.actions);
                        }
                        // That read a file: doorbells first again.
                        break;
                    }
                }
                None if now.saturating_sub(session.since) > HELLO_LIMIT => {
                    let end = End::Refused("it said no hello within 2 s".into());
                    self.ended.push((id, end));
                }
                None => {}
            }
        }
        self.settle(now);
        Some(from)
    }

    // ---- messages ----

    fn exchange(&mut self, id: u64, now: Nanos) -> Result<(), End> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        session.flush(id, &self.reactor)?;
        if session.client.is_none() {
            return self.greeted(id, now);
        }
        match packet::recv::<ToScheduler>(&session.socket) {
            Ok(message) => self.obey(id, message, now),
            Err(PacketError::WouldBlock) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn greeted(&mut self, id: u64, now: Nanos) -> Result<(), End> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        let Some((hello, doorbell)) = session.read_hello()? else {
            return Ok(());
        };
        let peer = session.peer;
        self.supersede(peer, hello.segment_id, now);
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        let actor = Actor {
            uid: peer.uid,
            owner: self.owner,
        };
        let (hints, denied) = actor.grant(hello.hints);
        let notice = denied.map(Denied::notice);
        let watched = self.reactor.watch_doorbell(&doorbell, id);
        watched.map_err(|error| End::Refused(format!("cannot watch the doorbell: {error}")))?;
        hello.segment.layout().beat();
        // A scheduler before this one may have died.
        hello.segment.layout().set_quiet(false);
        let pid = peer.pid_number();
        info!(pid, uid = actor.uid, name = &*hello.name, "client joined");
        if let Some(notice) = &notice {
            info!(pid, name = &*hello.name, notice);
        }
        session.client = Some(Client {
            name: hello.name,
            job: hello.job,
            hints,
            segment: hello.segment,
            segment_id: hello.segment_id,
            doorbell,
            queues: Vec::new(),
            several_groups: false,
            quiet: false,
            condition: Condition::default(),
            hint_logged: false,
            noticed: None,
        });
        let admitted = Admitted {
            policy: self.engine.policy_name().into(),
            heartbeat_ms: HEARTBEAT_MS,
            notice,
        };
        session.send(FromScheduler::Welcome(admitted), id, &self.reactor)
    }

    /// Closes the session that a program had before, if the daemon has not seen it end yet: two
    /// would open and close the same gates. A user can supersede its own sessions only.
    fn supersede(&mut self, peer: Peer, segment: SegmentId, now: Nanos) {
        let is_theirs = |session: &Session| {
            let client = session.client.as_ref();
            session.peer.uid == peer.uid && client.is_some_and(|c| c.segment_id == segment)
        };
        let mut sessions = self.sessions.iter();
        if let Some((&earlier, _)) = sessions.find(|(_, session)| is_theirs(session)) {
            self.close(earlier, End::Gone, now);
        }
    }

    fn obey(&mut self, id: u64, message: ToScheduler, now: Nanos) -> Result<(), End> {
        match message {
            ToScheduler::CreateQueue(info) => self.create_queue(id, &info, now),
            ToScheduler::DestroyQueue { slot } => self.destroy_queue(id, slot, now),
            ToScheduler::Hint { slot, hints } => {
                let target = match slot {
                    Some(slot) => self.queue_id(id, slot)?.map(Target::Queue),
                    None => Some(Target::Process(ProcessId(id))),
                };
                let Some(target) = target else {
                    return Ok(());
                };
                let hints = self.granted(id, hints);
                let notice = self.unfit(target, hints);
                self.give_hints(id, target, hints, now);
                self.notify(id, notice)
            }
            ToScheduler::Hold { slot, held } => {
                if let Some(queue) = self.queue_id(id, slot)? {
                    self.tell(now, Event::Hold { queue, held });
                }
                Ok(())
            }
            ToScheduler::Level { slot, attributes } => self.set_level(id, slot, &attributes),
        }
    }

    fn create_queue(&mut self, id: u64, info: &QueueInfo, now: Nanos) -> Result<(), End> {
        let slot = info.slot;
        let own_hints = self.granted(id, info.hints);
        let active_window = self.active_window;
        let device_name = session::checked_text("device", &info.device)?;
        // Whoever was alone on that device: what it did not ring for counts from now on.
        let alone = |client: &Client| {
            let mut queues = client.queues();
            queues.any(|(_, queue, _)| queue.device_name == device_name)
        };
        for other in self.quiet(alone) {
            self.end_quiet(other);
        }
        self.end_quiet(id);
        self.settle(now);
        let Some(Session {
            peer,
            client: Some(client),
            ..
        }) = self.sessions.get_mut(&id)
        else {
            return Ok(());
        };
        client.several_groups |= own_hints != Hints::default();
        let index = usize::from(slot);
        session::check_slot(slot)?;
        if client.queue(slot).is_some() {
            let reason = format!("slot {slot} has a queue already");
            return Err(End::Refused(reason));
        }
        let level = session::checked_level(&info.attributes)?;
        let Some(block) = client.segment.layout().block(slot) else {
            return Ok(());
        };
        let device = self.devices.acquire(&device_name).ok_or_else(|| {
            End::Refused(format!("device {device_name}: the daemon has too many"))
        })?;

        self.last_queue += 1;
        let queue = Queue {
            id: QueueId(self.last_queue),
            device,
            device_name,
            level,
            seen: (block.state(), block.completed()),
        };
        self.places.insert(queue.id, Place { session: id, slot });
        self.engine.created(queue.id, || Owner {
            pid: peer.pid_number(),
            name: client.name.clone(),
            device: queue.device_name.clone(),
        });
        let (process, is_first) = (ProcessId(id), client.queues().next().is_none());
        let hints = client.hints;
        let created = Event::QueueCreated {
            queue: queue.id,
            process,
            device,
            hints,
        };
        let one_background = info.attributes.one_background;
        // The number of a device that is new may have been another's.
        if one_background || self.devices.queues(device) == 1 {
            let limit = Event::Device {
                device,
                one_background,
            };
            tell(&mut self.engine, now, limit, &mut self.actions);
        }
        tell(&mut self.engine, now, created, &mut self.actions);
        if is_first {
            client.condition = Condition::of(peer.pid);
            let nice = client.condition.nice;
            let event = Event::Nice { process, nice };
            tell(&mut self.engine, now, event, &mut self.actions);
            let foreground = active_window.is_some_and(|pid| descends(peer.pid, pid));
            let event = Event::Foreground {
                process,
                foreground,
            };
            tell(&mut self.engine, now, event, &mut self.actions);
        }
        let own = Target::Queue(queue.id);
        // What the process states is in force already where there was room for it.
        let beside = self.engine.check_hints(Target::Process(process), hints);
        let unfit = beside.and_then(|()| self.engine.check_hints(own, own_hints));
        for hint in own_hints.iter() {
            let hint = Event::Hint { target: own, hint };
            tell(&mut self.engine, now, hint, &mut self.actions);
        }
        // It may have been ready long before this daemon started.
        tell(&mut self.engine, now, queue.event(), &mut self.actions);
        if client.queues.len() <= index {
            client.queues.resize_with(index + 1, || None);
        }
        client.queues[index] = Some(Box::new(queue));
        // The gate must stand as decided before the client clears its bypass.
        self.apply();
        if let Some(session) = self.sessions.get_mut(&id) {
            session.send(FromScheduler::QueueReady { slot }, id, &self.reactor)?;
        }
        let notice = unfit.err().map(|error| self.why_unfit(error));
        self.notify(id, notice)
    }

    fn destroy_queue(&mut self, id: u64, slot: u16, now: Nanos) -> Result<(), End> {
        let client = self.client(id)?;
        let queue = client.queues.get_mut(usize::from(slot));
        let queue = queue.and_then(Option::take);
        let queue = queue.ok_or_else(|| End::Refused(format!("slot {slot} has no queue")))?;
        if let Some(block) = client.segment.layout().block(slot) {
            session::open_for_good(block);
        }
        self.places.remove(&queue.id);
        self.devices.release(queue.device);
        self.tell(now, Event::QueueGone { queue: queue.id });
        Ok(())
    }

    fn set_level(&mut self, id: u64, slot: u16, attributes: &Attributes) -> Result<(), End> {
        let level = session::checked_level(attributes)?;
        session::check_slot(slot)?;
        if let Some((queue, _)) = self.client(id)?.queue(slot) {
            queue.level = level;
        }
        Ok(())
    }

    /// What a client's user may give of the hints that it asked for. The log shows the first that was not taken as it
    /// stands.
    fn granted(&mut self, id: u64, asked: Hints) -> Hints {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Hints::default();
        };
        let actor = Actor {
            uid: session.peer.uid,
            owner: self.owner,
        };
        let (hints, denied) = actor.grant(asked);
        if let (Some(why), Some(client)) = (denied, &mut session.client) {
            let (pid, name) = (session.peer.pid_number(), &*client.name);
            if mem::replace(&mut client.hint_logged, true) {
                debug!(pid, name, "{}", why.notice());
            } else {
                warn!(pid, name, "{}", why.notice());
            }
        }
        hints
    }

    /// Why hints cannot be heeded beside those of others, one line; `None` if they can.
    fn unfit(&self, target: Target, hints: Hints) -> Option<String> {
        let error = self.engine.check_hints(target, hints).err()?;
        Some(self.why_unfit(error))
    }

    /// Says to a client, and in the log, why hints of its own are not heeded; the same thing once.
    fn notify(&mut self, id: u64, notice: Option<String>) -> Result<(), End> {
        let (Some(text), Some(session)) = (notice, self.sessions.get_mut(&id)) else {
            return Ok(());
        };
        let Some(client) = &mut session.client else {
            return Ok(());
        };
        if client.noticed.as_ref() == Some(&text) {
            return Ok(());
        }
        warn!(
            pid = session.peer.pid_number(),
            name = &*client.name,
            "{text}"
        );
        client.noticed = Some(text.clone());
        session.send(FromScheduler::Notice { text }, id, &self.reactor)
    }

    /// Gives checked hints to a session's process or one of its queues. The caller settles.
    pub(crate) fn give_hints(&mut self, id: u64, target: Target, hints: Hints, now: Nanos) {
        self.end_quiet(id);
        if let Ok(client) = self.client(id) {
            match target {
                Target::Queue(_) => client.several_groups = true,
                Target::Process(_) => {
                    client.hints.extend(hints.iter());
                    if client.queues().next().is_none() {
                        return; // its queues get them when they come
                    }
                }
            }
        }
        for hint in hints.iter() {
            self.tell(now, Event::Hint { target, hint });
        }
    }

    /// Another process has the active window, or none has.
    pub(crate) fn set_active_window(&mut self, pid: Option<u32>, now: Nanos) {
        self.active_window = pid;
        let sessions: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.client.is_some())
            .map(|(&id, session)| (id, session.peer.pid))
            .collect();
        for (id, of) in sessions {
            let process = ProcessId(id);
            let foreground = pid.is_some_and(|pid| descends(of, pid));
            self.tell(
                now,
                Event::Foreground {
                    process,
                    foreground,
                },
            );
        }
        self.settle(now);
    }

    fn client(&mut self, id: u64) -> Result<&mut Client, End> {
        let session = self.sessions.get_mut(&id).ok_or(End::Gone)?;
        session.client.as_mut().ok_or(End::Gone)
    }

    /// The queue in a slot; `None`: the message crossed the end of its queue.
    fn queue_id(&mut self, id: u64, slot: u16) -> Result<Option<QueueId>, End> {
        session::check_slot(slot)?;
        Ok(self.client(id)?.queue(slot).map(|(queue, _)| queue.id))
    }

    /// Where a queue is, if there is one.
    pub(crate) fn place_of(&self, queue: QueueId) -> Option<Place> {
        self.places.get(&queue).copied()
    }

    // ---- the engine ----

    fn tell(&mut self, now: Nanos, event: Event) {
        tell(&mut self.engine, now, event, &mut self.actions);
    }

    /// Puts another policy in force.
    pub(crate) fn set_policy(&mut self, policy: Box<dyn xsched_sched::Policy>, now: Nanos) {
        for id in self.quiet(|_| true) {
            self.end_quiet(id);
        }
        self.settle(now);
        self.engine.set_policy(now, policy, &mut self.actions);
        self.settle(now);
    }

    /// Does what the engine asked for, in its order, and closes sessions that ended, until
    /// nothing is left to do.
    pub(crate) fn settle(&mut self, now: Nanos) {
        loop {
            self.apply();
            if let Some(id) = self.unheard.pop() {
                self.hear(id, now);
            } else if let Some((id, end)) = self.ended.pop() {
                self.close(id, end, now);
            } else {
                return;
            }
        }
    }

    fn apply(&mut self) {
        for &action in &self.actions {
            let (Action::Gate { queue, .. } | Action::Share { queue, .. }) = action;
            let Some(&Place { session: id, slot }) = self.places.get(&queue) else {
                continue; // gone meanwhile
            };
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            match action {
                Action::Gate { open, .. } => {
                    let mut client = session.client.as_mut();
                    if !open && client.as_mut().is_some_and(|client| client.end_quiet()) {
                        self.unheard.push(id);
                    }
                    let Some(block) = client.and_then(|c| c.segment.layout().block(slot)) else {
                        continue;
                    };
                    let wake = match open {
                        true => block.open_gate(),
                        false => block.close_gate(),
                    };
                    if wake {
                        block.wake_gate();
                    }
                    self.engine.gated(queue, open);
                }
                Action::Share { share, .. } => {
                    self.engine.shared(queue, share);
                    let share = match share {
                        HwShare::Background => Share::Background,
                        HwShare::Slice(micros) => Share::Slice(micros),
                        _ => Share::Normal,
                    };
                    let message = FromScheduler::Share { slot, share };
                    if let Err(end) = session.send(message, id, &self.reactor) {
                        self.ended.push((id, end));
                    }
                }
            }
        }
        self.actions.clear();
    }

    /// Forgets a session; the caller applies what the engine makes of that.
    fn close(&mut self, id: u64, end: End, now: Nanos) {
        let Some(session) = self.sessions.remove(&id) else {
            return; // ended twice
        };
        self.reactor.forget(&session.socket);
        self.reactor.forget(&session.pidfd);
        let pid = session.peer.pid_number();
        let name = session.client.as_ref().map_or("", |client| &*client.name);
        match end {
            End::Refused(reason) => {
                warn!(pid, name, reason, "client refused");
                session.refuse(&reason);
            }
            End::Gone if session.client.is_some() => info!(pid, name, "client left"),
            End::Gone => debug!(pid, "connection closed before a hello"),
        }
        if let Some(client) = &session.client {
            self.reactor.forget_doorbell(&client.doorbell);
            // It may live on, and must not wait for a scheduler that it no longer has.
            client.open_gates();
            for (_, queue, _) in client.queues() {
                self.places.remove(&queue.id);
                self.devices.release(queue.device);
                self.engine.gone(queue.id);
            }
            let process = ProcessId(id);
            self.tell(now, Event::ProcessGone { process });
        }
        session.hang_up();
        self.reap(session);
    }
}

impl Queue {
    /// What its state word says.
    fn event(&self) -> Event {
        let queue = self.id;
        if self.seen.0.is_ready() {
            Event::Ready { queue }
        } else {
            Event::Idle { queue }
        }
    }
}

/// Whether a process is another one, or a child of a child … of it: windows often belong to a parent of those that compute.
fn descends(mut process: Pid, from: u32) -> bool {
    const GENERATIONS: usize = 16;
    for _ in 0..GENERATIONS {
        if process.as_raw_nonzero().get().unsigned_abs() == from {
            return true;
        }
        match Pid::from_raw(Condition::of(process).parent) {
            Some(parent) => process = parent,
            None => return false,
        }
    }
    false
}

fn tell(engine: &mut Observed, now: Nanos, event: Event, actions: &mut Vec<Action>) {
    if let Err(error) = engine.handle(now, event, actions) {
        // The engine has forgotten, or never knew, what the host still names; nothing changed.
        debug!(%error, "event without effect");
    }
}

/// Tells the engine which ready queues moved since they were last looked at.
fn sample(client: &mut Client, now: Nanos, engine: &mut Observed, actions: &mut Vec<Action>) {
    let layout = client.segment.layout();
    for (slot, queue) in client.queues.iter_mut().enumerate() {
        let (Some(queue), Ok(slot)) = (queue, u16::try_from(slot)) else {
            continue;
        };
        let Some(block) = layout.block(slot).filter(|_| queue.seen.0.is_ready()) else {
            continue;
        };
        let seen = (block.state(), block.completed());
        if mem::replace(&mut queue.seen, seen) == seen {
            continue;
        }
        let event = if seen.0.is_ready() {
            Event::Progress { queue: queue.id }
        } else {
            queue.event() // its ring is on its way
        };
        tell(engine, now, event, actions);
    }
}

#[cfg(test)]
mod tests;
