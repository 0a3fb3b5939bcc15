//! The engine process that the checks send requests to, and its timed replies.

use std::time::{Duration, Instant};

use latentfarm_common::wire::engine::{EngineFailure, EngineReply, EngineRequest, EngineStage};
use latentfarm_common::wire::memory::MemorySample;

use super::setup::Setup;
use crate::cli::one_device::DeviceEngine;
use crate::supervise::{Child, ChildCommand};

/// A running engine process, which is killed when this is dropped.
pub(super) struct EngineUnderTest {
    child: Child,
    silence_limit: Duration,
}

/// The final reply to a request, the samples of the stages before it, and how long it took.
pub(super) struct TimedReply {
    pub(super) reply: EngineReply,
    pub(super) progress: Vec<(EngineStage, MemorySample)>,
    pub(super) seconds: f64,
}

impl EngineUnderTest {
    /// Starts an engine on the device under test with more arguments. Its log becomes part of this process's
    /// log.
    pub(super) fn start(setup: &Setup, engine: &DeviceEngine, args: &[String]) -> anyhow::Result<Self> {
        let device = ["--device", &engine.device].map(Into::into);
        // The first backtrace loads tables of many MiB for good, which would look like a leak.
        let no_backtrace = ("RUST_BACKTRACE".to_owned(), "0".to_owned());
        let child = Child::spawn(&ChildCommand {
            name: "engine",
            program: engine.program.clone(),
            args: device.into_iter().chain(args.iter().map(Into::into)).collect(),
            envs: engine.envs.iter().cloned().chain([no_backtrace]).collect(),
            threads: setup.threads,
        })?;
        Ok(Self {
            child,
            silence_limit: Duration::from_secs(setup.args.silence_limit),
        })
    }

    /// Sends a request and waits for its final reply.
    ///
    /// # Errors
    /// If the engine ends, or sends nothing for `--silence-limit`, which counts as a hang.
    pub(super) async fn request(&mut self, request: &EngineRequest) -> anyhow::Result<TimedReply> {
        let started = Instant::now();
        self.child.send(request).await?;
        let mut progress = Vec::new();
        loop {
            match self.child.receive(self.silence_limit).await? {
                EngineReply::Progress { stage, memory } => progress.push((stage, memory)),
                reply => {
                    return Ok(TimedReply {
                        reply,
                        progress,
                        seconds: started.elapsed().as_secs_f64(),
                    });
                }
            }
        }
    }
}

impl TimedReply {
    /// Returns the faces of a rendered window and the sample after its cleanup.
    pub(super) fn window(&self) -> anyhow::Result<(&[u8], MemorySample)> {
        match &self.reply {
            EngineReply::Window { faces, memory, .. } => Ok((faces, *memory)),
            other => anyhow::bail!("the engine rendered no window: {}", describe(other)),
        }
    }

    /// Returns the sample after the model is loaded or the audio is encoded.
    pub(super) fn ready(&self) -> anyhow::Result<MemorySample> {
        match &self.reply {
            EngineReply::Loaded { memory, .. } | EngineReply::AudioReady { memory, .. } => Ok(*memory),
            other => anyhow::bail!("the engine is not ready: {}", describe(other)),
        }
    }
}

/// Describes a reply that was not expected.
pub(super) fn describe(reply: &EngineReply) -> String {
    match reply {
        EngineReply::Failed(EngineFailure::OutOfMemory {
            stage,
            needed_at_least_mib,
            free_before_mib,
        }) => {
            let need = needed_at_least_mib.map_or("?".to_owned(), |mib| mib.to_string());
            format!(
                "out of memory at {stage}: it needs at least {need} MiB, and {free_before_mib} MiB were free"
            )
        }
        EngineReply::Failed(EngineFailure::Unfit { message } | EngineFailure::Other { message }) => {
            message.clone()
        }
        EngineReply::Failed(EngineFailure::AudioMissing { window }) => {
            format!("audio window {window} is missing")
        }
        EngineReply::Window { .. } => "a rendered window".to_owned(),
        EngineReply::Loaded { .. } | EngineReply::AudioReady { .. } | EngineReply::Progress { .. } => {
            "a reply to another request".to_owned()
        }
    }
}
