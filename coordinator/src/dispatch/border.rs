//! Where the numeric kind changes within a video, and whether that can be seen. Machines of different kinds round
//! differently, by far less than the eye sees in one picture, but perhaps not less than it sees as a change between
//! two.

use std::collections::BTreeMap;
use std::sync::Arc;

use latentfarm_common::frame::PictureDifference;
use latentfarm_common::wire::job::{SilenceMode, Timeline};
use latentfarm_common::wire::outcome::DoneRecord;
use latentfarm_common::wire::task::Mouth;
use serde::{Deserialize, Serialize};

use super::task_inputs;
use crate::job::record::ChunkRecord;
use crate::track::{FrameFace, SpeakerTrack};

/// Two numerics fingerprints, in their order.
pub(super) type Pair = [String; 2];

/// The borders between results of two numerics fingerprints within one video.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindBorders {
    pub fingerprints: [String; 2],
    /// The number of borders between two frames of one shot that both show a mouth which the model rendered.
    pub visible: u64,
    /// The number of the others: at cuts, and beside frames without such a mouth.
    pub hidden: u64,
    /// Frames beside visible borders that were rendered again on a machine of the other kind.
    pub measured: Vec<MeasuredBorder>,
    /// Why a border was not measured that should have been; `None` if all were.
    pub not_measured: Option<String>,
}

/// A frame beside a border, rendered on machines of both kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredBorder {
    /// The output frame.
    pub frame: u64,
    /// How much the two pictures differ after encoding and decoding.
    pub difference: PictureDifference,
}

/// A border between two render chunks.
#[derive(Clone, Debug)]
pub(super) struct Border {
    pub(super) fingerprints: Pair,
    pub(super) left: Side,
    pub(super) right: Side,
    pub(super) is_visible: bool,
}

/// A chunk beside a border.
#[derive(Clone, Debug)]
pub(super) struct Side {
    /// The index of the chunk.
    pub(super) index: u32,
    pub(super) first_frame: u64,
    pub(super) record: Arc<DoneRecord>,
}

impl Side {
    fn of(chunk: &ChunkRecord) -> Option<Self> {
        Some(Self {
            index: chunk.id.index,
            first_frame: chunk.range.start,
            record: Arc::clone(chunk.state().record()?),
        })
    }
}

/// Returns the borders between render chunks with different numerics fingerprints, in frame order.
pub(super) fn borders(render: &[ChunkRecord], mouths: Mouths<'_>) -> Vec<Border> {
    let pairs = render.windows(2).filter_map(|pair| {
        let (left, right) = (Side::of(&pair[0])?, Side::of(&pair[1])?);
        let mut fingerprints = [&left, &right].map(|side| side.record.numerics_fingerprint.clone());
        fingerprints.sort();
        (fingerprints[0] != fingerprints[1]).then(|| Border {
            fingerprints,
            is_visible: mouths.show_border(right.first_frame),
            left,
            right,
        })
    });
    pairs.collect()
}

/// Counts the borders by the two fingerprints that meet there.
pub(super) fn count(borders: &[Border]) -> Vec<KindBorders> {
    let mut counted: BTreeMap<&Pair, KindBorders> = BTreeMap::new();
    for border in borders {
        let of_pair = counted
            .entry(&border.fingerprints)
            .or_insert_with(|| KindBorders {
                fingerprints: border.fingerprints.clone(),
                ..KindBorders::default()
            });
        if border.is_visible {
            of_pair.visible += 1;
        } else {
            of_pair.hidden += 1;
        }
    }
    counted.into_values().collect()
}

/// What decides which mouth the frames of a video show.
#[derive(Clone, Copy)]
pub(super) struct Mouths<'a> {
    pub(super) timeline: &'a Timeline,
    pub(super) track: &'a SpeakerTrack,
    pub(super) silence: SilenceMode,
}

impl Mouths<'_> {
    /// Whether two kinds that meet before output frame `at` can be told apart there: both frames beside the border
    /// show a mouth that the model has rendered, and they are of one shot. What is not known yet counts as visible.
    pub(super) fn show_border(&self, at: u64) -> bool {
        let Some(before) = at.checked_sub(1) else {
            return false;
        };
        let (Some(one), Some(other)) = (self.rendered_source(before), self.rendered_source(at)) else {
            return false;
        };
        !self.track.has_cut_between(one, other)
    }

    /// Whether the model renders the mouth of an output frame, as far as that is known.
    pub(super) fn is_rendered(&self, frame: u64) -> bool {
        self.rendered_source(frame).is_some()
    }

    /// The source frame that an output frame shows, if the model renders its mouth.
    fn rendered_source(&self, frame: u64) -> Option<u64> {
        let index = usize::try_from(frame).unwrap_or(usize::MAX);
        let shown = self.timeline.outputs.get(index).filter(|shown| shown.synced)?;
        let source = u64::from(shown.source);
        let face = self.track.face(source);
        let may_have_face = !matches!(face, Some(FrameFace::Absent | FrameFace::Unknown));
        let is_rendered =
            may_have_face && task_inputs::mouth(self.silence, self.timeline, frame) != Mouth::Kept;
        is_rendered.then_some(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::test_support::observations;
    use latentfarm_common::time::FrameRange;
    use latentfarm_common::wire::job::OutputFrame;

    /// A video of 64 frames with a cut before frame 20 and no face from frame 40 on.
    fn track() -> SpeakerTrack {
        let mut track = SpeakerTrack::new(64, 32, 256);
        let mut seen = observations(64, 20.0);
        seen[20].cut = true;
        seen[40].cut = true;
        for frame in &mut seen[40..] {
            frame.faces.clear();
        }
        track.add(FrameRange::new(0, 64), seen).unwrap();
        track
    }

    fn timeline(sources: impl Iterator<Item = u32>) -> Timeline {
        let shown = |source| OutputFrame { source, synced: true };
        Timeline {
            outputs: sources.map(shown).collect(),
            ..Timeline::default()
        }
    }

    #[test]
    fn a_border_shows_within_a_shot_and_between_rendered_mouths_alone() {
        let (track, mut timeline) = (track(), timeline(0..64));
        timeline.silence = vec![FrameRange::new(4, 36)];
        timeline.outputs[63].synced = false;
        let mouths = |silence| Mouths {
            timeline: &timeline,
            track: &track,
            silence,
        };
        let all = mouths(SilenceMode::Off);
        let visible: Vec<u64> = [0, 1, 16, 20, 21, 40, 48, 63, 64, 100]
            .into_iter()
            .filter(|at| all.show_border(*at))
            .collect();
        assert_eq!(visible, [1, 16, 21]);
        assert!(
            !mouths(SilenceMode::Keep).show_border(16),
            "the source's mouth is kept"
        );
        assert!(mouths(SilenceMode::Close).show_border(16));
    }

    #[test]
    fn a_cut_counts_in_whichever_direction_the_video_runs() {
        let (track, timeline) = (track(), timeline((0..30).rev().chain(0..2)));
        let mouths = Mouths {
            timeline: &timeline,
            track: &track,
            silence: SilenceMode::Off,
        };
        // Output frame 9 shows source frame 20, and frame 10 shows 19.
        assert!(mouths.show_border(9));
        assert!(!mouths.show_border(10));
        assert!(mouths.show_border(11));
        assert!(mouths.show_border(30), "frame 0 is shown twice");
    }

    #[test]
    fn what_is_not_known_yet_counts_as_visible() {
        let track = SpeakerTrack::new(64, 32, 256);
        let timeline = timeline(0..64);
        let mouths = Mouths {
            timeline: &timeline,
            track: &track,
            silence: SilenceMode::Off,
        };
        assert!(mouths.show_border(16));
    }
}
