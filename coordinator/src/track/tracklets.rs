//! Links the faces of one shot from frame to frame, by position and size, into *tracklets*: one for each person.

use std::collections::{BTreeMap, BTreeSet};

use latentfarm_common::wire::outcome::FaceObservation;

/// Largest distance that a face's centre moves in one frame, in sides of its box.
const MAX_MOVE: f64 = 0.75;
/// The distance by which [`MAX_MOVE`] grows for each frame in which the face was missing.
const MAX_MOVE_PER_MISSED_FRAME: f64 = 0.1;
/// Largest ratio of the sides of one face's boxes in two consecutive observations.
const MAX_SIDE_RATIO: f64 = 1.6;

/// Identifies one person within one shot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrackletId(u32);

/// A person's face in one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrackedFace {
    pub tracklet: TrackletId,
    pub face: FaceObservation,
}

/// Links the faces of one shot, frame by frame.
#[derive(Debug)]
pub struct TrackletLinker {
    /// A person who is absent for longer, in frames, is a new one afterwards.
    memory: u64,
    /// Number of frames linked so far.
    linked: u64,
    tracklets: Vec<Tracklet>,
    /// The id of the next tracklet.
    next: u32,
}

/// One person's face, as it was last observed.
#[derive(Debug)]
struct Tracklet {
    id: TrackletId,
    centre: (f64, f64),
    side: f64,
    last_frame: u64,
}

impl TrackletLinker {
    /// Makes the linker of a new shot, which knows a person again after an absence of up to `memory` frames.
    pub fn new(memory: u64) -> Self {
        Self {
            memory,
            linked: 0,
            tracklets: Vec::new(),
            next: 0,
        }
    }

    /// Links every usable face of the next frame to the nearest tracklet that it fits, or else to a new one.
    pub fn link(&mut self, faces: &[FaceObservation]) -> Vec<TrackedFace> {
        let now = self.linked;
        self.linked += 1;
        let memory = self.memory;
        self.tracklets
            .retain(|tracklet| now - tracklet.last_frame <= memory + 1);

        let faces: Vec<&FaceObservation> = faces.iter().filter(|face| is_usable(face)).collect();
        let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
        for (tracklet_index, tracklet) in self.tracklets.iter().enumerate() {
            for (face_index, face) in faces.iter().enumerate() {
                if let Some(distance) = tracklet.distance_to(face, now) {
                    pairs.push((distance, tracklet_index, face_index));
                }
            }
        }
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));

        let mut tracklet_of = BTreeMap::new();
        let mut taken = BTreeSet::new();
        for (_distance, tracklet_index, face_index) in pairs {
            if !tracklet_of.contains_key(&face_index) && taken.insert(tracklet_index) {
                tracklet_of.insert(face_index, tracklet_index);
            }
        }
        let mut tracked_faces = Vec::with_capacity(faces.len());
        for (face_index, face) in faces.into_iter().enumerate() {
            let tracklet = match tracklet_of.get(&face_index) {
                Some(&index) => {
                    let tracklet = &mut self.tracklets[index];
                    tracklet.update(face, now);
                    tracklet.id
                }
                None => self.start(face, now),
            };
            tracked_faces.push(TrackedFace {
                tracklet,
                face: *face,
            });
        }
        tracked_faces
    }

    fn start(&mut self, face: &FaceObservation, now: u64) -> TrackletId {
        let id = TrackletId(self.next);
        self.next += 1;
        self.tracklets.push(Tracklet {
            id,
            centre: centre(face),
            side: side(face),
            last_frame: now,
        });
        id
    }
}

impl Tracklet {
    /// Returns the distance in sides of the box, or `None` if the face cannot be this person's.
    fn distance_to(&self, face: &FaceObservation, now: u64) -> Option<f64> {
        let missed = (now - self.last_frame).saturating_sub(1);
        let max_move = MAX_MOVE + MAX_MOVE_PER_MISSED_FRAME * missed as f64;
        let (x, y) = centre(face);
        let distance = (x - self.centre.0).hypot(y - self.centre.1) / self.side;
        let ratio = (side(face) / self.side).max(self.side / side(face));
        (distance <= max_move && ratio <= MAX_SIDE_RATIO).then_some(distance)
    }

    fn update(&mut self, face: &FaceObservation, now: u64) {
        self.centre = centre(face);
        self.side = side(face);
        self.last_frame = now;
    }
}

fn is_usable(face: &FaceObservation) -> bool {
    let finite = face
        .bbox
        .iter()
        .chain(face.points.iter().flatten())
        .all(|v| v.is_finite());
    finite && face.bbox[2] > 0.0 && face.bbox[3] > 0.0
}

fn centre(face: &FaceObservation) -> (f64, f64) {
    let [x, y, width, height] = face.bbox.map(f64::from);
    (x + width / 2.0, y + height / 2.0)
}

/// Returns the side of a square that has the area of the box.
pub(super) fn side(face: &FaceObservation) -> f64 {
    (f64::from(face.bbox[2]) * f64::from(face.bbox[3])).sqrt()
}
