//! Finds and tracks the faces of one unit of source frames. The media child calls it for analysis tasks.

use latentfarm_common::frame::Rgb;
use latentfarm_common::wire::outcome::{FaceObservation, FrameObservation};

use super::blazeface::Detector;
use super::error::FaceError;
use super::geometry::Rect;
use super::lip_meter::LipMeter;
use super::mesh::{Landmarker, Mesh, Region};
use super::shot_boundary::Thumbnail;

/// Largest number of frames in one unit. Its result depends only on the arguments of
/// [`FaceAnalyzer::analyze_unit`].
pub const UNIT_FRAMES: usize = 16;
/// Largest number of faces observed in one frame; the largest faces come first.
const MAX_FACES: usize = 4;
/// Smallest score of a detection that counts; most false detections score less.
const MIN_SCORE: f32 = 0.65;
/// Two faces whose boxes have a larger intersection over union than this are the same.
const SAME_FACE_IOU: f32 = 0.3;
/// Smallest width and height of a usable face, in pixels.
const MIN_SIZE: [f32; 2] = [50.0, 80.0];
/// Range of the width of a usable face over its height.
const ASPECT: std::ops::RangeInclusive<f32> = 0.2..=1.5;

/// Finds and tracks faces with the two networks. It keeps no state between calls, and each call runs on one
/// thread.
#[derive(Debug)]
pub struct FaceAnalyzer {
    detector: Detector,
    landmarker: Landmarker,
}

/// A usable face in the current frame.
struct TrackedFace {
    mesh: Mesh,
    area: Rect,
    score: f32,
}

impl FaceAnalyzer {
    /// Loads the embedded weights of both networks.
    ///
    /// # Errors
    /// If the weights cannot be read, which no build should allow.
    pub fn new() -> Result<Self, FaceError> {
        Ok(Self {
            detector: Detector::new()?,
            landmarker: Landmarker::new()?,
        })
    }

    /// Observes one unit of 1 to [`UNIT_FRAMES`] consecutive frames of one size. `previous` is the frame
    /// before the first and serves cut detection only; without it the first frame is not a cut.
    ///
    /// The detector runs on the first frame and on every cut. From there a face is tracked from frame to
    /// frame by the square around its last points. The detector runs again on each frame in which fewer faces
    /// are left than were found since. A new face beside others is therefore found only in the next unit.
    ///
    /// # Errors
    /// If the unit has no frame or too many, a frame has the wrong size, or a network cannot be run.
    pub fn analyze_unit(
        &self,
        previous: Option<&Rgb>,
        frames: &[Rgb],
    ) -> Result<Vec<FrameObservation>, FaceError> {
        check(previous, frames)?;
        let mut last = previous.map(Thumbnail::new);
        let mut tracks: Vec<(Region, f32)> = Vec::new();
        let mut most_faces = 0;
        let mut observations = Vec::with_capacity(frames.len());
        for (index, frame) in frames.iter().enumerate() {
            let thumbnail = Thumbnail::new(frame);
            let cut = last.is_some_and(|last| thumbnail.starts_shot_after(&last));
            last = Some(thumbnail);
            if cut {
                tracks.clear();
                most_faces = 0;
            }
            let mut found = self.track(frame, &tracks)?;
            if index == 0 || cut || found.is_empty() || found.len() < most_faces {
                self.detect(frame, &mut found)?;
            }
            most_faces = most_faces.max(found.len());
            tracks = found
                .iter()
                .map(|face| (face.mesh.region(), face.score))
                .collect();
            found.sort_by(|a, b| b.area.area().total_cmp(&a.area.area()));
            let faces = found.iter().map(TrackedFace::observation).collect();
            observations.push(FrameObservation { cut, faces });
        }
        Ok(observations)
    }

    /// Returns a meter of the lips in the consecutive pictures of one window.
    pub fn lip_meter(&self) -> LipMeter<'_> {
        LipMeter {
            landmarker: &self.landmarker,
            last: None,
        }
    }

    /// Returns the faces of the last frame that are still there, at their new places.
    fn track(&self, frame: &Rgb, tracks: &[(Region, f32)]) -> Result<Vec<TrackedFace>, FaceError> {
        let mut found = Vec::with_capacity(MAX_FACES);
        for (region, score) in tracks {
            let mesh = self.landmarker.mesh(frame, region)?;
            keep_if_usable(&mut found, mesh, *score, frame);
        }
        Ok(found)
    }

    /// Adds the detected faces that are not in `found` yet, the largest first. The box of the detector is
    /// rough, so the mesh network runs twice, the second time on the square around the points of the first.
    fn detect(&self, frame: &Rgb, found: &mut Vec<TrackedFace>) -> Result<(), FaceError> {
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
            if !rough.is_face() {
                continue;
            }
            let mesh = self.landmarker.mesh(frame, &rough.region())?;
            keep_if_usable(found, mesh, detection.score, frame);
        }
        Ok(())
    }
}

impl TrackedFace {
    fn observation(&self) -> FaceObservation {
        let area = &self.area;
        FaceObservation {
            bbox: [area.left, area.top, area.width(), area.height()],
            score: self.score,
            points: self.mesh.alignment_points(),
            lips: self.mesh.lip_opening(),
        }
    }
}

fn is_known(found: &[TrackedFace], area: &Rect) -> bool {
    found.iter().any(|face| face.area.iou(area) > SAME_FACE_IOU)
}

fn keep_if_usable(found: &mut Vec<TrackedFace>, mesh: Mesh, score: f32, frame: &Rgb) {
    let area = mesh.area();
    let [x, y] = area.centre();
    let inside = x >= 0.0 && y >= 0.0 && x < frame.width as f32 && y < frame.height as f32;
    let sized = area.width() >= MIN_SIZE[0]
        && area.height() >= MIN_SIZE[1]
        && ASPECT.contains(&(area.width() / area.height()));
    // `sized` is false for points that are not finite.
    if mesh.is_face() && inside && sized && !is_known(found, &area) {
        found.push(TrackedFace { mesh, area, score });
    }
}

fn check(previous: Option<&Rgb>, frames: &[Rgb]) -> Result<(), FaceError> {
    let limit = UNIT_FRAMES;
    let Some(first) = frames.first().filter(|_| frames.len() <= limit) else {
        let found = frames.len();
        return Err(FaceError::UnitLength { limit, found });
    };
    for (index, frame) in frames.iter().chain(previous).enumerate() {
        let (width, height, bytes) = (frame.width, frame.height, frame.data.len());
        if width == 0 || height == 0 || bytes != width * height * 3 {
            return Err(FaceError::Frame {
                index,
                width,
                height,
                bytes,
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
