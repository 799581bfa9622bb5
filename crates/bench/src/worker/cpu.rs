//! The CPU's workload: one of [`models`](crate::models) on a scheduled CPU queue.

use std::fmt::Display;

use xsched_agent::Agent;
use xsched_cpu::CpuQueue;
use xsched_wire::env::{Scheduler, Settings};
use xsched_xqueue::XQueue;

use super::{Failure, WorkerArgs, Workload};
use crate::models::{Inputs, Model, Scores};

/// A model, its input, and the queue that it runs on.
pub(super) struct CpuWorkload {
    model: Model,
    inputs: Inputs,
    scores: Scores,
    queue: XQueue<CpuQueue>,
    agent: Agent,
}

/// The environment's; a test of this file joins no daemon that its user runs.
fn settings() -> Settings {
    let settings = Settings::from_env();
    match cfg!(test) {
        true => Settings {
            scheduler: Scheduler::Off,
            ..settings
        },
        false => settings,
    }
}

impl CpuWorkload {
    pub(super) fn new(args: &WorkerArgs) -> Result<CpuWorkload, Failure> {
        let architecture = super::architecture(&args.model).map_err(Failure::usage)?;
        let batch = args.batch;
        let size = args.image_size.unwrap_or(architecture.usual_size());
        let inputs = Inputs::random(architecture, batch, size, args.seed)
            .ok_or_else(|| Failure::out_of_memory(format!("no room for {batch} images")))?;
        let model = Model::new(architecture, size, args.seed).map_err(Failure::other)?;
        let threads = match args.threads {
            Some(threads) => threads,
            None => std::thread::available_parallelism()
                .map_err(Failure::other)?
                .get(),
        };
        let agent = Agent::from_settings(settings).map_err(Failure::device)?;
        let hardware = CpuQueue::new(threads).map_err(Failure::device)?;
        let queue = agent
            .attach(hardware, xsched_cpu::DEVICE)
            .map_err(Failure::device)?;
        Ok(CpuWorkload {
            model,
            inputs,
            scores: Scores::default(),
            queue,
            agent,
        })
    }
}

impl Workload for CpuWorkload {
    fn commands(&self) -> usize {
        self.model.command_count(self.inputs.batch())
    }

    fn level(&self) -> u8 {
        // The queue keeps its level while nobody schedules it.
        let level = self.queue.level().filter(|_| self.agent.is_scheduled());
        level.map_or(0, |level| level as u8)
    }

    fn infer(&mut self) -> Result<Vec<u8>, Failure> {
        for command in self.model.commands(&self.inputs, &self.scores) {
            self.queue.launch(command).map_err(Failure::device)?;
        }
        self.queue.synchronize().map_err(command_failed)?;
        let scores = self.scores.take();
        Ok(scores
            .iter()
            .flat_map(|score| score.to_le_bytes())
            .collect())
    }
}

/// Allocators say so in words only.
fn command_failed(error: impl Display) -> Failure {
    let message = error.to_string();
    if message.to_lowercase().contains("out of memory") {
        Failure::out_of_memory(message)
    } else {
        Failure::device(message)
    }
}
