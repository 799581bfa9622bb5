//! One device as one process sees it: lanes of commands executed in order, in device time.
//!
//! Device time follows the clock but is exact: a kernel ends when its start and its duration say,
//! however late the thread that notices wakes. Kernels have the device one at a time, by priority,
//! then by who was ready first; everything else takes no time. The engine is told the time.
//!
//! Lanes reach the device through a few connections. What computes, or reads or writes a value in
//! memory, leaves a connection in the order of submission, whichever lanes it came from.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    share::{Share, is_alive},
    work::{Callback, Duration, Token, Work},
};

/// How often in ns a waiting process looks whether it has the device, and an owner of short turns
/// whether others wait.
const LOOK: u64 = 50_000;
/// An owner is heard of at least this often (ns).
const REPORT: u64 = 50_000_000;
/// A wait that is found satisfied at the first look has cost no time if that look was at most so
/// late (ns). Otherwise the word may have changed only just now, and nothing behind the wait may
/// seem to have run before.
const LATE: u64 = 200_000;
/// Bounds in ns between two looks at a word that a lane or a kernel waits for.
const POLL: (u64, u64) = (20_000, 500_000);

pub(crate) type LaneId = u64;

/// A command in a lane.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) work: Work,
    /// What must have completed before, beside the lane's earlier commands.
    pub(crate) after: Vec<Arc<Token>>,
    pub(crate) done: Arc<Token>,
    /// Clock time of submission.
    pub(crate) submitted: u64,
}

impl Command {
    /// Copies, host functions and marks in the order have other ways.
    fn takes_the_connection(&self) -> bool {
        matches!(self.work, Work::Kernel(_) | Work::Wait(_) | Work::Write(_))
    }
}

#[derive(Debug)]
struct Lane {
    /// With the number of its submission.
    queue: VecDeque<(u64, Command)>,
    connection: usize,
    /// Device time at which the last completed command ended.
    time: u64,
    /// Lower is more urgent.
    priority: i32,
    /// Dropped once drained.
    closed: bool,
    /// A host function runs.
    busy: bool,
    /// Clock time since which the wait at the head has been found unsatisfied.
    stalled: Option<u64>,
}

/// The kernel that has begun and not ended.
#[derive(Debug)]
struct Running {
    lane: LaneId,
    duration: Duration,
    /// Kernel time in ns that it had in former turns.
    had: u64,
    /// Device time at which the present stretch begins; `None` while another process has the device.
    since: Option<u64>,
    /// Clock time of the first look at the word that it waits for.
    looked: u64,
}

#[derive(Debug)]
enum Turn {
    Away {
        wanted: bool,
        look: u64,
    },
    Mine {
        /// Device time from which the device is this process's.
        from: u64,
        /// Clock time of the next look whether others wait.
        look: u64,
        /// Device time at which the turn ends because others wait.
        cut: Option<u64>,
    },
}

#[derive(Debug)]
pub(crate) struct Engine {
    lanes: BTreeMap<LaneId, Lane>,
    next_lane: LaneId,
    /// Of each connection: device time at which the last command left it.
    connections: Vec<u64>,
    /// Lanes that were opened with a connection of their own.
    opened: usize,
    submissions: u64,
    share: Share,
    turn: Turn,
    running: Option<Running>,
    /// Its hardware queues are off the device: no kernel runs, and what had begun waits.
    withdrawn: bool,
    /// Device time up to which this process used the device.
    free: u64,
    served: u64,
    /// Host functions to call: lane, function.
    pub(crate) calls: Vec<(LaneId, Callback)>,
    /// Whether a command completed since somebody took note of it.
    pub(crate) completed: bool,
}

impl Engine {
    pub(crate) fn new(share: Share, connections: usize) -> Self {
        Self {
            lanes: BTreeMap::new(),
            next_lane: 0,
            connections: vec![0; connections.max(1)],
            opened: 0,
            submissions: 0,
            share,
            turn: Turn::Away {
                wanted: false,
                look: 0,
            },
            running: None,
            withdrawn: false,
            free: 0,
            served: 0,
            calls: Vec::new(),
            completed: false,
        }
    }

    pub(crate) fn open(&mut self, priority: i32) -> LaneId {
        self.opened += 1;
        self.open_on(self.opened % self.connections.len(), priority)
    }

    /// Opens a lane for a branch of what another one executes, of its priority: the first of them is on its connection,
    /// the others on the next ones.
    pub(crate) fn open_beside(&mut self, lane: LaneId, branch: usize) -> LaneId {
        let Lane {
            connection,
            priority,
            ..
        } = self.lanes[&lane];
        self.open_on((connection + branch) % self.connections.len(), priority)
    }

    fn open_on(&mut self, connection: usize, priority: i32) -> LaneId {
        self.next_lane += 1;
        let lane = Lane {
            queue: VecDeque::new(),
            connection,
            time: 0,
            priority,
            closed: false,
            busy: false,
            stalled: None,
        };
        self.lanes.insert(self.next_lane, lane);
        self.next_lane
    }

    /// The lane goes once it has executed what it holds.
    pub(crate) fn close(&mut self, lane: LaneId) {
        if let Some(lane) = self.lanes.get_mut(&lane) {
            lane.closed = true;
        }
    }

    pub(crate) fn submit(&mut self, lane: LaneId, command: Command) {
        let lane = self.lanes.get_mut(&lane).expect("an open lane");
        self.submissions += 1;
        lane.queue.push_back((self.submissions, command));
    }

    /// Commands in a lane that have not completed.
    pub(crate) fn queued(&self, lane: LaneId) -> usize {
        self.lanes.get(&lane).map_or(0, |lane| lane.queue.len())
    }

    /// A host function that was handed out in [`Engine::calls`] has returned.
    pub(crate) fn returned(&mut self, lane: LaneId, now: u64) {
        let state = self.lanes.get_mut(&lane).expect("a busy lane stays");
        state.busy = false;
        self.complete(lane, now);
    }

    /// Takes this process's kernels off the device, the running one with what it has done so far,
    /// or lets them go on.
    pub(crate) fn withdraw(&mut self, withdrawn: bool, now: u64) {
        if withdrawn == self.withdrawn {
            return;
        }
        // What ended before now has ended.
        self.run(now);
        self.withdrawn = withdrawn;
        if !withdrawn {
            self.free = self.free.max(now);
            return;
        }
        if let (Turn::Mine { from, .. }, Some(running)) = (&self.turn, &mut self.running) {
            let since = running.since.unwrap_or(self.free.max(*from));
            let stretch = now.saturating_sub(since);
            running.had += stretch;
            self.served += stretch;
            self.free = self.free.max(now);
            running.since = None;
        }
        self.pass_on(now);
    }

    pub(crate) fn share(&mut self) -> &mut Share {
        &mut self.share
    }

    /// Kernel time in ns that this process got, up to the last completed stretch.
    pub(crate) fn served(&self) -> u64 {
        self.served
    }

    /// Executes all that can be executed by clock time `now`. Returns when to be called again at
    /// the latest, `None` = when something was submitted.
    pub(crate) fn run(&mut self, now: u64) -> Option<u64> {
        self.look(now);
        loop {
            let mut progress = false;
            let lanes: Vec<_> = self.lanes.keys().copied().collect();
            for lane in lanes {
                progress |= self.advance(lane, now);
            }
            progress |= self.compute(now);
            if !progress {
                break;
            }
        }
        self.lanes
            .retain(|_, lane| !(lane.closed && lane.queue.is_empty()));
        self.wake(now)
    }

    /// Executes what takes no time at the head of a lane.
    fn advance(&mut self, id: LaneId, now: u64) -> bool {
        let mut progress = false;
        while let Some((lane, ready)) = self.ready(id) {
            let Some((_, head)) = lane.queue.front() else {
                break;
            };
            let end = match &head.work {
                Work::Kernel(_) => break,
                Work::Host(callback) => {
                    let callback = *callback;
                    lane.busy = true;
                    self.calls.push((id, callback));
                    break;
                }
                Work::Wait(wait) => {
                    if !wait.is_satisfied() {
                        lane.stalled.get_or_insert(now);
                        break;
                    }
                    let late = now.saturating_sub(ready) > LATE;
                    if lane.stalled.take().is_some() || late {
                        now.max(ready)
                    } else {
                        ready
                    }
                }
                other => {
                    other.perform();
                    ready
                }
            };
            self.complete(id, end);
            progress = true;
        }
        progress
    }

    /// The lane, if its head may execute, and from which device time on.
    fn ready(&mut self, lane: LaneId) -> Option<(&mut Lane, u64)> {
        let free = self.connection_free(lane)?;
        let lane = self.lanes.get_mut(&lane)?;
        let (_, head) = lane.queue.front()?;
        if lane.busy {
            return None;
        }
        let mut ready = lane.time.max(head.submitted).max(free);
        for token in &head.after {
            ready = ready.max(token.time()?);
        }
        Some((lane, ready))
    }

    /// From which device time on the head of a lane may leave its connection; `None` while another
    /// lane's stands before it there.
    fn connection_free(&self, id: LaneId) -> Option<u64> {
        let lane = self.lanes.get(&id)?;
        let (mine, head) = lane.queue.front()?;
        if !head.takes_the_connection() {
            return Some(0);
        }
        let others = self
            .lanes
            .iter()
            .filter(|(_, other)| other.connection == lane.connection);
        let running = self.running.as_ref().map(|running| running.lane);
        let mut firsts = others.filter_map(|(id, other)| {
            let begun = usize::from(Some(*id) == running);
            let mut commands = other.queue.iter().skip(begun);
            commands.find(|(_, command)| command.takes_the_connection())
        });
        let is_first = firsts.all(|(number, _)| number >= mine);
        is_first.then(|| self.connections[lane.connection])
    }

    fn complete(&mut self, id: LaneId, end: u64) {
        let lane = self.lanes.get_mut(&id).expect("a lane with a command");
        let (_, command) = lane.queue.pop_front().expect("a command that completes");
        if command.takes_the_connection() && !matches!(command.work, Work::Kernel(_)) {
            let left = &mut self.connections[lane.connection];
            *left = end.max(*left);
        }
        lane.time = end;
        command.done.complete(end);
        self.completed = true;
    }

    /// Drives the running kernel, or begins the next. Returns whether anything ended.
    fn compute(&mut self, now: u64) -> bool {
        if self.withdrawn {
            return false;
        }
        if let Some(running) = &self.running
            && matches!(self.turn, Turn::Away { wanted: false, .. })
        {
            // It was withdrawn, and goes on.
            debug_assert!(running.since.is_none());
            self.acquire(now, now);
        }
        if self.running.is_none() {
            let Some((lane, ready, duration)) = self.choose() else {
                self.pass_on(now);
                return false;
            };
            self.acquire(ready, now);
            let Turn::Mine { from, .. } = self.turn else {
                return false;
            };
            let begin = self.free.max(ready).max(from);
            // It leaves the connection as it begins.
            let connection = self.lanes[&lane].connection;
            self.connections[connection] = begin;
            self.running = Some(Running {
                lane,
                duration,
                had: 0,
                since: Some(begin),
                looked: now,
            });
        }
        let Turn::Mine { from, cut, .. } = self.turn else {
            return false;
        };
        let free = self.free;
        let Some(running) = &mut self.running else {
            return false;
        };
        let since = *running.since.get_or_insert(free.max(from));
        let end = match running.duration {
            Duration::Nanoseconds(all) => Some(since + all.saturating_sub(running.had)),
            Duration::Until(address, value) => {
                (address.load_u32() == value).then_some(since.max(now))
            }
        };
        if let Some(end) = end.filter(|&end| end <= now && cut.is_none_or(|cut| end <= cut)) {
            let lane = running.lane;
            self.running = None;
            self.served += end.saturating_sub(since);
            self.free = end;
            if let Some(Work::Kernel(kernel)) = self.head(lane) {
                kernel.effect.perform();
            }
            self.complete(lane, end);
            return true;
        }
        if let Some(cut) = cut.filter(|&cut| cut <= now) {
            let stretch = cut.saturating_sub(since);
            running.had += stretch;
            running.since = None;
            self.served += stretch;
            self.free = self.free.max(cut);
            let (free, served) = (self.free, self.served);
            self.share.with(|table, me| {
                table.slots[me].served = served;
                table.leave(me, free, now, &mut is_alive);
            });
            self.turn = Turn::Away {
                wanted: true,
                look: 0,
            };
            self.look(now);
            return matches!(self.turn, Turn::Mine { .. });
        }
        false
    }

    fn head(&self, lane: LaneId) -> Option<&Work> {
        let (_, command) = self.lanes.get(&lane)?.queue.front()?;
        Some(&command.work)
    }

    /// The kernel to run next: lane, ready since, duration.
    fn choose(&mut self) -> Option<(LaneId, u64, Duration)> {
        let ids: Vec<_> = self.lanes.keys().copied().collect();
        let mut candidates = Vec::new();
        for id in ids {
            if let Some((lane, ready)) = self.ready(id)
                && let Some(Work::Kernel(kernel)) = lane.queue.front().map(|(_, head)| &head.work)
            {
                candidates.push((id, ready, lane.priority, kernel.duration));
            }
        }
        // Among those that are ready when the device is free, the most urgent.
        let earliest = candidates.iter().map(|candidate| candidate.1).min()?;
        let begin = earliest.max(self.free);
        let chosen = candidates
            .into_iter()
            .filter(|candidate| candidate.1 <= begin)
            .min_by_key(|&(id, ready, priority, _)| (priority, ready, id))?;
        Some((chosen.0, chosen.1, chosen.3))
    }

    /// Asks for the device unless it is this process's already.
    fn acquire(&mut self, since: u64, now: u64) {
        if matches!(self.turn, Turn::Away { wanted: false, .. }) {
            self.share.with(|table, me| table.want(me, since, now));
            self.turn = Turn::Away {
                wanted: true,
                look: 0,
            };
            self.look(now);
        }
    }

    /// Gives the device up, having no kernel for it.
    fn pass_on(&mut self, now: u64) {
        let wants = match self.turn {
            Turn::Away { wanted, .. } => wanted,
            Turn::Mine { .. } => true,
        };
        if wants {
            let (free, served) = (self.free, self.served);
            self.share.with(|table, me| {
                table.slots[me].served = served;
                table.idle(me, free, now, &mut is_alive);
            });
            self.turn = Turn::Away {
                wanted: false,
                look: 0,
            };
        }
    }

    /// Looks, when it is time to, who has the device and who waits for it.
    fn look(&mut self, now: u64) {
        let (mine, wanted, look) = match self.turn {
            Turn::Away { wanted, look } => (false, wanted, look),
            Turn::Mine { look, .. } => (true, true, look),
        };
        if !wanted || now < look {
            return;
        }
        let (free, served) = (self.free, self.served);
        self.turn = self.share.with(|table, me| {
            if table.slots[me].since == 0 {
                // This process was not heard of for so long that others took the device.
                table.want(me, now, now);
            }
            if !mine && table.owner != Some(me) {
                table.rescue(me, now, &mut is_alive);
            }
            if table.owner != Some(me) {
                return Turn::Away {
                    wanted: true,
                    look: now + LOOK,
                };
            }
            table.heard = now;
            table.slots[me].served = served;
            let next = table.boundary(me, now.max(table.from + 1));
            Turn::Mine {
                from: table.from,
                look: next.clamp(now + LOOK, now + REPORT),
                cut: table.cut(me, free.max(table.from)),
            }
        });
        if let (Turn::Away { .. }, Some(running)) = (&self.turn, &mut self.running)
            && mine
        {
            // The device was taken away: what this stretch did since is lost.
            running.since = None;
        }
        if !self.share.is_shared()
            && let Turn::Mine { look, .. } = &mut self.turn
        {
            *look = u64::MAX;
        }
    }

    /// When something will be due.
    fn wake(&self, now: u64) -> Option<u64> {
        let mut wake = u64::MAX;
        for lane in self.lanes.values() {
            if let Some(since) = lane.stalled {
                wake = wake.min(now + poll(now - since));
            }
            // A command of another device may complete unheard.
            if let Some((_, head)) = lane.queue.front()
                && head.after.iter().any(|token| !token.is_done())
            {
                wake = wake.min(now + POLL.1);
            }
        }
        match self.turn {
            Turn::Away { wanted: true, look } => wake = wake.min(look),
            Turn::Away { .. } => {}
            Turn::Mine { look, cut, from } => {
                if let Some(running) = &self.running {
                    wake = wake.min(look).min(cut.unwrap_or(u64::MAX));
                    let since = running.since.unwrap_or(from);
                    wake = wake.min(match running.duration {
                        Duration::Nanoseconds(all) => since + all.saturating_sub(running.had),
                        Duration::Until(..) => now + poll(now - running.looked),
                    });
                }
            }
        }
        (wake != u64::MAX).then_some(wake)
    }
}

/// The longer something has been waited for, the more seldom it is looked at.
fn poll(waited: u64) -> u64 {
    (waited / 16).clamp(POLL.0, POLL.1)
}
