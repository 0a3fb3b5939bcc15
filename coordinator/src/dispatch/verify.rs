//! Verifies done records before they count, in tasks beside the dispatcher's.

use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::backoff::Backoff;
use latentfarm_common::blob::{BlobError, Store};
use latentfarm_common::error::one_line;
use latentfarm_common::frame::PictureDifference;
use latentfarm_common::ids::{ChunkId, WorkKind};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord, FaceObservations, FrameObservation};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::farm::Farm;
use super::segment_reader::{SegmentCheck, SegmentReader};
use super::unverified::Unverified;
use crate::segment_check::{BadSegment, ExpectedPictures};

/// The number of segments that are verified at a time; each is decoded, which takes a core.
const SEGMENTS_AT_ONCE: usize = 2;
/// The number of analyses that are verified at a time; they are only read, and render chunks wait for them.
const ANALYSES_AT_ONCE: usize = 4;
/// The number of attempts to read a blob while the store does not answer.
const READ_ATTEMPTS: u32 = 5;
const READ_BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(4));

/// The result of verifying one record.
#[derive(Debug)]
pub(super) struct Verdict {
    pub record: Arc<DoneRecord>,
    /// The record's sequence number in the done log.
    pub sequence: u64,
    /// The observations of an analysis (empty for a render chunk), or a description of what is wrong.
    pub result: Result<Vec<FrameObservation>, BadSegment>,
}

/// The result of comparing the first picture of a chunk with the one that another machine rendered.
#[derive(Debug)]
pub(super) struct Comparison {
    /// The chunk of the other rendering.
    pub chunk: ChunkId,
    pub result: Result<PictureDifference, String>,
}

/// Runs verifications, and sends their verdicts. Dropping the verifier aborts those that are running.
pub(super) struct Verifier {
    farm: Farm,
    reader: SegmentReader,
    segments: Arc<Semaphore>,
    analyses: Arc<Semaphore>,
    verdicts: mpsc::UnboundedSender<Verdict>,
    comparisons: mpsc::UnboundedSender<Comparison>,
    running: JoinSet<()>,
}

impl Verifier {
    /// Makes a verifier, and the receivers of its results.
    pub(super) fn new(farm: &Farm, reader: SegmentReader) -> (Self, Results) {
        let (verdicts, verdict_receiver) = mpsc::unbounded_channel();
        let (comparisons, comparison_receiver) = mpsc::unbounded_channel();
        let verifier = Self {
            farm: farm.clone(),
            reader,
            segments: Arc::new(Semaphore::new(SEGMENTS_AT_ONCE)),
            analyses: Arc::new(Semaphore::new(ANALYSES_AT_ONCE)),
            verdicts,
            comparisons,
            running: JoinSet::new(),
        };
        let results = Results {
            verdicts: verdict_receiver,
            comparisons: comparison_receiver,
        };
        (verifier, results)
    }

    /// Begins to verify a record.
    pub(super) fn start(
        &mut self,
        Unverified {
            record,
            sequence,
            range,
            expected,
        }: Unverified,
    ) {
        while self.running.try_join_next().is_some() {}
        let record = Arc::new(record);
        let (farm, check) = (self.farm.clone(), Arc::clone(&self.reader.check));
        let verdicts = self.verdicts.clone();
        let permits = Arc::clone(match record.chunk.work {
            WorkKind::Analyze => &self.analyses,
            WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck => &self.segments,
        });
        self.running.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire_owned().await.ok();
            let result = verify(&farm, check, &record, range, expected).await;
            // The dispatcher may have been dropped, which ends this task too.
            let _ = verdicts.send(Verdict {
                record,
                sequence,
                result,
            });
        });
    }

    /// Begins to compare the first pictures of two segments, the second of which is the result of `chunk`.
    pub(super) fn compare(&mut self, chunk: ChunkId, original: BlobRef, again: BlobRef) {
        while self.running.try_join_next().is_some() {}
        let (farm, compare) = (self.farm.clone(), Arc::clone(&self.reader.compare));
        let (comparisons, permits) = (self.comparisons.clone(), Arc::clone(&self.segments));
        self.running.spawn(async move {
            let _permit = permits.acquire_owned().await.ok();
            let compared = farm.connection.outlast(|| {
                let compare = Arc::clone(&compare);
                beside(move || compare(&original, &again), |cut_short| cut_short)
            });
            let result = compared.await;
            let _ = comparisons.send(Comparison { chunk, result });
        });
    }
}

/// The receivers of a verifier's results.
pub(super) struct Results {
    pub(super) verdicts: mpsc::UnboundedReceiver<Verdict>,
    pub(super) comparisons: mpsc::UnboundedReceiver<Comparison>,
}

async fn verify(
    farm: &Farm,
    check: SegmentCheck,
    record: &Arc<DoneRecord>,
    range: FrameRange,
    expected: Option<ExpectedPictures>,
) -> Result<Vec<FrameObservation>, BadSegment> {
    check_counts(record, range).map_err(BadSegment::Broken)?;
    match record.chunk.work {
        WorkKind::Analyze => {
            let observed = observations(farm, record, range).await;
            observed.map_err(BadSegment::Broken)
        }
        WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck => {
            let expected = Arc::new(expected);
            // A result that cannot be read during an outage is not a bad one.
            let done = farm
                .connection
                .outlast(|| {
                    let (check, record) = (Arc::clone(&check), Arc::clone(record));
                    let expected = Arc::clone(&expected);
                    beside(
                        move || check(&record, range, expected.as_ref().as_ref()),
                        BadSegment::Broken,
                    )
                })
                .await;
            done.map(|()| Vec::new())
        }
    }
}

/// Looks into segments on a thread for blocking work.
async fn beside<T: Send + 'static, E: Send + 'static>(
    look: impl FnOnce() -> Result<T, E> + Send + 'static,
    cut_short: impl FnOnce(String) -> E,
) -> Result<T, E> {
    let done = tokio::task::spawn_blocking(look).await;
    done.unwrap_or_else(|error| Err(cut_short(format!("the verification was cut short: {error}"))))
}

/// Checks the record's own figures against the length of its chunk.
fn check_counts(record: &DoneRecord, range: FrameRange) -> Result<(), String> {
    let frames = range.len();
    match (&record.body, record.chunk.work) {
        (DoneBody::Analyze { frames: found, .. }, WorkKind::Analyze) => {
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
                lips,
            },
            WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck,
        ) => {
            let (hashes, counted) = (frame_hashes.len() as u64, u64::from(*synced) + u64::from(*passed));
            let measured = lips.len() as u64;
            let fits = hashes == frames && counted == frames && measured == frames;
            fits.then_some(()).ok_or_else(|| {
                format!(
                    "it has {hashes} hashes and {measured} mouths, and counts {counted} frames of {frames}"
                )
            })
        }
        (DoneBody::Analyze { .. }, WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck)
        | (DoneBody::Render { .. }, WorkKind::Analyze) => Err("it is about another kind of work".to_owned()),
    }
}

async fn observations(
    farm: &Farm,
    record: &DoneRecord,
    range: FrameRange,
) -> Result<Vec<FrameObservation>, String> {
    let read = farm.connection.outlast(|| read(&farm.store, record));
    let bytes = read.await.map_err(|error| one_line(&error))?;
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

/// Reads the artifact of a record. A store that does not answer is tried again; a blob that is missing or
/// damaged is an error at once.
async fn read(store: &Store, record: &DoneRecord) -> Result<Vec<u8>, BlobError> {
    let mut backoff = READ_BACKOFF;
    let mut tries = 1;
    loop {
        match store.get_bytes(&record.artifact).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) if tries == READ_ATTEMPTS || !error.may_pass() => return Err(error),
            Err(error) => {
                tracing::warn!(chunk = %record.chunk, error = one_line(&error), "cannot read a result yet");
                tokio::time::sleep(backoff.next_delay()).await;
                tries += 1;
            }
        }
    }
}
