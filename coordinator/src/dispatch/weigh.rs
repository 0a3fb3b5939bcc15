//! Decides whether a record counts that was verified.

use latentfarm_common::wire::outcome::{DoneRecord, FrameObservation};

use super::job::Job;
use crate::segment_check::BadSegment;

impl Job {
    /// Decides about a record that was verified: one whose pictures look wrong may count all the same, and one that a spot
    /// check contradicts does not.
    ///
    /// # Errors
    /// What is wrong, if the record does not count.
    pub(super) fn weigh(
        &mut self,
        result: Result<Vec<FrameObservation>, BadSegment>,
        record: &DoneRecord,
        could_help: bool,
    ) -> Result<Vec<FrameObservation>, String> {
        let weighed = result.or_else(|bad| match (bad, self.chunks.get(record.chunk)) {
            (BadSegment::Implausible(reason), Some(known)) => {
                let weighed = self.doubtful.weigh(record, known.range, reason, could_help);
                weighed.map(|()| Vec::new())
            }
            (BadSegment::Implausible(reason) | BadSegment::Broken(reason), _) => Err(reason),
        });
        match self.spot_checks.contradiction(record) {
            Some(reason) => weighed.and(Err(reason)),
            None => weighed,
        }
    }
}
