//! The events of a render as JSON objects, for `--json`.

use latentfarm_common::ids::{ChunkId, Work};
use latentfarm_common::time::FrameRange;
use serde_json::{Value, json};

use crate::dispatch::JobEvent;
use crate::local::LocalNotice;
use crate::render::RenderEvent;

/// The event for machines, or `None` if they have no use for it.
pub(super) fn to_json(event: &RenderEvent) -> Option<Value> {
    match event {
        RenderEvent::Note(text) => Some(json!({ "event": "note", "text": text })),
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
        RenderEvent::Resuming { .. }
        | RenderEvent::IngestBegins { .. }
        | RenderEvent::Ingest(_)
        | RenderEvent::DispatchBegins { .. }
        | RenderEvent::Draining
        | RenderEvent::StitchBegins { .. }
        | RenderEvent::Stitch(_) => None,
    }
}

fn local_json(notice: &LocalNotice) -> Option<Value> {
    Some(match notice {
        LocalNotice::WorkerDied { worker, how, .. } => {
            json!({ "event": "worker_died", "worker": worker.as_str(), "how": how })
        }
        LocalNotice::WorkerGivenUp { worker, why } => {
            json!({ "event": "worker_given_up", "worker": worker.as_str(), "why": why })
        }
        LocalNotice::ServerRestarted { how } => json!({ "event": "server_restarted", "how": how }),
        // Ends the job with an error that says as much.
        LocalNotice::ServerLost { .. } => return None,
    })
}

fn job_json(event: &JobEvent) -> Option<Value> {
    Some(match event {
        // They come every two seconds from every worker.
        JobEvent::Heartbeat(_) => return None,
        JobEvent::Progress(progress) => json!({
            "event": "progress",
            "frames_done": progress.render.frames_done + progress.frames_under_way,
            "frames": progress.render.frames,
            "workers": progress.workers,
            "waiting_for_memory": progress.waiting_for_memory,
            "shortage": progress.shortage,
        }),
        JobEvent::Resumed { records } => json!({ "event": "resumed", "chunks": records }),
        JobEvent::WorkerJoined { worker, device } => {
            json!({ "event": "worker_joined", "worker": worker.as_str(), "device": device })
        }
        JobEvent::WorkerLeft { worker } => json!({ "event": "worker_left", "worker": worker.as_str() }),
        JobEvent::WorkerLost { worker } => json!({ "event": "worker_lost", "worker": worker.as_str() }),
        JobEvent::ChunkStarted {
            chunk,
            range,
            worker,
            attempt,
        } => {
            let mut value = chunk_event("chunk_started", *chunk, *range);
            value["worker"] = worker.as_str().into();
            value["attempt"] = attempt.number.into();
            value
        }
        JobEvent::ChunkDone {
            chunk, range, worker, ..
        } => {
            let mut value = chunk_event("chunk_done", *chunk, *range);
            value["worker"] = worker.as_str().into();
            value
        }
        JobEvent::ChunkRequeued {
            chunk,
            range,
            reason,
            delay,
        } => {
            let mut value = chunk_event("chunk_requeued", *chunk, *range);
            value["reason"] = reason.as_str().into();
            value["delay_ms"] = latentfarm_common::time::milliseconds(*delay).into();
            value
        }
        JobEvent::ChunkUnplaced {
            chunk,
            range,
            reason,
            at_most,
        } => {
            let mut value = chunk_event("chunk_waits_for_memory", *chunk, *range);
            value["reason"] = reason.as_str().into();
            value["at_most_seconds"] = at_most.as_secs().into();
            value
        }
        JobEvent::ChunkQuarantined { chunk, range, reason } => {
            let mut value = chunk_event("chunk_quarantined", *chunk, *range);
            value["reason"] = reason.as_str().into();
            value
        }
    })
}

fn chunk_event(name: &str, chunk: ChunkId, range: FrameRange) -> Value {
    let work = match chunk.work {
        Work::Analyze => "analyze",
        Work::Render => "render",
    };
    json!({ "event": name, "work": work, "chunk": chunk.to_string(), "start": range.start, "end": range.end })
}
