//! What was found when a segment was looked at.

use serde::{Deserialize, Serialize};

/// What a child process found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Finding {
    /// The segment is what it should be, as far as was asked.
    Good,
    /// The segment is whole, and its pictures could not be compared for a reason that is not the segment's.
    NotCompared(String),
    Bad(BadSegment),
}

/// Why a result does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BadSegment {
    /// It is damaged, or not what the done record says, as one clause.
    Broken(String),
    /// It is whole, and its pictures cannot be what the model made of the source, as one clause.
    Implausible(String),
}
