//! Decides when render chunks may be published: as soon as the speaker track is final for the frames that
//! they show.

use latentfarm_common::ids::ChunkId;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::{JobSpec, Timeline};

use super::task_inputs::{self, Readiness};
use crate::job::chunk::event::ChunkEvent;
use crate::job::chunk::state::Phase;
use crate::job::record::ChunkRecord;
use crate::track::{SpeakerTrack, lookahead_frames};

/// The speaker track of a job's video, and the length of it for which chunks were released.
pub(super) struct ReleaseGate {
    pub(super) track: SpeakerTrack,
    /// The number of source frames, from the first on, that must be analysed for each render chunk.
    required_prefixes: Vec<u64>,
    /// The length of the final track for which chunks were last released.
    released_to: Option<u64>,
}

impl ReleaseGate {
    /// A gate over the first `analyzed` source frames, for chunks of these ranges of output frames.
    pub(super) fn new(spec: &JobSpec, timeline: &Timeline, analyzed: u64, render: &[FrameRange]) -> Self {
        let lookahead = lookahead_frames(&timeline.source_pts, spec.source.time_base);
        let required_prefixes = render
            .iter()
            .map(|range| task_inputs::required_prefix(timeline, *range));
        Self {
            track: SpeakerTrack::new(analyzed, lookahead, spec.model.resolution_px),
            required_prefixes: required_prefixes.collect(),
            released_to: None,
        }
    }

    /// Whether the whole video was analysed, and no frame of it has a usable face.
    pub(super) fn is_without_face(&self) -> bool {
        self.track.is_complete() && !self.track.has_face()
    }

    /// Returns the events of the waiting chunks whose frames have become final since the last call. There are
    /// none before a face was found in the video, unless the whole video has none and `allow_passthrough` is
    /// set.
    pub(super) fn open(
        &mut self,
        timeline: &Timeline,
        render: &[ChunkRecord],
        allow_passthrough: bool,
    ) -> Vec<(ChunkId, ChunkEvent)> {
        let is_known = self.track.has_face() || self.is_without_face() && allow_passthrough;
        if !is_known {
            return Vec::new();
        }
        let ready = self.track.ready();
        if self.released_to.replace(ready) == Some(ready) {
            return Vec::new();
        }
        let in_reach = render
            .iter()
            .zip(&self.required_prefixes)
            .filter(|(record, required_prefix)| {
                record.state().phase == Phase::Waiting && **required_prefix <= ready
            });
        let events = in_reach.filter_map(|(record, _)| {
            let event = match task_inputs::readiness(timeline, &self.track, record.range) {
                Readiness::Pending => return None,
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
