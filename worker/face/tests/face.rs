//! Compares alignment, crops and pasting with the reference: every case in every `affine_*.safetensors` of
//! the golden folder, intermediate values before final ones. A file may leave out the pictures.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "helpers of tests; the distances reached are worth reading"
)]

mod picture;
#[path = "../../latentsync/tests/support/mod.rs"]
mod support;

use latentfarm_common::align::{Smoother, face_size, similarity, template};
use latentfarm_common::frame::{Colour, Picture, PictureFormat, Rgb};
use latentfarm_face::colour::to_rgb;
use latentfarm_face::mask::PixelRect;
use latentfarm_face::paste;
use latentfarm_face::warp::{crop, warp_face};
use picture::restore::{Restored, restore_rgb};
use picture::{assert_matrices_close, composed_error, frame, fringe, matrices, points, whole_pixels};
use support::{
    Compared, Golden, Tolerance, assert_bytes_close, assert_bytes_close_but, assert_values_close, files,
};

const fn within(max_abs: f64, relative: f64) -> Tolerance {
    Tolerance { max_abs, relative }
}

fn goldens() -> Vec<Golden> {
    let found = files("affine_", ".safetensors").into_iter();
    found.map(|path| Golden::open(&path)).collect()
}

/// Returns the resolution of the crops, from the x of the first point of the template: 17 times 2.8 at 256
/// px.
fn resolution(golden: &Golden) -> usize {
    (golden.floats("template")[0] / (17.0 * 2.8) * 256.0).round() as usize
}

#[test]
fn golden_template_and_face_size_are_the_reference_s() {
    for golden in goldens() {
        let resolution = u32::try_from(resolution(&golden)).unwrap();
        let (width, height) = face_size(resolution);
        assert_eq!(
            golden.floats("face_size_wh"),
            [width as f32, height as f32],
            "{}",
            golden.file
        );
        let got: Vec<f32> = template(resolution).concat().iter().map(|&v| v as f32).collect();
        let what = format!("{} template", golden.file);
        assert_values_close(&what, &got, &golden.floats("template"), within(1e-5, 1e-6));
    }
}

#[test]
fn golden_matrices_and_smoothing_follow_the_reference() {
    let mut compared = Compared::default();
    for golden in goldens() {
        let name = &golden.file;
        let resolution = u32::try_from(resolution(&golden)).unwrap();
        if golden.find("landmarks3").is_some() {
            let points = points(&golden, "landmarks3");
            if golden.find("matrix_plain").is_some() {
                let plain: Vec<_> = points.iter().map(|at| similarity(at, resolution)).collect();
                let what = format!("{name} matrix_plain");
                assert_matrices_close(&what, &plain, &matrices(&golden, "matrix_plain"));
                compared.add("plain");
            }
            let mut smoother = Smoother::default();
            let (mut offsets, mut smooth) = (Vec::new(), Vec::new());
            for points in &points {
                smooth.push(smoother.next(&whole_pixels(points), resolution));
                offsets.extend(smoother.offset().unwrap().map(|v| v as f32));
            }
            let what = format!("{name} p_bias");
            assert_values_close(&what, &offsets, &golden.floats("p_bias"), within(1e-3, 1e-5));
            let what = format!("{name} matrix_smooth");
            assert_matrices_close(&what, &smooth, &matrices(&golden, "matrix_smooth"));
            compared.add("smoothed");
        }
        if golden.find("warp.landmarks3").is_some() {
            let mut smoother = Smoother::default();
            let points = points(&golden, "warp.landmarks3");
            let warp: Vec<_> = points
                .iter()
                .map(|at| smoother.next(&whole_pixels(at), resolution))
                .collect();
            let what = format!("{name} warp.matrix");
            assert_matrices_close(&what, &warp, &matrices(&golden, "warp.matrix"));
            compared.add("of the warps");
        }
    }
    compared.require(&["plain", "smoothed", "of the warps"]);
}

#[test]
fn golden_crops_are_the_reference_s() {
    let mut compared = Compared::default();
    for golden in goldens() {
        if golden.find("frames_u8").is_none() || golden.find("warp.matrix").is_none() {
            continue;
        }
        let (name, resolution) = (&golden.file, resolution(&golden));
        let bytes = |part: &str| golden.find(part).map(|_| golden.bytes(part));
        let faces = bytes("warp.face_u8");
        let crops = bytes("warp.face_lanczos_u8");
        let floats = golden.find("warp.face_float").map(support::values);
        for (index, matrix) in matrices(&golden, "warp.matrix").iter().enumerate() {
            let frame = frame(&golden, "frames_u8", index);
            let face = warp_face(&frame, matrix, resolution);
            if let Some(floats) = &floats {
                let what = format!("{name} warp.face_float {index}");
                let want = &floats[index * face.len()..][..face.len()];
                assert_values_close(&what, &face, want, within(0.05, 1e-4));
                compared.add("floats");
            }
            if let Some(faces) = &faces {
                let bytes: Vec<u8> = face.iter().map(|&v| v as u8).collect();
                let what = format!("{name} warp.face_u8 {index}");
                let want = &faces[index * bytes.len()..][..bytes.len()];
                assert_bytes_close(&what, &bytes, want, 0.005);
                compared.add("faces");
            }
            if let Some(crops) = &crops {
                let crop = crop(&frame, matrix, resolution);
                let what = format!("{name} warp.face_lanczos_u8 {index}");
                let want = &crops[index * crop.len()..][..crop.len()];
                assert_bytes_close(&what, &crop, want, 0.01);
                compared.add("squares");
            }
        }
    }
    compared.require(&["floats", "faces", "squares"]);
}

/// Makes a plane of the whole frame from one that covers `area`, with the value `outside` elsewhere.
fn spread(area: PixelRect, plane: &[f32], frame: &Rgb, outside: f32) -> Vec<f32> {
    let mut whole = vec![outside; frame.width * frame.height];
    for (y, row) in plane.chunks_exact(area.width).enumerate() {
        whole[(area.top + y) * frame.width + area.left..][..area.width].copy_from_slice(row);
    }
    whole
}

/// Returns the index of the `warp` frame whose matrix is the inverse of the one that `restore` uses.
fn frame_of(golden: &Golden, restore: &str) -> usize {
    let inverse = matrices(golden, &format!("{restore}.inv_matrix"))[0];
    let errors = matrices(golden, "warp.matrix").into_iter();
    let errors: Vec<f64> = errors.map(|matrix| composed_error(&matrix, &inverse)).collect();
    let (best, error) = errors
        .iter()
        .enumerate()
        .min_by(|a, b| a.1.total_cmp(b.1))
        .unwrap();
    assert!(
        *error < 1e-3,
        "{restore}: no matrix with this inverse: {errors:?}"
    );
    best
}

#[test]
fn golden_restored_frames_are_the_reference_s() {
    let mut compared = Compared::default();
    for golden in goldens() {
        let cases = golden.prefixes("restore").into_iter();
        for case in cases.filter(|case| golden.find(&format!("{case}.face_in")).is_some()) {
            check_restored(&golden, &case, &mut compared);
        }
    }
    compared.require(&[
        "resized",
        "inverse",
        "inv_mask",
        "inv_mask_erosion",
        "inv_mask_center",
        "inv_soft_mask",
        "numbers",
        "floats",
        "frames",
    ]);
}

fn check_restored(golden: &Golden, case: &str, compared: &mut Compared) {
    let name = |part: &str| format!("{} {case}.{part}", golden.file);
    let find = |part: &str| golden.find(&format!("{case}.{part}")).map(support::values);
    let resolution = resolution(golden);
    let index = frame_of(golden, case);
    let frame = frame(golden, "frames_u8", index);
    let matrix = matrices(golden, "warp.matrix")[index];
    let restored = restore_rgb(&frame, &matrix, &find("face_in").unwrap(), resolution);
    let Restored {
        mask,
        resized,
        inverse,
        blend,
        ..
    } = &restored;

    if let Some(want) = find("face_resized") {
        assert_values_close(&name("face_resized"), resized, &want, within(1e-4, 1e-5));
        compared.add("resized");
    }
    if let Some(want) = find("inv_face_raw") {
        let planes = inverse.chunks_exact(mask.inverse.len());
        let got: Vec<f32> = planes
            .flat_map(|plane| spread(mask.area, plane, &frame, 127.0))
            .collect();
        assert_values_close(&name("inv_face_raw"), &got, &want, within(0.05, 1e-4));
        compared.add("inverse");
    }
    for (part, plane) in [
        ("inv_mask", &mask.inverse),
        ("inv_mask_erosion", &mask.eroded),
        ("inv_mask_center", &mask.centre),
        ("inv_soft_mask", &mask.soft),
    ] {
        if let Some(want) = find(part) {
            let got = spread(mask.area, plane, &frame, 0.0);
            assert_values_close(&name(part), &got, &want, within(1e-3, 1e-4));
            compared.add(part);
        }
    }
    if let Some(want) = find("face_area") {
        let got = mask.face_area as f32;
        assert!(
            (got - want[0]).abs() < 1e-4 * want[0],
            "{}: {got}",
            name("face_area")
        );
        compared.add("numbers");
    }
    if let Some(want) = find("w_edge") {
        assert_eq!(want, [mask.edge as f32], "{}", name("w_edge"));
    }
    if let Some(want) = find("blur_ksize_sigma") {
        let got = [(2 * mask.edge + 1) as f32, mask.sigma];
        assert_values_close(&name("blur_ksize_sigma"), &got, &want, within(1e-5, 1e-5));
    }
    if let Some(want) = find("out_float") {
        let mut got: Vec<f32> = frame.data.iter().copied().map(f32::from).collect();
        for (y, row) in blend.chunks_exact(mask.area.width * 3).enumerate() {
            let at = ((mask.area.top + y) * frame.width + mask.area.left) * 3;
            got[at..at + row.len()].copy_from_slice(row);
        }
        assert_values_close(&name("out_float"), &got, &want, within(0.05, 1e-4));
        compared.add("floats");
    }
    if find("out_u8").is_some() {
        let want = golden.bytes(&format!("{case}.out_u8"));
        let fringe = fringe(mask, &frame);
        assert_bytes_close_but(&name("out_u8"), &restored.frame.data, &want, 0.005, |at| {
            fringe[at / 3]
        });
        compared.add("frames");
    }
}

#[test]
fn no_bright_rim_where_the_reference_has_one() {
    const RESOLUTION: usize = 256;
    let largest_rise = |before: &[u8], after: &[u8]| {
        let rises = before
            .iter()
            .zip(after)
            .map(|(b, a)| i32::from(*a) - i32::from(*b));
        rises.max().unwrap()
    };
    let mut picture = Picture::black(PictureFormat {
        width: 320,
        height: 240,
        colour: Colour::BT709,
        sample_aspect: (1, 1),
    });
    picture.y.fill(30);
    let matrix = similarity(&[[125.0, 85.0], [195.0, 88.5], [160.0, 123.5]], 256);
    let rgb = to_rgb(&picture);
    let face = crop(&rgb, &matrix, RESOLUTION);
    let mut pasted = picture.clone();
    paste(&mut pasted, &matrix, &face, RESOLUTION);
    let rise = largest_rise(&picture.y, &pasted.y);
    assert!(rise <= 1, "luma rises by {rise}");
    // The reference on the same face proves that this scene can show a rim.
    let floats: Vec<f32> = face.iter().map(|&v| f32::from(v) / 127.5 - 1.0).collect();
    let restored = restore_rgb(&rgb, &matrix, &floats, RESOLUTION);
    assert!(largest_rise(&rgb.data, &restored.frame.data) >= rise);
}
