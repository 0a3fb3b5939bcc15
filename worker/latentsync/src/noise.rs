//! Random draws that depend on the seed, the purpose and the output frame alone. The host draws them in
//! `f32`, so that every worker and every device gets the same ones.
//!
//! The generator is Philox4x32-10 (Salmon et al., 2011). Its key is the low and the high word of the seed.
//! Its counter is the block number, the frame (low, high) and the purpose. Each block of four words gives
//! four normals by Box-Muller in `f64`: for words `(a, b)`, `r = sqrt(-2 ln((a + 1) / 2^32))` and `t = 2 pi b
//! / 2^32` give `r cos t, r sin t`.

use candle_core::{Device, Result, Tensor};

/// The purpose of a draw; the number of a variant is a word of the generator's counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrawPurpose {
    /// The starting latents, which are drawn for one frame and are the same for all frames of the job.
    InitLatents = 0,
    /// The sampling of the latents of the masked picture.
    MaskedImageLatents = 1,
    /// The sampling of the latents of the reference picture.
    RefLatents = 2,
    /// Synthetic weights, for which the frame is a hash of the tensor's name.
    SyntheticWeights = 3,
}

/// The source of the draws of a window.
pub enum Noise<'a> {
    /// The generator draws them with a seed.
    Keyed {
        /// The seed of the job.
        seed: u64,
    },
    /// The caller gives them, as tests do with the draws of the reference.
    Given {
        /// `(4, h/8, w/8)`, the starting latents of every frame.
        init_latents: &'a Tensor,
        /// `(frames, 4, h/8, w/8)`, for sampling the latents of the masked pictures.
        masked_image_latents: &'a Tensor,
        /// `(frames, 4, h/8, w/8)`, for sampling the latents of the reference pictures.
        ref_latents: &'a Tensor,
    },
}

impl Noise<'_> {
    /// Returns the draw for one output frame, `(1, 4, side, side)`; `index` counts within the window.
    pub(super) fn draw(
        &self,
        purpose: DrawPurpose,
        first_frame: u64,
        index: usize,
        side: usize,
    ) -> Result<Tensor> {
        match self {
            Self::Keyed { seed } => {
                let frame = match purpose {
                    DrawPurpose::InitLatents | DrawPurpose::SyntheticWeights => 0,
                    DrawPurpose::MaskedImageLatents | DrawPurpose::RefLatents => first_frame + index as u64,
                };
                let values = normals(*seed, purpose, frame, 4 * side * side);
                Tensor::from_vec(values, (1, 4, side, side), &Device::Cpu)
            }
            Self::Given {
                init_latents,
                masked_image_latents,
                ref_latents,
            } => match purpose {
                DrawPurpose::InitLatents | DrawPurpose::SyntheticWeights => init_latents.unsqueeze(0),
                DrawPurpose::MaskedImageLatents => masked_image_latents.narrow(0, index, 1),
                DrawPurpose::RefLatents => ref_latents.narrow(0, index, 1),
            },
        }
    }
}

/// Returns the first `count` standard normal values of a seed, a purpose and a frame.
pub fn normals(seed: u64, purpose: DrawPurpose, frame: u64, count: usize) -> Vec<f32> {
    normals_from(seed, purpose, frame, 0, count)
}

/// Returns the values of [`normals`] from number `4 * first_block` on, so that threads can share the work.
pub(super) fn normals_from(
    seed: u64,
    purpose: DrawPurpose,
    frame: u64,
    first_block: u32,
    count: usize,
) -> Vec<f32> {
    let key = words(seed);
    let [frame_low, frame_high] = words(frame);
    let mut values = Vec::with_capacity(count.next_multiple_of(4));
    for block in first_block.. {
        if values.len() >= count {
            break;
        }
        let [a, b, c, d] = philox([block, frame_low, frame_high, purpose as u32], key);
        values.extend(box_muller(a, b));
        values.extend(box_muller(c, d));
    }
    values.truncate(count);
    values
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "splitting a word, and rounding to f32, are meant"
)]
fn words(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
fn box_muller(a: u32, b: u32) -> [f32; 2] {
    const SCALE: f64 = 4_294_967_296.0;
    let radius = (-2.0 * ((f64::from(a) + 1.0) / SCALE).ln()).sqrt();
    let (sine, cosine) = (std::f64::consts::TAU * f64::from(b) / SCALE).sin_cos();
    [(radius * cosine) as f32, (radius * sine) as f32]
}

/// Computes one block of Philox4x32 with ten rounds.
fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let [low0, high0] = words(u64::from(c0) * 0xD251_1F53);
        let [low1, high1] = words(u64::from(c2) * 0xCD9E_8D57);
        [c0, c1, c2, c3] = [high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generator_gives_the_published_known_answers() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let base = normals(1, DrawPurpose::MaskedImageLatents, 7, 64);
        assert_eq!(base, normals(1, DrawPurpose::MaskedImageLatents, 7, 64));
        assert_eq!(base[..10], normals(1, DrawPurpose::MaskedImageLatents, 7, 10));
        assert_eq!(
            base[8..18],
            normals_from(1, DrawPurpose::MaskedImageLatents, 7, 2, 10)
        );
        for other in [
            normals(2, DrawPurpose::MaskedImageLatents, 7, 64),
            normals(1 + (1 << 40), DrawPurpose::MaskedImageLatents, 7, 64),
            normals(1, DrawPurpose::RefLatents, 7, 64),
            normals(1, DrawPurpose::MaskedImageLatents, 8, 64),
            normals(1, DrawPurpose::MaskedImageLatents, 7 + (1 << 40), 64),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn draws_are_standard_normal() {
        let values = normals(1247, DrawPurpose::RefLatents, 3, 100_000);
        let moment = |power: i32| values.iter().map(|v| f64::from(*v).powi(power)).sum::<f64>() / 1e5;
        assert!(moment(1).abs() < 0.02, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.03, "{}", moment(2));
        assert!(moment(3).abs() < 0.08, "{}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.2, "{}", moment(4));
        assert!(values.iter().all(|v| v.is_finite()));
    }
}
