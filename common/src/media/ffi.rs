//! Access to the few fields and functions of FFmpeg that the safe bindings leave out. Each function is one
//! small unsafe step.

use std::slice;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::ffi;
use ffmpeg_next::packet::Ref as _;

use crate::frame::{ColourMatrix, ColourRange};

/// Properties of a video track as plain numbers, from the container and the first decoded pictures.
pub(super) struct VideoFacts {
    /// The width of the pictures in pixels, or 0 if unknown.
    pub(super) width: u32,
    /// The height of the pictures in pixels, or 0 if unknown.
    pub(super) height: u32,
    /// The pixel format as a value of `AVPixelFormat`; -1 if no picture could be decoded.
    pub(super) pixel: i32,
    /// ITU-T H.273 code point of the colour primaries.
    pub(super) primaries: i32,
    /// ITU-T H.273 code point of the transfer characteristics.
    pub(super) transfer: i32,
    /// ITU-T H.273 code point of the matrix coefficients.
    pub(super) matrix: i32,
    /// The colour range as a value of `AVColorRange`: 0 is unspecified, 1 limited, 2 full.
    pub(super) range: i32,
    /// The sample aspect ratio (numerator, denominator); the numerator is 0 if the file states none.
    pub(super) sample_aspect: (i32, i32),
    /// The field order as a value of `AVFieldOrder`: 0 is unknown, 1 progressive, and higher values are
    /// interlaced.
    pub(super) field_order: i32,
    /// Number of pictures that the decoder holds to bring them into output order.
    pub(super) reorder: i32,
    /// Codec header, as [`codec_header`] returns it.
    pub(super) extradata: Vec<u8>,
}

/// Reads the properties of a video track.
#[expect(
    unsafe_code,
    reason = "the bindings expose no accessor for these stream parameters"
)]
pub(super) fn video_facts(stream: &ffmpeg::Stream) -> VideoFacts {
    let parameters = stream.parameters();
    // SAFETY: `stream` keeps its format context, which owns both structures, alive for this call.
    // Enumerations are read as `i32`, which they are in C, so that a value that the bindings do not know is
    // harmless.
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

/// Returns the sample rate in Hz and the number of channels of an audio track; each is 0 if unknown.
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

/// Returns the bytes of the codec-wide header (`extradata`); for H.264 these are the parameter sets.
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

/// Whether the container marks this packet as decoded but not shown, because an edit list cuts it off.
#[expect(unsafe_code, reason = "the bindings leave the discard flag out")]
pub(super) fn is_hidden(packet: &ffmpeg::Packet) -> bool {
    // SAFETY: a `Packet` always holds a valid `AVPacket`.
    unsafe { (*packet.as_ptr()).flags & ffi::AV_PKT_FLAG_DISCARD != 0 }
}

/// Returns the highest byte position of a packet in the container's index of this track, or `None` if it has
/// no index.
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

/// Makes decoder parameters from the header of a segment file.
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

/// A sample that the resampler writes.
pub(super) trait ResampledValue: Copy + Default {}
impl ResampledValue for i16 {}
impl ResampledValue for f32 {}

/// Sends `input` to the resampler, or the end of the track if `input` is `None`, and appends the resampled
/// audio, interleaved with `channels` channels, to `output`. `T` must be the format of the resampler's output.
#[expect(
    unsafe_code,
    reason = "the safe call cannot be given an output of the right size"
)]
pub(super) fn resample<T: ResampledValue>(
    resampler: &mut ffmpeg::software::resampling::Context,
    input: Option<&ffmpeg::frame::Audio>,
    channels: usize,
    output: &mut Vec<T>,
) -> Result<(), ffmpeg::Error> {
    let form = resampler.output();
    let fits = form.format.bytes() == size_of::<T>()
        && form.format.is_packed()
        && usize::try_from(form.channel_layout.channels()) == Ok(channels);
    if !fits {
        return Err(ffmpeg::Error::InvalidData);
    }
    let count = |samples: usize| i32::try_from(samples).map_err(|_| ffmpeg::Error::InvalidData);
    let samples = count(input.map_or(0, ffmpeg::frame::Audio::samples))?;
    // SAFETY: `input` has the format that the resampler was made for (the caller checks it), so that its
    // plane pointers are what the call expects; `output` has room for the stated number of interleaved samples, whose
    // size and channels were compared with the resampler's above.
    unsafe {
        let context = resampler.as_mut_ptr();
        let room = match ffi::swr_get_out_samples(context, samples) {
            error if error < 0 => return Err(ffmpeg::Error::from(error)),
            room => room,
        };
        let start = output.len();
        output.resize(
            start + usize::try_from(room).unwrap_or(0) * channels,
            T::default(),
        );
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
            Ok(written) => output.truncate(start + written * channels),
            Err(_) => return Err(ffmpeg::Error::from(written)),
        }
    }
    Ok(())
}

/// Appends the samples of a decoded frame to `output` as floats, interleaved; full scale is 1.
#[expect(
    unsafe_code,
    reason = "the safe accessor reaches only the first eight channels of planar samples"
)]
pub(super) fn interleave(frame: &ffmpeg::frame::Audio, output: &mut Vec<f32>) -> Result<(), ffmpeg::Error> {
    use ffmpeg::format::Sample;
    let (samples, channels) = (frame.samples(), usize::from(frame.channels()));
    let format = frame.format();
    let value: fn(&[u8]) -> f32 = match format {
        Sample::U8(_) => |b| f32::from(b[0]) / 128.0 - 1.0,
        Sample::I16(_) => |b| f32::from(i16::from_ne_bytes([b[0], b[1]])) / 32_768.0,
        Sample::I32(_) => |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]) as f32 / 2_147_483_648.0,
        Sample::I64(_) => |b| {
            let upper = i64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) >> 32;
            upper as f32 / 2_147_483_648.0
        },
        Sample::F32(_) => |b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a float has enough digits for sound"
        )]
        Sample::F64(_) => |b| f64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32,
        Sample::None => return Err(ffmpeg::Error::InvalidData),
    };
    let (bytes, planar) = (format.bytes(), format.is_planar());
    let (planes, per_plane) = if planar {
        (channels, samples)
    } else {
        (1, samples * channels)
    };
    let start = output.len();
    output.resize(start + samples * channels, 0.0);
    for plane in 0..planes {
        // SAFETY: a decoded frame has `extended_data` with a pointer for each plane, and each plane has room for all its
        // samples; the bytes are read before the borrow of the frame ends.
        let data = unsafe {
            let pointer = *(*frame.as_ptr()).extended_data.add(plane);
            if pointer.is_null() {
                return Err(ffmpeg::Error::InvalidData);
            }
            slice::from_raw_parts(pointer.cast_const(), per_plane * bytes)
        };
        let step = if planar { channels } else { 1 };
        let targets = output[start + plane..].iter_mut().step_by(step);
        for (target, sample) in targets.zip(data.chunks_exact(bytes)) {
            *target = value(sample);
        }
    }
    Ok(())
}

/// Returns the duration of the packet that a frame was decoded from, in ticks of the track.
pub(super) fn duration_of(frame: &ffmpeg::frame::Audio) -> i64 {
    frame.packet().duration
}

/// Sets the colour matrices and ranges between which a scaler converts.
#[expect(unsafe_code, reason = "the bindings leave the colours of the scaler out")]
pub(super) fn set_scaler_colours(
    scaler: &mut ffmpeg::software::scaling::Context,
    from: (ColourMatrix, ColourRange),
    to: (ColourMatrix, ColourRange),
) -> Result<(), ffmpeg::Error> {
    let standard = |matrix| match matrix {
        ColourMatrix::Bt601 => 5, // SWS_CS_ITU601
        ColourMatrix::Bt709 => 1, // SWS_CS_ITU709
    };
    let is_full = |range| i32::from(range == ColourRange::Full);
    // SAFETY: the scaler is valid and borrowed mutably; FFmpeg returns static tables of four coefficients.
    let set = unsafe {
        ffi::sws_setColorspaceDetails(
            scaler.as_mut_ptr(),
            ffi::sws_getCoefficients(standard(from.0)),
            is_full(from.1),
            ffi::sws_getCoefficients(standard(to.0)),
            is_full(to.1),
            0,
            1 << 16,
            1 << 16,
        )
    };
    if set < 0 {
        Err(ffmpeg::Error::InvalidData)
    } else {
        Ok(())
    }
}

/// Returns FFmpeg's name of an `AVPixelFormat`.
#[expect(
    unsafe_code,
    reason = "the bindings take the enumeration, which a newer library may exceed"
)]
pub(super) fn pixel_name(pixel: i32) -> String {
    let mut text = [0_u8; 64];
    // SAFETY: the function writes at most 64 bytes, with a final zero, and checks the range of the number
    // itself, so that it may name no format. `AVPixelFormat` is a C `int`.
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
