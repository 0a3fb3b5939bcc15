//! What a job came to.

use std::collections::BTreeMap;

use latentfarm_common::ids::{Work, WorkerId};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::{SilenceMode, Timeline};
use latentfarm_common::wire::outcome::{DoneBody, StageTimings};
use latentfarm_common::wire::task::Mouth;

use super::inputs;
use super::log::OomNote;
use super::usage::MemoryUsage;
use crate::job::chunk::state::Phase;
use crate::job::chunks::Chunks;
use crate::job::retry::RetryClass;
use crate::track::{FrameFace, Track};

/// The figures of a job's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobReport {
    /// Output frames whose mouth was rendered.
    pub synced: u64,
    /// Output frames that passed through untouched, the next two included.
    pub passed: u64,
    /// Output frames in which no face was found though speech was due, in order.
    pub without_face: Vec<FrameRange>,
    /// Output frames of a kept tail.
    pub tail: u64,
    /// Output frames in which nobody speaks, in order; empty where silence is left to the model.
    pub silent: Vec<FrameRange>,
    /// Those of them that keep the whole source picture.
    pub kept: u64,
    /// Attempts of this run that did not end well, by reason.
    pub retries: BTreeMap<RetryClass, u64>,
    /// Over all chunks that are done.
    pub analyze: StageTimings,
    pub render: StageTimings,
    /// Chunks finished by each worker.
    pub workers: BTreeMap<WorkerId, u64>,
    /// Results of equal kinds are equal bit for bit; more than one is worth a word.
    pub numerics_fingerprints: BTreeMap<String, u64>,
    /// Attempts that ran out of memory, in order, those of earlier runs included.
    pub ooms: Vec<OomNote>,
    /// What the render chunks that are done took.
    pub memory: MemoryUsage,
}

impl JobReport {
    /// Gathers the figures; `retries` are counted by the dispatcher.
    pub fn new(
        chunks: &Chunks,
        track: &Track,
        timeline: &Timeline,
        silence: SilenceMode,
        retries: BTreeMap<RetryClass, u64>,
        ooms: Vec<OomNote>,
    ) -> Self {
        let mut report = Self {
            retries,
            ooms,
            silent: timeline.silence.clone(),
            ..Self::default()
        };
        for chunk in chunks.iter() {
            let Phase::Done { record } = &chunk.state().phase else {
                continue;
            };
            *report.workers.entry(record.worker.clone()).or_default() += 1;
            *report
                .numerics_fingerprints
                .entry(record.numerics_fingerprint.clone())
                .or_default() += 1;
            let total = match chunk.id.work {
                Work::Analyze => &mut report.analyze,
                Work::Render => &mut report.render,
            };
            add(total, &record.timings);
            if let (Work::Render, Some(used)) = (chunk.id.work, &record.memory) {
                report.memory.add(&record.worker, chunk.range.len(), used);
            }
            if let DoneBody::Render { synced, passed, .. } = &record.body {
                report.synced += u64::from(*synced);
                report.passed += u64::from(*passed);
            }
        }
        report.memory.judge();
        for (frame, output) in (0_u64..).zip(&timeline.outputs) {
            if !output.synced {
                report.tail += 1;
            } else if track.face(u64::from(output.source)) == Some(FrameFace::Absent) {
                extend(&mut report.without_face, frame);
            }
            if inputs::mouth(silence, timeline, frame) == Mouth::Kept {
                report.kept += 1;
            }
        }
        report
    }
}

/// Adds a frame that is past every range.
fn extend(ranges: &mut Vec<FrameRange>, frame: u64) {
    match ranges.last_mut() {
        Some(last) if last.end == frame => last.end += 1,
        _ => ranges.push(FrameRange::new(frame, frame + 1)),
    }
}

fn add(total: &mut StageTimings, part: &StageTimings) {
    let StageTimings {
        fetch_ms,
        decode_ms,
        face_ms,
        audio_ms,
        vae_encode_ms,
        denoise_ms,
        vae_decode_ms,
        paste_ms,
        encode_ms,
        commit_ms,
        engine_ms,
        media_wait_ms,
        edge_ms,
    } = part;
    total.fetch_ms += fetch_ms;
    total.decode_ms += decode_ms;
    total.face_ms += face_ms;
    total.audio_ms += audio_ms;
    total.vae_encode_ms += vae_encode_ms;
    total.denoise_ms += denoise_ms;
    total.vae_decode_ms += vae_decode_ms;
    total.paste_ms += paste_ms;
    total.encode_ms += encode_ms;
    total.commit_ms += commit_ms;
    total.engine_ms += engine_ms;
    total.media_wait_ms += media_wait_ms;
    total.edge_ms += edge_ms;
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::digest::Digest;
    use latentfarm_common::ids::JobId;
    use latentfarm_common::wire::job::OutputFrame;
    use latentfarm_common::wire::outcome::FrameObservation;

    #[test]
    fn frames_without_a_face_are_listed_as_ranges_and_the_tail_is_not() {
        let mut track = Track::new(16, 32, 256);
        let empty = FrameObservation {
            cut: false,
            faces: Vec::new(),
        };
        track.add(FrameRange::new(0, 16), vec![empty; 16]).unwrap();
        let shown = |source| OutputFrame { source, synced: true };
        let tail = OutputFrame {
            source: 3,
            synced: false,
        };
        let timeline = Timeline {
            outputs: vec![shown(0), shown(1), tail, shown(2)],
            ..Timeline::default()
        };
        let job = JobId::from_digest(&Digest::of(b"job"));
        let report = JobReport::new(
            &Chunks::new(job, Vec::new(), Vec::new()),
            &track,
            &timeline,
            SilenceMode::Off,
            BTreeMap::new(),
            Vec::new(),
        );
        assert_eq!(
            report.without_face,
            [FrameRange::new(0, 2), FrameRange::new(3, 4)]
        );
        assert_eq!(report.tail, 1);
    }
}
