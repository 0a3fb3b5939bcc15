//! One window of output frames: from pictures to crops for the model, and from rendered crops back to
//! pictures.

use latentfarm_common::frame::Picture;
use latentfarm_common::time::{FrameRange, WINDOW_FRAMES};
use latentfarm_common::wire::task::{Mouth, RenderFrame};

use latentfarm_face::PixelRect;

/// The decoded pictures of a window, each with its source frame, its face and what its mouth shows.
pub(super) struct Window {
    pub(super) range: FrameRange,
    pub(super) frames: Vec<(RenderFrame, Picture)>,
}

impl Window {
    /// Whether any frame shows a rendered mouth; if none does, the model need not run.
    pub(super) fn is_rendered(&self) -> bool {
        self.frames.iter().any(|(frame, _)| frame.is_rendered())
    }

    /// Returns 16 planar RGB crops, `16 x 3 x resolution x resolution`.
    ///
    /// A frame without a face gets the crop of the nearest frame of this window that has one (the earlier of
    /// two equally near frames), so that the statistics which the model takes over all 16 frames are those of
    /// real faces. A short window is padded with its last crop. Both depend on this window alone.
    pub(super) fn crops(&self, resolution: usize) -> Vec<u8> {
        let own: Vec<Option<Vec<u8>>> = self
            .frames
            .iter()
            .map(|(frame, picture)| {
                let matrix = frame.face?;
                Some(latentfarm_face::crop(
                    &latentfarm_face::colour::to_rgb(picture),
                    &matrix,
                    resolution,
                ))
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

    /// Pastes rendered crops into the pictures and returns the number of frames that now show a rendered
    /// mouth.
    pub(super) fn paste(&mut self, crops: &[u8], resolution: usize) -> u32 {
        let mut synced = 0;
        let crop_bytes = 3 * resolution * resolution;
        for ((frame, picture), crop) in self.frames.iter_mut().zip(crops.chunks_exact(crop_bytes)) {
            let Some(matrix) = frame.face else { continue };
            match frame.mouth {
                Mouth::Kept => continue,
                Mouth::Speech | Mouth::Closed => {
                    latentfarm_face::paste(picture, &matrix, crop, resolution);
                }
                Mouth::Fading(share) => {
                    let source = picture.clone();
                    let area = latentfarm_face::paste(picture, &matrix, crop, resolution);
                    fade(picture, &source, area, share);
                }
            }
            synced += 1;
        }
        synced
    }
}

/// Blends `picture` with `source` inside `area`, outside of which they are equal: `share / 255` of the
/// difference stays.
fn fade(picture: &mut Picture, source: &Picture, area: PixelRect, share: u8) {
    let (width, half) = (picture.format.width as usize, picture.format.width as usize / 2);
    let (right, bottom) = (area.left + area.width, area.top + area.height);
    let chroma = (area.top / 2..bottom.div_ceil(2), area.left / 2..right.div_ceil(2));
    let luma = (area.top..bottom, area.left..right);
    let planes = [
        (&mut picture.y, &source.y, width, &luma),
        (&mut picture.u, &source.u, half, &chroma),
        (&mut picture.v, &source.v, half, &chroma),
    ];
    for (plane, source, stride, (rows, columns)) in planes {
        for row in rows.clone() {
            let span = row * stride + columns.start..row * stride + columns.end;
            for (new, old) in plane[span.clone()].iter_mut().zip(&source[span]) {
                *new = interpolate(*old, *new, share);
            }
        }
    }
}

/// Returns the value `share / 255` of the way from `old` to `new`, rounded.
fn interpolate(old: u8, new: u8, share: u8) -> u8 {
    let (share, whole) = (u16::from(share), u16::from(u8::MAX));
    let mixed = u16::from(old) * (whole - share) + u16::from(new) * share;
    u8::try_from((mixed + whole / 2) / whole).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::frame::{Colour, PictureFormat};

    const SIDE: usize = 64;

    /// Makes a window of grey 128 x 128 pictures whose faces lie in the middle.
    fn window(mouths: &[Mouth]) -> Window {
        let format = PictureFormat {
            width: 128,
            height: 128,
            colour: Colour::BT709,
            sample_aspect: (1, 1),
        };
        let frames = mouths.iter().zip(0..).map(|(&mouth, source)| {
            let mut picture = Picture::black(format);
            picture.y.fill(100);
            let face = Some([1.0, 0.0, -38.0, 0.0, 1.0, -29.0]);
            (RenderFrame { source, face, mouth }, picture)
        });
        Window {
            range: FrameRange::new(0, mouths.len() as u64),
            frames: frames.collect(),
        }
    }

    fn pasted(mouths: &[Mouth]) -> (Window, u32) {
        let mut window = window(mouths);
        let synced = window.paste(&vec![255; 16 * 3 * SIDE * SIDE], SIDE);
        (window, synced)
    }

    #[test]
    fn a_kept_mouth_is_the_source_bit_for_bit() {
        let (window, synced) = pasted(&[Mouth::Speech, Mouth::Kept, Mouth::Fading(0), Mouth::Closed]);
        let source = &self::window(&[Mouth::Kept]).frames[0].1;
        assert_eq!(&window.frames[1].1, source);
        assert_eq!(&window.frames[2].1, source);
        assert_ne!(&window.frames[0].1, source, "nothing was pasted at all");
        assert_eq!(window.frames[0].1, window.frames[3].1);
        assert_eq!(synced, 3);
    }

    #[test]
    fn a_fading_mouth_lies_between_the_source_and_the_rendered_one() {
        let (window, _) = pasted(&[
            Mouth::Speech,
            Mouth::Fading(255),
            Mouth::Fading(127),
            Mouth::Fading(63),
        ]);
        let centre = |index: usize| window.frames[index].1.y[64 * 128 + 64];
        assert_eq!(window.frames[0].1, window.frames[1].1);
        assert_eq!(centre(0), 235);
        // 100 + 135 x 127 / 255 and 100 + 135 x 63 / 255.
        assert_eq!((centre(2), centre(3)), (167, 133));
    }

    #[test]
    fn only_windows_that_show_a_rendered_mouth_need_the_model() {
        assert!(!window(&[Mouth::Kept; 16]).is_rendered());
        assert!(window(&[Mouth::Kept, Mouth::Fading(63)]).is_rendered());
        assert!(window(&[Mouth::Closed]).is_rendered());
        let mut faceless = window(&[Mouth::Speech]);
        faceless.frames[0].0.face = None;
        assert!(!faceless.is_rendered());
    }
}
