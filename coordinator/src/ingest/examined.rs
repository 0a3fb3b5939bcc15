//! The two input files, looked at and then stored.

use std::path::Path;

use latentfarm_common::digest::Digest;
use latentfarm_common::error::FileError;
use latentfarm_common::media::{self, SegmentFile, VideoIndex, VideoProbe, cut_segments, index_video};
use latentfarm_common::time::{FrameRange, FrameRate};
use latentfarm_common::wire::job::{AudioSpec, SegmentEntry, SilenceMode, SourceSpec, Timeline};

use super::error::IngestError;
use super::request::{IngestProgress, IngestRequest, IngestStage, RateChoice};
use super::sink::BlobSink;
use super::speech::Speech;
use super::timeline::{FrameTable, OnShort, SourceClock, TableRequest, frame_table};

/// What is known before anything is stored.
pub struct Examined {
    request: IngestRequest,
    pub video: VideoProbe,
    pub video_digest: Digest,
    pub audio_digest: Digest,
    /// Rate of the output.
    pub rate: FrameRate,
    pub table: FrameTable,
    index: VideoIndex,
    speech: Speech,
}

/// What a job is planned from; every blob that it names has been stored.
#[derive(Clone, Debug)]
pub struct Ingested {
    pub video_digest: Digest,
    pub audio_digest: Digest,
    pub source: SourceSpec,
    pub audio: AudioSpec,
    /// Number of output frames, at least 1.
    pub frames: u64,
    pub timeline: Timeline,
    /// What the user should know, a sentence each.
    pub notes: Vec<String>,
}

/// Probes both files, decodes the speech and reads the video's time stamps.
pub fn examine(
    request: &IngestRequest,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<Examined, IngestError> {
    let video = media::probe_video(&request.video)?;
    media::probe_audio(&request.audio)?;
    let rate = match request.rate {
        RateChoice::Fixed(rate) => rate,
        RateChoice::Source => video.average_rate.ok_or_else(|| IngestError::NoRate {
            path: request.video.clone(),
        })?,
    };
    let digest = |path: &Path| Digest::of_file(path).map_err(FileError::at("read", path));
    let (video_digest, _) = digest(&request.video)?;
    let (audio_digest, _) = digest(&request.audio)?;
    let mut tell = |stage, done| progress(IngestProgress { stage, done });
    let speech = Speech::decode(&request.audio, &request.scratch, &mut |done| {
        tell(IngestStage::Speech, done);
    })?;
    let index = index_video(&request.video, &video, &mut |done| tell(IngestStage::Index, done))?;
    let table = frame_table(&TableRequest {
        source: SourceClock {
            pts: &index.pts,
            last_duration: index.last_duration,
            time_base: video.time_base,
        },
        rate,
        speech_samples: speech.samples,
        on_short: request.on_short,
        keep_tail: request.keep_tail,
    })
    .map_err(|source| IngestError::Table {
        path: request.video.clone(),
        source,
    })?;
    Ok(Examined {
        request: request.clone(),
        video,
        video_digest,
        audio_digest,
        rate,
        table,
        index,
        speech,
    })
}

impl Examined {
    /// Number of output frames.
    pub fn frames(&self) -> u64 {
        self.table.outputs.len() as u64
    }

    /// Length of the speech in milliseconds.
    pub fn speech_ms(&self) -> u64 {
        self.speech.samples * 1000 / u64::from(media::SPEECH_RATE_HZ)
    }

    /// Output frames in which nobody speaks; none where that is left to the model.
    fn silence(&self) -> Vec<FrameRange> {
        let spoken = self.table.speech_frames.min(self.frames());
        match self.request.silence {
            SilenceMode::Off => Vec::new(),
            SilenceMode::Keep | SilenceMode::Close => self.speech.levels.silent_frames(self.rate, spoken),
        }
    }

    /// Cuts the part of the video that is shown, and stores it with the windows of the speech.
    pub fn store(
        mut self,
        sink: &mut dyn BlobSink,
        progress: &mut dyn FnMut(IngestProgress),
    ) -> Result<Ingested, IngestError> {
        let mut notes = self.notes();
        let (segments, reencoded) = self.store_segments(sink, progress)?;
        if reencoded > 0 {
            notes.push(format!(
                "{reencoded} of {} source segments were encoded anew, without loss: the video has no keyframe there at \
                 which it can be cut",
                segments.len()
            ));
        }
        let audio = self.speech.store_windows(self.request.windows, sink)?;
        let silence = self.silence();
        let used = usize::try_from(self.table.sources).unwrap_or(usize::MAX);
        let mut source_pts = self.index.pts;
        source_pts.truncate(used);
        Ok(Ingested {
            video_digest: self.video_digest,
            audio_digest: self.audio_digest,
            source: SourceSpec {
                picture: self.video.picture,
                time_base: self.video.time_base,
                frames: self.table.sources,
            },
            audio: AudioSpec {
                digest: self.speech.digest,
                samples: self.speech.samples,
                log_mel_max: self.speech.log_mel_max,
                windows: self.request.windows,
                silence: self.request.silence,
            },
            frames: self.table.outputs.len() as u64,
            timeline: Timeline {
                source_pts,
                segments,
                outputs: self.table.outputs,
                audio,
                silence,
            },
            notes,
        })
    }

    /// The stored segments, and how many of them were encoded anew. The last one is counted only as far as it is
    /// shown.
    fn store_segments(
        &self,
        sink: &mut dyn BlobSink,
        progress: &mut dyn FnMut(IngestProgress),
    ) -> Result<(Vec<SegmentEntry>, usize), IngestError> {
        let scratch = tempfile::tempdir_in(&self.request.scratch).map_err(FileError::at(
            "make a scratch directory in",
            &self.request.scratch,
        ))?;
        let wanted = self.table.sources;
        let mut segments = Vec::new();
        let mut reencoded = 0;
        let mut store = |segment: SegmentFile| {
            let blob = sink.put_file(&segment.path)?;
            if segment.path.exists() {
                std::fs::remove_file(&segment.path)?;
            }
            let end = (segment.first + segment.frames).min(wanted);
            if let Some(frames) = end.checked_sub(segment.first).filter(|&frames| frames > 0) {
                let first = segment.first;
                segments.push(SegmentEntry { blob, first, frames });
                reencoded += usize::from(segment.reencoded);
                progress(IngestProgress {
                    stage: IngestStage::Cut,
                    done: end,
                });
            }
            Ok(())
        };
        let limits = self.request.limits;
        let picture = &self.video.picture;
        cut_segments(&self.index, picture, wanted, scratch.path(), limits, &mut store)?;
        Ok((segments, reencoded))
    }

    /// What the user should know about lengths and rates.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let FrameTable {
            outputs,
            speech_frames,
            video_frames,
            ..
        } = &self.table;
        let pass = &outputs[..usize::try_from(*video_frames).map_or(outputs.len(), |n| n.min(outputs.len()))];
        let repeated = pass
            .windows(2)
            .filter(|pair| pair[0].source == pair[1].source)
            .count();
        let skipped: u32 = pass
            .windows(2)
            .map(|pair| (pair[1].source - pair[0].source).saturating_sub(1))
            .sum();
        if repeated > 0 || skipped > 0 {
            let from = self
                .video
                .average_rate
                .map_or("an unknown rate".to_owned(), |rate| rate.to_string());
            notes.push(format!(
                "the video, of {from} frames per second, is mapped to a constant {}: {repeated} frames are repeated, \
                 {skipped} are left out",
                self.rate
            ));
        }
        if speech_frames > video_frames {
            let way = match self.request.on_short {
                OnShort::Bounce => "it is played forward and backward in turn",
                OnShort::Loop => "it starts again from its beginning",
                OnShort::Hold => "its last frame is held",
                OnShort::Cut => "the speech is cut",
            };
            notes.push(format!(
                "the video has {video_frames} frames, the speech needs {speech_frames}: {way}"
            ));
        } else if video_frames > speech_frames {
            let way = if self.request.keep_tail {
                "kept untouched"
            } else {
                "cut off"
            };
            notes.push(format!(
                "the video has {video_frames} frames, the speech needs {speech_frames}: the rest is {way}"
            ));
        }
        let way = match self.request.silence {
            SilenceMode::Off => return notes,
            SilenceMode::Keep => "the source picture is kept there",
            SilenceMode::Close => "the mouth is closed there",
        };
        let silence = self.silence();
        let silent: u64 = silence.iter().map(|stretch| stretch.len()).sum();
        notes.push(match silence.len() {
            0 => "the speech has no pause that is long enough for --silence".to_owned(),
            stretches => format!("nobody speaks in {silent} frames, in {stretches} stretches: {way}"),
        });
        notes
    }
}
