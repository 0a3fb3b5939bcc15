//! The conversion of pictures to tensors and back, and the masking and pasting of faces, for the pipeline.
//! Conversions to `u8` drop the fraction, as the reference does.
//!
//! | tensor   | shape              | meaning                                                  |
//! |----------|--------------------|----------------------------------------------------------|
//! | pixels   | `(images, 3, R, R)`| RGB, -1..1                                               |
//! | mask     | `(1, 1, R, R)`     | 1 = keep, 0 = replace                                    |
//! | latent mask | `(1, 1, R/8, R/8)` | the mask at the pixels `(8i, 8j)`                        |

use candle_core::{DType, Device, Result, Tensor};

use super::mask;

/// The pixels along a side for each latent value.
pub const LATENT_FACTOR: usize = 8;

/// The fixed mask at one resolution, on the host.
pub struct FaceMask {
    /// `(1, 1, R, R)`, 1 = keep, 0 = replace.
    pub pixels: Tensor,
    /// `(1, 1, R/8, R/8)`, the same for the latents.
    pub latents: Tensor,
}

impl FaceMask {
    /// Creates the mask for crops of `resolution x resolution` pixels; `resolution` is a multiple of 8.
    pub fn new(resolution: usize) -> Result<Self> {
        let values: Vec<f32> = mask::resized(resolution)
            .iter()
            .map(|&v| f32::from(v) / 255.0)
            .collect();
        let side = resolution / LATENT_FACTOR;
        let nearest: Vec<f32> = (0..side * side)
            .map(|i| values[i / side * LATENT_FACTOR * resolution + i % side * LATENT_FACTOR])
            .collect();
        Ok(Self {
            pixels: Tensor::from_vec(values, (1, 1, resolution, resolution), &Device::Cpu)?,
            latents: Tensor::from_vec(nearest, (1, 1, side, side), &Device::Cpu)?,
        })
    }
}

/// Converts planar RGB bytes, `images x 3 x R x R`, to pixels, `(images, 3, R, R)` in -1..1 on the host.
pub fn pixels(faces: &[u8], resolution: usize) -> Result<Tensor> {
    let values: Vec<f32> = faces
        .iter()
        .map(|&v| (f32::from(v) / 255.0 - 0.5) / 0.5)
        .collect();
    let images = faces.len() / (3 * resolution * resolution);
    Tensor::from_vec(values, (images, 3, resolution, resolution), &Device::Cpu)
}

/// Returns the pixels without the part to be replaced, which becomes mid grey (0).
pub fn without_mouth(pixels: &Tensor, mask: &Tensor) -> Result<Tensor> {
    pixels.broadcast_mul(mask)
}

/// Puts the rendered mouth of `decoded` into the original `pixels`; all are `(1, 3, R, R)`, the mask `(1, 1,
/// R, R)`.
pub fn paste(decoded: &Tensor, pixels: &Tensor, mask: &Tensor) -> Result<Tensor> {
    decoded.broadcast_mul(&(1.0 - mask)?)? + without_mouth(pixels, mask)?
}

/// Converts pixels to planar bytes. Values outside -1..1 are clamped.
pub fn bytes(pixels: &Tensor) -> Result<Vec<u8>> {
    let values = pixels.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.into_iter().map(to_byte).collect())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "dropping the fraction is meant"
)]
fn to_byte(value: f32) -> u8 {
    ((value / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0) as u8
}
