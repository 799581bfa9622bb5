//! The simulator: many devices and tenants in virtual time, under the engine that schedules real ones.
//!
//! A [`Scenario`] is read from TOML; [`run`] plays it under one policy and gives a [`Report`]. A run is exactly repeatable
//! from its seed, and tasks ask for the same work at the same times under every policy.
//!
//! What is modelled: a device executes one command at a time, in order within a task, and its own slicer shares it among
//! tasks with work. A closed gate stops a task at level 1 after what is in flight (the window), at level 2 at the next gate
//! (the gate interval), at level 3 at once, in the middle of a command. Going over to another task costs the switch time.
//! What is not: memory, copies beside kernels, several commands at once.
#![forbid(unsafe_code)]

mod machine;
mod report;
mod scenario;
mod svg;
mod work;

pub use machine::{Segment, run, run_with};
pub use report::{Report, TaskReport, comparison, csv, table};
pub use scenario::{BadScenario, DeviceSpec, Scenario, TaskSpec};
pub use svg::timeline;
pub use work::{Arrival, Length, Time};
