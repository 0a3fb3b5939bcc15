//! What the pictures of a render chunk are compared with when its result arrives. A result may come before that is known,
//! when a job goes on with another coordinator; it waits then until the video is cut and analysed as far.

use latentfarm_common::ids::{ChunkId, WorkKind};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::WeightsKind;
use latentfarm_common::wire::outcome::DoneRecord;

use super::dispatcher::Dispatcher;
use super::job::Job;
use super::task_inputs::{self, Readiness};
use super::unverified::Unverified;
use crate::segment_check::ExpectedPictures;

impl Job {
    /// Takes a record of one of the job's chunks that is to be verified. Returns it, or `None` if it is kept until it is
    /// known what it was rendered from, or if the job has no such chunk.
    pub(super) fn prepare_to_verify(&mut self, record: DoneRecord, sequence: u64) -> Option<Unverified> {
        let chunk = record.chunk;
        let range = self.chunks.get(chunk)?.range;
        // Random weights paint noise, which fits no expectation.
        let is_compared =
            chunk.work == WorkKind::Render && self.spec.model.weights_kind != WeightsKind::Synthetic;
        let readiness = is_compared.then(|| self.readiness(chunk, range));
        let expected = match readiness {
            Some(Readiness::Ready) => Some(self.expected_pictures(range)),
            // The faces will never be known again, and what was rendered of them is there.
            Some(Readiness::Blocked(_) | Readiness::Pending) | None => None,
        };
        let unverified = Unverified {
            record,
            sequence,
            range,
            expected,
        };
        let is_kept = readiness == Some(Readiness::Pending);
        if let Some(known) = self.chunks.get_mut(chunk) {
            // A job that is asked to end does not wait for records that are kept.
            known.being_verified = !is_kept;
        }
        if is_kept {
            self.unverified.insert(chunk, unverified);
            return None;
        }
        Some(unverified)
    }

    /// Takes the kept records of which it is known by now what they were rendered from.
    pub(super) fn take_verifiable(&mut self) -> Vec<Unverified> {
        let is_known = |(chunk, kept): &(&ChunkId, &Unverified)| {
            self.readiness(**chunk, kept.range) != Readiness::Pending
        };
        let known = self.unverified.iter().filter(is_known);
        let known: Vec<ChunkId> = known.map(|(chunk, _)| *chunk).collect();
        let taken: Vec<Unverified> = known
            .iter()
            .filter_map(|chunk| self.unverified.remove(chunk))
            .collect();
        let prepared = taken
            .into_iter()
            .filter_map(|Unverified { record, sequence, .. }| self.prepare_to_verify(record, sequence));
        prepared.collect()
    }

    /// Whether it is known what a render chunk was rendered from.
    fn readiness(&self, chunk: ChunkId, range: FrameRange) -> Readiness {
        self.gate
            .readiness(&self.timeline, self.segments.covered(), chunk.index, range)
    }

    fn expected_pictures(&self, range: FrameRange) -> ExpectedPictures {
        let (spec, timeline) = (&self.spec, &self.timeline);
        let entries = self.segments.entries();
        ExpectedPictures {
            source: spec.source.clone(),
            encoder: spec.encoder.clone(),
            resolution_px: spec.model.resolution_px,
            input: task_inputs::render_input(spec, timeline, entries, &self.gate.track, range),
            loudness: task_inputs::part(&timeline.loudness, range).to_vec(),
        }
    }
}

impl Dispatcher<'_> {
    /// Begins to verify the records of which it is known by now what they were rendered from, and releases the chunks that
    /// can be rendered. A chunk with such a record is not published meanwhile.
    pub(super) fn release(&mut self) {
        for job in self.jobs.values_mut() {
            for unverified in job.take_verifiable() {
                self.verifier.start(unverified);
            }
            job.release();
        }
    }
}
