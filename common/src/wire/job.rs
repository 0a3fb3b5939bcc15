//! The manifest of a job holds everything that a job's output depends on. The coordinator creates it once and
//! never changes it.

use serde::{Deserialize, Serialize};

use super::Message;
use super::blob::BlobRef;
use crate::digest::Digest;
use crate::frame::PictureFormat;
use crate::ids::JobId;
use crate::time::{FrameRange, FrameRate, TimeBase};

/// The manifest of one job. It is small: everything that grows with the video is in the `timeline` blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// The job's name, which follows from the rest.
    pub id: JobId,
    /// Digest of the input video file.
    pub video_digest: Digest,
    /// Digest of the input audio file.
    pub audio_digest: Digest,
    /// The source video of the job.
    pub source: SourceSpec,
    /// The speech track of the job.
    pub audio: AudioSpec,
    /// The sound of the output.
    pub sound: SoundSpec,
    /// The checkpoint and its parameters.
    pub model: ModelSpec,
    /// The way in which segments are encoded.
    pub encoder: EncoderSpec,
    /// Number of output frames, at least 1.
    pub frames: u64,
    /// Number of output frames of one `Render` chunk: a multiple of 16 in 16..=480. The last chunk may have
    /// fewer.
    pub chunk_frames: u32,
    /// Number of source frames of one `Analyze` chunk: a multiple of 16. The last chunk may have fewer.
    pub analyze_frames: u32,
    /// Number of source frames, from the first on, whose faces the job uses: [`Timeline::face_frames`].
    pub face_frames: u64,
    /// Blob that holds the job's [`Timeline`].
    pub timeline: BlobRef,
}

impl JobSpec {
    /// Whether this job and another one see the same pictures of the same video, so that segments and analyses of one
    /// serve the other.
    pub fn has_video_of(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.source, &other.source);
        self.video_digest == other.video_digest
            && (&ours.picture, ours.time_base) == (&theirs.picture, theirs.time_base)
    }
}

impl Message for JobSpec {
    const KIND: u8 = 1;
}

/// The source video of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceSpec {
    /// Size and colour of the pictures.
    pub picture: PictureFormat,
    /// Time base of [`Timeline::source_pts`] and of the segments' tracks.
    pub time_base: TimeBase,
    /// Number of frames in the source.
    pub frames: u64,
}

/// The speech track of a job: 16 kHz, mono.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AudioSpec {
    /// Digest of the whole track as s16le. With the index of an audio window it is the key of encoded
    /// features.
    pub digest: Digest,
    /// Length of the track in samples.
    pub samples: u64,
    /// Maximum of the whole track's log10 mel power, before the reference's clamp to 8 below it.
    pub log_mel_max: f32,
    /// How the track is cut for Whisper.
    pub windows: AudioWindows,
    /// What happens to the mouth while nobody speaks.
    pub silence: SilenceMode,
}

/// The sound of a job's output, which ingest made from the same decoded samples as the speech.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SoundSpec {
    /// Blob of a file with the sound alone, in the output's container.
    pub blob: BlobRef,
    /// Whether its packets were copied or why not, as a phrase for people.
    pub treatment: String,
}

/// How the track is cut into the 30 s pieces that Whisper encodes. Each variant's comment is its help on the
/// command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum AudioWindows {
    /// A piece every 20 s, of which the middle is used: no jump at a seam
    Overlapping,
    /// Abutting pieces, as the reference cuts them
    Reference,
}

/// What happens to the mouth while nobody speaks. Each variant's comment is its help on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum SilenceMode {
    /// Leave it to the model
    Off,
    /// Keep the source picture, with a short fade at either end
    Keep,
    /// Render from digital silence: the model closes the mouth
    Close,
}

/// What the weights of a model are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsKind {
    /// Trained ones of full size.
    #[default]
    Trained,
    /// Small ones that were trained for a first look at the farm: the mouth follows the speech, and looks poor.
    Demo,
    /// Random ones, for trying the farm: the mouth is noise.
    Synthetic,
}

impl WeightsKind {
    /// Returns the words that logs, reports and the metadata of files begin with; `None` for trained weights.
    pub fn mark(self) -> Option<&'static str> {
        match self {
            Self::Trained => None,
            Self::Demo => Some("DEMO WEIGHTS"),
            Self::Synthetic => Some("SYNTHETIC WEIGHTS"),
        }
    }

    /// Returns what the user has to know of a render with such weights, after the mark.
    pub fn notice(self) -> Option<String> {
        let says = match self {
            Self::Trained => return None,
            Self::Demo => {
                "small ones for a first look; `latentfarm-worker weights pull` fetches those of real quality"
            }
            Self::Synthetic => "the mouth moves at random",
        };
        self.mark().map(|mark| format!("{mark}: {says}"))
    }
}

/// The checkpoint of a job and the parameters that it is run with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// The identity of the checkpoint is a digest over the digests of the weight files and the configs.
    pub weights: Digest,
    /// What the weights are. Logs, report and metadata state it if they are not trained ones of full size.
    pub weights_kind: WeightsKind,
    /// Side of the face crop in pixels, a multiple of 64.
    pub resolution_px: u32,
    /// Number of denoising steps, 1..=1000.
    pub steps: u32,
    /// Scale of classifier-free guidance, see [`is_guided`].
    pub guidance_scale: f32,
    /// Seed of every noise draw.
    pub seed: u64,
}

impl ModelSpec {
    /// Whether classifier-free guidance is on.
    pub fn is_guided(&self) -> bool {
        is_guided(self.guidance_scale)
    }
}

/// Whether a guidance scale turns classifier-free guidance on. At 1 the guided prediction is the conditional
/// one, so that the unconditional one is not needed.
pub fn is_guided(guidance_scale: f32) -> bool {
    guidance_scale > 1.0
}

/// Parameters of the video encoder. They are the same for all chunks of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderSpec {
    /// Frame rate of the output.
    pub rate: FrameRate,
    /// libx264 constant rate factor 0..=51, or `None` for lossless.
    pub crf: Option<u8>,
    /// Name of the libx264 preset.
    pub preset: String,
}

/// The timeline of a job: how output frames, source frames and audio windows relate. It is stored as a blob,
/// and complete before the source video is cut.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// PTS of every source frame in presentation order, in the source's time base, strictly increasing.
    pub source_pts: Vec<i64>,
    /// The source frame that each output frame shows, in order.
    pub outputs: Vec<OutputFrame>,
    /// Blobs of the s16le PCM of each audio window with its margins, in order (see `audio::windows`).
    pub audio: Vec<BlobRef>,
    /// Output frames in which nobody speaks, in order; empty with [`SilenceMode::Off`].
    pub silence: Vec<FrameRange>,
    /// How loud the speech is in each output frame, for the sync meter (see
    /// [`Levels::loudness`](crate::audio::silence::Levels::loudness)).
    pub loudness: Vec<u8>,
}

impl Timeline {
    /// Returns the number of source frames, from the first on, up to the last one that is shown with speech.
    pub fn face_frames(&self) -> u64 {
        let synced = self.outputs.iter().filter(|shown| shown.synced);
        synced.map(|shown| u64::from(shown.source) + 1).max().unwrap_or(0)
    }
}

impl Message for Timeline {
    const KIND: u8 = 2;
}

/// What was done about source frames that cannot be shown as the file has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefectKind {
    /// Their data is damaged, and FFmpeg concealed that.
    Concealed,
    /// They have no picture, and repeat the one before or, at the video's start, the one after them.
    Repeated,
    /// They have another size, pixel format or colour than the first frame, and were converted to its.
    Converted,
}

impl DefectKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Concealed, Self::Repeated, Self::Converted];
}

/// A stretch of the source video that is not shown as the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceDefect {
    /// What was done about it.
    pub kind: DefectKind,
    /// The source frames.
    pub frames: FrameRange,
    /// The time at which the first of the frames is shown, in milliseconds after the video's first frame.
    pub start_ms: u64,
    /// The time at which the last of the frames ends.
    pub end_ms: u64,
}

impl SourceDefect {
    /// Adds the defects of the next segment to those of the segments before it. A stretch that goes on over
    /// the bound between them stays one. Both lists are ordered by first frame and kind, and so is the
    /// result.
    pub fn append(known: &mut Vec<Self>, next: &[Self]) {
        for defect in next {
            let mut earlier = known.iter_mut().rev();
            match earlier.find(|earlier| earlier.kind == defect.kind) {
                Some(open) if open.frames.end == defect.frames.start => {
                    open.frames.end = defect.frames.end;
                    open.end_ms = defect.end_ms;
                }
                _ => known.push(*defect),
            }
        }
    }
}

/// A piece of the source video that decodes on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentEntry {
    /// Blob of the segment file.
    pub blob: BlobRef,
    /// Number of its first source frame.
    pub first: u64,
    /// Number of source frames in it.
    pub frames: u64,
}

/// One record of the list that a job's source video becomes while it is cut. The records are numbered from 0;
/// each is written once, when the blob that it names has been stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CutRecord {
    /// The next segment.
    Segment(SegmentRecord),
    /// The end: the segments before it cover all source frames, and every frame has a picture.
    End,
}

impl Message for CutRecord {
    const KIND: u8 = 16;
}

/// A segment, and what was done to make it one that every worker can use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRecord {
    /// The segment.
    pub entry: SegmentEntry,
    /// Whether its frames were re-encoded without loss, because the video has no keyframe where it begins.
    pub reencoded: bool,
    /// The stretches of the segment that are not shown as the file has them, in order.
    pub defects: Vec<SourceDefect>,
}

/// One output frame of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFrame {
    /// Number of the source frame that it shows.
    pub source: u32,
    /// False if the frame is part of a tail without speech, which stays as it is.
    pub synced: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the stretches of equal kind, for the kinds that each frame has.
    fn defects(frames: &[[bool; 3]], from: u64) -> Vec<SourceDefect> {
        let mut all = Vec::new();
        for (kind, at) in DefectKind::ALL.into_iter().zip(0..) {
            let mut open: Option<SourceDefect> = None;
            for (number, has) in (from..).zip(frames) {
                let frame = FrameRange::new(number, number + 1);
                match &mut open {
                    _ if !has[at] => all.extend(open.take()),
                    Some(open) => (open.frames.end, open.end_ms) = (frame.end, frame.end * 40),
                    None => {
                        let (start_ms, end_ms) = (frame.start * 40, frame.end * 40);
                        open = Some(SourceDefect {
                            kind,
                            frames: frame,
                            start_ms,
                            end_ms,
                        });
                    }
                }
            }
            all.extend(open);
        }
        all.sort_by_key(|defect| (defect.frames.start, defect.kind));
        all
    }

    proptest! {
        #[test]
        fn defects_do_not_depend_on_the_bounds_of_segments(
            frames in prop::collection::vec(any::<[bool; 3]>(), 1..60),
            lengths in prop::collection::vec(1_usize..9, 60),
        ) {
            let (mut merged, mut first) = (Vec::new(), 0);
            for length in lengths {
                let end = frames.len().min(first + length);
                SourceDefect::append(&mut merged, &defects(&frames[first..end], first as u64));
                first = end;
            }
            prop_assert_eq!(merged, defects(&frames, 0));
        }
    }
}
