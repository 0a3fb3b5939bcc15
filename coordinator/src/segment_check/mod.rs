//! Looks at what workers send: whether the segment of a render chunk can be decoded, and whether its pictures can have
//! come from the source video.
//!
//! Both happen in child processes of this same program (`latentfarm check-segments`), because the bytes come from
//! other machines: a file on which a decoder crashes or hangs ends such a child, and the coordinator goes on.
//!
//! ```text
//! dispatcher ─▶ SegmentProcesses ─ CheckRequest ─▶ child: serve ─▶ decode, figures, judge
//!                                ◀─ CheckReply ──
//! ```
//! A picture is measured against the source picture that it shows (`figures.rs`), and the figures of a whole segment are
//! compared with limits (`judge.rs`). The limits are far from what the demo weights give, so that only a result
//! that is plainly wrong exceeds them.

mod expected;
mod figures;
mod finding;
mod judge;
mod messages;
mod process;
mod serve;

pub use self::expected::ExpectedPictures;
pub use self::finding::BadSegment;
pub(crate) use self::finding::Finding;
pub(crate) use self::messages::LocalPictures;
pub(crate) use self::process::SegmentProcesses;
pub use self::serve::serve;
