//! Joins encoded segments and the user's audio into the final file. The coordinator calls it when all chunks
//! of a job are rendered.
//!
//! Video packets are copied. A packet's PTS is its output frame; the DTS of the i-th packet in decode order
//! is `i - D` with one `D` for the whole file, the largest reorder delay of any segment. DTS therefore never
//! collide at a seam, and a last segment of a single frame (without reordering of its own) needs no special
//! case.
//!
//! Audio is copied if the container can carry the codec and can mark the samples that the decoder has to drop
//! at the start, so that the first presented sample is at time 0. Otherwise it is transcoded: to AAC in MP4,
//! to FLAC in Matroska (which has no such mark for AAC or MP3).
//!
//! Memory use does not depend on the length of the video, except for the muxer's own index.

mod audio;
mod copy;
mod request;
mod source;
#[cfg(test)]
mod tests;
mod transcode;
mod video;

use std::path::Path;

use ffmpeg_next::format::context;
use ffmpeg_next::{Dictionary, Packet, Rational, codec, encoder};

pub use self::request::{AudioTreatment, JoinRequest};

use self::audio::open_audio;
use self::video::VideoFeed;
use super::MediaError;
use super::container::{self, Container};

/// Writes the final file and flushes it to the disk. An existing file is replaced. `progress` receives the
/// number of frames written so far.
///
/// # Errors
/// [`MediaError::BadInput`] if the user's audio cannot be used, [`MediaError::Rejected`] if the segments do
/// not fit together. After an error the output is incomplete, and the caller must delete it.
pub fn join(request: &JoinRequest<'_>, progress: &mut dyn FnMut(u64)) -> Result<AudioTreatment, MediaError> {
    let path = request.output;
    super::init();
    let frame_rate = container::rate_rational(request.rate, path)?;
    let mut video = VideoFeed::open(request, frame_rate)?;
    let (mut audio, treatment) = open_audio(request)?;

    let mut output = container::create_output(path, request.container.muxer())?;
    add_track(
        &mut output,
        path,
        video.parameters(),
        frame_rate.invert(),
        Some(frame_rate),
    )?;
    let sample_base = audio.time_base();
    add_track(&mut output, path, audio.parameters(), sample_base, None)?;
    output.set_metadata(container_metadata(request));
    let mut options = container::muxer_options();
    if request.container == Container::Mp4 {
        options.set("movflags", "+faststart");
        // Edit lists are in these units; with the default of a millisecond the audio would not end on its
        // exact sample.
        options.set("movie_timescale", &sample_base.denominator().to_string());
        // FLAC in MP4 is standardised, but this FFmpeg still treats it as experimental.
        options.set("strict", "experimental");
    }
    output
        .write_header_with(options)
        .map_err(MediaError::ffmpeg("write", path))?;

    let mut written = 0;
    let mut next_video = video.next()?;
    let mut next_audio = audio.next()?;
    loop {
        // Packets of both tracks are written in order of time, so that the muxer has to buffer only a few.
        let video_first = match (&next_video, &next_audio) {
            (None, None) => break,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(picture), Some(sound)) => starts_before(picture, frame_rate.invert(), sound, sample_base),
        };
        if video_first {
            if let Some(packet) = next_video.take() {
                write(&mut output, packet, 0, frame_rate.invert(), path)?;
            }
            written += 1;
            progress(written);
            next_video = video.next()?;
        } else {
            if let Some(packet) = next_audio.take() {
                write(&mut output, packet, 1, sample_base, path)?;
            }
            next_audio = audio.next()?;
        }
    }
    output
        .write_trailer()
        .map_err(MediaError::ffmpeg("write", path))?;
    drop(output);
    container::sync_file(path)?;
    Ok(treatment)
}

fn add_track(
    output: &mut context::Output,
    path: &Path,
    parameters: codec::Parameters,
    time_base: Rational,
    rate: Option<Rational>,
) -> Result<(), MediaError> {
    let mut track = output
        .add_stream(encoder::find(codec::Id::None))
        .map_err(MediaError::ffmpeg("add a track to", path))?;
    track.set_parameters(parameters);
    track.set_time_base(time_base);
    if let Some(rate) = rate {
        track.set_avg_frame_rate(rate);
        track.set_rate(rate);
    }
    Ok(())
}

/// Whether `left` is decoded no later than `right`.
fn starts_before(left: &Packet, left_base: Rational, right: &Packet, right_base: Rational) -> bool {
    let seconds_over = |packet: &Packet, base: Rational, other: Rational| {
        i128::from(packet.dts().unwrap_or(0)) * i128::from(base.0) * i128::from(other.1)
    };
    seconds_over(left, left_base, right_base) <= seconds_over(right, right_base, left_base)
}

fn write(
    output: &mut context::Output,
    mut packet: Packet,
    track: usize,
    time_base: Rational,
    path: &Path,
) -> Result<(), MediaError> {
    let track_base = output
        .stream(track)
        .map_or(time_base, |stream| stream.time_base());
    packet.set_stream(track);
    packet.set_position(-1);
    packet.rescale_ts(time_base, track_base);
    packet
        .write_interleaved(output)
        .map_err(MediaError::ffmpeg("write", path))
}

/// Metadata keys that every container supports.
const COMMON_KEYS: [&str; 6] = ["title", "artist", "comment", "copyright", "date", "description"];

/// Returns the metadata in the form that the container supports.
fn container_metadata(request: &JoinRequest<'_>) -> Dictionary<'static> {
    let mut tags = Dictionary::new();
    let mut comment = Vec::new();
    for (key, value) in request.metadata {
        if key == "comment" {
            comment.insert(0, value.clone());
        } else if request.container == Container::Matroska || COMMON_KEYS.contains(&key.as_str()) {
            tags.set(key, value);
        } else {
            comment.push(format!("{key}={value}"));
        }
    }
    if !comment.is_empty() {
        tags.set("comment", &comment.join("; "));
    }
    tags
}
