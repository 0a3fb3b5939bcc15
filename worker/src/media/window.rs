//! One window of output frames on its way from pictures to crops and back.

use latentfarm_common::frame::Picture;
use latentfarm_common::time::{FrameRange, WINDOW_FRAMES};
use latentfarm_common::wire::task::RenderFrame;

use crate::face;

/// The decoded pictures of a window and what is to be done with each.
pub(super) struct Window {
    pub(super) range: FrameRange,
    pub(super) frames: Vec<(RenderFrame, Picture)>,
}

impl Window {
    pub(super) fn has_face(&self) -> bool {
        self.frames.iter().any(|(frame, _)| frame.face.is_some())
    }

    /// 16 crops, `16 x 3 x resolution x resolution`.
    ///
    /// A frame without a face holds the crop of the nearest frame of this window that has one (the earlier of
    /// two as near), so that the statistics which the model takes over all 16 frames are those of real faces. A
    /// short window is padded with its last crop. Both depend on this window alone.
    pub(super) fn crops(&self, resolution: usize) -> Vec<u8> {
        let own: Vec<Option<Vec<u8>>> = self
            .frames
            .iter()
            .map(|(frame, picture)| {
                let matrix = frame.face?;
                Some(face::crop(&face::colour::to_rgb(picture), &matrix, resolution))
            })
            .collect();
        let slots = usize::try_from(WINDOW_FRAMES).unwrap_or(16);
        let mut crops = Vec::with_capacity(slots * 3 * resolution * resolution);
        for slot in 0..slots {
            let wanted = slot.min(own.len() - 1);
            let nearest = (0..own.len())
                .filter(|&index| own[index].is_some())
                .min_by_key(|&index| index.abs_diff(wanted));
            if let Some(crop) = nearest.and_then(|index| own[index].as_ref()) {
                crops.extend_from_slice(crop);
            }
        }
        crops
    }

    /// Pastes rendered crops into the pictures; returns how many frames changed hands.
    pub(super) fn paste(&mut self, crops: &[u8], resolution: usize) -> u32 {
        let mut synced = 0;
        let crop_bytes = 3 * resolution * resolution;
        for ((frame, picture), crop) in self.frames.iter_mut().zip(crops.chunks_exact(crop_bytes)) {
            if let Some(matrix) = frame.face {
                face::paste(picture, &matrix, crop, resolution);
                synced += 1;
            }
        }
        synced
    }
}
