//! Measures how far the mouths in consecutive pictures are open, where the alignment of the face is known. The media
//! child calls it for each rendered mouth.

use latentfarm_common::frame::Picture;
use latentfarm_common::lip_sync::LipOpening;

use super::colour;
use super::error::FaceError;
use super::mesh::{Landmarker, Mesh, Region};

/// A face is followed from the last picture if it lies within this share of its square of where it is expected.
const SAME_FACE: f32 = 0.2;

/// Measures the lips in the consecutive pictures of one window, and follows the face from picture to picture. Made by
/// [`FaceAnalyzer::lip_meter`](crate::FaceAnalyzer::lip_meter).
#[derive(Debug)]
pub struct LipMeter<'a> {
    pub(super) landmarker: &'a Landmarker,
    /// Where the face is expected by its points in the last picture.
    pub(super) last: Option<Region>,
}

impl LipMeter<'_> {
    /// Measures how far the mouth is open in the next picture, whose face `to_face` aligns for crops of `resolution`
    /// pixels. Returns `None` if no face is seen there.
    ///
    /// # Errors
    /// If the network cannot be run.
    pub fn measure(
        &mut self,
        picture: &Picture,
        to_face: &[f32; 6],
        resolution: u32,
    ) -> Result<Option<LipOpening>, FaceError> {
        let last = self.last.take();
        let Some(expected) = Region::of_aligned(to_face, resolution) else {
            return Ok(None);
        };
        let followed = last.filter(|last| last.is_near(&expected, SAME_FACE));
        let mesh = if let Some(region) = followed {
            self.mesh(picture, &region)?
        } else {
            // Where it is expected is rough, as it is for a face that was detected.
            let rough = self.mesh(picture, &expected)?;
            match rough {
                Some(rough) => self.mesh(picture, &rough.region())?,
                None => None,
            }
        };
        self.last = mesh.as_ref().map(Mesh::region);
        Ok(mesh.map(|mesh| mesh.lip_opening()))
    }

    /// Finds the points of the face in a square of the picture, if there is one.
    fn mesh(&self, picture: &Picture, region: &Region) -> Result<Option<Mesh>, FaceError> {
        let part = region.sampled_part([picture.format.width as usize, picture.format.height as usize]);
        if part.is_empty() {
            return Ok(None);
        }
        let frame = colour::part_to_rgb(picture, part);
        let mut mesh = self
            .landmarker
            .mesh(&frame, &region.shifted(part.left, part.top))?;
        for [x, y] in &mut mesh.points {
            *x += part.left as f32;
            *y += part.top as f32;
        }
        Ok(mesh.is_face().then_some(mesh))
    }
}
