//! Computes the contents of the output file from the done records of a complete job. All functions are pure.

use std::path::PathBuf;
use std::sync::Arc;

use latentfarm_common::digest::DigestWriter;
use latentfarm_common::frame::FrameHash;
use latentfarm_common::media::AudioLength;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::JobSpec;
use latentfarm_common::wire::outcome::DoneRecord;

use crate::job::frame_hashes::frame_hashes;
use crate::stitch::{OutputTarget, StitchRequest};

/// Returns the output frames of a render chunk's record.
pub(super) fn range_of(spec: &JobSpec, record: &DoneRecord) -> FrameRange {
    let size = u64::from(spec.chunk_frames);
    let start = u64::from(record.chunk.index) * size;
    FrameRange::new(start, (start + size).min(spec.frames))
}

/// Returns the request to join `segments`, which are the records' artifacts as files on this machine, in
/// frame order, with the `sound` that ingest made.
pub(super) fn stitch_request(
    spec: &JobSpec,
    records: &[Arc<DoneRecord>],
    segments: Vec<(FrameRange, PathBuf, BlobRef)>,
    sound: PathBuf,
    keeps_tail: bool,
    output: &OutputTarget,
) -> StitchRequest {
    let is_lossless = spec.encoder.crf.is_none();
    StitchRequest {
        segments,
        picture: spec.source.picture,
        rate: spec.encoder.rate,
        frames: spec.frames,
        sound: (sound, spec.sound.blob),
        // A kept tail has no speech. Without one, audio and video end together.
        audio_length: if keeps_tail {
            AudioLength::MayEndEarly
        } else {
            AudioLength::LikeVideo
        },
        lossless: is_lossless.then(|| all_hashes(records).collect()),
        metadata: metadata(spec),
        output: output.clone(),
    }
}

fn metadata(spec: &JobSpec) -> Vec<(String, String)> {
    let model = &spec.model;
    let mut comment = format!(
        "lip-synced by latentfarm {}: job {}, weights {}, {} steps, guidance {}, seed {}",
        env!("CARGO_PKG_VERSION"),
        spec.id,
        &model.weights.to_string()[..16],
        model.steps,
        model.guidance_scale,
        model.seed
    );
    if let Some(mark) = model.weights_kind.mark() {
        comment.insert_str(0, &format!("{mark}; "));
    }
    vec![("comment".to_owned(), comment)]
}

/// Returns the hashes of all rendered frames, in frame order.
fn all_hashes(records: &[Arc<DoneRecord>]) -> impl Iterator<Item = FrameHash> {
    records.iter().flat_map(|record| frame_hashes(record)).copied()
}

/// Returns the SHA-256 over the hashes of all rendered frames, in frame order.
pub(super) fn frames_digest(records: &[Arc<DoneRecord>]) -> String {
    let mut digest = DigestWriter::new();
    all_hashes(records).for_each(|hash| digest.update(&hash.0));
    digest.finish().0.to_string()
}
