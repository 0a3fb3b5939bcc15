//! Encodes one closed-GOP segment with libx264. The worker's media child uses it for the frames of a chunk.
//! Segments from different machines can be joined by copying packets, and equal pictures give equal bytes.
//!
//! These settings are fixed, whatever the preset sets:
//! - two frame threads, one lookahead thread, no slice threads (a thread count changes x264's decisions);
//! - keyframes on a fixed grid, every 2 x ceil(rate) frames from the segment's first; none at scene cuts.
//!   The interval is even, so a segment of 16 k frames never ends in a keyframe, and two keyframes with the
//!   same `idr_pic_id` never meet at a seam;
//! - at most three B-frames, none of which is a reference; GOPs are closed;
//! - no AVX-512: with it, x264's macroblock tree reads memory that it never wrote, for most picture widths,
//!   and equal pictures give different bytes from one run to the next;
//! - `stitchable`, so that parameter sets do not depend on the content, the length or the rate factor.

use std::path::{Path, PathBuf};

use ffmpeg_next::format::{Pixel, context};
use ffmpeg_next::{Dictionary, Packet, Rational, codec, encoder, frame};

use super::MediaError;
use super::container::{self, SEGMENT_MUXER};
use crate::frame::{ColourRange, Picture, PictureFormat};
use crate::wire::job::EncoderSpec;

#[cfg(test)]
mod tests;

const THREADS: usize = 2;
const B_FRAMES: usize = 3;

/// Encodes the pictures of one segment into a file. If [`finish`](Self::finish) was not called or failed, the
/// file is incomplete and the caller must delete it.
pub struct SegmentEncoder {
    path: PathBuf,
    picture: PictureFormat,
    first_frame: i64,
    encoder: encoder::video::Encoder,
    output: context::Output,
    /// Duration of a frame in seconds.
    frame_base: Rational,
    /// Time base of the track, which the muxer chose.
    track_base: Rational,
    pushed: u64,
    written: u64,
}

impl SegmentEncoder {
    /// Creates the file and opens the encoder. The first picture becomes output frame `first_frame`; PTS are
    /// the numbers of output frames.
    pub fn create(
        path: &Path,
        picture: &PictureFormat,
        spec: &EncoderSpec,
        first_frame: u64,
    ) -> Result<Self, MediaError> {
        super::init();
        let rate = container::rate_rational(spec.rate, path)?;
        let encoder =
            open_encoder(picture, spec, rate).map_err(MediaError::ffmpeg("open the encoder of", path))?;
        let mut output = container::create_output(path, SEGMENT_MUXER)?;
        let frame_base = rate.invert();
        {
            let mut track = output
                .add_stream(encoder::find_by_name("libx264"))
                .map_err(MediaError::ffmpeg("add a track to", path))?;
            track.set_parameters(&encoder);
            track.set_time_base(frame_base);
            track.set_avg_frame_rate(rate);
            track.set_rate(rate);
        }
        output
            .write_header_with(container::muxer_options())
            .map_err(MediaError::ffmpeg("write", path))?;
        let track_base = output.stream(0).map_or(frame_base, |track| track.time_base());
        Ok(Self {
            path: path.to_owned(),
            picture: *picture,
            first_frame: i64::try_from(first_frame)
                .map_err(|_| MediaError::rejected(path, "the frame number exceeds 2^63"))?,
            encoder,
            output,
            frame_base,
            track_base,
            pushed: 0,
            written: 0,
        })
    }

    /// Encodes the next picture, which must have the segment's size.
    pub fn push(&mut self, picture: &Picture) -> Result<(), MediaError> {
        let mut frame = self.frame_of(picture)?;
        // The encoder counts from 0, so that its decisions do not depend on the segment's place in the video.
        frame.set_pts(i64::try_from(self.pushed).ok());
        self.pushed += 1;
        self.encoder
            .send_frame(&frame)
            .map_err(MediaError::ffmpeg("encode", &self.path))?;
        self.drain()
    }

    /// Completes the file and flushes it to the disk; returns the number of frames in it, at least 1.
    pub fn finish(mut self) -> Result<u64, MediaError> {
        if self.pushed == 0 {
            return Err(MediaError::rejected(
                &self.path,
                "a segment needs at least one frame",
            ));
        }
        self.encoder
            .send_eof()
            .map_err(MediaError::ffmpeg("encode", &self.path))?;
        self.drain()?;
        if self.written != self.pushed {
            let cause = format!(
                "the encoder received {} frames and returned {}",
                self.pushed, self.written
            );
            return Err(MediaError::rejected(&self.path, cause));
        }
        self.output
            .write_trailer()
            .map_err(MediaError::ffmpeg("write", &self.path))?;
        drop(self.output);
        container::sync_file(&self.path)?;
        Ok(self.written)
    }

    fn drain(&mut self) -> Result<(), MediaError> {
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(error) if container::is_again_or_eof(error) => return Ok(()),
                Err(error) => return Err(MediaError::ffmpeg("encode", &self.path)(error)),
            }
            packet.set_stream(0);
            packet.set_duration(1);
            packet.set_pts(packet.pts().map(|pts| pts + self.first_frame));
            packet.set_dts(packet.dts().map(|dts| dts + self.first_frame));
            packet.rescale_ts(self.frame_base, self.track_base);
            packet
                .write_interleaved(&mut self.output)
                .map_err(MediaError::ffmpeg("write", &self.path))?;
            self.written += 1;
        }
    }

    fn frame_of(&self, picture: &Picture) -> Result<frame::Video, MediaError> {
        let (width, height) = (self.picture.width as usize, self.picture.height as usize);
        let luma = width * height;
        let chroma = luma / 4;
        let sizes = (picture.y.len(), picture.u.len(), picture.v.len());
        let same_size =
            (picture.format.width, picture.format.height) == (self.picture.width, self.picture.height);
        if !same_size || sizes != (luma, chroma, chroma) {
            let cause = format!(
                "frame {} is {}x{}, the segment is {width}x{height}",
                self.pushed, picture.format.width, picture.format.height
            );
            return Err(MediaError::rejected(&self.path, cause));
        }
        let mut frame = frame::Video::new(Pixel::YUV420P, self.picture.width, self.picture.height);
        let planes = [
            (&picture.y, width),
            (&picture.u, width / 2),
            (&picture.v, width / 2),
        ];
        for (index, (plane, row)) in planes.into_iter().enumerate() {
            let stride = frame.stride(index);
            let lines = frame.data_mut(index).chunks_mut(stride);
            for (target, source) in lines.zip(plane.chunks_exact(row)) {
                target[..row].copy_from_slice(source);
            }
        }
        Ok(frame)
    }
}

fn open_encoder(
    picture: &PictureFormat,
    spec: &EncoderSpec,
    rate: Rational,
) -> Result<encoder::video::Encoder, ffmpeg_next::Error> {
    let codec = encoder::find_by_name("libx264").ok_or(ffmpeg_next::Error::EncoderNotFound)?;
    let mut context = codec::context::Context::new_with_codec(codec);
    context.set_threading(codec::threading::Config {
        kind: codec::threading::Type::Frame,
        count: THREADS,
        ..Default::default()
    });
    context.set_flags(codec::Flags::GLOBAL_HEADER | codec::Flags::CLOSED_GOP);
    let mut video = context.encoder().video()?;
    video.set_width(picture.width);
    video.set_height(picture.height);
    video.set_format(Pixel::YUV420P);
    video.set_time_base(rate.invert());
    video.set_frame_rate(Some(rate));
    video.set_max_b_frames(B_FRAMES);
    let (num, den) = picture.sample_aspect;
    if let (Ok(num), Ok(den)) = (i32::try_from(num), i32::try_from(den)) {
        video.set_aspect_ratio(Rational(num, den));
    }
    let keyframe_interval = 2 * u64::from(spec.rate.num()).div_ceil(u64::from(spec.rate.den()));
    video.set_gop(u32::try_from(keyframe_interval).unwrap_or(2));
    video.open_with(encoder_options(picture, spec, keyframe_interval))
}

fn encoder_options(
    picture: &PictureFormat,
    spec: &EncoderSpec,
    keyframe_interval: u64,
) -> Dictionary<'static> {
    let mut options = Dictionary::new();
    options.set("preset", &spec.preset);
    match spec.crf {
        Some(crf) => options.set("crf", &crf.to_string()),
        None => options.set("qp", "0"),
    }
    let pinned = format!(
        "stitchable=1:open-gop=0:scenecut=0:keyint={keyframe_interval}:min-keyint=1:bframes={B_FRAMES}:\
         b-adapt=1:b-pyramid=none:threads={THREADS}:lookahead-threads=1:sliced-threads=0:force-cfr=1"
    );
    options.set("x264-params", &(pinned + instruction_set()));
    let colour = picture.colour;
    // FFmpeg takes the H.273 code points as numbers. 0 is reserved, or means RGB, which 4:2:0 is not.
    for (name, tag) in [
        ("color_primaries", colour.primaries_tag),
        ("color_trc", colour.transfer_tag),
        ("colorspace", colour.matrix_tag),
    ] {
        if tag != 0 {
            options.set(name, &tag.to_string());
        }
    }
    match (colour.range, colour.range_tagged) {
        (ColourRange::Full, _) => options.set("color_range", "pc"),
        (ColourRange::Limited, true) => options.set("color_range", "tv"),
        (ColourRange::Limited, false) => {}
    }
    options
}

/// Returns the x264 parameter that excludes AVX-512. x264 uses the listed instruction sets without a check,
/// so they are listed only on a processor that has AVX-512 and therefore all of them.
fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        return ":asm=avx2,fma3,bmi2";
    }
    ""
}
