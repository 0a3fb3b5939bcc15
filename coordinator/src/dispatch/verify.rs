//! Verifies done records before they count, off the dispatcher's task.

use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::blob::{BlobError, Store};
use latentfarm_common::error::one_line;
use latentfarm_common::ids::Work;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire;
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord, FaceObservations, FrameObservation};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Verifies the segment of a render record against the output frames that it should hold, on a thread of its
/// own; says in one sentence what is wrong.
pub type Check = Arc<dyn Fn(&DoneRecord, FrameRange) -> Result<(), String> + Send + Sync>;

/// Segments verified at a time: decoding takes a core.
const SEGMENTS_AT_ONCE: usize = 2;
/// Analyses verified at a time: reading takes none, and every render chunk waits for them.
const ANALYSES_AT_ONCE: usize = 4;
/// Tries to read a blob while the store does not answer.
const READ_TRIES: u32 = 5;
const READ_AGAIN: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(4));

/// A record's verdict.
#[derive(Debug)]
pub(super) struct Verdict {
    pub record: Arc<DoneRecord>,
    /// Its place in the done log.
    pub sequence: u64,
    /// The observations of an analysis (empty for a render chunk), or what is wrong.
    pub result: Result<Vec<FrameObservation>, String>,
}

/// Runs verifications and sends the verdicts. Dropping it abandons them.
pub(super) struct Verifier {
    store: Store,
    check: Check,
    segments: Arc<Semaphore>,
    analyses: Arc<Semaphore>,
    verdicts: mpsc::UnboundedSender<Verdict>,
    running: JoinSet<()>,
}

impl Verifier {
    /// Verdicts go to the receiver.
    pub(super) fn new(store: Store, check: Check) -> (Self, mpsc::UnboundedReceiver<Verdict>) {
        let (verdicts, receiver) = mpsc::unbounded_channel();
        let verifier = Self {
            store,
            check,
            segments: Arc::new(Semaphore::new(SEGMENTS_AT_ONCE)),
            analyses: Arc::new(Semaphore::new(ANALYSES_AT_ONCE)),
            verdicts,
            running: JoinSet::new(),
        };
        (verifier, receiver)
    }

    /// Begins with one record of the chunk that covers `range`.
    pub(super) fn start(&mut self, record: DoneRecord, sequence: u64, range: FrameRange) {
        while self.running.try_join_next().is_some() {}
        let record = Arc::new(record);
        let (store, check) = (self.store.clone(), Arc::clone(&self.check));
        let verdicts = self.verdicts.clone();
        let permits = Arc::clone(match record.chunk.work {
            Work::Analyze => &self.analyses,
            Work::Render => &self.segments,
        });
        self.running.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire_owned().await.ok();
            let result = verify(&store, check, &record, range).await;
            // The dispatcher may be gone, which ends this task too.
            let _ = verdicts.send(Verdict {
                record,
                sequence,
                result,
            });
        });
    }
}

async fn verify(
    store: &Store,
    check: Check,
    record: &Arc<DoneRecord>,
    range: FrameRange,
) -> Result<Vec<FrameObservation>, String> {
    plausible(record, range)?;
    match record.chunk.work {
        Work::Analyze => observations(store, record, range).await,
        Work::Render => {
            let checked = Arc::clone(record);
            let done = tokio::task::spawn_blocking(move || check(&checked, range)).await;
            done.unwrap_or_else(|error| Err(format!("the verification was cut short: {error}")))?;
            Ok(Vec::new())
        }
    }
}

/// Whether the record's own figures fit its chunk.
fn plausible(record: &DoneRecord, range: FrameRange) -> Result<(), String> {
    let frames = range.len();
    match (&record.body, record.chunk.work) {
        (DoneBody::Analyze { frames: found, .. }, Work::Analyze) => {
            let found = u64::from(*found);
            (found == frames)
                .then_some(())
                .ok_or_else(|| format!("it is about {found} frames of {frames}"))
        }
        (
            DoneBody::Render {
                frame_hashes,
                synced,
                passed,
            },
            Work::Render,
        ) => {
            let (hashes, counted) = (frame_hashes.len() as u64, u64::from(*synced) + u64::from(*passed));
            let fits = hashes == frames && counted == frames;
            fits.then_some(())
                .ok_or_else(|| format!("it has {hashes} hashes and counts {counted} frames of {frames}"))
        }
        (DoneBody::Analyze { .. }, Work::Render) | (DoneBody::Render { .. }, Work::Analyze) => {
            Err("it is about another kind of work".to_owned())
        }
    }
}

async fn observations(
    store: &Store,
    record: &DoneRecord,
    range: FrameRange,
) -> Result<Vec<FrameObservation>, String> {
    let bytes = read(store, record).await.map_err(|error| one_line(&error))?;
    let observations: FaceObservations = wire::decode(&bytes).map_err(|error| one_line(&error))?;
    let found = observations.frames.len() as u64;
    if found == range.len() {
        Ok(observations.frames)
    } else {
        Err(format!(
            "it holds the faces of {found} frames instead of {}",
            range.len()
        ))
    }
}

/// Waits out a store that does not answer; a blob that is missing or damaged is so at once.
async fn read(store: &Store, record: &DoneRecord) -> Result<Vec<u8>, BlobError> {
    let mut backoff = READ_AGAIN;
    let mut tries = 1;
    loop {
        match store.get_bytes(&record.artifact).await {
            Ok(bytes) => return Ok(bytes),
            Err(
                error @ (BlobError::Missing { .. } | BlobError::Damaged { .. } | BlobError::WrongSize { .. }),
            ) => return Err(error),
            Err(error) if tries == READ_TRIES => return Err(error),
            Err(error) => {
                tracing::warn!(chunk = %record.chunk, error = one_line(&error), "cannot read a result yet");
                tokio::time::sleep(backoff.next_delay()).await;
                tries += 1;
            }
        }
    }
}
