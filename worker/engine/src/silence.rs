//! Audio rows of frames over digital silence: they come from one encoded window of zeros, which the audio
//! cache keeps.

use candle_core::Tensor;
use latentfarm_common::audio::windows::rows_of_frame;
use latentfarm_common::wire::engine::{SilentFrames, WindowRequest};

use latentsync::{AudioFeatures, ModelError, row_of_track};

/// Replaces the rows of a window's silent frames by those that a silent track of the speech's length would
/// give them: the rows at the same places of the same audio windows, taken from `features`, an encoded window
/// of zeros.
///
/// # Shapes
/// `rows` and the result are `(16, tokens, width)`.
pub(super) fn replace_silent_rows(
    request: &WindowRequest,
    silent: SilentFrames,
    rows: &Tensor,
    features: &AudioFeatures,
) -> Result<Tensor, ModelError> {
    let failed = |source| ModelError::Compute {
        what: "gather rows of silence",
        source,
    };
    let frames = rows.dim(0).map_err(failed)?;
    let own = (request.first_frame..)
        .take(frames)
        .enumerate()
        .map(|(index, frame)| {
            if silent.frames >> index & 1 == 0 {
                return rows.get(index).map_err(failed);
            }
            let places = rows_of_frame(frame, request.rate, request.track_samples).map(|row| {
                row_of_track(row, request.track_samples, request.layout, |place| {
                    features.states.get(place.row as usize).map_err(failed)
                })
            });
            let places: Vec<_> = places.into_iter().collect::<Result<_, _>>()?;
            Tensor::cat(&places, 0).map_err(failed)
        })
        .collect::<Result<Vec<_>, ModelError>>()?;
    Tensor::stack(&own, 0).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use latentfarm_common::audio::silence::{SILENT_TRACK_SAMPLES, silent_track};
    use latentfarm_common::digest::Digest;
    use latentfarm_common::time::FrameRate;
    use latentfarm_common::wire::job::{AudioWindows, ModelSpec, WeightsKind};
    use latentfarm_common::wire::memory::MemoryPlan;

    #[test]
    fn silent_frames_get_the_rows_of_their_place_and_others_keep_theirs() {
        // Row r of the window of silence contains r; the speech is -1 everywhere.
        let states = Tensor::arange(0_f32, 1500.0, &Device::Cpu)
            .and_then(|rows| rows.reshape((1500, 1, 1)))
            .unwrap();
        let silence = AudioFeatures { first_row: 0, states };
        let rows = Tensor::full(-1_f32, (16, 10, 1), &Device::Cpu).unwrap();
        let silent = SilentFrames {
            track: silent_track(0.5),
            frames: 0b10,
        };
        let request = WindowRequest {
            model: ModelSpec {
                weights: Digest::of(b"weights"),
                weights_kind: WeightsKind::Synthetic,
                resolution_px: 64,
                steps: 1,
                guidance_scale: 1.0,
                seed: 1,
            },
            track: Digest::of(b"track"),
            // The track is 100 s long: frame 1009 is at row 2018, which is row 1018 of the window that begins
            // at row 1000.
            track_samples: 1_600_000,
            layout: AudioWindows::Overlapping,
            first_frame: 1008,
            rate: FrameRate::FPS_25,
            faces: Vec::new(),
            silence: Some(silent),
            plan: MemoryPlan::default(),
        };
        let replaced = replace_silent_rows(&request, silent, &rows, &silence).unwrap();
        assert_eq!(replaced.dims(), [16, 10, 1]);
        let replaced: Vec<Vec<f32>> = replaced.squeeze(2).unwrap().to_vec2().unwrap();
        assert_eq!(replaced[0], [-1.0; 10]);
        let expected: Vec<f32> = (1014..1024_u16).map(f32::from).collect();
        assert_eq!(replaced[1], expected);
        assert_eq!(replaced[2], [-1.0; 10]);
        assert_eq!(SILENT_TRACK_SAMPLES, 480_000);
    }
}
