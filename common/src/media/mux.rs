//! What the writers of the sound file and of the final file share.

use std::path::Path;

use ffmpeg_next::format::context;
use ffmpeg_next::{Dictionary, Packet, Rational, codec, encoder};

use super::MediaError;
use super::container::{self, Container};

/// Returns the options of the muxer of a file with a track of sound, whose sample takes `sample_base` seconds.
pub(super) fn options(container: Container, sample_base: Rational) -> Dictionary<'static> {
    let mut options = container::muxer_options();
    if container == Container::Mp4 {
        options.set("movflags", "+faststart");
        // Edit lists are in these units; with the default of a millisecond the audio would not end on its
        // exact sample.
        options.set("movie_timescale", &sample_base.denominator().to_string());
        // FLAC in MP4 is standardised, but this FFmpeg still treats it as experimental.
        options.set("strict", "experimental");
    }
    options
}

/// Adds a track; `rate` is the frame rate of a video track.
pub(super) fn add_track(
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

/// Writes a packet, whose times are in units of `time_base`, to the track with index `track`.
pub(super) fn write(
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
