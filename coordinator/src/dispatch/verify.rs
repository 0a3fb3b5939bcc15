//! Verifies done records before they count, in tasks beside the dispatcher's.

use std::sync::Arc;

use latentfarm_common::frame::PictureDifference;
use latentfarm_common::ids::{ChunkId, WorkKind};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord, FrameObservation};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::farm_link::FarmLink;
use super::unverified::Unverified;
use crate::segment_check::BadSegment;

/// The number of segments that are verified at a time; each is decoded, which takes a core.
const SEGMENTS_AT_ONCE: usize = 2;
/// The number of analyses that are verified at a time; they are only read, and render chunks wait for them.
const ANALYSES_AT_ONCE: usize = 4;

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
    link: Arc<dyn FarmLink>,
    segments: Arc<Semaphore>,
    analyses: Arc<Semaphore>,
    verdicts: mpsc::UnboundedSender<Verdict>,
    comparisons: mpsc::UnboundedSender<Comparison>,
    running: JoinSet<()>,
}

impl Verifier {
    /// Makes a verifier, and the receivers of its results.
    pub(super) fn new(link: &Arc<dyn FarmLink>) -> (Self, Results) {
        let (verdicts, verdict_receiver) = mpsc::unbounded_channel();
        let (comparisons, comparison_receiver) = mpsc::unbounded_channel();
        let verifier = Self {
            link: Arc::clone(link),
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
        let (record, link) = (Arc::new(record), Arc::clone(&self.link));
        let verdicts = self.verdicts.clone();
        let permits = Arc::clone(match record.chunk.work {
            WorkKind::Analyze => &self.analyses,
            WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck => &self.segments,
        });
        self.running.spawn(async move {
            // The semaphore is never closed.
            let _permit = permits.acquire_owned().await.ok();
            let result = match check_counts(&record, range) {
                Ok(()) => link.verify(Arc::clone(&record), range, expected).await,
                Err(reason) => Err(BadSegment::Broken(reason)),
            };
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
        let (link, comparisons) = (Arc::clone(&self.link), self.comparisons.clone());
        let permits = Arc::clone(&self.segments);
        self.running.spawn(async move {
            let _permit = permits.acquire_owned().await.ok();
            let result = link.compare(original, again).await;
            let _ = comparisons.send(Comparison { chunk, result });
        });
    }
}

/// The receivers of a verifier's results.
pub(super) struct Results {
    pub(super) verdicts: mpsc::UnboundedReceiver<Verdict>,
    pub(super) comparisons: mpsc::UnboundedReceiver<Comparison>,
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
