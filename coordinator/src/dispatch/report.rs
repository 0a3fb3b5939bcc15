//! The figures of a job, gathered once when it has ended.

use std::collections::BTreeMap;

use latentfarm_common::ids::{WorkKind, WorkerId};
use latentfarm_common::lip_sync::{self, LipSync};
use latentfarm_common::time::{FrameRange, FrameRate};
use latentfarm_common::wire::job::{SilenceMode, SourceDefect, Timeline};
use latentfarm_common::wire::outcome::{DoneBody, StageTimings};
use latentfarm_common::wire::task::Mouth;
use serde::{Deserialize, Serialize};

use super::border::{self, KindBorders, Mouths};
use super::doubtful::DoubtfulChunk;
use super::job::Job;
use super::log::{OomRecord, SetAsideRecord};
use super::spot_checks::SpotCheckReport;
use super::task_inputs;
use super::usage::MemoryUsage;
use crate::job::chunks::Chunks;
use crate::job::retry::RetryClass;
use crate::track::{FrameFace, SpeakerTrack};

/// The figures of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobReport {
    /// Output frames whose mouth was rendered.
    pub synced: u64,
    /// Output frames that passed through unchanged; those of `without_face` and `tail` are included.
    pub passed: u64,
    /// Output frames with speech in which no face was found, in order.
    pub without_face: Vec<FrameRange>,
    /// The number of output frames of a kept tail.
    pub tail: u64,
    /// Output frames without speech, in order; empty if silence is left to the model.
    pub silent: Vec<FrameRange>,
    /// The stretches of the source video that are not shown as the file has them, in order.
    pub defects: Vec<SourceDefect>,
    /// The number of silent frames that keep the whole source picture.
    pub kept: u64,
    /// The number of attempts of this run that ended without a result, by reason.
    pub retries: BTreeMap<RetryClass, u64>,
    /// How the rendered lips fit the speech; `None` if too few were seen to tell.
    pub lip_sync: Option<LipSync>,
    /// The time of each stage of the analysis, summed over all chunks that are done.
    pub analyze: StageTimings,
    /// The time of each stage of the rendering, summed over all chunks that are done.
    pub render: StageTimings,
    /// The number of chunks that each worker finished.
    pub workers: BTreeMap<WorkerId, u64>,
    /// The number of render chunks by numerics fingerprint. Results of equal fingerprints are equal bit for bit,
    /// so that more than one fingerprint is worth a warning.
    pub numerics_fingerprints: BTreeMap<String, u64>,
    /// The workers that were unfit or set aside during the job.
    pub set_aside: BTreeMap<WorkerId, SetAsideRecord>,
    /// The chunks whose pictures look wrong although two attempts came to the same, in the order of their frames.
    pub doubtful: Vec<DoubtfulChunk>,
    /// What the spot checks came to.
    pub spot_checks: SpotCheckReport,
    /// The borders between results of different numerics fingerprints, by the two that meet.
    pub borders: Vec<KindBorders>,
    /// The attempts that ran out of memory, in order, those of earlier runs included.
    pub ooms: Vec<OomRecord>,
    /// The memory that the finished render chunks used.
    pub memory: MemoryUsage,
}

impl JobReport {
    /// The figures of a job on the farm.
    pub(super) fn of(job: &Job) -> Self {
        let mut figures = Self::new(
            &job.chunks,
            &job.gate.track,
            &job.timeline,
            job.spec.audio.silence,
            job.spec.encoder.rate,
            job.log.retries.clone(),
            job.log.ooms.clone(),
        );
        job.border_samples.add_to(&mut figures.borders);
        Self {
            defects: job.segments.defects().to_vec(),
            set_aside: job.log.set_aside.clone(),
            doubtful: job.doubtful.accepted(),
            spot_checks: job.spot_checks.report().clone(),
            ..figures
        }
    }

    /// Gathers the figures from the states of the chunks; `retries` and `ooms` come from the job's log. The
    /// defects of the source video are left out.
    pub fn new(
        chunks: &Chunks,
        track: &SpeakerTrack,
        timeline: &Timeline,
        silence: SilenceMode,
        rate: FrameRate,
        retries: BTreeMap<RetryClass, u64>,
        ooms: Vec<OomRecord>,
    ) -> Self {
        let mut report = Self {
            retries,
            ooms,
            silent: timeline.silence.clone(),
            ..Self::default()
        };
        let mut lips = vec![None; timeline.outputs.len()];
        for chunk in chunks.iter() {
            let Some(record) = chunk.state().record() else {
                continue;
            };
            *report.workers.entry(record.worker.clone()).or_default() += 1;
            if chunk.id.work == WorkKind::Render {
                *report
                    .numerics_fingerprints
                    .entry(record.numerics_fingerprint.clone())
                    .or_default() += 1;
            }
            let total = match chunk.id.work {
                WorkKind::Analyze => &mut report.analyze,
                WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck => &mut report.render,
            };
            add(total, &record.timings);
            if let (WorkKind::Render, Some(used)) = (chunk.id.work, &record.memory) {
                report.memory.add(&record.worker, chunk.range.len(), used);
            }
            if let DoneBody::Render {
                synced,
                passed,
                lips: measured,
                ..
            } = &record.body
            {
                report.synced += u64::from(*synced);
                report.passed += u64::from(*passed);
                let start = usize::try_from(chunk.range.start).unwrap_or(usize::MAX);
                for (shown, measured) in lips.iter_mut().skip(start).zip(measured) {
                    *shown = *measured;
                }
            }
        }
        report.lip_sync = lip_sync::measure(&lips, &timeline.loudness, rate);
        let mouths = Mouths {
            timeline,
            track,
            silence,
        };
        report.borders = border::count(&border::borders(&chunks.render, mouths));
        report.memory.compute_warnings();
        for (frame, output) in (0_u64..).zip(&timeline.outputs) {
            if !output.synced {
                report.tail += 1;
            } else if track.face(u64::from(output.source)) == Some(FrameFace::Absent) {
                extend(&mut report.without_face, frame);
            }
            if task_inputs::mouth(silence, timeline, frame) == Mouth::Kept {
                report.kept += 1;
            }
        }
        report
    }
}

/// Adds a frame that comes after all ranges.
fn extend(ranges: &mut Vec<FrameRange>, frame: u64) {
    match ranges.last_mut() {
        Some(last) if last.end == frame => last.end += 1,
        _ => ranges.push(FrameRange::new(frame, frame + 1)),
    }
}

/// Adds up the listed fields of [`StageTimings`]. The list must be complete, or the pattern does not compile.
macro_rules! add_fields {
    ($total:ident, $part:ident: $($field:ident)*) => {{
        let StageTimings { $($field),* } = $part;
        $($total.$field += $field;)*
    }};
}

fn add(total: &mut StageTimings, part: &StageTimings) {
    add_fields!(total, part:
        fetch_ms decode_ms face_ms audio_ms vae_encode_ms denoise_ms vae_decode_ms paste_ms encode_ms commit_ms
        engine_ms media_wait_ms edge_ms);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::chunk::event::ChunkEvent;
    use crate::job::test_support::done_record;
    use latentfarm_common::digest::Digest;
    use latentfarm_common::ids::{Attempt, JobId};
    use latentfarm_common::lip_sync::LipOpening;
    use latentfarm_common::wire::job::OutputFrame;
    use latentfarm_common::wire::outcome::FrameObservation;
    use std::sync::Arc;

    #[test]
    fn frames_without_a_face_are_listed_as_ranges_and_the_tail_is_not() {
        let mut track = SpeakerTrack::new(16, 32, 256);
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
            FrameRate::FPS_25,
            BTreeMap::new(),
            Vec::new(),
        );
        assert_eq!(
            report.without_face,
            [FrameRange::new(0, 2), FrameRange::new(3, 4)]
        );
        assert_eq!(report.tail, 1);
    }

    #[test]
    fn rendered_lips_are_compared_with_the_speech_of_their_own_frames() {
        let job = JobId::from_digest(&Digest::of(b"job"));
        let ranges = vec![FrameRange::new(0, 64), FrameRange::new(64, 128)];
        let mut chunks = Chunks::new(job, Vec::new(), ranges);
        let random = |n: u32| {
            n.wrapping_mul(0x9E37_79B9)
                .rotate_left(9)
                .wrapping_mul(0x85EB_CA6B)
                >> 24
        };
        let loudness: Vec<u8> = (0..128).map(|n| u8::try_from(random(n)).unwrap()).collect();
        let shown = |source| OutputFrame { source, synced: true };
        let timeline = Timeline {
            outputs: (0..128).map(shown).collect(),
            loudness: loudness.clone(),
            ..Timeline::default()
        };
        let report = |chunks: &Chunks| {
            let (track, log) = (SpeakerTrack::new(128, 32, 256), (BTreeMap::new(), Vec::new()));
            JobReport::new(
                chunks,
                &track,
                &timeline,
                SilenceMode::Off,
                FrameRate::FPS_25,
                log.0,
                log.1,
            )
        };
        assert_eq!(report(&chunks).lip_sync, None);
        // The lips of the second chunk alone are two frames late.
        for (id, lag) in chunks.ids(|_| true).into_iter().zip([0, 2]) {
            let mut record = done_record(id, Attempt::default(), "w1".parse().unwrap());
            let start = 64 * id.index as usize - lag;
            record.body = DoneBody::Render {
                frame_hashes: Vec::new(),
                lips: loudness[start..start + 64]
                    .iter()
                    .map(|&loud| Some(LipOpening(u16::from(loud))))
                    .collect(),
                synced: 64,
                passed: 0,
            };
            let record = Arc::new(record);
            chunks.get_mut(id).unwrap().apply(ChunkEvent::DoneSeen { record });
            let fit = report(&chunks).lip_sync.unwrap();
            assert_eq!(fit.frames, 64 * (u64::from(id.index) + 1));
            let range = if lag == 0 { 0.99..1.01 } else { 0.2..0.7 };
            assert!(range.contains(&fit.correlation_at_zero), "{fit:?}");
        }
    }
}
