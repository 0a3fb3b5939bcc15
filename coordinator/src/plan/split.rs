//! Cuts a timeline into chunks on the grid of 16-frame windows. The dispatcher calls it once a job.
//!
//! ```text
//! 0        48        96       144   150 = total
//! |---0----|---1-----|---2-----|-3--|          unit 48
//! ```

use latentfarm_common::time::{FrameRange, WINDOW_FRAMES};
use latentfarm_common::wire::job::JobSpec;
use serde::Serialize;

/// The length of the largest chunk in frames.
pub const MAX_CHUNK_FRAMES: u32 = 480;

/// The length of a chunk in frames, a multiple of 16 in `16..=480`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ChunkFrames(u32);

/// The error for a chunk length that is off the grid or out of bounds.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a chunk length: give a multiple of 16 from 16 to 480 frames")]
pub struct InvalidChunkFrames(u32);

impl ChunkFrames {
    pub fn new(frames: u32) -> Result<Self, InvalidChunkFrames> {
        let on_grid = u64::from(frames).is_multiple_of(WINDOW_FRAMES);
        if on_grid && (1..=MAX_CHUNK_FRAMES).contains(&frames) {
            Ok(Self(frames))
        } else {
            Err(InvalidChunkFrames(frames))
        }
    }

    pub fn get(self) -> u32 {
        self.0
    }
}

/// Splits `0..total` into half-open ranges in order. Every bound is a multiple of `unit` except the last,
/// which is `total`. The list is empty for a total of 0.
pub fn split(total: u64, unit: ChunkFrames) -> Vec<FrameRange> {
    let unit = u64::from(unit.get());
    (0..total.div_ceil(unit))
        .map(|index| FrameRange::new(index * unit, total.min((index + 1) * unit)))
        .collect()
}

/// Returns the ranges of source frames that a job's analysis chunks cover. The last one goes on behind the frames
/// whose faces the job uses, as far as its video does, so that its analysis serves other jobs that show more of
/// the video.
pub fn analysis_ranges(spec: &JobSpec) -> Result<Vec<FrameRange>, InvalidChunkFrames> {
    let size = ChunkFrames::new(spec.analyze_frames)?;
    let whole_chunks = spec.face_frames.next_multiple_of(u64::from(size.get()));
    Ok(split(whole_chunks.min(spec.source.frames), size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_tile_the_timeline_on_the_window_grid(total in 0_u64..20_000, windows in 1_u32..=30) {
            let unit = ChunkFrames::new(windows * 16).unwrap();
            let chunks = split(total, unit);
            let mut next = 0;
            for chunk in &chunks {
                prop_assert_eq!(chunk.start, next, "a gap or an overlap");
                prop_assert!(chunk.start.is_multiple_of(WINDOW_FRAMES));
                prop_assert!(!chunk.is_empty() && chunk.len() <= u64::from(unit.get()));
                prop_assert!(chunk.end == total || chunk.len() == u64::from(unit.get()));
                next = chunk.end;
            }
            prop_assert_eq!(next, total);
        }

        #[test]
        fn chunk_lengths_are_multiples_of_a_window_within_bounds(frames in 0_u32..2000) {
            let valid = frames % 16 == 0 && (16..=480).contains(&frames);
            prop_assert_eq!(ChunkFrames::new(frames).is_ok(), valid);
        }
    }
}
