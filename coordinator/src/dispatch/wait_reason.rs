//! What keeps a job waiting, which is found from the states of its chunks, the workers and the link to the
//! farm. The dispatcher asks on each tick.

use std::fmt;

use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::Outage;
use latentfarm_common::nats::storage::STORAGE_MEND;
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::memory::MEDIA_MIB;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::workers::Workers;
use crate::job::chunks::{Chunks, Counts};
use crate::job::record::MemoryWait;
use crate::job::segments::Segments;

/// What a job waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitReason {
    /// The link to the farm's server is down.
    Server { url: String, error: Option<String> },
    /// No worker takes tasks. Those that are unfit or set aside are listed with what is the matter with each.
    Worker { unfit: Vec<(WorkerId, String)> },
    /// The workers that could go on with the job rest by their own settings, each with the reason.
    Resting { workers: Vec<(WorkerId, String)> },
    /// No live worker has all the tags that the job needs.
    Tags { needed: Tags },
    /// No worker has the host memory for face analysis.
    AnalysisMemory,
    /// There are workers, but none that can render: they report no memory of any device.
    Device,
    /// These many chunks fit no live worker; the text describes the largest shortage.
    Memory { chunks: usize, shortage: String },
    /// This coordinator could not renew its lease in time, although the link is up.
    Lease { url: String },
    /// The farm's JetStream storage is full.
    Storage { error: String },
    /// The farm does not accept tasks.
    Queue { error: String },
    /// These many tasks are queued, and no worker has begun one of them; `idle` workers have no task.
    Begin { queued: usize, idle: usize },
    /// The rest of the job waits until other workers have rendered these many chunks again, as spot checks.
    SpotCheck { chunks: usize },
    /// An operator has paused the job.
    Paused,
    /// It is not the job's turn yet.
    Turn,
    /// No coordinator answers on the farm at this server.
    Coordinator { url: String },
    /// The chunks that can be made of the `checked` source frames so far are done; `of` is the number of all.
    Video { checked: u64, of: u64 },
}

impl WaitReason {
    /// The kind of a wait for the link to the server.
    pub(crate) const SERVER: &str = "server";

    /// The kind of thing that is waited for, as the JSON events name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Server { .. } => Self::SERVER,
            Self::Worker { .. } | Self::Resting { .. } => "worker",
            Self::Tags { .. } => "tags",
            Self::AnalysisMemory | Self::Memory { .. } => "memory",
            Self::Device => "device",
            Self::Lease { .. } => "lease",
            Self::Storage { .. } => "storage",
            Self::Queue { .. } => "queue",
            Self::Begin { .. } => "begin",
            Self::SpotCheck { .. } => "spot_check",
            Self::Paused => "operator",
            Self::Turn => "turn",
            Self::Coordinator { .. } => "coordinator",
            Self::Video { .. } => "video",
        }
    }

    /// What the operator can do about it, in one clause. `start` says how to start a worker.
    pub fn mend(&self, start: &str) -> String {
        match self {
            Self::Server { .. } => {
                "start it again if it has stopped; the job then goes on by itself".to_owned()
            }
            Self::Worker { .. } => start.to_owned(),
            Self::Resting { .. } => "add a worker without such hours to go on sooner".to_owned(),
            Self::Tags { needed } => {
                let tags: Vec<String> = needed.iter().map(|tag| tag.to_string()).collect();
                let noun = if tags.len() == 1 { "the tag" } else { "all the tags" };
                format!("{start}, and give it {noun} with `--tag {}`", tags.join(","))
            }
            Self::AnalysisMemory => "end other programs on the machine of a worker".to_owned(),
            Self::Device => "run `latentfarm-worker probe` on their machines to learn why".to_owned(),
            Self::Memory { .. } => "free that memory, or add a worker with more".to_owned(),
            Self::Lease { .. } => {
                "if this goes on, look into the log of the nats-server and restart it".to_owned()
            }
            Self::Storage { .. } => STORAGE_MEND.to_owned(),
            Self::Queue { .. } => "look into the log of the nats-server".to_owned(),
            Self::Begin { idle: 0, .. } => {
                "they go on with this job when they are free; add a worker to begin sooner".to_owned()
            }
            Self::Begin { .. } => {
                "look into their logs: another worker of their machine may have its turn on the GPU".to_owned()
            }
            Self::SpotCheck { .. } => {
                "workers of the same kind go on with it when they are free; add one to begin sooner".to_owned()
            }
            Self::Paused => "run `latentfarm resume` to go on with it".to_owned(),
            Self::Turn => {
                "run `latentfarm jobs` to see what goes before it, and `latentfarm set` to give it another priority"
                    .to_owned()
            }
            Self::Coordinator { url } => {
                format!("start one with `latentfarm serve --nats {url}`; the job then goes on by itself")
            }
            Self::Video { .. } => {
                "the workers go on with the next ones as they come; if none comes, look into the disk that holds the \
                 video, or submit the job again if its submitter was interrupted"
                    .to_owned()
            }
        }
    }

    /// Whether the farm cannot go on with the job, so that the time counts towards
    /// `--unplaceable-wait`. Chunks that fit no worker count their time themselves.
    pub(super) fn is_stall(&self) -> bool {
        match self {
            Self::Worker { .. }
            | Self::Tags { .. }
            | Self::AnalysisMemory
            | Self::Device
            | Self::Storage { .. } => true,
            Self::Server { .. }
            | Self::Resting { .. }
            | Self::Memory { .. }
            | Self::Lease { .. }
            | Self::Queue { .. }
            | Self::Begin { .. }
            | Self::SpotCheck { .. }
            | Self::Paused
            | Self::Turn
            | Self::Coordinator { .. }
            | Self::Video { .. } => false,
        }
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { url, error } => {
                write!(f, "the NATS server at {url} does not answer")?;
                error.as_ref().map_or(Ok(()), |error| write!(f, " ({error})"))
            }
            Self::Worker { unfit } if unfit.is_empty() => f.write_str("no worker has joined the farm"),
            Self::Worker { unfit } => {
                f.write_str("no worker can run the tasks")?;
                unfit
                    .iter()
                    .try_for_each(|(worker, reason)| write!(f, "; {worker} {reason}"))
            }
            Self::Resting { workers } => {
                f.write_str("the workers that could go on rest")?;
                workers
                    .iter()
                    .try_for_each(|(worker, reason)| write!(f, "; {worker} is {reason}"))
            }
            Self::Tags { needed } => {
                let noun = if needed.iter().count() == 1 { "tag" } else { "tags" };
                write!(f, "no live worker has the {noun} {needed}")
            }
            Self::AnalysisMemory => write!(
                f,
                "face analysis needs {MEDIA_MIB} MiB of host memory besides the worker's reserve, and no worker has \
                 as much free"
            ),
            Self::Device => f.write_str("no worker has a device that can be read"),
            Self::Memory { chunks, shortage } => {
                let noun = if *chunks == 1 { "chunk fits" } else { "chunks fit" };
                write!(f, "{chunks} {noun} no worker: {shortage}")
            }
            Self::Lease { url } => write!(
                f,
                "this coordinator cannot renew its lease at {url}, and decides nothing without it"
            ),
            Self::Storage { error } => write!(f, "the farm's storage is full: {error}"),
            Self::Queue { error } => write!(f, "the farm accepts no tasks: {error}"),
            Self::Begin { queued, idle: 0 } => {
                write!(f, "{queued} tasks are queued, and all workers have other ones")
            }
            Self::Begin { queued, idle } => write!(
                f,
                "{queued} tasks are queued, and none of the {idle} idle workers takes one"
            ),
            Self::SpotCheck { chunks } => {
                let noun = if *chunks == 1 { "chunk is" } else { "chunks are" };
                write!(
                    f,
                    "{chunks} {noun} to be rendered again by other workers as spot checks, and all of those have other tasks"
                )
            }
            Self::Paused => f.write_str("the job is paused"),
            Self::Turn => f.write_str("other jobs of the farm go first"),
            Self::Coordinator { url } => write!(f, "no coordinator answers on the farm at {url}"),
            Self::Video { checked, of } => write!(
                f,
                "only {checked} of {of} frames of the video have been checked and cut so far"
            ),
        }
    }
}

/// What a job's waits depend on besides its chunks and the workers.
#[derive(Clone, Copy, Debug)]
pub(super) struct FarmView<'a> {
    pub(super) url: &'a str,
    /// The outage of the link to the server, if there is one.
    pub(super) outage: Option<&'a Outage>,
    /// Whether this coordinator holds its lease.
    pub(super) has_lease: bool,
    /// Why the last attempt to publish tasks failed, if it did.
    pub(super) refusal: Option<&'a Refusal>,
}

/// Why the farm did not accept tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) error: String,
    /// Whether its storage is full.
    pub(super) is_full: bool,
}

impl FarmView<'_> {
    /// Whether this coordinator can act on the farm.
    pub(super) fn is_up(&self) -> bool {
        self.outage.is_none() && self.has_lease
    }
}

/// Returns what keeps a job waiting now, which needs these tags; `None` while a worker is at work on it or could be.
pub(super) fn reason(
    chunks: &Chunks,
    needed: &Tags,
    workers: &Workers,
    farm: FarmView<'_>,
) -> Option<WaitReason> {
    if let Some(outage) = farm.outage {
        return Some(WaitReason::Server {
            url: farm.url.to_owned(),
            error: outage.last_error.clone(),
        });
    }
    if !farm.has_lease {
        let url = farm.url.to_owned();
        return Some(WaitReason::Lease { url });
    }
    if let Some(worker) = workers.without_store() {
        return Some(WaitReason::Storage {
            error: format!("{worker} holds a result that cannot be stored"),
        });
    }
    let (analyze, render) = (Counts::of(&chunks.analyze), Counts::of(&chunks.render));
    let is_at_work = analyze.running + render.running > 0;
    let open = |counts: Counts| counts.backlog + counts.queued;
    if !is_at_work {
        let lack = if !workers.any_usable(needed) {
            let unfit = workers.out_of_service(needed, Instant::now());
            if unfit.is_empty() && !needed.is_empty() {
                let needed = needed.clone();
                Some(WaitReason::Tags { needed })
            } else {
                let unfit = unfit.into_iter();
                Some(WaitReason::Worker {
                    unfit: unfit.map(|out| (out.worker.clone(), out.describe())).collect(),
                })
            }
        } else if open(analyze) > 0 && workers.analyzers(needed).is_empty() {
            Some(WaitReason::AnalysisMemory)
        } else if open(render) > 0 && workers.capacities(needed).is_empty() {
            Some(WaitReason::Device)
        } else {
            None
        };
        if let Some(lack) = lack {
            let workers = workers.resting(needed);
            return Some(if workers.is_empty() {
                lack
            } else {
                WaitReason::Resting { workers }
            });
        }
    }
    if let Some(worst) = chunks.memory_waits().max_by_key(MemoryWait::need_mib) {
        return Some(WaitReason::Memory {
            chunks: chunks.memory_waits().count(),
            shortage: worst.describe(),
        });
    }
    if let Some(Refusal { error, is_full }) = farm.refusal.cloned() {
        return Some(if is_full {
            WaitReason::Storage { error }
        } else {
            WaitReason::Queue { error }
        });
    }
    let queued = analyze.queued + render.queued;
    let is_verifying = || chunks.iter().any(|record| record.being_verified);
    (!is_at_work && queued > 0 && !is_verifying()).then(|| WaitReason::Begin {
        queued,
        idle: workers.idle(needed),
    })
}

/// Returns the wait for the source video, if no chunk is left that can be made of the segments so far.
pub(super) fn of_video(chunks: &Chunks, segments: &Segments) -> Option<WaitReason> {
    let is_open = |counts: Counts| counts.backlog + counts.queued + counts.running > 0;
    let is_busy = is_open(Counts::of(&chunks.analyze)) || is_open(Counts::of(&chunks.render));
    let is_verifying = || chunks.iter().any(|record| record.being_verified);
    if segments.is_complete() || is_busy || is_verifying() {
        return None;
    }
    Some(match segments.full_storage() {
        Some(error) => WaitReason::Storage {
            error: error.to_owned(),
        },
        None => WaitReason::Video {
            checked: segments.covered(),
            of: segments.needed(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an example of each reason. The match has no other arm, so that a new reason must be listed.
    fn every_reason() -> Vec<WaitReason> {
        let text = || "a test".to_owned();
        let first = WaitReason::Server {
            url: text(),
            error: None,
        };
        std::iter::successors(Some(first), |before| match before {
            WaitReason::Server { .. } => Some(WaitReason::Worker { unfit: Vec::new() }),
            WaitReason::Worker { .. } => Some(WaitReason::Resting { workers: Vec::new() }),
            WaitReason::Resting { .. } => Some(WaitReason::Tags {
                needed: Tags::from("eu".parse().ok()),
            }),
            WaitReason::Tags { .. } => Some(WaitReason::AnalysisMemory),
            WaitReason::AnalysisMemory => Some(WaitReason::Device),
            WaitReason::Device => Some(WaitReason::Memory {
                chunks: 1,
                shortage: text(),
            }),
            WaitReason::Memory { .. } => Some(WaitReason::Lease { url: text() }),
            WaitReason::Lease { .. } => Some(WaitReason::Storage { error: text() }),
            WaitReason::Storage { .. } => Some(WaitReason::Queue { error: text() }),
            WaitReason::Queue { .. } => Some(WaitReason::Begin { queued: 1, idle: 1 }),
            WaitReason::Begin { idle: 1, .. } => Some(WaitReason::Begin { queued: 1, idle: 0 }),
            WaitReason::Begin { .. } => Some(WaitReason::SpotCheck { chunks: 1 }),
            WaitReason::SpotCheck { .. } => Some(WaitReason::Paused),
            WaitReason::Paused => Some(WaitReason::Turn),
            WaitReason::Turn => Some(WaitReason::Coordinator { url: text() }),
            WaitReason::Coordinator { .. } => Some(WaitReason::Video { checked: 1, of: 2 }),
            WaitReason::Video { .. } => None,
        })
        .collect()
    }

    #[test]
    fn every_wait_ends_with_a_step_that_the_operator_can_take() {
        const STEPS: [&str; 8] = [
            "start ",
            "run ",
            "free ",
            "end ",
            "add ",
            "look into ",
            "give ",
            "restart ",
        ];
        let reasons = every_reason();
        assert_eq!(reasons.len(), 17);
        for reason in reasons {
            let mend = reason.mend("start one with `x`");
            assert!(STEPS.iter().any(|step| mend.contains(step)), "{reason}: {mend}");
            assert!(!mend.contains("may say") && !mend.ends_with('.'), "{mend}");
        }
    }
}
