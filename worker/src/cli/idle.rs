//! `latentfarm-worker idle` pulls tasks as `run` does and finishes each at once with made-up results.
//! `latentfarm bench` starts it, to measure what the farm costs without the model.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::error::one_line;
use latentfarm_common::frame::FrameHash;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::lip_sync::LipOpening;
use latentfarm_common::nats::Role;
use latentfarm_common::nats::{Identity, connect};
use latentfarm_common::queues::Available;
use latentfarm_common::shutdown;
use latentfarm_common::wire;
use latentfarm_common::wire::memory::RenderMemory;
use latentfarm_common::wire::outcome::{
    DoneBody, FaceObservation, FaceObservations, Failure, FrameObservation, StageTimings,
};
use latentfarm_common::wire::task::TaskBody;

use super::exit::{block_on, failed};
use crate::consume::{self, Artifact, Assignment, Finish, HeartbeatState, TaskOutput, TaskRunner};

#[derive(clap::Args, Debug)]
pub(super) struct IdleArgs {
    /// URL of the farm's NATS server
    #[arg(long, value_name = "URL")]
    nats: String,
    /// Name of this worker on the farm
    #[arg(long, value_name = "NAME")]
    name: WorkerId,
}

pub(super) fn main(args: IdleArgs) -> ExitCode {
    match block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(error.as_ref(), 1),
    }
}

async fn run(args: IdleArgs) -> anyhow::Result<()> {
    let (trigger, shutdown, drain) = shutdown::channel();
    shutdown::on_signals(trigger).context("cannot listen for signals")?;
    let identity = Identity::from_environment(Role::Worker(args.name.clone()), args.name.to_string());
    let connection = connect::connect(&args.nats, &identity, RetryLimit::Tries(1)).await?;
    let heartbeat_state = HeartbeatState::new(args.name.clone(), "none".to_owned());
    heartbeat_state.update(|heartbeat| {
        heartbeat.available = AVAILABLE;
        heartbeat.capacity = AVAILABLE.memory;
    });
    let settings = consume::Settings::new(args.name);
    let mut runner = Idle;
    let serving = consume::serve(&connection, &settings, &mut runner, &heartbeat_state, shutdown);
    // The future is large: without the box it would be part of this one.
    Box::pin(serving).await?;
    connection.close().await;
    let _in_time = drain.finished(Duration::from_secs(5)).await;
    Ok(())
}

/// What this worker reports as available, which is more than any task needs.
const AVAILABLE: Available = Available {
    analyze: true,
    memory: RenderMemory {
        host_mib: Some(1 << 20),
        device_mib: None,
    },
};

/// Accepts every task and returns a made-up result at once.
struct Idle;

impl TaskRunner for Idle {
    async fn available(&mut self) -> Available {
        AVAILABLE
    }

    async fn run(&mut self, assignment: Assignment<'_>) -> Result<Finish, Failure> {
        let (artifact, body) = match &assignment.task.body {
            TaskBody::Analyze(task) => {
                let frames = usize::try_from(task.range.len()).unwrap_or(0);
                let observations = FaceObservations {
                    frames: vec![face(); frames],
                };
                let bytes = wire::encode(&observations).map_err(|error| Failure::Transient {
                    message: one_line(&error),
                })?;
                let count = u32::try_from(frames).unwrap_or(u32::MAX);
                let body = DoneBody::Analyze {
                    frames: count,
                    with_face: count,
                };
                (bytes, body)
            }
            TaskBody::Render(task) => {
                let frames = u32::try_from(task.range.len()).unwrap_or(u32::MAX);
                let body = DoneBody::Render {
                    frame_hashes: vec![FrameHash([0; 16]); frames as usize],
                    lips: vec![None; frames as usize],
                    synced: frames,
                    passed: 0,
                };
                (assignment.task.chunk.to_string().into_bytes(), body)
            }
        };
        let output = TaskOutput {
            artifact: Artifact::Bytes(artifact),
            body,
            timings: StageTimings::default(),
            memory: None,
            numerics_fingerprint: "none".to_owned(),
        };
        Ok(Box::pin(std::future::ready(Ok(output))))
    }
}

/// Returns the observation of every frame: one face, always in the same place.
fn face() -> FrameObservation {
    FrameObservation {
        cut: false,
        faces: vec![FaceObservation {
            bbox: [200.0, 100.0, 60.0, 60.0],
            score: 0.9,
            points: [[210.0, 110.0], [250.0, 110.0], [230.0, 130.0]],
            lips: LipOpening(50),
        }],
    }
}
