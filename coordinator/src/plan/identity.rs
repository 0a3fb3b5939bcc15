//! The identity of a job: a digest of everything that its output is a function of. `render` computes it
//! before it opens the job folder. An equal request has the same id and is resumed; anything that changes a
//! frame, an encoded byte or the meaning of a chunk's index makes another job.

use latentfarm_common::digest::Digest;
use latentfarm_common::ids::JobId;
use latentfarm_common::wire::SCHEMA;
use latentfarm_common::wire::job::{AudioWindows, EncoderSpec, ModelSpec, SilenceMode};
use serde::Serialize;

use super::split::ChunkFrames;
use crate::ingest::timeline::OnShort;

/// Everything that the output is a function of. Its JSON is digested, because that text is fixed by the order
/// of the fields and by nothing else. A new setting of the model or the encoder thereby makes another job.
#[derive(Clone, Debug, Serialize)]
pub struct Identity<'a> {
    /// Digests of the two files as given.
    pub video: Digest,
    pub audio: Digest,
    /// What is done if the video is shorter than its audio.
    pub on_short: OnShort,
    /// Whether a video longer than its audio keeps its tail.
    pub keep_tail: bool,
    /// The audio track that the user named, if any.
    pub audio_track: Option<&'a str>,
    /// How much later the sound is played, in microseconds.
    pub audio_offset_us: i64,
    /// Whether the sound is encoded so that it ends exactly with the video.
    pub exact_audio: bool,
    /// The container that the sound is made for, by its file extension.
    pub container: &'a str,
    pub audio_windows: AudioWindows,
    pub silence: SilenceMode,
    pub model: &'a ModelSpec,
    /// The encoder settings, the output frame rate included.
    pub encoder: &'a EncoderSpec,
    /// Composited frames do not depend on the chunk length; encoded frames do, and so does what a done record
    /// means.
    pub chunk_frames: ChunkFrames,
    /// The length of an analysis chunk decides which source frames a record of an analysis covers.
    pub analyze_frames: ChunkFrames,
}

impl Identity<'_> {
    /// The id of the job. It includes the versions of the product and of the wire format, so that another
    /// version does not resume the job.
    pub fn job_id(&self) -> Result<JobId, serde_json::Error> {
        let text = serde_json::to_vec(&("latentfarm", env!("CARGO_PKG_VERSION"), SCHEMA, self))?;
        Ok(JobId::from_digest(&Digest::of(&text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::time::FrameRate;
    use latentfarm_common::wire::job::WeightsKind;
    use std::collections::BTreeSet;

    fn model() -> ModelSpec {
        ModelSpec {
            weights: Digest::of(b"weights"),
            weights_kind: WeightsKind::Synthetic,
            resolution_px: 256,
            steps: 20,
            guidance_scale: 1.0,
            seed: 1247,
        }
    }

    fn encoder() -> EncoderSpec {
        EncoderSpec {
            rate: FrameRate::FPS_25,
            crf: Some(18),
            preset: "medium".to_owned(),
        }
    }

    fn id(change: impl FnOnce(&mut Identity<'_>, &mut ModelSpec, &mut EncoderSpec)) -> JobId {
        let (model, encoder) = (model(), encoder());
        let mut changed_model = model.clone();
        let mut changed_encoder = encoder.clone();
        let mut identity = Identity {
            video: Digest::of(b"video"),
            audio: Digest::of(b"audio"),
            on_short: OnShort::Bounce,
            keep_tail: false,
            audio_track: None,
            audio_offset_us: 0,
            exact_audio: false,
            container: "mp4",
            audio_windows: AudioWindows::Overlapping,
            silence: SilenceMode::Off,
            model: &model,
            encoder: &encoder,
            chunk_frames: ChunkFrames::new(64).unwrap(),
            analyze_frames: ChunkFrames::new(64).unwrap(),
        };
        change(&mut identity, &mut changed_model, &mut changed_encoder);
        Identity {
            model: &changed_model,
            encoder: &changed_encoder,
            ..identity
        }
        .job_id()
        .unwrap()
    }

    #[test]
    fn equal_requests_are_one_job() {
        assert_eq!(id(|_, _, _| ()), id(|_, _, _| ()));
    }

    #[test]
    fn every_setting_makes_another_job() {
        let ids = [
            id(|_, _, _| ()),
            id(|i, _, _| i.video = Digest::of(b"other")),
            id(|i, _, _| i.audio = Digest::of(b"other")),
            id(|i, _, _| i.on_short = OnShort::Loop),
            id(|i, _, _| i.keep_tail = true),
            id(|i, _, _| i.audio_track = Some("2")),
            id(|i, _, _| i.audio_offset_us = 40_000),
            id(|i, _, _| i.exact_audio = true),
            id(|i, _, _| i.container = "mkv"),
            id(|i, _, _| i.audio_windows = AudioWindows::Reference),
            id(|i, _, _| i.silence = SilenceMode::Keep),
            id(|i, _, _| i.silence = SilenceMode::Close),
            id(|i, _, _| i.chunk_frames = ChunkFrames::new(48).unwrap()),
            id(|i, _, _| i.analyze_frames = ChunkFrames::new(48).unwrap()),
            id(|_, m, _| m.weights = Digest::of(b"other")),
            id(|_, m, _| m.weights_kind = WeightsKind::Demo),
            id(|_, m, _| m.resolution_px = 512),
            id(|_, m, _| m.steps = 1),
            id(|_, m, _| m.guidance_scale = 1.5),
            id(|_, m, _| m.seed = 1),
            id(|_, _, e| e.rate = FrameRate::new(30, 1).unwrap()),
            id(|_, _, e| e.crf = None),
            id(|_, _, e| e.preset = "fast".to_owned()),
        ];
        let distinct: BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
