//! `latentfarm-worker idle`: takes tasks as `run` does and does nothing for them, so that a bench sees what the
//! farm itself costs.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::error::one_line;
use latentfarm_common::frame::FrameHash;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::Role;
use latentfarm_common::nats::connect::{self, Identity, Patience};
use latentfarm_common::queues::Available;
use latentfarm_common::shutdown;
use latentfarm_common::wire;
use latentfarm_common::wire::memory::RenderMemory;
use latentfarm_common::wire::outcome::{
    DoneBody, FaceObservation, FaceObservations, Failure, FrameObservation, StageTimings,
};
use latentfarm_common::wire::task::TaskBody;

use super::exit::run_here;
use crate::consume::{self, Artifact, Assignment, Finished, TaskRunner, Vitals};

#[derive(clap::Args, Debug)]
pub(super) struct IdleArgs {
    /// URL of the farm's NATS server
    #[arg(long, value_name = "URL")]
    nats: String,
    /// Name of this worker
    #[arg(long, value_name = "NAME")]
    name: WorkerId,
}

pub(super) fn main(args: IdleArgs) -> ExitCode {
    match run_here(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: IdleArgs) -> anyhow::Result<()> {
    let (trigger, shutdown, drain) = shutdown::channel();
    shutdown::on_signals(trigger).context("cannot listen for signals")?;
    let identity = Identity::from_environment(Role::Worker(args.name.clone()), args.name.to_string());
    let connection = connect::connect(&args.nats, &identity, Patience::Once).await?;
    let vitals = Vitals::new(args.name.clone(), "none".to_owned());
    vitals.update(|heartbeat| heartbeat.capacity.host_mib = Some(ROOM_MIB));
    let settings = consume::Settings::new(args.name);
    consume::serve(&connection, &settings, &mut Idle, &vitals, shutdown).await?;
    connection.close().await;
    let _in_time = drain.finished(Duration::from_secs(5)).await;
    Ok(())
}

/// More than any task needs.
const ROOM_MIB: u64 = 1 << 20;

/// Has room for everything and does nothing.
struct Idle;

impl TaskRunner for Idle {
    async fn available(&mut self) -> Available {
        Available {
            analyze: true,
            memory: RenderMemory {
                host_mib: Some(ROOM_MIB),
                device_mib: None,
            },
        }
    }

    async fn run(&mut self, assignment: Assignment<'_>) -> Result<Finished, Failure> {
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
                    synced: frames,
                    passed: 0,
                };
                (assignment.task.chunk.to_string().into_bytes(), body)
            }
        };
        Ok(Finished {
            artifact: Artifact::Bytes(artifact),
            body,
            timings: StageTimings::default(),
            memory: None,
            numerics_fingerprint: "none".to_owned(),
        })
    }
}

/// The same face in the same place.
fn face() -> FrameObservation {
    FrameObservation {
        cut: false,
        faces: vec![FaceObservation {
            bbox: [200.0, 100.0, 60.0, 60.0],
            score: 0.9,
            points: [[210.0, 110.0], [250.0, 110.0], [230.0, 130.0]],
        }],
    }
}
