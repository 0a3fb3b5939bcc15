//! The two input files: they are examined first, and stored when the job runs.

use latentfarm_common::digest::Digest;
use latentfarm_common::error::FileError;
use latentfarm_common::media::{self, Sound, SoundOrigin, SoundRequest, VideoIndex, VideoProbe, index_video};
use latentfarm_common::time::{FrameRange, FrameRate};
use latentfarm_common::wire::job::{AudioSpec, SilenceMode, SoundSpec, SourceSpec, Timeline};

use super::error::IngestError;
use super::request::{IngestRequest, RateChoice};
use super::sink::BlobSink;
use super::speech::SpeechTrack;
use super::timeline::{FrameTable, OnShort, SourceClock, TableRequest, frame_table};
use super::trial::MuxTrial;
use super::video::SourceVideo;
use super::watched::WatchedFile;

/// The user is told of a picture that is shown for at least this long.
const GAP_SECONDS: f64 = 2.0;

/// The input files after both were read once. Nothing has been stored yet.
pub struct ExaminedInputs {
    request: IngestRequest,
    pub video: VideoProbe,
    pub video_digest: Digest,
    pub audio_digest: Digest,
    /// Frame rate of the output.
    pub rate: FrameRate,
    pub table: FrameTable,
    /// Number of source frames that are cut, at least those that the job shows.
    pub cut_frames: u64,
    index: VideoIndex,
    /// The video, which is read once more when it is cut.
    watched_video: WatchedFile,
    /// The decoded sound, from which the speech and the sound of the output are made.
    sound: Sound,
    speech: SpeechTrack,
}

/// The data that a job is planned from. Every blob that it names has been stored.
#[derive(Clone, Debug)]
pub struct Ingested {
    pub video_digest: Digest,
    pub audio_digest: Digest,
    pub source: SourceSpec,
    pub audio: AudioSpec,
    pub sound: SoundSpec,
    /// Number of output frames, at least 1.
    pub frames: u64,
    pub timeline: Timeline,
}

/// Probes the video, reads its time stamps, and decodes the sound.
pub fn examine(request: &IngestRequest) -> Result<ExaminedInputs, IngestError> {
    let watched_video = WatchedFile::begin(&request.video)?;
    let watched_audio = WatchedFile::begin(&request.audio)?;
    let video = media::probe_video(&request.video)?;
    let rate = match request.rate {
        RateChoice::Fixed(rate) => rate,
        RateChoice::Source => video.average_rate.ok_or_else(|| IngestError::NoRate {
            path: request.video.clone(),
        })?,
    };
    let index = index_video(&request.video, &video, &mut |_| {})?;
    // The sound of the video file itself keeps its place against the pictures.
    let first_picture = index
        .pts
        .first()
        .filter(|_| watched_audio.is_same_file(&watched_video));
    let origin = first_picture.map_or(SoundOrigin::Container, |&pts| SoundOrigin::Picture {
        pts,
        time_base: video.time_base,
    });
    let mut sound = media::decode_sound(&SoundRequest {
        path: &request.audio,
        track: &request.audio_track,
        origin,
        offset: request.audio_offset,
        container: request.container,
        exact: request.exact_audio,
        scratch: &request.scratch,
    })?;
    let speech = SpeechTrack::resample(&mut sound, &request.audio, &request.scratch)?;
    let video_digest = watched_video.digest()?;
    let audio_digest = watched_audio.digest()?;
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
    Ok(ExaminedInputs {
        request: request.clone(),
        video,
        video_digest,
        audio_digest,
        rate,
        cut_frames: table.sources,
        table,
        index,
        watched_video,
        sound,
        speech,
    })
}

impl ExaminedInputs {
    /// Has the whole video cut if the job shows at least half of it, because other jobs of a farm are likely to
    /// show the rest: the same video with a longer speech is then not cut again.
    pub fn share_video(&mut self) {
        let all = self.index.pts.len() as u64;
        if self.table.sources >= all.div_ceil(2) {
            self.cut_frames = all;
        }
    }

    /// Returns the number of output frames.
    pub fn frames(&self) -> u64 {
        self.table.outputs.len() as u64
    }

    /// Returns how loud the speech is in each output frame, 0 to 255.
    pub fn loudness(&self) -> Vec<u8> {
        self.speech.levels.loudness(self.rate, self.frames())
    }

    /// Returns the most bytes that the sound of the output can have.
    pub fn sound_bytes(&self) -> u64 {
        self.sound.output_bytes()
    }

    /// Returns the length of the speech in milliseconds.
    pub fn speech_ms(&self) -> u64 {
        self.speech.samples * 1000 / u64::from(media::SPEECH_RATE_HZ)
    }

    /// Returns the output frames in which nobody speaks. The list is empty if the job does not treat them
    /// differently.
    fn silence(&self) -> Vec<FrameRange> {
        let spoken = self.table.speech_frames.min(self.frames());
        match self.request.silence {
            SilenceMode::Off => Vec::new(),
            SilenceMode::Keep | SilenceMode::Close => self.speech.levels.silent_frames(self.rate, spoken),
        }
    }

    /// Stores the speech and the sound of the output. Returns the data that the job is planned from, and the
    /// video, which is still to be cut.
    pub fn store(mut self, sink: &mut dyn BlobSink) -> Result<(Ingested, SourceVideo), IngestError> {
        let audio = self.speech.store_windows(self.request.windows, sink)?;
        let sound = self.store_sound(sink)?;
        let (silence, loudness) = (self.silence(), self.loudness());
        let used = usize::try_from(self.cut_frames).unwrap_or(usize::MAX);
        let pts = &self.index.pts;
        let ingested = Ingested {
            video_digest: self.video_digest,
            audio_digest: self.audio_digest,
            source: SourceSpec {
                picture: self.video.picture,
                time_base: self.video.time_base,
                frames: self.cut_frames,
            },
            audio: AudioSpec {
                digest: self.speech.digest,
                samples: self.speech.samples,
                log_mel_max: self.speech.log_mel_max,
                windows: self.request.windows,
                silence: self.request.silence,
            },
            sound,
            frames: self.frames(),
            timeline: Timeline {
                source_pts: pts[..used.min(pts.len())].to_vec(),
                outputs: std::mem::take(&mut self.table.outputs),
                audio,
                silence,
                loudness,
            },
        };
        Ok((ingested, self.into_video()))
    }

    /// Returns the video, which is still to be cut, if everything else was stored by an earlier run.
    pub fn into_video(self) -> SourceVideo {
        SourceVideo {
            frames: self.cut_frames,
            index: self.index,
            picture: self.video.picture,
            limits: self.request.limits,
            watched: self.watched_video,
            scratch: self.request.scratch,
        }
    }

    /// Returns a sentence about the times in which the video shows one picture for long, because its time
    /// stamps jump.
    fn gap_note(&self) -> Option<String> {
        // The last frame that is shown stands still if the next one comes late.
        let shown =
            usize::try_from(self.table.sources).map_or(usize::MAX, |sources| sources.saturating_add(1));
        let pts = &self.index.pts[..shown.min(self.index.pts.len())];
        let base = self.video.time_base;
        let seconds = |ticks: i64| ticks as f64 * f64::from(base.num) / f64::from(base.den);
        let gaps: Vec<String> = pts
            .windows(2)
            .filter(|pair| seconds(pair[1].saturating_sub(pair[0])) >= GAP_SECONDS)
            .map(|pair| {
                format!(
                    "{:.3} to {:.3} s",
                    seconds(pair[0].saturating_sub(pts[0])),
                    seconds(pair[1].saturating_sub(pts[0]))
                )
            })
            .collect();
        let listed = gaps.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        let more = gaps.len().saturating_sub(8);
        match more {
            _ if gaps.is_empty() => None,
            0 => Some(format!(
                "the time stamps of the video jump; one picture stands still from {listed}"
            )),
            more => Some(format!(
                "the time stamps of the video jump; one picture stands still from {listed} and {more} more places"
            )),
        }
    }

    /// Makes the sound of the output, tries to join it, and stores it.
    fn store_sound(&mut self, sink: &mut dyn BlobSink) -> Result<SoundSpec, IngestError> {
        let scratch = tempfile::NamedTempFile::new_in(&self.request.scratch)
            .map_err(FileError::at("make a scratch file in", &self.request.scratch))?
            .into_temp_path();
        let treatment = self.sound.write(&scratch, self.frames(), self.rate)?;
        MuxTrial {
            video: &self.request.video,
            audio: &self.request.audio,
            picture: &self.video.picture,
            rate: self.rate,
            container: self.request.container,
            sound: &scratch,
            scratch: &self.request.scratch,
        }
        .run()?;
        let stored = sink.put_file(&scratch);
        let blob = stored.map_err(FileError::at("store the sound of", &self.request.audio))?;
        let treatment = treatment.to_string();
        Ok(SoundSpec { blob, treatment })
    }

    /// Returns sentences that the user should read about the sound, lengths, rates and pauses.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.sound.notes().to_vec();
        notes.extend(self.speech.silence_note());
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
                 {skipped} are dropped",
                self.rate
            ));
        }
        if speech_frames != video_frames {
            let way = match self.request.on_short {
                _ if video_frames > speech_frames && self.request.keep_tail => {
                    "the rest of the video is kept unchanged"
                }
                _ if video_frames > speech_frames => "the rest of the video is cut off",
                OnShort::Bounce => "the video is played forward and backward in turn",
                OnShort::Loop => "the video starts again from its beginning",
                OnShort::Hold => "the video's last frame is held",
                OnShort::Cut => "the rest of the speech is cut off",
            };
            notes.push(format!(
                "the video has {video_frames} frames, the speech needs {speech_frames}: {way}"
            ));
        }
        notes.extend(self.gap_note());
        let way = match self.request.silence {
            SilenceMode::Off => return notes,
            SilenceMode::Keep => "the source picture is kept there",
            SilenceMode::Close => "the mouth is closed there",
        };
        let silence = self.silence();
        let silent: u64 = silence.iter().map(|pause| pause.len()).sum();
        notes.push(match silence.len() {
            0 => "the speech has no pause that is long enough for --silence".to_owned(),
            pauses => format!("nobody speaks in {silent} frames, in {pauses} pauses: {way}"),
        });
        notes
    }
}
