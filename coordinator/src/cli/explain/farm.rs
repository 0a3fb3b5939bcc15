//! What a farm recorded of a job, in the form of a journal: its events and done records. Where chunks were placed,
//! and why, is only in the coordinator's job folder.

use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::ids::JobId;
use latentfarm_common::nats::connect::{self, Identity, Patience};
use latentfarm_common::nats::direct::DirectReader;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::{Role, subjects, topology};
use latentfarm_common::wire;
use latentfarm_common::wire::job::JobSpec;
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord, Event, EventKind};

use crate::journal::{Entry, Line};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn recorded(url: &str, job: JobId) -> anyhow::Result<Vec<Line>> {
    let identity = Identity::from_environment(Role::Observer, "latentfarm explain".to_owned());
    let connection = connect::connect(url, &identity, Patience::For(CONNECT_PATIENCE)).await?;
    let mut lines = Vec::new();
    let mut reader = DirectReader::new(
        &connection.client,
        topology::EVENTS,
        &subjects::events_of_job(job),
        1,
    );
    while let Some(message) = reader.next().await.context("cannot read the farm's events")? {
        let nanoseconds = message.time.unix_timestamp_nanos();
        let at_ms = u64::try_from(nanoseconds / 1_000_000).unwrap_or(0);
        // Of another release.
        let Ok(event) = wire::decode::<Event>(&message.payload) else {
            continue;
        };
        lines.push(Line {
            at_ms,
            entry: of_event(event),
        });
    }
    let log = DoneLog::new(&connection);
    for stored in log.list(job).await.context("cannot read the done log")? {
        if let Ok(record) = stored.record {
            lines.push(Line {
                at_ms: 0,
                entry: of_record(record),
            });
        }
    }
    if let Some(entry) = manifest(&connection, job).await?
        && !lines.is_empty()
    {
        let at_ms = lines
            .iter()
            .map(|line| line.at_ms)
            .find(|at| *at > 0)
            .unwrap_or(0);
        lines.insert(0, Line { at_ms, entry });
    }
    connection.close().await;
    Ok(lines)
}

async fn manifest(connection: &connect::Connection, job: JobId) -> anyhow::Result<Option<Entry>> {
    let bucket = connection.context.get_key_value(topology::JOBS_BUCKET).await;
    let bucket = bucket.context("cannot reach the farm's job bucket")?;
    let found = bucket.get(format!("{job}.manifest")).await;
    let Some(bytes) = found.context("cannot read the job's manifest")? else {
        return Ok(None);
    };
    let Ok(spec) = wire::decode::<JobSpec>(&bytes) else {
        return Ok(None);
    };
    let chunks =
        |frames: u64, size: u32| usize::try_from(frames.div_ceil(u64::from(size.max(1)))).unwrap_or(0);
    Ok(Some(Entry::RunBegins {
        job,
        epoch: 0,
        analyze_chunks: chunks(spec.source.frames, spec.analyze_frames),
        render_chunks: chunks(spec.frames, spec.chunk_frames),
        frames: spec.frames,
        chunk_frames: spec.chunk_frames,
        cpu_fallback: None,
        unplaceable_wait_seconds: 0,
    }))
}

fn of_event(event: Event) -> Entry {
    let chunk = event.chunk.name();
    let (attempt, worker) = (event.attempt, event.worker);
    match event.kind {
        EventKind::Started => Entry::Started {
            chunk,
            attempt,
            worker,
        },
        EventKind::Failed(failure) => Entry::Failed {
            chunk,
            attempt,
            worker,
            failure,
            queue: None,
            then: None,
        },
        EventKind::Released => Entry::Ended {
            chunk,
            attempt,
            reason: format!("{worker} gave it back while draining"),
            then: None,
        },
    }
}

fn of_record(record: DoneRecord) -> Entry {
    let frames = match &record.body {
        DoneBody::Analyze { frames, .. } => u64::from(*frames),
        DoneBody::Render { frame_hashes, .. } => frame_hashes.len() as u64,
    };
    Entry::Done {
        chunk: record.chunk.name(),
        attempt: record.attempt,
        worker: record.worker,
        frames,
        numerics_fingerprint: record.numerics_fingerprint,
        memory: record.memory,
    }
}
