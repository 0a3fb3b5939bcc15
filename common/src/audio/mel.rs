//! The log-mel spectrogram of a track as Whisper takes it, computed piece by piece.
//!
//! The coordinator runs [`MelMax`] over the whole track while it decodes it, because the normalisation needs
//! the track's maximum. The engine runs [`LogMel`] on the samples of one window.
//!
//! | quantity   | value                                                                |
//! |------------|----------------------------------------------------------------------|
//! | input      | 16 kHz mono, `i16 / 32768`                                           |
//! | transform  | 400 samples, hop 160, periodic Hann, frame `f` centred at `160 f`    |
//! | ends       | the track is reflected (without repeating its end samples)           |
//! | frames     | `samples / 160`, rounded down                                        |
//! | bands      | 80 of 201 bins, Slaney scale and normalisation, 0 to 8 kHz           |
//! | `log10`    | `log10(max(power, 1e-10))`                                           |
//! | normalised | `(max(log10, track maximum - 8) + 4) / 4`                            |
//!
//! A frame depends on its own 400 samples only and is computed in `f64`. It therefore has the same bits
//! whether it is computed from the whole track or from a slice.

use std::ops::Range;
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

/// Number of mel bands in one frame.
pub const BANDS: usize = 80;
/// Number of samples from one frame to the next.
pub const HOP: u64 = 160;
/// Number of samples that one frame is computed from.
pub const FFT_SAMPLES: usize = 400;
/// Number of frequency bins of the Fourier transform.
pub const BINS: usize = FFT_SAMPLES / 2 + 1;
/// `log10` of the smallest power that is distinguished from zero; also the maximum of a silent track.
pub const LOG_FLOOR: f32 = -10.0;

const HALF: u64 = FFT_SAMPLES as u64 / 2;
const HALF_SIGNED: i64 = HALF.cast_signed();

/// Returns the number of mel frames of a track.
pub fn frame_count(track_samples: u64) -> u64 {
    track_samples / HOP
}

/// Returns the range of the track's samples that the mel frames `frames` depend on.
pub fn sample_range(frames: &Range<u64>, track_samples: u64) -> Range<u64> {
    if frames.is_empty() {
        return 0..0;
    }
    let start = (frames.start * HOP).saturating_sub(HALF);
    let mut end = (frames.end - 1) * HOP + HALF;
    if start == 0 {
        // The reflection of the first half window reaches one sample further.
        end = end.max(HALF + 1);
    }
    start.min(track_samples)..end.min(track_samples)
}

/// Returns the value that the audio encoder takes for a `log10` value of a track whose maximum is
/// `track_max`.
pub fn normalise(log10: f32, track_max: f32) -> f32 {
    (log10.max(track_max - 8.0) + 4.0) / 4.0
}

/// Computes mel frames with a plan of the Fourier transform and buffers that are made once for many frames.
pub struct LogMel {
    transform: Arc<dyn RealToComplex<f64>>,
    window: Vec<f64>,
    filters: Vec<MelFilter>,
    samples: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    power: Vec<f64>,
}

/// One triangular filter of the mel filter bank: its first bin, and its weights from that bin on.
struct MelFilter {
    first: usize,
    weights: Vec<f64>,
}

impl Default for LogMel {
    fn default() -> Self {
        let transform = RealFftPlanner::new().plan_fft_forward(FFT_SAMPLES);
        let window = (0..FFT_SAMPLES)
            .map(|n| 0.5 - 0.5 * (std::f64::consts::TAU * n as f64 / FFT_SAMPLES as f64).cos())
            .collect();
        let filters = filter_bank().iter().map(MelFilter::from_row).collect();
        Self {
            samples: transform.make_input_vec(),
            spectrum: transform.make_output_vec(),
            scratch: transform.make_scratch_vec(),
            power: vec![0.0; BINS],
            transform,
            window,
            filters,
        }
    }
}

impl LogMel {
    /// Computes the `log10` mel power of `frames`, frame after frame, [`BANDS`] values each.
    ///
    /// `pcm` holds the track's samples from `pcm_start` on and must cover [`sample_range`] of the frames.
    ///
    /// # Panics
    /// Panics if `pcm` does not cover the frames, or if the frames lie past the track's end.
    pub fn log10_frames(
        &mut self,
        pcm: &[i16],
        pcm_start: u64,
        frames: Range<u64>,
        track_samples: u64,
    ) -> Vec<f32> {
        let needed = sample_range(&frames, track_samples);
        let covered = pcm_start..pcm_start + pcm.len() as u64;
        assert!(
            frames.end <= frame_count(track_samples),
            "mel frames {frames:?} lie past the end of a track of {track_samples} samples"
        );
        assert!(
            needed.is_empty() || (covered.start <= needed.start && needed.end <= covered.end),
            "mel frames {frames:?} need samples {needed:?}, given {covered:?}"
        );
        let mut out = Vec::with_capacity(usize::try_from(frames.end - frames.start).unwrap_or(0) * BANDS);
        for frame in frames {
            self.push_frame(pcm, pcm_start, frame, track_samples, &mut out);
        }
        out
    }

    fn push_frame(
        &mut self,
        pcm: &[i16],
        pcm_start: u64,
        frame: u64,
        track_samples: u64,
        out: &mut Vec<f32>,
    ) {
        let first = i64::try_from(frame * HOP).unwrap_or(i64::MAX) - HALF_SIGNED;
        for ((slot, weight), position) in self.samples.iter_mut().zip(&self.window).zip(first..) {
            let sample = reflect(position, track_samples) - pcm_start;
            let value = usize::try_from(sample).ok().and_then(|index| pcm.get(index));
            *slot = weight * f64::from(*value.expect("the caller checked the samples' range")) / 32768.0;
        }
        self.transform
            .process_with_scratch(&mut self.samples, &mut self.spectrum, &mut self.scratch)
            .expect("the buffers were made for this transform");
        for (power, bin) in self.power.iter_mut().zip(&self.spectrum) {
            *power = bin.norm_sqr();
        }
        out.extend(self.filters.iter().map(|band| {
            let energy: f64 = band
                .weights
                .iter()
                .zip(&self.power[band.first..])
                .map(|(w, p)| w * p)
                .sum();
            #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
            let log10 = energy.max(1e-10).log10() as f32;
            log10
        }));
    }
}

impl MelFilter {
    fn from_row(row: &[f32; BINS]) -> Self {
        let first = row.iter().position(|&w| w != 0.0).unwrap_or(0);
        let end = row.iter().rposition(|&w| w != 0.0).map_or(first, |last| last + 1);
        Self {
            first,
            weights: row[first..end].iter().map(|&w| f64::from(w)).collect(),
        }
    }
}

/// Returns the index of the sample that stands at `position` once the track is reflected at both ends.
fn reflect(position: i64, track_samples: u64) -> u64 {
    let last = i64::try_from(track_samples).unwrap_or(i64::MAX) - 1;
    let mut index = position;
    while index < 0 || index > last {
        index = if index < 0 { -index } else { 2 * last - index };
    }
    index.unsigned_abs()
}

/// Builds the mel filter bank, `(BANDS, BINS)`: triangles that are evenly spaced on the Slaney scale, each of
/// unit area (`librosa.filters.mel(sr=16000, n_fft=400, n_mels=80)`).
pub fn filter_bank() -> Vec<[f32; BINS]> {
    let top = hertz_to_mel(8000.0);
    let edges: Vec<f64> = (0..BANDS + 2)
        .map(|i| mel_to_hertz(top * i as f64 / (BANDS + 1) as f64))
        .collect();
    edges
        .windows(3)
        .map(|edge| {
            let mut row = [0.0; BINS];
            for (bin, weight) in row.iter_mut().enumerate() {
                let hertz = 16_000.0 * bin as f64 / FFT_SAMPLES as f64;
                let rising = (hertz - edge[0]) / (edge[1] - edge[0]);
                let falling = (edge[2] - hertz) / (edge[2] - edge[1]);
                let height = rising.min(falling).max(0.0) * 2.0 / (edge[2] - edge[0]);
                #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
                {
                    *weight = height as f32;
                }
            }
            row
        })
        .collect()
}

/// The Slaney scale is linear up to 1 kHz (15 mel) and logarithmic above, 27 mel to a factor of 6.4.
const LINEAR_HERTZ_PER_MEL: f64 = 200.0 / 3.0;

fn hertz_to_mel(hertz: f64) -> f64 {
    if hertz < 1000.0 {
        hertz / LINEAR_HERTZ_PER_MEL
    } else {
        15.0 + (hertz / 1000.0).ln() * 27.0 / 6.4_f64.ln()
    }
}

fn mel_to_hertz(mel: f64) -> f64 {
    if mel < 15.0 {
        mel * LINEAR_HERTZ_PER_MEL
    } else {
        1000.0 * ((mel - 15.0) * 6.4_f64.ln() / 27.0).exp()
    }
}

/// Finds the maximum `log10` mel power of a track that comes in pieces, in constant memory.
pub struct MelMax {
    mel: LogMel,
    /// Samples of the track from `start` on; later frames may need them.
    tail: Vec<i16>,
    start: u64,
    next_frame: u64,
    max: f32,
}

impl Default for MelMax {
    fn default() -> Self {
        Self {
            mel: LogMel::default(),
            tail: Vec::with_capacity(Self::BLOCK + 2 * FFT_SAMPLES),
            start: 0,
            next_frame: 0,
            max: LOG_FLOOR,
        }
    }
}

impl MelMax {
    /// Number of samples that are taken at once; it bounds the buffer.
    const BLOCK: usize = 1 << 14;

    /// Takes the next samples of the track.
    pub fn push(&mut self, samples: &[i16]) {
        for block in samples.chunks(Self::BLOCK) {
            self.tail.extend_from_slice(block);
            let seen = self.start + self.tail.len() as u64;
            // The last sample is held back, because frame 0 reflects up to sample 200 inclusive.
            let complete = seen.saturating_sub(HALF + 1) / HOP;
            self.advance(complete, seen);
        }
    }

    /// Returns the maximum over all frames of the track, or [`LOG_FLOOR`] if the track has no frames.
    pub fn finish(mut self) -> f32 {
        let track_samples = self.start + self.tail.len() as u64;
        self.advance(frame_count(track_samples), track_samples);
        self.max
    }

    fn advance(&mut self, end_frame: u64, seen: u64) {
        if end_frame <= self.next_frame {
            return;
        }
        let frames = self.next_frame..end_frame;
        let values = self.mel.log10_frames(&self.tail, self.start, frames, seen);
        self.max = values.into_iter().fold(self.max, f32::max);
        self.next_frame = end_frame;
        // Twice the half window is kept, so that the reflection at the track's end finds its samples too.
        let keep_from = (end_frame * HOP)
            .saturating_sub(FFT_SAMPLES as u64)
            .max(self.start);
        let passed = usize::try_from(keep_from - self.start).unwrap_or(usize::MAX);
        self.tail.drain(..passed);
        self.start = keep_from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(n: u64) -> usize {
        usize::try_from(n).unwrap()
    }

    fn noise(len: usize) -> Vec<i16> {
        let mut state = 1_u32;
        (0..len)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let amplitude = 200 + i32::try_from(i % 7000).unwrap();
                let draw = i32::from(u16::try_from(state >> 16).unwrap()) - 32768;
                i16::try_from(draw * amplitude / 32768).unwrap()
            })
            .collect()
    }

    #[test]
    fn slice_gives_the_same_bits_as_the_whole_track() {
        let pcm = noise(50_077);
        let total = pcm.len() as u64;
        let frames = frame_count(total);
        let whole = LogMel::default().log10_frames(&pcm, 0, 0..frames, total);
        for range in [
            0..1,
            0..5,
            1..4,
            2..40,
            100..250,
            frames - 3..frames,
            frames - 1..frames,
        ] {
            let needed = sample_range(&range, total);
            let (from, to) = (index(needed.start), index(needed.end));
            let slice = LogMel::default().log10_frames(&pcm[from..to], needed.start, range.clone(), total);
            assert_eq!(
                slice,
                whole[index(range.start) * BANDS..index(range.end) * BANDS],
                "{range:?}"
            );
        }
    }

    #[test]
    fn streamed_maximum_equals_the_whole_tracks_maximum() {
        for len in [0, 100, 160, 199, 200, 201, 359, 360, 361, 1000, 40_000] {
            let pcm = noise(len);
            let total = len as u64;
            let whole = LogMel::default().log10_frames(&pcm, 0, 0..frame_count(total), total);
            let expected = whole.into_iter().fold(LOG_FLOOR, f32::max);
            for piece in [1, 7, 160, 1000, 100_000] {
                let mut max = MelMax::default();
                pcm.chunks(piece).for_each(|samples| max.push(samples));
                assert_eq!(
                    max.finish().to_bits(),
                    expected.to_bits(),
                    "{len} samples by {piece}"
                );
            }
        }
    }

    #[test]
    fn maximum_needs_constant_memory() {
        let mut max = MelMax::default();
        let capacity = max.tail.capacity();
        for _ in 0..50 {
            max.push(&noise(30_000));
        }
        assert_eq!(max.tail.capacity(), capacity);
    }

    #[test]
    fn tone_peaks_in_its_band() {
        #[expect(clippy::cast_possible_truncation, reason = "a test's tone")]
        let tone: Vec<i16> = (0..16_000)
            .map(|n| (8000.0 * (std::f64::consts::TAU * 1000.0 * f64::from(n) / 16_000.0).sin()) as i16)
            .collect();
        let frame = LogMel::default().log10_frames(&tone, 0, 50..51, 16_000);
        let loudest = (0..BANDS).max_by(|&a, &b| frame[a].total_cmp(&frame[b])).unwrap();
        let centre = mel_to_hertz(hertz_to_mel(8000.0) * (loudest + 1) as f64 / (BANDS + 1) as f64);
        assert!(
            (centre - 1000.0).abs() < 40.0,
            "band {loudest} is centred at {centre} Hz"
        );
        assert_eq!(normalise(-9.0, 1.0).to_bits(), (-0.75_f32).to_bits());
        assert_eq!(normalise(0.0, 1.0).to_bits(), 1.0_f32.to_bits());
    }
}
