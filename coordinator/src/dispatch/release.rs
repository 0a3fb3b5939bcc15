//! Decides when render chunks may go: as soon as the faces in the frames that they show are final.

use latentfarm_common::ids::ChunkId;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::{JobSpec, Timeline};

use super::inputs::{self, Readiness};
use crate::job::chunk::event::ChunkEvent;
use crate::job::chunk::state::Phase;
use crate::job::record::ChunkRecord;
use crate::track::{Track, lookahead_frames};

/// The track of a job's video, and how far chunks were released along it.
pub(super) struct ReleaseGate {
    pub(super) track: Track,
    /// The analysed prefix of the source that each render chunk needs.
    fronts: Vec<u64>,
    /// The length of the final track for which chunks were last released.
    released_to: Option<u64>,
}

impl ReleaseGate {
    /// A gate over the first `analyzed` source frames, for chunks of these ranges of output frames.
    pub(super) fn new(spec: &JobSpec, timeline: &Timeline, analyzed: u64, render: &[FrameRange]) -> Self {
        let lookahead = lookahead_frames(&timeline.source_pts, spec.source.time_base);
        let fronts = render.iter().map(|range| inputs::front_of(timeline, *range));
        Self {
            track: Track::new(analyzed, lookahead, spec.model.resolution_px),
            fronts: fronts.collect(),
            released_to: None,
        }
    }

    /// Whether the whole video was looked at, and no frame of it has a usable face.
    pub(super) fn is_without_face(&self) -> bool {
        self.track.is_complete() && !self.track.has_face()
    }

    /// The events of waiting chunks whose frames are final since this was last asked. There are none before it is
    /// known that the video has a face, or that it has none and `may_be_untouched`.
    pub(super) fn open(
        &mut self,
        timeline: &Timeline,
        render: &[ChunkRecord],
        may_be_untouched: bool,
    ) -> Vec<(ChunkId, ChunkEvent)> {
        let is_known = self.track.has_face() || self.is_without_face() && may_be_untouched;
        if !is_known {
            return Vec::new();
        }
        let ready = self.track.ready();
        if self.released_to.replace(ready) == Some(ready) {
            return Vec::new();
        }
        let in_reach = render
            .iter()
            .zip(&self.fronts)
            .filter(|(record, front)| record.state().phase == Phase::Waiting && **front <= ready);
        let events = in_reach.filter_map(|(record, _)| {
            let event = match inputs::readiness(timeline, &self.track, record.range) {
                Readiness::Open => return None,
                Readiness::Ready => ChunkEvent::Released,
                Readiness::Blocked(frame) => ChunkEvent::Blocked {
                    reason: format!(
                        "the faces around source frame {frame} are unknown: their analysis was given up"
                    ),
                },
            };
            Some((record.id, event))
        });
        events.collect()
    }
}
