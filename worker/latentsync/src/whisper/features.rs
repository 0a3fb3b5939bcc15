//! The steps around the encoder: the spectrogram of an audio window, the feature rows that are kept of it,
//! and the rows that each output frame attends to.

use candle_core::{Device, Result, Tensor};
use latentfarm_common::audio::mel::{self, LogMel};
use latentfarm_common::audio::windows::{self, WINDOW_MEL_FRAMES, WindowRow};
use latentfarm_common::wire::engine::{AudioRequest, WindowRequest};
use latentfarm_common::wire::job::AudioWindows;

use crate::error::ModelError;

/// The feature rows of one audio window that output frames use.
#[derive(Clone, Debug)]
pub struct AudioFeatures {
    /// The number in the track of the first row.
    pub first_row: u64,
    /// The states of each row, `(rows, layers + 1, width)` in `f32` on the host.
    pub states: Tensor,
}

/// Returns the normalised log-mel spectrogram of an audio window, `(1, 80, 3000)`, with zeros past the end of
/// the track.
///
/// # Errors
/// [`ModelError::BadRequest`] if the track has no such window or if the number of samples is wrong.
pub fn mel_tensor(request: &AudioRequest) -> std::result::Result<Tensor, ModelError> {
    let frames = windows::mel_range(request.window, request.track_samples, request.layout);
    let pcm = windows::pcm_range(request.window, request.track_samples, request.layout);
    let expected = pcm.end - pcm.start;
    if frames.is_empty() && request.window > 0 {
        return Err(ModelError::BadRequest(format!(
            "the track has no audio window {}",
            request.window
        )));
    }
    if request.pcm.len() as u64 != expected {
        return Err(ModelError::BadRequest(format!(
            "audio window {} needs {expected} samples, but the request has {}",
            request.window,
            request.pcm.len()
        )));
    }
    let log10 = LogMel::default().log10_frames(&request.pcm, pcm.start, frames, request.track_samples);
    let columns = usize::try_from(WINDOW_MEL_FRAMES).unwrap_or(usize::MAX);
    let mut bands = vec![0.0_f32; mel::BANDS * columns];
    for (frame, values) in log10.chunks(mel::BANDS).enumerate() {
        for (band, &value) in values.iter().enumerate() {
            bands[band * columns + frame] = mel::normalise(value, request.log_mel_max);
        }
    }
    Tensor::from_vec(bands, (1, mel::BANDS, columns), &Device::Cpu)
        .map_err(|source| ModelError::compute("lay out the spectrogram", source))
}

impl AudioFeatures {
    /// Keeps the rows that output frames use of a window's states, `(1500, layers + 1, width)`.
    pub fn crop(states: &Tensor, request: &AudioRequest) -> Result<Self> {
        let mel_frames = windows::mel_range(request.window, request.track_samples, request.layout);
        let kept = windows::rows_kept(request.window, request.track_samples, request.layout);
        let start = usize::try_from(kept.start - mel_frames.start / 2).unwrap_or(usize::MAX);
        let count = usize::try_from(kept.end - kept.start).unwrap_or(usize::MAX);
        Ok(Self {
            first_row: kept.start,
            states: states
                .narrow(0, start, count)?
                .to_dtype(candle_core::DType::F32)?
                .to_device(&Device::Cpu)?
                .force_contiguous()?,
        })
    }
}

/// Returns feature row `row` of a track, `(layers + 1, width)`. `state` returns a row of one audio window; if
/// two overlapping windows have the row, theirs are faded into each other.
///
/// # Errors
/// The errors of `state`.
pub fn row_of_track(
    row: u64,
    track_samples: u64,
    layout: AudioWindows,
    mut state: impl FnMut(WindowRow) -> std::result::Result<Tensor, ModelError>,
) -> std::result::Result<Tensor, ModelError> {
    let blend = windows::blend_of_row(row, track_samples, layout);
    let earlier = state(blend.earlier)?;
    let Some((place, share)) = blend.later else {
        return Ok(earlier);
    };
    let later = state(place)?;
    let fade = || (earlier * f64::from(1.0 - share))? + (later * f64::from(share))?;
    fade().map_err(|source| ModelError::compute("fade audio rows", source))
}

/// Returns the audio tokens of the output frames `first_frame .. first_frame + frames` of a request.
/// `features` returns the encoded features of an audio window.
///
/// # Shapes
/// The result is `(frames, 10 x (layers + 1), width)`, `f32` on the host.
///
/// # Errors
/// [`ModelError::AudioMissing`] if `features` has no window that a frame needs.
pub fn gather_rows<'a>(
    request: &WindowRequest,
    frames: u64,
    mut features: impl FnMut(u32) -> Option<&'a AudioFeatures>,
) -> std::result::Result<Tensor, ModelError> {
    let failed = |source| ModelError::compute("gather audio rows", source);
    let mut per_frame = Vec::new();
    for frame in request.first_frame..request.first_frame + frames {
        let mut rows = Vec::with_capacity(windows::ROWS_PER_FRAME);
        for row in windows::rows_of_frame(frame, request.rate, request.track_samples) {
            let state = |WindowRow { window, .. }| {
                let found = features(window).ok_or(ModelError::AudioMissing { window })?;
                let index = row
                    .checked_sub(found.first_row)
                    .and_then(|index| usize::try_from(index).ok())
                    .ok_or(ModelError::AudioMissing { window })?;
                found.states.get(index).map_err(failed)
            };
            rows.push(row_of_track(row, request.track_samples, request.layout, state)?);
        }
        per_frame.push(Tensor::cat(&rows, 0).map_err(failed)?);
    }
    Tensor::stack(&per_frame, 0).map_err(failed)
}
