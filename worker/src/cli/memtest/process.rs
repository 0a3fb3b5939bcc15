//! An engine process and a conversation with it.

use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use latentfarm_common::child::die_with_parent;
use latentfarm_common::wire::engine::{EngineFailure, EngineReply, EngineRequest, EngineStage};
use latentfarm_common::wire::memory::MemorySample;
use latentfarm_common::wire::pipe::{self, PipeError};

use super::plan::Plan;
use latentfarm_engine::environment;

/// Killed where it is dropped.
pub(super) struct Engine {
    process: Child,
    stdin: ChildStdin,
    /// What it says, read by a thread that ends with it.
    replies: Receiver<Result<Option<EngineReply>, PipeError>>,
    silence_limit: Duration,
}

/// The answer to a request, and what was told on the way to it.
pub(super) struct Answer {
    pub(super) reply: EngineReply,
    pub(super) progress: Vec<(EngineStage, MemorySample)>,
    pub(super) seconds: f64,
}

impl Engine {
    /// Its log goes to where ours goes.
    pub(super) fn start(plan: &Plan, args: &[String]) -> anyhow::Result<Self> {
        let mut command = Command::new(&plan.engine);
        command
            .args(["--device", &plan.args.device])
            .args(args)
            .envs(environment(plan.threads))
            // The first backtrace that is printed loads tables of many MiB for good: no leak, but it looks like one.
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        die_with_parent(&mut command);
        let mut process = command
            .spawn()
            .with_context(|| format!("cannot start the engine `{}`", plan.engine.display()))?;
        let stdin = process.stdin.take().context("the engine has no input")?;
        let mut stdout = process.stdout.take().context("the engine has no output")?;
        let (sender, replies) = mpsc::channel();
        thread::spawn(move || {
            loop {
                let reply = pipe::read(&mut stdout);
                let is_last = !matches!(reply, Ok(Some(_)));
                if sender.send(reply).is_err() || is_last {
                    return;
                }
            }
        });
        Ok(Self {
            process,
            stdin,
            replies,
            silence_limit: Duration::from_secs(plan.args.silence_limit),
        })
    }

    pub(super) fn ask(&mut self, request: &EngineRequest) -> anyhow::Result<Answer> {
        let gone = "the engine ended in the middle of a request: its log above says why";
        let started = Instant::now();
        pipe::write(&mut self.stdin, request).context(gone)?;
        let mut progress = Vec::new();
        loop {
            let reply = match self.replies.recv_timeout(self.silence_limit) {
                Ok(reply) => reply.context(gone)?.context(gone)?,
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!(gone),
                Err(RecvTimeoutError::Timeout) => anyhow::bail!(
                    "the engine hangs: it said nothing for {} s in the middle of a request (--silence-limit)",
                    self.silence_limit.as_secs()
                ),
            };
            match reply {
                EngineReply::Progress { stage, memory } => progress.push((stage, memory)),
                reply => {
                    return Ok(Answer {
                        reply,
                        progress,
                        seconds: started.elapsed().as_secs_f64(),
                    });
                }
            }
        }
    }
}

impl Answer {
    /// The faces of a window and the sample after its cleanup.
    pub(super) fn window(&self) -> anyhow::Result<(&[u8], MemorySample)> {
        match &self.reply {
            EngineReply::Window { faces, memory, .. } => Ok((faces, *memory)),
            other => anyhow::bail!("no window came out: {}", told(other)),
        }
    }

    /// The sample after a request that is no window.
    pub(super) fn ready(&self) -> anyhow::Result<MemorySample> {
        match &self.reply {
            EngineReply::Loaded { memory, .. } | EngineReply::AudioReady { memory, .. } => Ok(*memory),
            other => anyhow::bail!("the engine is not ready: {}", told(other)),
        }
    }
}

/// In words.
pub(super) fn told(reply: &EngineReply) -> String {
    match reply {
        EngineReply::Failed(EngineFailure::OutOfMemory {
            stage,
            needed_at_least_mib,
            free_before_mib,
        }) => {
            let need = needed_at_least_mib.map_or("?".to_owned(), |mib| mib.to_string());
            format!(
                "out of memory at {stage}: {need} MiB are needed at least, {free_before_mib} MiB were free"
            )
        }
        EngineReply::Failed(EngineFailure::Unfit { message } | EngineFailure::Other { message }) => {
            message.clone()
        }
        EngineReply::Failed(EngineFailure::AudioMissing { window }) => {
            format!("audio window {window} is missing")
        }
        EngineReply::Window { .. } => "a window".to_owned(),
        EngineReply::Loaded { .. } | EngineReply::AudioReady { .. } | EngineReply::Progress { .. } => {
            "an answer to another question".to_owned()
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}
