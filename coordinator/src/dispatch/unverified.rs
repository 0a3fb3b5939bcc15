//! A done record before it was verified.

use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::outcome::DoneRecord;

use crate::segment_check::ExpectedPictures;

/// A record that is to be verified.
#[derive(Debug)]
pub(super) struct Unverified {
    pub(super) record: DoneRecord,
    /// Its sequence number in the done log.
    pub(super) sequence: u64,
    /// The frames of its chunk.
    pub(super) range: FrameRange,
    /// What its pictures are compared with, if they are.
    pub(super) expected: Option<ExpectedPictures>,
}
