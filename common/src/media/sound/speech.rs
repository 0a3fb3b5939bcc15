//! Resamples the decoded sound to what the model takes: 16 kHz, mono, signed 16 bit.

use std::io;
use std::path::Path;

use ffmpeg_next::ChannelLayout;
use ffmpeg_next::format::Sample;
use ffmpeg_next::format::sample::Type;
use ffmpeg_next::software::resampling;

use super::channels::MonoMix;
use super::pcm::Pcm;
use crate::media::{MediaError, ffi};

/// Sample rate of speech.
pub const SPEECH_RATE_HZ: u32 = 16_000;

/// Hands consecutive samples at [`SPEECH_RATE_HZ`] to `sink`. Returns their number: the duration times the rate,
/// rounded up. `path` is the file that the sound comes from.
pub(super) fn resample(
    pcm: &mut Pcm,
    path: &Path,
    sink: &mut dyn FnMut(&[i16]) -> io::Result<()>,
) -> Result<u64, MediaError> {
    let fail = |error| MediaError::ffmpeg("resample the sound of", path)(error);
    let read = |error| MediaError::io("read the decoded sound of", path)(error);
    let wanted =
        (u128::from(pcm.samples) * u128::from(SPEECH_RATE_HZ)).div_ceil(u128::from(pcm.form.rate_hz.max(1)));
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    let mix = pcm.mono.clone();
    let layout = match &mix {
        MonoMix::Layout => pcm.form.layout.unwrap_or(ChannelLayout::MONO),
        MonoMix::Mean(_) | MonoMix::Single(_) => ChannelLayout::MONO,
    };
    let mut resampler = resampling::Context::get(
        Sample::F32(Type::Packed),
        layout,
        pcm.form.rate_hz,
        Sample::I16(Type::Packed),
        ChannelLayout::MONO,
        SPEECH_RATE_HZ,
    )
    .map_err(fail)?;
    pcm.rewind().map_err(read)?;
    let mut buffer = Vec::new();
    let mut emitted = 0;
    let mut ended = false;
    while !ended {
        let block = pcm.next(&mix).map_err(read)?;
        ended = block.is_none();
        ffi::resample(&mut resampler, block.as_ref(), 1, &mut buffer).map_err(fail)?;
        // The resampler may return one sample too few or a few too many.
        let left = usize::try_from(wanted - emitted).unwrap_or(usize::MAX);
        if ended || buffer.len() > left {
            buffer.resize(left, 0);
        }
        sink(&buffer).map_err(MediaError::io("store the sound of", path))?;
        emitted += buffer.len() as u64;
        buffer.clear();
    }
    Ok(emitted)
}
