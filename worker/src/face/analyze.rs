//! Looks at one unit of the source timeline, frame by frame.

use latentfarm_common::frame::Rgb;
use latentfarm_common::wire::outcome::{FaceObservation, FrameObservation};

use super::blazeface::Detector;
use super::cut::Look;
use super::error::FaceError;
use super::geometry::Rect;
use super::mesh::{Landmarker, Mesh, Region};

/// Frames of one unit; nothing but [`FaceAnalyzer::analyze_unit`]'s arguments enters into its result.
pub const UNIT_FRAMES: usize = 16;
/// Faces observed in one frame, largest first.
const MAX_FACES: usize = 4;
/// A detection counts from here on; below lie most false ones.
const MIN_SCORE: f32 = 0.65;
/// The mesh network agrees that it sees a face, or a tracked one is lost.
const MIN_FLAG: f32 = 0.5;
/// Two finds that overlap by more than this are one face.
const SAME_FACE: f32 = 0.3;
/// Smallest usable face in pixels (width, height), and the range of width over height.
const MIN_SIZE: [f32; 2] = [50.0, 80.0];
const ASPECT: std::ops::RangeInclusive<f32> = 0.2..=1.5;

/// Finds and follows faces. Holds the two networks and no state: shared freely, single-threaded within a call.
#[derive(Debug)]
pub struct FaceAnalyzer {
    detector: Detector,
    landmarker: Landmarker,
}

/// A face in the frame at hand.
struct Found {
    mesh: Mesh,
    area: Rect,
    score: f32,
}

impl FaceAnalyzer {
    /// Unfolds the embedded weights.
    pub fn new() -> Result<Self, FaceError> {
        Ok(Self {
            detector: Detector::new()?,
            landmarker: Landmarker::new()?,
        })
    }

    /// Observes one unit of 1 to [`UNIT_FRAMES`] consecutive frames of one size. `previous` is the picture
    /// before the first, for cut detection only; without it the first frame is no cut.
    ///
    /// The first frame and every cut begin with a detection. A face is then followed from frame to frame
    /// by the square around its last points; while a face that was seen since is missing, each frame is
    /// searched again. A new face beside others is seen from the next unit on.
    pub fn analyze_unit(
        &self,
        previous: Option<&Rgb>,
        frames: &[Rgb],
    ) -> Result<Vec<FrameObservation>, FaceError> {
        check(previous, frames)?;
        let mut last = previous.map(Look::new);
        let mut tracks: Vec<(Region, f32)> = Vec::new();
        let mut most_seen = 0;
        let mut observations = Vec::with_capacity(frames.len());
        for (index, frame) in frames.iter().enumerate() {
            let look = Look::new(frame);
            let cut = last.is_some_and(|last| look.begins_a_shot_after(&last));
            last = Some(look);
            if cut {
                tracks.clear();
                most_seen = 0;
            }
            let mut found = self.follow(frame, &tracks)?;
            if index == 0 || cut || found.is_empty() || found.len() < most_seen {
                self.search(frame, &mut found)?;
            }
            most_seen = most_seen.max(found.len());
            tracks = found
                .iter()
                .map(|face| (face.mesh.region(), face.score))
                .collect();
            found.sort_by(|a, b| b.area.area().total_cmp(&a.area.area()));
            let faces = found.iter().map(Found::observation).collect();
            observations.push(FrameObservation { cut, faces });
        }
        Ok(observations)
    }

    /// The faces of the last frame, where they are now.
    fn follow(&self, frame: &Rgb, tracks: &[(Region, f32)]) -> Result<Vec<Found>, FaceError> {
        let mut found = Vec::with_capacity(MAX_FACES);
        for (region, score) in tracks {
            let mesh = self.landmarker.mesh(frame, region)?;
            keep_if_usable(&mut found, mesh, *score, frame);
        }
        Ok(found)
    }

    /// Adds faces that are not among `found` yet, largest first. The detector's box is rough, so the mesh
    /// runs twice: the second time around the points of the first.
    fn search(&self, frame: &Rgb, found: &mut Vec<Found>) -> Result<(), FaceError> {
        let mut detections = self.detector.detect(frame, MIN_SCORE)?;
        detections.sort_by(|a, b| b.area.area().total_cmp(&a.area.area()));
        for detection in detections {
            if found.len() == MAX_FACES {
                break;
            }
            if is_known(found, &detection.area) {
                continue;
            }
            let rough = self.landmarker.mesh(frame, &Region::of_detection(&detection))?;
            if rough.flag < MIN_FLAG {
                continue;
            }
            let mesh = self.landmarker.mesh(frame, &rough.region())?;
            keep_if_usable(found, mesh, detection.score, frame);
        }
        Ok(())
    }
}

impl Found {
    fn observation(&self) -> FaceObservation {
        let area = &self.area;
        FaceObservation {
            bbox: [area.left, area.top, area.width(), area.height()],
            score: self.score,
            points: self.mesh.alignment_points(),
        }
    }
}

fn is_known(found: &[Found], area: &Rect) -> bool {
    found.iter().any(|face| face.area.overlap(area) > SAME_FACE)
}

fn keep_if_usable(found: &mut Vec<Found>, mesh: Mesh, score: f32, frame: &Rgb) {
    let area = mesh.area();
    let [x, y] = area.centre();
    let inside = x >= 0.0 && y >= 0.0 && x < frame.width as f32 && y < frame.height as f32;
    let sized = area.width() >= MIN_SIZE[0]
        && area.height() >= MIN_SIZE[1]
        && ASPECT.contains(&(area.width() / area.height()));
    // `sized` is false for points that are not finite.
    if mesh.flag >= MIN_FLAG && inside && sized && !is_known(found, &area) {
        found.push(Found { mesh, area, score });
    }
}

fn check(previous: Option<&Rgb>, frames: &[Rgb]) -> Result<(), FaceError> {
    let [first, ..] = frames else {
        return Err(FaceError::UnitLength {
            limit: UNIT_FRAMES,
            found: 0,
        });
    };
    if frames.len() > UNIT_FRAMES {
        return Err(FaceError::UnitLength {
            limit: UNIT_FRAMES,
            found: frames.len(),
        });
    }
    for (index, frame) in frames.iter().chain(previous).enumerate() {
        let Rgb {
            width,
            height,
            ref data,
        } = *frame;
        if width == 0 || height == 0 || data.len() != width * height * 3 {
            return Err(FaceError::Frame {
                index,
                width,
                height,
                bytes: data.len(),
            });
        }
        if (width, height) != (first.width, first.height) {
            let (first_width, first_height) = (first.width, first.height);
            return Err(FaceError::FrameSize {
                index,
                width,
                height,
                first_width,
                first_height,
            });
        }
    }
    Ok(())
}
