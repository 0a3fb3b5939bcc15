//! The events of a render as JSON objects, which `latentfarm render --json` prints one a line.

use latentfarm_common::ids::{ChunkId, WorkKind};
use latentfarm_common::time::{FrameRange, milliseconds};
use serde_json::{Value, json};

use super::exit::ExitStatus;
use crate::dispatch::JobEvent;
use crate::local::LocalNotice;
use crate::render::RenderEvent;

/// The JSON object of an event. `None` if programs have no use for the event, or if another event contains
/// it.
pub(super) fn to_json(event: &RenderEvent) -> Option<Value> {
    match event {
        RenderEvent::Note(text) => Some(json!({ "event": "note", "text": text })),
        RenderEvent::IngestProgress { source_frames, of } => Some(json!({
            "event": "ingest_progress",
            "source_frames": source_frames,
            "of": of,
        })),
        RenderEvent::Ingested {
            source_frames,
            segments,
            frames,
            ..
        } => Some(json!({
            "event": "ingested",
            "source_frames": source_frames,
            "segments": segments,
            "frames": frames,
        })),
        RenderEvent::Job(event) => job_json(event),
        RenderEvent::Local(notice) => local_json(notice),
        RenderEvent::Draining => Some(json!({ "event": "draining" })),
        RenderEvent::StitchBegins { frames } => Some(json!({ "event": "joining", "frames": frames })),
        RenderEvent::Resuming { .. }
        | RenderEvent::IngestBegins { .. }
        | RenderEvent::DispatchBegins { .. }
        | RenderEvent::Stitch(_) => None,
    }
}

/// The JSON object of the error that ended a render: the last event. `refused` means that the arguments, an input or
/// the machine as it is (a program that is missing, a disk without room) do not allow the job, and that no output was
/// written; the command can succeed once that is changed. `failed` means that the machine or the farm failed on the
/// way; the same command resumes the job.
pub(super) fn error_json(status: ExitStatus, error: &str) -> Value {
    let event = match status {
        ExitStatus::Refused => "refused",
        ExitStatus::Complete | ExitStatus::Failed | ExitStatus::Incomplete | ExitStatus::Interrupted => {
            "failed"
        }
    };
    json!({
        "event": event,
        "error": error,
        "exit_code": status as u8,
    })
}

fn local_json(notice: &LocalNotice) -> Option<Value> {
    Some(match notice {
        LocalNotice::WorkerDied { worker, how, .. } => {
            json!({ "event": "worker_died", "worker": worker, "how": how })
        }
        LocalNotice::WorkerGivenUp { worker, why } => {
            json!({ "event": "worker_given_up", "worker": worker, "why": why })
        }
        LocalNotice::ServerRestarted { how } => json!({ "event": "server_restarted", "how": how }),
        // The job ends with an error that has the same text.
        LocalNotice::ServerLost { .. } => return None,
    })
}

fn job_json(event: &JobEvent) -> Option<Value> {
    Some(match event {
        // Every worker sends one every two seconds; `latentfarm top --json` prints them.
        JobEvent::Heartbeat(_) => return None,
        JobEvent::Progress(progress) => json!({
            "event": "progress",
            "frames_done": progress.render.frames_done + progress.frames_under_way,
            "frames": progress.render.frames,
            "workers": progress.workers,
            "waiting_for_memory": progress.waiting_for_memory,
            "shortage": progress.shortage,
        }),
        JobEvent::Waiting {
            reason,
            waited,
            left,
            mend,
        } => json!({
            "event": "waiting",
            "for": reason.kind(),
            "reason": reason.to_string(),
            "mend": mend,
            "waited_seconds": waited.as_secs(),
            "given_up_in_seconds": left.map(|left| left.as_secs()),
        }),
        JobEvent::WaitOver { kind, waited } => {
            json!({ "event": "wait_over", "for": kind, "waited_seconds": waited.as_secs() })
        }
        JobEvent::ServerLost { url } => json!({ "event": "connection_lost", "server": url }),
        JobEvent::ServerBack { url, away } => {
            json!({ "event": "connection_back", "server": url, "away_ms": milliseconds(*away) })
        }
        JobEvent::Resumed { records } => json!({ "event": "resumed", "chunks": records }),
        JobEvent::WorkerJoined { worker, device } => {
            json!({ "event": "worker_joined", "worker": worker, "device": device })
        }
        JobEvent::WorkerLeft { worker } => json!({ "event": "worker_left", "worker": worker }),
        JobEvent::WorkerLost { worker } => json!({ "event": "worker_lost", "worker": worker }),
        JobEvent::WorkerSetAside {
            worker,
            reason,
            pause,
        } => json!({
            "event": "worker_set_aside",
            "worker": worker,
            "reason": reason,
            "pause_seconds": pause.map(|pause| pause.as_secs()),
        }),
        JobEvent::ChunkStarted {
            chunk,
            range,
            worker,
            attempt,
        } => {
            let more = json!({ "worker": worker, "attempt": attempt.number });
            chunk_json("chunk_started", *chunk, *range, &more)
        }
        JobEvent::ChunkDone {
            chunk, range, worker, ..
        } => chunk_json("chunk_done", *chunk, *range, &json!({ "worker": worker })),
        JobEvent::ChunkRequeued {
            chunk,
            range,
            reason,
            delay,
        } => {
            let more = json!({ "reason": reason, "delay_ms": milliseconds(*delay) });
            chunk_json("chunk_requeued", *chunk, *range, &more)
        }
        JobEvent::ChunkUnschedulable {
            chunk,
            range,
            reason,
            at_most,
        } => {
            let more = json!({ "reason": reason, "at_most_seconds": at_most.as_secs() });
            chunk_json("chunk_waits_for_memory", *chunk, *range, &more)
        }
        JobEvent::ChunkQuarantined { chunk, range, reason } => {
            chunk_json("chunk_quarantined", *chunk, *range, &json!({ "reason": reason }))
        }
    })
}

/// The JSON object of an event about one chunk: the fields that all such events have, and those of the object
/// `more`.
fn chunk_json(event: &str, chunk: ChunkId, range: FrameRange, more: &Value) -> Value {
    let work = match chunk.work {
        WorkKind::Analyze => "analyze",
        WorkKind::Render => "render",
        WorkKind::Border => "border",
        WorkKind::SpotCheck => "spot_check",
    };
    let mut value = json!({
        "event": event,
        "work": work,
        "chunk": chunk,
        "start": range.start,
        "end": range.end,
    });
    for (key, field) in more.as_object().into_iter().flatten() {
        value[key] = field.clone();
    }
    value
}
