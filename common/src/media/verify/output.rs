//! Verifies the final file by decoding it from beginning to end.

use std::path::Path;

use ffmpeg_next::{Packet, Rational, Rescale, frame, media};

use super::pictures::PictureReader;
use crate::media::{MediaError, container};
use crate::time::FrameRate;

/// The required length of the final file's audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioLength {
    /// The audio is as long as the video, to within one frame.
    LikeVideo,
    /// The audio is at most one frame longer than the video and may end earlier, because the video decides
    /// the length.
    MayEndEarly,
}

/// Measurements of the final file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinalReport {
    /// The number of frames in the video.
    pub frames: u64,
    /// Duration of the video in milliseconds, rounded down.
    pub video_ms: u64,
    /// Presented duration of the audio in milliseconds, rounded down.
    pub audio_ms: u64,
}

/// The unit of Matroska's timestamps, a millisecond; presentation times may be off by as much.
const ROUNDING: Rational = Rational(1, 1000);
/// The audio may start this far from time 0, because two timestamps were rounded.
const START_SLACK_US: i64 = 2_000;
const MICROSECONDS: Rational = Rational(1, 1_000_000);

/// Decodes the whole file. It must have exactly `frames` pictures at `0/rate, 1/rate, ..` (to within a
/// millisecond if the container counts in milliseconds), and an audio track that starts with them and has the
/// length that `audio` requires.
///
/// # Errors
/// [`MediaError::Rejected`] if it does not.
pub fn verify_output(
    path: &Path,
    rate: FrameRate,
    frames: u64,
    audio: AudioLength,
) -> Result<FinalReport, MediaError> {
    let frame_rate = container::rate_rational(rate, path)?;
    check_pictures(path, frame_rate, frames)?;
    let presented = AudioInterval::measure(path)?;
    let frame_us = 1_i64.rescale(frame_rate.invert(), MICROSECONDS);
    let video_us = i64::try_from(frames)
        .map_err(|_| MediaError::rejected(path, "the number of frames exceeds 2^63"))?
        .rescale(frame_rate.invert(), MICROSECONDS);
    if presented.start_us.abs() > START_SLACK_US {
        let cause = format!("the audio starts {} us after the first frame", presented.start_us);
        return Err(MediaError::rejected(path, cause));
    }
    let slack = frame_us + START_SLACK_US;
    let too_long = presented.end_us > video_us + slack;
    let too_short = audio == AudioLength::LikeVideo && presented.end_us < video_us - slack;
    if too_long || too_short {
        let cause = format!(
            "the audio lasts {} ms, the video {} ms",
            presented.end_us / 1000,
            video_us / 1000
        );
        return Err(MediaError::rejected(path, cause));
    }
    Ok(FinalReport {
        frames,
        video_ms: u64::try_from(video_us / 1000).unwrap_or(0),
        audio_ms: u64::try_from(presented.end_us / 1000).unwrap_or(0),
    })
}

/// Checks the number of pictures and their timestamps.
fn check_pictures(path: &Path, rate: Rational, frames: u64) -> Result<(), MediaError> {
    let mut pictures = PictureReader::open(path)?;
    let time_base = pictures.time_base();
    let exact = ROUNDING != time_base;
    let mut count = 0_u64;
    while let Some((pts, _picture)) = pictures.next()? {
        let index = i64::try_from(count).unwrap_or(i64::MAX);
        let on_time = if exact {
            container::frame_number(pts, time_base, rate) == Some(count)
        } else {
            (pts - index.rescale(rate.invert(), time_base)).abs() <= 1
        };
        if !on_time {
            let cause = format!("frame {count} has timestamp {pts} in units of {time_base} s");
            return Err(MediaError::rejected(path, cause));
        }
        count += 1;
    }
    if count == frames {
        Ok(())
    } else {
        Err(MediaError::rejected(
            path,
            format!("it shows {count} frames instead of {frames}"),
        ))
    }
}

/// Decodes the sound of a file that ingest made, which must begin at time 0, and returns its length in milliseconds.
pub(in crate::media) fn sound_ms(path: &Path) -> Result<u64, MediaError> {
    let presented = AudioInterval::measure(path)?;
    if presented.start_us.abs() > START_SLACK_US {
        let cause = format!("the audio starts at {} us", presented.start_us);
        return Err(MediaError::rejected(path, cause));
    }
    Ok(u64::try_from(presented.end_us / 1000).unwrap_or(0))
}

/// The interval in which an audio track is presented, in microseconds.
struct AudioInterval {
    start_us: i64,
    end_us: i64,
}

impl AudioInterval {
    fn measure(path: &Path) -> Result<Self, MediaError> {
        let mut input = container::open_input(path)?;
        let (track, time_base, parameters) = {
            let stream = input
                .streams()
                .best(media::Type::Audio)
                .ok_or_else(|| MediaError::rejected(path, "it has no audio track"))?;
            (stream.index(), stream.time_base(), stream.parameters())
        };
        let mut decoder = container::audio_decoder(parameters, time_base, path)?;
        let decoding = |error| MediaError::ffmpeg("decode the audio of", path)(error);
        let (mut start, mut end) = (None, None);
        let mut damaged = 0_u64;
        let mut samples = frame::Audio::empty();
        loop {
            let packet = container::read_packet_of(track, &mut input, path)?;
            match &packet {
                Some(packet) => {
                    end = presented_end(packet, time_base, decoder.rate()).max(end);
                    match decoder.send_packet(packet) {
                        // The track may be a copy of the user's, with packets that were damaged already.
                        Err(ffmpeg_next::Error::InvalidData) => damaged += 1,
                        fed => fed.map_err(decoding)?,
                    }
                }
                None => decoder.send_eof().map_err(decoding)?,
            }
            loop {
                match decoder.receive_frame(&mut samples) {
                    Ok(()) => start = start.or(samples.pts()),
                    Err(error) if container::is_again_or_eof(error) => break,
                    Err(ffmpeg_next::Error::InvalidData) => damaged += 1,
                    Err(error) => return Err(decoding(error)),
                }
            }
            if packet.is_none() {
                break;
            }
        }
        if damaged > 0 {
            tracing::warn!(damaged, path = %path.display(), "the audio track has damaged packets");
        }
        match (start, end) {
            (Some(start), Some(end_us)) => Ok(Self {
                start_us: start.rescale(time_base, MICROSECONDS),
                end_us,
            }),
            _ => Err(MediaError::rejected(path, "its audio track is empty")),
        }
    }
}

/// Returns the end of a packet's last presented sample, in microseconds.
fn presented_end(packet: &Packet, time_base: Rational, rate_hz: u32) -> Option<i64> {
    let end = packet.pts()? + packet.duration();
    let discarded = container::discarded_samples(packet).1;
    let rate = i32::try_from(rate_hz).ok().filter(|rate| *rate > 0)?;
    Some(end.rescale(time_base, MICROSECONDS) - i64::from(discarded).rescale(Rational(1, rate), MICROSECONDS))
}
