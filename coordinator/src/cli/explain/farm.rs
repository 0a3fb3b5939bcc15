//! Reads what a farm knows of a job, as lines of a journal, for `explain --nats`: the journal that the coordinator
//! keeps, which says where each chunk was placed, and why; or, without a coordinator, what the farm's server recorded,
//! the events and the done records.

use anyhow::Context as _;
use latentfarm_common::ids::JobId;
use latentfarm_common::nats::direct::DirectReader;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::{Identity, connect};
use latentfarm_common::nats::{Role, subjects, topology};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire;
use latentfarm_common::wire::job::JobSpec;
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord, Event, EventKind};

use crate::farm::FarmClient;
use crate::journal::{self, JournalEntry, JournalLine};

/// Returns the journal of the farm's coordinator, or else what the server recorded.
pub(super) async fn lines(url: &str, job: JobId) -> anyhow::Result<Vec<JournalLine>> {
    let identity = Identity::from_environment(Role::Observer, "latentfarm explain".to_owned());
    let connection = connect::connect(url, &identity, connect::BRIEF).await?;
    topology::check_store(&connection.context).await?;
    // One that has forgotten the job, or was moved without its folder, has no journal of it.
    let kept = FarmClient::observing(&connection).journal(job).await;
    let kept = kept.map(|text| journal::parse(&text)).unwrap_or_default();
    let lines = if kept.is_empty() {
        recorded(&connection, job).await?
    } else {
        kept
    };
    connection.close().await;
    Ok(lines)
}

/// Returns the job's events in the order of the stream, with their times, and then its done records, whose
/// time is 0. The first line is the job's manifest, if the farm has it.
async fn recorded(connection: &connect::Connection, job: JobId) -> anyhow::Result<Vec<JournalLine>> {
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
        // An event of another release cannot be decoded.
        let Ok(event) = wire::decode::<Event>(&message.payload) else {
            continue;
        };
        lines.push(JournalLine {
            at_ms,
            entry: of_event(event),
        });
    }
    let log = DoneLog::new(connection);
    for stored in log.list(job).await.context("cannot read the done log")? {
        if let Ok(record) = stored.record {
            lines.push(JournalLine {
                at_ms: 0,
                entry: of_record(record),
            });
        }
    }
    if let Some(entry) = manifest(connection, job).await?
        && !lines.is_empty()
    {
        let at_ms = lines
            .iter()
            .map(|line| line.at_ms)
            .find(|at| *at > 0)
            .unwrap_or(0);
        lines.insert(0, JournalLine { at_ms, entry });
    }
    Ok(lines)
}

/// Returns the job's figures from its manifest; `None` if the farm has none or if it is of another release.
async fn manifest(connection: &connect::Connection, job: JobId) -> anyhow::Result<Option<JournalEntry>> {
    let bucket = connection.context.get_key_value(topology::JOBS_BUCKET).await;
    let bucket = bucket.context("cannot reach the farm's job bucket")?;
    let found = bucket.get(subjects::manifest_key(job)).await;
    let Some(bytes) = found.context("cannot read the job's manifest")? else {
        return Ok(None);
    };
    let Ok(spec) = wire::decode::<JobSpec>(&bytes) else {
        return Ok(None);
    };
    let chunks =
        |frames: u64, size: u32| usize::try_from(frames.div_ceil(u64::from(size.max(1)))).unwrap_or(0);
    Ok(Some(JournalEntry::RunBegins {
        job,
        epoch: 0,
        analyze_chunks: chunks(spec.face_frames, spec.analyze_frames),
        render_chunks: chunks(spec.frames, spec.chunk_frames),
        frames: spec.frames,
        chunk_frames: spec.chunk_frames,
        cpu_fallback: None,
        unplaceable_wait_seconds: 0,
        needed_tags: Tags::NONE,
    }))
}

fn of_event(event: Event) -> JournalEntry {
    let chunk = event.chunk.name();
    let (attempt, worker) = (event.attempt, event.worker);
    match event.kind {
        EventKind::Started => JournalEntry::Started {
            chunk,
            attempt,
            worker,
        },
        EventKind::Failed(failure) => JournalEntry::Failed {
            chunk,
            attempt,
            worker,
            failure,
            queue: None,
            consequence: None,
        },
        EventKind::Released => JournalEntry::Ended {
            chunk,
            attempt,
            reason: format!("{worker} returned the chunk while draining"),
            consequence: None,
        },
    }
}

fn of_record(record: DoneRecord) -> JournalEntry {
    let frames = match &record.body {
        DoneBody::Analyze { frames, .. } => u64::from(*frames),
        DoneBody::Render { frame_hashes, .. } => frame_hashes.len() as u64,
    };
    JournalEntry::Done {
        chunk: record.chunk.name(),
        attempt: record.attempt,
        worker: record.worker,
        frames,
        numerics_fingerprint: record.numerics_fingerprint,
        memory: record.memory,
    }
}
