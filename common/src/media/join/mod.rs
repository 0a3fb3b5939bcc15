//! Joins encoded segments and the sound that ingest made into the final file. The coordinator calls it when all chunks
//! of a job are rendered.
//!
//! Video packets are copied. A packet's PTS is its output frame; the DTS of the i-th packet in decode order
//! is `i - D` with one `D` for the whole file, the largest reorder delay of any segment. DTS therefore never
//! collide at a seam, and a last segment of a single frame (without reordering of its own) needs no special
//! case.
//!
//! The packets of the sound are copied too, up to the end of the video: ingest has made them for this container.
//!
//! Memory use does not depend on the length of the video, except for the muxer's own index.

mod request;
mod sound;
#[cfg(test)]
mod tests;
mod video;

use ffmpeg_next::{Dictionary, Packet, Rational};

pub use self::request::JoinRequest;

use self::sound::SoundFeed;
use self::video::VideoFeed;
use super::MediaError;
use super::container::{self, Container};
use super::mux::{self, add_track, write};

/// Writes the final file and flushes it to the disk. An existing file is replaced. `progress` receives the
/// number of frames written so far.
///
/// # Errors
/// [`MediaError::Rejected`] if the segments do not fit together. After an error the output is incomplete, and the caller must delete it.
pub fn join(request: &JoinRequest<'_>, progress: &mut dyn FnMut(u64)) -> Result<(), MediaError> {
    let path = request.output;
    super::init();
    let frame_rate = container::rate_rational(request.rate, path)?;
    let mut video = VideoFeed::open(request, frame_rate)?;
    let mut audio = SoundFeed::open(request)?;

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
    let options = mux::options(request.container, sample_base);
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
    container::sync_file(path)
}

/// Whether `left` is decoded no later than `right`.
fn starts_before(left: &Packet, left_base: Rational, right: &Packet, right_base: Rational) -> bool {
    let seconds_over = |packet: &Packet, base: Rational, other: Rational| {
        i128::from(packet.dts().unwrap_or(0)) * i128::from(base.0) * i128::from(other.1)
    };
    seconds_over(left, left_base, right_base) <= seconds_over(right, right_base, left_base)
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
