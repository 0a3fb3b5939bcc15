//! Job events as JSON objects. Their text for people is their `Display`.

use latentfarm_common::ids::{ChunkId, Work};
use latentfarm_common::time::FrameRange;
use serde_json::{Value, json};

use crate::dispatch::JobEvent;

/// The event for machines, or `None` for those that come every two seconds.
pub(super) fn to_json(event: &JobEvent) -> Option<Value> {
    Some(match event {
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
            value["delay_ms"] = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX).into();
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
