//! Tests of pasting on made-up pictures. `worker/tests/face.rs` compares it with the way of the reference.

use latentfarm_common::align::similarity;
use latentfarm_common::frame::{Colour, PictureFormat};

use super::*;
use crate::colour::to_rgb;
use crate::crop;

const RESOLUTION: usize = 256;

fn format(width: u32, height: u32) -> PictureFormat {
    let colour = Colour::BT709;
    PictureFormat {
        width,
        height,
        colour,
        sample_aspect: (1, 1),
    }
}

/// Makes a picture of soft shapes and colours, all of them within the range of RGB.
fn scene(width: u32, height: u32) -> Picture {
    let mut picture = Picture::black(format(width, height));
    let wave = |x: usize, y: usize, a: f32, b: f32| (x as f32 * a).sin() + (y as f32 * b).cos();
    let width = width as usize;
    for (at, luma) in picture.y.iter_mut().enumerate() {
        *luma = quantize(115.0 + 20.0 * wave(at % width, at / width, 0.11, 0.07));
    }
    for at in 0..picture.u.len() {
        let (x, y) = (at % (width / 2), at / (width / 2));
        picture.u[at] = quantize(128.0 + 12.0 * wave(x, y, 0.05, 0.09));
        picture.v[at] = quantize(128.0 - 12.0 * wave(x, y, 0.08, 0.04));
    }
    picture
}

fn at(x: f32, y: f32, size: f32) -> [f32; 6] {
    let resolution = u32::try_from(RESOLUTION).unwrap();
    similarity(
        &[
            [x - size, y - size],
            [x + size, y - 0.9 * size],
            [x, y + 0.1 * size],
        ],
        resolution,
    )
}

fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let square: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2))
        .sum();
    10.0 * (255.0_f64.powi(2) * a.len() as f64 / square.max(1e-9)).log10()
}

fn largest_rise(before: &[u8], after: &[u8]) -> i32 {
    before
        .iter()
        .zip(after)
        .map(|(b, a)| i32::from(*a) - i32::from(*b))
        .max()
        .unwrap()
}

#[test]
fn a_face_pasted_back_where_it_was_cut_leaves_the_picture_nearly_as_it_was() {
    // The faces lie inside, over the left border, and over the lower right corner.
    for matrix in [
        at(160.0, 120.0, 35.0),
        at(10.0, 120.0, 35.0),
        at(310.0, 230.0, 40.0),
    ] {
        let before = scene(320, 240);
        let mut after = before.clone();
        let face = crop(&to_rgb(&before), &matrix, RESOLUTION);
        let area = paste(&mut after, &matrix, &face, RESOLUTION);
        assert!(!area.is_empty());
        let quality = [
            psnr(&before.y, &after.y),
            psnr(&before.u, &after.u),
            psnr(&before.v, &after.v),
        ];
        println!("PSNR {quality:?}, rise {}", largest_rise(&before.y, &after.y));
        assert!(quality.iter().all(|quality| *quality > 45.0), "{quality:?}");
    }
}

#[test]
fn samples_where_the_mask_is_zero_stay_bit_for_bit() {
    for matrix in [at(160.0, 120.0, 35.0), at(5.0, 5.0, 50.0), at(317.0, 121.0, 24.0)] {
        let before = scene(320, 240);
        let mut after = before.clone();
        let area = paste(
            &mut after,
            &matrix,
            &vec![255; 3 * RESOLUTION * RESOLUTION],
            RESOLUTION,
        );
        let (face_width, face_height) = aligned_size(RESOLUTION);
        let size = [320, 240];
        let whole_frame = PixelRect {
            left: 0,
            top: 0,
            width: 320,
            height: 240,
        };
        let mask = SoftMask::new(size, whole_frame, &matrix, [face_width, face_height]);
        let mut changed = 0;
        for (at, share) in mask.soft.iter().enumerate() {
            let (x, y) = (at % 320, at / 320);
            let inside = (area.left..area.left + area.width).contains(&x)
                && (area.top..area.top + area.height).contains(&y);
            if before.y[at] != after.y[at] {
                assert!(*share > 0.0 && inside, "({x}, {y}) changed");
                changed += 1;
            }
            let block = y / 2 * 160 + x / 2;
            if x % 2 == 0 && y % 2 == 0 && before.u[block] != after.u[block] {
                let shares = [at, at + 1, at + 320, at + 321].map(|at| mask.soft[at]);
                assert!(
                    shares.iter().any(|share| *share > 0.0),
                    "chroma at ({x}, {y}) changed"
                );
            }
        }
        assert!(changed > 1000, "only {changed} pixels changed");
        // In the middle of the face the mask is 1, so the pixel is white.
        let whitest = mask.soft.iter().position(|share| *share > 0.999_999).unwrap();
        assert_eq!(after.y[whitest], 235);
    }
}

#[test]
fn an_impossible_or_far_away_matrix_changes_nothing() {
    let before = scene(128, 96);
    let face = vec![200; 3 * RESOLUTION * RESOLUTION];
    let far = at(4000.0, 100.0, 30.0);
    for matrix in [[0.0; 6], [f32::NAN; 6], far] {
        let mut after = before.clone();
        assert!(paste(&mut after, &matrix, &face, RESOLUTION).is_empty());
        assert_eq!(after, before);
    }
}
