//! The few places that the safe bindings do not reach. Each function is one small unsafe step.

use std::slice;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::ffi;
use ffmpeg_next::packet::Ref as _;

/// What the container and the first decoded pictures say about a video track, as plain numbers.
pub(super) struct VideoFacts {
    pub(super) width: u32,
    pub(super) height: u32,
    /// `AVPixelFormat`; -1 where no picture could be decoded.
    pub(super) pixel: i32,
    /// ITU-T H.273 code points.
    pub(super) primaries: i32,
    pub(super) transfer: i32,
    pub(super) matrix: i32,
    /// `AVColorRange`: 0 unspecified, 1 limited, 2 full.
    pub(super) range: i32,
    /// Numerator 0 where the file states none.
    pub(super) sample_aspect: (i32, i32),
    /// `AVFieldOrder`: 0 unknown, 1 progressive, above that interlaced.
    pub(super) field_order: i32,
    /// Pictures that the decoder holds back to bring them into order.
    pub(super) reorder: i32,
    pub(super) extradata: Vec<u8>,
}

#[expect(
    unsafe_code,
    reason = "the bindings expose no accessor for these stream parameters"
)]
pub(super) fn video_facts(stream: &ffmpeg::Stream) -> VideoFacts {
    let parameters = stream.parameters();
    // SAFETY: `stream` keeps its format context, which owns both structures, alive for this call. Enumerations
    // are read as the `i32` that they are in C, so that a value unknown to the bindings is harmless.
    unsafe {
        let stream = stream.as_ptr();
        let p = parameters.as_ptr();
        let aspect = match (*stream).sample_aspect_ratio {
            ffi::AVRational { num: 0, .. } => (*p).sample_aspect_ratio,
            stated => stated,
        };
        VideoFacts {
            width: u32::try_from((*p).width).unwrap_or(0),
            height: u32::try_from((*p).height).unwrap_or(0),
            pixel: (*p).format,
            primaries: (&raw const (*p).color_primaries).cast::<i32>().read(),
            transfer: (&raw const (*p).color_trc).cast::<i32>().read(),
            matrix: (&raw const (*p).color_space).cast::<i32>().read(),
            range: (&raw const (*p).color_range).cast::<i32>().read(),
            sample_aspect: (aspect.num, aspect.den),
            field_order: (&raw const (*p).field_order).cast::<i32>().read(),
            reorder: (*p).video_delay,
            extradata: codec_header(&parameters),
        }
    }
}

/// (sample rate in Hz, channels) of an audio track; 0 where unknown.
#[expect(
    unsafe_code,
    reason = "the bindings expose no accessor for these stream parameters"
)]
pub(super) fn audio_facts(stream: &ffmpeg::Stream) -> (u32, u32) {
    let parameters = stream.parameters();
    // SAFETY: `stream` keeps its format context, which owns the parameters, alive for this call.
    let (rate, channels) = unsafe {
        let p = parameters.as_ptr();
        ((*p).sample_rate, (*p).channels)
    };
    (
        u32::try_from(rate).unwrap_or(0),
        u32::try_from(channels).unwrap_or(0),
    )
}

/// Codec-wide header bytes (for H.264 the parameter sets).
#[expect(unsafe_code, reason = "the bindings have no accessor for the codec header")]
pub(super) fn codec_header(parameters: &ffmpeg::codec::Parameters) -> Vec<u8> {
    // SAFETY: `parameters` owns or keeps alive a valid `AVCodecParameters`, whose `extradata` is null or has
    // `extradata_size` readable bytes; they are copied before the borrow ends.
    unsafe {
        let p = parameters.as_ptr();
        match usize::try_from((*p).extradata_size) {
            Ok(size) if size > 0 && !(*p).extradata.is_null() => {
                slice::from_raw_parts((*p).extradata, size).to_vec()
            }
            _ => Vec::new(),
        }
    }
}

/// Whether the container says that this packet is decoded but not shown (an edit list cuts it off).
#[expect(unsafe_code, reason = "the bindings leave the discard flag out")]
pub(super) fn is_hidden(packet: &ffmpeg::Packet) -> bool {
    // SAFETY: a `Packet` always holds a valid `AVPacket`.
    unsafe { (*packet.as_ptr()).flags & ffi::AV_PKT_FLAG_DISCARD != 0 }
}

/// Highest byte position of a packet that the container's index of this track promises, if it has an index.
#[expect(unsafe_code, reason = "the bindings do not expose the index")]
pub(super) fn indexed_end(stream: &ffmpeg::Stream) -> Option<i64> {
    // SAFETY: the entries belong to the stream, which outlives this call; the count bounds the loop.
    unsafe {
        let stream = stream.as_ptr().cast_mut();
        let count = ffi::avformat_index_get_entries_count(stream);
        (0..count)
            .filter_map(|i| ffi::avformat_index_get_entry(stream, i).as_ref())
            .map(|entry| entry.pos + i64::from(entry.size()))
            .max()
    }
}

/// Decoder parameters made from what a segment file states.
#[expect(
    unsafe_code,
    reason = "extradata must lie in a padded buffer of FFmpeg's allocator"
)]
pub(super) fn decoder_parameters(
    codec: ffmpeg::codec::Id,
    extradata: &[u8],
    reorder: i32,
) -> Result<ffmpeg::codec::Parameters, ffmpeg::Error> {
    let no_memory = ffmpeg::Error::Other {
        errno: ffmpeg::error::ENOMEM,
    };
    let size = i32::try_from(extradata.len()).map_err(|_| no_memory)?;
    let mut parameters = ffmpeg::codec::Parameters::new();
    parameters.set_medium(ffmpeg::media::Type::Video);
    parameters.set_id(codec);
    // SAFETY: the buffer is zeroed, padded as FFmpeg demands, and owned by the parameters from here on.
    unsafe {
        let p = parameters.as_mut_ptr();
        (*p).video_delay = reorder;
        if size > 0 {
            let padded = extradata.len() + ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize;
            let buffer = ffi::av_mallocz(padded).cast::<u8>();
            if buffer.is_null() {
                return Err(no_memory);
            }
            buffer.copy_from_nonoverlapping(extradata.as_ptr(), extradata.len());
            (*p).extradata = buffer;
            (*p).extradata_size = size;
        }
    }
    Ok(parameters)
}

/// Feeds `input` (`None`: the end) to the resampler and appends what comes out to `output`.
#[expect(
    unsafe_code,
    reason = "the safe call cannot be given an output of the right size"
)]
pub(super) fn resample(
    resampler: &mut ffmpeg::software::resampling::Context,
    input: Option<&ffmpeg::frame::Audio>,
    output: &mut Vec<i16>,
) -> Result<(), ffmpeg::Error> {
    let count = |samples: usize| i32::try_from(samples).map_err(|_| ffmpeg::Error::InvalidData);
    let samples = count(input.map_or(0, ffmpeg::frame::Audio::samples))?;
    // SAFETY: `input` has the format that the resampler was made for (the caller checks it), so that its plane
    // pointers are what the call expects; `output` has room for the stated number of mono s16 samples.
    unsafe {
        let context = resampler.as_mut_ptr();
        let room = match ffi::swr_get_out_samples(context, samples) {
            error if error < 0 => return Err(ffmpeg::Error::from(error)),
            room => room,
        };
        let start = output.len();
        output.resize(start + usize::try_from(room).unwrap_or(0), 0);
        let mut target = output[start..].as_mut_ptr().cast::<u8>();
        let source = input.map_or(std::ptr::null_mut(), |frame| (*frame.as_ptr()).extended_data);
        let written = ffi::swr_convert(
            context,
            &raw mut target,
            room,
            source.cast::<*const u8>(),
            samples,
        );
        match usize::try_from(written) {
            Ok(written) => output.truncate(start + written),
            Err(_) => return Err(ffmpeg::Error::from(written)),
        }
    }
    Ok(())
}

/// FFmpeg's name of an `AVPixelFormat`.
#[expect(
    unsafe_code,
    reason = "the bindings take the enumeration, which a newer library may exceed"
)]
pub(super) fn pixel_name(pixel: i32) -> String {
    let mut text = [0_u8; 64];
    // SAFETY: the function writes at most 64 bytes, with a final zero; a number that names no format is left to
    // it to describe, which it does by range check. `AVPixelFormat` is a C `int`.
    let known = unsafe {
        let format = std::mem::transmute::<i32, ffi::AVPixelFormat>(pixel);
        !ffi::av_get_pix_fmt_string(text.as_mut_ptr().cast(), 64, format).is_null()
    };
    let end = text
        .iter()
        .position(|&byte| byte == b' ' || byte == 0)
        .unwrap_or(0);
    match std::str::from_utf8(&text[..end]) {
        Ok(name) if known && !name.is_empty() => name.to_owned(),
        _ => format!("of pixel format {pixel}"),
    }
}
