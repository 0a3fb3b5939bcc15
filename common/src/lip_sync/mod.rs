//! The sync meter: whether the lips of a video open and close with its speech, and how much too early or late.
//! `latentfarm sync` measures any video with it, and the report of every job has it for the rendered mouths.
//!
//! ```text
//! loudness  ▁▁▂▆█▇▃▁▁▂▇█▅▁▁▁▁▂▆█   of the speech, one value for each output frame
//! lips      ▁▁▁▂▆█▇▃▁▁▂▇█▅▁▁▁▁▂▆   opening of the inner lips: here one frame late
//! ```
//! It is an indicator of timing, not of the quality of a picture: a mouth that opens with every loud syllable
//! and shows nonsense passes. Louder speech opens the mouth further on average only, so that even real footage
//! correlates with its own sound by no more than 0.3 to 0.6, and chance reaches 0.3 in clips of a few seconds.
//! The confidence therefore compares the fit with that at other places of the same speech, forward and
//! reversed, of which speech of less than about eight seconds has too few.

mod correlation;
mod meter;
mod opening;
#[cfg(test)]
mod tests;

pub use meter::{LipSync, MIN_SECONDS, SilentLips, Stretch, Verdict, measure};
pub use opening::LipOpening;
