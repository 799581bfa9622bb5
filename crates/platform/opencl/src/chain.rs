//! Which gates stand in a queue, and which of them may be passed: no driver, no clock.
//!
//! A gate is a user event that a barrier in the queue waits for. One that was completed cannot be
//! closed again, so gates stand *ahead* of the device, not completed yet, and each is completed
//! when the device comes near. How near a device is tell the marks: marks and gates alternate, and
//! a gate may be passed when the last mark before it was reached (*just in time*), or the one before
//! that (*one group ahead*).
//!
//! ```text
//! queue   ..commands.. M1 G1 ..commands.. M2 G2 ..commands.. M3 G3 ..
//! reached      ^ device: M1 is not reached yet
//! ```
//! One group ahead costs no pause between groups, and suspending lets at most the rest of this group
//! and the next one run. Just in time lets only this group end, and costs the time in which a
//! callback completes the gate: for long groups, where that is little. How much it is differs between
//! drivers and is measured (the *pause*); groups are long enough to hide it when they go one ahead.
//!
//! Some drivers call back late: NVIDIA's looks at its marks every 20 ms, and when a user event is completed. There somebody
//! has to look in time, and does until calls back are the first to know of marks that are looked at.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use xsched_wire::Level;
use xsched_xqueue::hw;

/// How long a group of commands should take: the gate and the mark cost about 15 µs of a CPU.
const GROUP: Duration = Duration::from_millis(2);
/// The same where the scheduling class stops the device at once, and gates only keep commands back.
const WIDE_GROUP: Duration = Duration::from_millis(4);
/// From this on a group's gate is completed just in time, ...
const LONG: Duration = Duration::from_millis(10);
/// ... if the pause is less than this part of it.
const PAUSES_IN_LONG: u32 = 20;
/// How many pauses a group lasts at least, so that its gate is completed before the device gets there.
const PAUSES_IN_GROUP: u32 = 2;
/// So many calls back after each other that were the first to know, and nobody looks any more.
const IN_TIME: u32 = 8;
/// Between two looks at a mark: this part of the time that the commands before it take or have taken, ...
const LOOKS: u32 = 50;
/// ... not less, ...
const LEAST_LOOK: Duration = Duration::from_micros(50);
/// ... and not more.
const MOST_LOOK: Duration = Duration::from_millis(2);
/// Commands in a group at most.
const MOST: u32 = 256;
/// What a command is taken for at first, and at most.
const LONGEST: Duration = Duration::from_millis(50);

/// Gates `G` and marks `M` of one queue.
#[derive(Debug)]
pub(crate) struct Chain<G, M> {
    /// Not completed, in the order of the queue, each with the last mark before it.
    armed: VecDeque<(u32, G)>,
    outstanding: VecDeque<Mark<M>>,
    /// The last mark placed, and the last one reached.
    marked: u32,
    reached: u32,
    /// Commands before the last mark reached, and when it was placed and reached.
    covered: u64,
    last: Option<(Instant, Instant)>,
    /// How long one command takes: the longest seen, slowly forgotten.
    command: Duration,
    /// How long the device stands still at a gate that is completed just in time.
    pause: Duration,
    /// The mark that is looked at.
    looked_at: Option<u32>,
    /// Calls back that were the first to know of it, since somebody else was.
    in_time: u32,
}

/// Who says that a mark was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    CallBack,
    Look,
}

#[derive(Debug)]
struct Mark<M> {
    value: u32,
    covers: u64,
    placed: Instant,
    mark: M,
}

impl<G, M: Copy> Chain<G, M> {
    pub(crate) fn new(pause: Duration) -> Self {
        Chain {
            armed: VecDeque::new(),
            outstanding: VecDeque::new(),
            marked: 0,
            reached: 0,
            covered: 0,
            last: None,
            command: LONGEST,
            pause,
            looked_at: None,
            in_time: 0,
        }
    }

    /// A mark was enqueued behind `covers` commands.
    pub(crate) fn marked(&mut self, value: u32, covers: u64, now: Instant, mark: M) {
        self.marked = value;
        self.outstanding.push_back(Mark {
            value,
            covers,
            placed: now,
            mark,
        });
    }

    /// A mark was reached, and all before it, as the driver calls back or somebody sees. Gives those not known to be
    /// reached before.
    pub(crate) fn reach(&mut self, value: u32, now: Instant, told: By) -> Vec<M> {
        let mut over = Vec::new();
        let mut was_looked_at = false;
        while let Some(mark) = self.outstanding.front()
            && hw::reached(value, mark.value)
        {
            let (commands, placed) = (mark.covers.saturating_sub(self.covered), mark.placed);
            self.reached = mark.value;
            was_looked_at |= self.looked_at == Some(mark.value);
            self.covered = mark.covers;
            over.push(mark.mark);
            self.outstanding.pop_front();
            // The device worked on these commands at least since both marks were there, at most since
            // the application could submit them.
            if let Some((placed_before, reached_before)) = self.last {
                let at_least = now.saturating_duration_since(placed.max(reached_before));
                let at_most = now.saturating_duration_since(placed_before.max(reached_before));
                self.observe(commands, at_least, at_most);
            }
            self.last = Some((placed, now));
        }
        match told {
            By::CallBack if was_looked_at => self.in_time = self.in_time.saturating_add(1),
            By::Look if !over.is_empty() => self.in_time = 0,
            _ => {}
        }
        over
    }

    /// Whether somebody has to look at the marks.
    pub(crate) fn calls_late(&self) -> bool {
        self.in_time < IN_TIME
    }

    /// A longer command is believed when the device was seen at it, a shorter one slowly.
    fn observe(&mut self, commands: u64, at_least: Duration, at_most: Duration) {
        let Some(commands) = u32::try_from(commands).ok().filter(|&count| count > 0) else {
            return;
        };
        let (at_least, at_most) = (at_least / commands, at_most / commands);
        let slowly = (self.command / 2).max(at_most.min(self.command));
        self.command = slowly.max(at_least).min(LONGEST);
    }

    /// How long one command takes.
    pub(crate) fn command(&self) -> Duration {
        self.command
    }

    /// Groups that may be under way before their gates were seen from nearby.
    fn ahead(&self) -> u32 {
        // A group of several commands may be longer, but not by much.
        u32::from(self.command < LONG.max(self.pause * PAUSES_IN_LONG))
    }

    /// Whether a gate placed now stands far enough ahead of the device to be worth it.
    pub(crate) fn runs_ahead(&self) -> bool {
        !self.may_pass(self.marked)
    }

    fn may_pass(&self, mark: u32) -> bool {
        hw::reached(self.reached.wrapping_add(self.ahead()), mark)
    }

    /// A gate stands in the queue behind every mark placed so far.
    pub(crate) fn arm(&mut self, gate: G) {
        self.armed.push_back((self.marked, gate));
    }

    /// Takes out the gates that may be passed now.
    pub(crate) fn take(&mut self) -> Vec<G> {
        let near = self
            .armed
            .iter()
            .take_while(|(mark, _)| self.may_pass(*mark))
            .count();
        self.armed.drain(..near).map(|(_, gate)| gate).collect()
    }

    /// Takes out every gate.
    pub(crate) fn take_all(&mut self) -> Vec<G> {
        self.armed.drain(..).map(|(_, gate)| gate).collect()
    }

    /// Whether any gate stands in the queue.
    pub(crate) fn is_armed(&self) -> bool {
        !self.armed.is_empty()
    }

    /// The first mark that is not known to be reached.
    pub(crate) fn next_mark(&self) -> Option<(u32, M)> {
        self.outstanding.front().map(|mark| (mark.value, mark.mark))
    }

    /// When to look whether that one was reached, where the driver calls back late; `None`: no gate waits for it.
    pub(crate) fn next_look(&mut self, now: Instant) -> Option<Duration> {
        let mark = self.outstanding.front().filter(|_| self.is_armed())?;
        self.looked_at = Some(mark.value);
        let commands = mark.covers.saturating_sub(self.covered).min(MOST.into()) as u32;
        let length = self.command * commands;
        let begun = self
            .last
            .map_or(mark.placed, |(placed, reached)| placed.max(reached));
        let left = (begun + length).saturating_duration_since(now);
        // The commands may be shorter than those before, and the device may stand still.
        let taken = now.saturating_duration_since(begun);
        let step = (length.max(taken) / LOOKS).max(LEAST_LOOK);
        Some((left / 2).max(step).min(MOST_LOOK))
    }

    /// Forgets the marks that are not known to be reached.
    pub(crate) fn forget_marks(&mut self) -> Vec<M> {
        self.outstanding.drain(..).map(|mark| mark.mark).collect()
    }
}

/// Commands between two gates at this level, if one takes so long and a gate this pause.
pub(crate) fn interval(level: Level, command: Duration, pause: Duration) -> u32 {
    let group = match level {
        Level::Lv3 => WIDE_GROUP,
        Level::Lv1 | Level::Lv2 => GROUP,
    };
    let group = group.max(pause * PAUSES_IN_GROUP);
    let fit = group.as_nanos() / command.as_nanos().max(1);
    fit.clamp(1, u128::from(MOST)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PoCL takes.
    const PAUSE: Duration = Duration::from_micros(80);

    /// A queue that runs commands of one length, its mark and gate at every interval.
    struct Model {
        level: Level,
        chain: Chain<u32, u32>,
        now: Instant,
        submitted: u64,
        /// Commands before each mark, since the mark before.
        groups: Vec<u32>,
    }

    impl Model {
        fn new() -> Self {
            Model {
                level: Level::Lv2,
                chain: Chain::new(PAUSE),
                now: Instant::now(),
                submitted: 0,
                groups: vec![0],
            }
        }

        fn interval(&self) -> u32 {
            interval(self.level, self.chain.command(), self.chain.pause)
        }

        /// A group is submitted, then a mark and, where it is worth it, a gate named as the mark.
        fn group(&mut self) {
            let (mark, commands) = (self.groups.len() as u32, self.interval());
            self.submitted += u64::from(commands);
            self.groups.push(commands);
            self.chain.marked(mark, self.submitted, self.now, mark);
            if self.chain.runs_ahead() {
                self.chain.arm(mark);
            }
        }

        /// The device executes the group before a mark; gives the gates that open then.
        fn run(&mut self, mark: u32, command: Duration) -> Vec<u32> {
            self.now += command * self.groups[mark as usize];
            self.chain.reach(mark, self.now, By::CallBack);
            self.chain.take()
        }
    }

    #[test]
    fn long_commands_are_let_through_one_by_one() {
        let mut model = Model::new();
        for _ in 1..=5 {
            model.group();
        }
        for mark in 1..=5 {
            assert_eq!(model.run(mark, Duration::from_millis(20)), [mark]);
            assert_eq!(model.interval(), 1);
        }
        assert!(!model.chain.is_armed());
    }

    #[test]
    fn short_commands_share_a_gate_that_is_opened_one_group_ahead() {
        let mut model = Model::new();
        for mark in 1..=60 {
            model.group();
            if mark > 3 {
                model.run(mark - 3, Duration::from_micros(100));
            }
        }
        assert_eq!(model.interval(), 20, "2 ms");
        assert_eq!(model.chain.take_all(), [59, 60], "58 is the next group's");
    }

    #[test]
    fn gates_stand_farther_apart_where_the_device_is_stopped_without_them() {
        for (command_us, at_level_2, at_level_3) in [
            (1, MOST, MOST),
            (100, 20, 40),
            (1_000, 2, 4),
            (3_000, 1, 1),
            (50_000, 1, 1),
        ] {
            let commands =
                [Level::Lv2, Level::Lv3].map(|level| interval(level, us(command_us), PAUSE));
            assert_eq!(commands, [at_level_2, at_level_3], "{command_us} µs");
        }
        let mut model = Model::new();
        model.level = Level::Lv3;
        for mark in 1..=60 {
            model.group();
            if mark > 3 {
                model.run(mark - 3, us(1_000));
            }
        }
        assert_eq!(model.interval(), 4);
        assert_eq!(model.chain.take_all(), [59, 60], "still one group ahead");
    }

    #[test]
    fn a_driver_that_is_slow_at_gates_gets_longer_groups_and_is_told_ahead() {
        let mut model = Model::new();
        model.chain.pause = Duration::from_millis(5);
        for mark in 1..=60 {
            model.group();
            if mark > 3 {
                model.run(mark - 3, us(100));
            }
        }
        assert_eq!(model.interval(), 100, "10 ms");
        assert_eq!(model.chain.take_all(), [59, 60]);
        // Long commands, too: a pause for each would be a quarter of it.
        let mut model = Model::new();
        model.chain.pause = Duration::from_millis(5);
        for _ in 1..=5 {
            model.group();
        }
        assert_eq!(model.chain.take(), [0; 0], "the first two groups need none");
        for mark in 1..=3 {
            assert_eq!(model.run(mark, us(20_000)), [mark + 1]);
        }
        assert_eq!(model.interval(), 1);
    }

    fn us(microseconds: u64) -> Duration {
        Duration::from_micros(microseconds)
    }

    #[test]
    fn a_queue_that_was_idle_needs_no_gate() {
        let mut model = Model::new();
        assert!(!model.chain.runs_ahead());
        model.group();
        model.run(1, Duration::from_millis(20));
        assert!(!model.chain.runs_ahead());
    }

    #[test]
    fn a_pause_of_the_program_is_not_a_long_command() {
        let mut model = Model::new();
        let short = Duration::from_micros(5);
        let mut groups = |pause: Duration, command: Duration| {
            for _ in 0..20 {
                let mark = model.groups.len() as u32;
                model.now += pause;
                model.group();
                model.run(mark, command);
            }
            model.interval()
        };
        assert_eq!(groups(Duration::ZERO, short), MOST);
        assert_eq!(groups(Duration::from_secs(1), short), MOST);
        assert_eq!(groups(Duration::ZERO, Duration::from_millis(5)), 1);
        assert_eq!(groups(Duration::ZERO, short), MOST);
    }

    #[test]
    fn whoever_looks_at_a_mark_looks_more_often_as_it_comes_near() {
        let mut model = Model::new();
        let look = |model: &mut Model, after: u64| model.chain.next_look(model.now + us(after));
        assert_eq!(look(&mut model, 0), None);
        for _ in 1..=5 {
            model.group();
        }
        assert_eq!(look(&mut model, 0), Some(MOST_LOOK), "nothing is known yet");
        for mark in 1..=3 {
            model.run(mark, us(20_000));
        }
        for (after, expected) in [
            (0, 2_000),
            (17_000, 1_500),
            (19_000, 500),
            (19_900, 400),
            (60_000, 1_200),
            (1_000_000, 2_000),
        ] {
            assert_eq!(
                look(&mut model, after),
                Some(us(expected)),
                "after {after} µs"
            );
        }
        model.chain.take_all();
        assert_eq!(look(&mut model, 0), None, "no gate waits");
    }

    #[test]
    fn marks_are_looked_at_until_calls_back_are_the_first_to_know() {
        let mut model = Model::new();
        // One mark more than is reached, so that a gate waits.
        model.group();
        let mut reach = |is_looked_at: bool, by: &[By]| {
            model.group();
            model.now += us(20_000);
            if is_looked_at {
                assert!(model.chain.next_look(model.now).is_some());
            }
            let mark = model.groups.len() as u32 - 2;
            for &by in by {
                model.chain.reach(mark, model.now, by);
                model.chain.take();
            }
            model.chain.calls_late()
        };
        for _ in 0..2 {
            for _ in 1..IN_TIME {
                assert!(reach(true, &[By::CallBack, By::Look]));
                assert!(reach(false, &[By::CallBack]), "nobody could be faster");
            }
            assert!(!reach(true, &[By::CallBack]));
            assert!(
                reach(true, &[By::Look, By::CallBack]),
                "as soon as one is late"
            );
        }
    }

    #[test]
    fn marks_reported_late_or_twice_count_once() {
        let mut model = Model::new();
        for _ in 1..=3 {
            model.group();
        }
        assert_eq!(model.chain.reach(2, model.now, By::CallBack), [1, 2]);
        assert_eq!(model.chain.reach(1, model.now, By::CallBack), [0; 0]);
        assert_eq!(model.chain.next_mark(), Some((3, 3)));
        assert_eq!(model.chain.forget_marks(), [3]);
    }
}
