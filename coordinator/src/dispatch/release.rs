//! Decides when chunks may be published: an analysis as soon as the segments that have been cut hold its
//! source frames, a render chunk as soon as they hold the frames that it shows and the speaker track is final
//! for them.

use latentfarm_common::ids::ChunkId;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::{JobSpec, Timeline};

use super::task_inputs::{self, Readiness};
use crate::job::chunk::event::ChunkEvent;
use crate::job::chunk::state::Phase;
use crate::job::chunks::Chunks;
use crate::job::record::ChunkRecord;
use crate::track::{SpeakerTrack, lookahead_frames};

/// The speaker track of a job's video, and the lengths of it and of the segments for which chunks were
/// released.
pub(super) struct ReleaseGate {
    pub(super) track: SpeakerTrack,
    /// The number of source frames, from the first on, that must be analysed for each render chunk.
    required_prefixes: Vec<u64>,
    /// The number of source frames, from the first on, that must have been cut for each render chunk.
    shown_prefixes: Vec<u64>,
    /// The number of source frames in the segments for which analyses were last released.
    analyses_released_to: u64,
    /// The lengths of the final track and of the segments for which render chunks were last released.
    released_to: Option<(u64, u64)>,
}

impl ReleaseGate {
    /// A gate for chunks of these ranges of output frames.
    pub(super) fn new(spec: &JobSpec, timeline: &Timeline, render: &[FrameRange]) -> Self {
        let shown = task_inputs::shown_pts(timeline);
        let lookahead = lookahead_frames(shown, spec.source.time_base);
        let required_prefixes = render
            .iter()
            .map(|range| task_inputs::required_prefix(timeline, *range));
        let shown_prefixes = render
            .iter()
            .map(|range| task_inputs::shown_prefix(timeline, *range));
        Self {
            track: SpeakerTrack::new(spec.face_frames, lookahead, spec.model.resolution_px),
            required_prefixes: required_prefixes.collect(),
            shown_prefixes: shown_prefixes.collect(),
            analyses_released_to: 0,
            released_to: None,
        }
    }

    /// Whether the whole video was analysed, and no frame of it has a usable face.
    pub(super) fn is_without_face(&self) -> bool {
        self.track.is_complete() && !self.track.has_face()
    }

    /// Returns the events of the waiting chunks that can be made since the last call, when the segments hold
    /// the first
    /// `covered` source frames. Render chunks have none before a face was found in the video, unless the whole video has
    /// none and `allow_passthrough` is set.
    pub(super) fn open(
        &mut self,
        timeline: &Timeline,
        covered: u64,
        chunks: &Chunks,
        allow_passthrough: bool,
    ) -> Vec<(ChunkId, ChunkEvent)> {
        let mut events = self.open_analyses(covered, &chunks.analyze);
        events.extend(self.open_renders(timeline, covered, &chunks.render, allow_passthrough));
        events
    }

    /// Whether all that a render chunk needs is known, when the segments hold the first `covered` source frames. `index` is
    /// the chunk's place among the render chunks, and `range` its frames.
    pub(super) fn readiness(
        &self,
        timeline: &Timeline,
        covered: u64,
        index: u32,
        range: FrameRange,
    ) -> Readiness {
        let prefix = |prefixes: &[u64]| prefixes.get(index as usize).copied().unwrap_or(u64::MAX);
        let is_reached =
            prefix(&self.required_prefixes) <= self.track.ready() && prefix(&self.shown_prefixes) <= covered;
        if is_reached {
            task_inputs::readiness(timeline, &self.track, range)
        } else {
            Readiness::Pending
        }
    }

    /// Returns the events of the analyses whose source frames have been cut since the last call. The frame
    /// before an analysis, which it looks at too, was cut before its own.
    fn open_analyses(&mut self, covered: u64, analyze: &[ChunkRecord]) -> Vec<(ChunkId, ChunkEvent)> {
        let before = std::mem::replace(&mut self.analyses_released_to, covered);
        let newly_covered = |range: FrameRange| range.end <= covered && range.end > before;
        let opened = analyze.iter().filter(|record| newly_covered(record.range));
        opened.map(|record| (record.id, ChunkEvent::Released)).collect()
    }

    /// Returns the events of the waiting render chunks whose frames have been cut and become final since the
    /// last call.
    fn open_renders(
        &mut self,
        timeline: &Timeline,
        covered: u64,
        render: &[ChunkRecord],
        allow_passthrough: bool,
    ) -> Vec<(ChunkId, ChunkEvent)> {
        let is_known = self.track.has_face() || self.is_without_face() && allow_passthrough;
        if !is_known {
            return Vec::new();
        }
        let reach = (self.track.ready(), covered);
        if self.released_to.replace(reach) == Some(reach) {
            return Vec::new();
        }
        let waiting = render
            .iter()
            .filter(|record| record.state().phase == Phase::Waiting);
        let events = waiting.filter_map(|record| {
            let event = match self.readiness(timeline, covered, record.id.index, record.range) {
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
