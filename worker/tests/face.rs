//! Alignment, crops and pasting against goldens of the reference: every `affine_r*.safetensors` in the
//! golden folder, every case in each; a file may leave out the pictures. Intermediate values come before
//! final ones.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "helpers of tests; the distances reached are worth reading"
)]

use std::path::PathBuf;

use half::f16;
use latentfarm_common::align::{Smoother, face_size, similarity, template};
use latentfarm_common::frame::Rgb;
use latentfarm_worker::face::mask::Area;
use latentfarm_worker::face::restore::{Restored, restore_rgb};
use latentfarm_worker::face::warp::{crop, warp_face};
use safetensors::{Dtype, SafeTensors};

struct Golden {
    name: String,
    bytes: Vec<u8>,
}

/// One tensor, whatever its type.
struct Values {
    shape: Vec<usize>,
    data: Vec<f32>,
}

fn goldens() -> Vec<Golden> {
    let folder = std::env::var_os("LATENTFARM_GOLDENS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens"),
        PathBuf::from,
    );
    let mut found: Vec<Golden> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "safetensors")
        })
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path))
        .filter(|(name, _)| name.starts_with("affine_r"))
        .map(|(name, path)| Golden {
            name,
            bytes: std::fs::read(path).unwrap(),
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(
        !found.is_empty(),
        "no affine_r*.safetensors in {}",
        folder.display()
    );
    found
}

impl Golden {
    fn find(&self, name: &str) -> Option<Values> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors.tensor(name).ok()?;
        let bytes = tensor.data();
        let data = match tensor.dtype() {
            Dtype::F32 => bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            Dtype::F16 => bytes
                .chunks_exact(2)
                .map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32())
                .collect(),
            Dtype::I64 => bytes
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32)
                .collect(),
            Dtype::U8 => bytes.iter().copied().map(f32::from).collect(),
            other => panic!("{name} is {other:?}"),
        };
        Some(Values {
            shape: tensor.shape().to_vec(),
            data,
        })
    }

    fn get(&self, name: &str) -> Values {
        self.find(name)
            .unwrap_or_else(|| panic!("{}: no {name}", self.name))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        SafeTensors::deserialize(&self.bytes)
            .unwrap()
            .tensor(name)
            .unwrap()
            .data()
            .to_vec()
    }

    /// The crops' resolution, from where the template's first point lies: at 17 times 2.8 for 256.
    fn resolution(&self) -> usize {
        (self.get("template").data[0] / (17.0 * 2.8) * 256.0).round() as usize
    }

    fn frame(&self, index: usize) -> Rgb {
        let shape = self.get("frames_u8").shape;
        let (height, width) = (shape[1], shape[2]);
        let bytes = self.bytes("frames_u8");
        Rgb {
            width,
            height,
            data: bytes[index * width * height * 3..][..width * height * 3].to_vec(),
        }
    }

    fn points(&self, name: &str) -> Vec<[[f32; 2]; 3]> {
        let data = self.get(name).data;
        data.chunks_exact(6)
            .map(|p| [[p[0], p[1]], [p[2], p[3]], [p[4], p[5]]])
            .collect()
    }

    fn matrices(&self, name: &str) -> Vec<[f32; 6]> {
        self.get(name)
            .data
            .chunks_exact(6)
            .map(|m| m.try_into().unwrap())
            .collect()
    }

    /// Numbers of the `restore` cases.
    fn restores(&self) -> Vec<usize> {
        (0..100)
            .take_while(|n| self.find(&format!("restore{n}.out_u8")).is_some())
            .collect()
    }
}

fn worst(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

fn relative(got: &[f32], want: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let difference = square(&mut got.iter().zip(want).map(|(a, b)| a - b));
    (difference / square(&mut want.iter().copied())).sqrt()
}

fn check(what: &str, got: &[f32], want: &[f32], most: f32, most_relative: f64) {
    let (worst, relative) = (worst(got, want), relative(got, want));
    println!("{what}: max abs {worst:.2e}, relative {relative:.2e}");
    assert!(
        worst <= most && relative <= most_relative,
        "{what}: max abs {worst:e}, relative {relative:e}"
    );
}

/// At most one level off, on at most `share` of the values.
fn check_levels(what: &str, got: &[u8], want: &[u8], share: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let worst = got
        .iter()
        .zip(want)
        .map(|(a, b)| a.abs_diff(*b))
        .max()
        .unwrap_or_default();
    let off = got.iter().zip(want).filter(|(a, b)| a != b).count() as f64 / got.len() as f64;
    println!("{what}: max {worst} levels, {:.4} % differ", off * 100.0);
    assert!(
        worst <= 1 && off <= share,
        "{what}: max {worst} levels, {off} of the values differ"
    );
}

fn check_matrices(what: &str, got: &[[f32; 6]], want: &[[f32; 6]]) {
    assert_eq!(got.len(), want.len());
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        for (place, (got, want)) in got.iter().zip(want).enumerate() {
            let most = if place % 3 == 2 { 1e-3 } else { 1e-5 };
            assert!(
                (got - want).abs() <= most,
                "{what}, matrix {index}, value {place}: {got} and not {want}"
            );
        }
    }
    let flat = |matrices: &[[f32; 6]]| matrices.concat();
    check(what, &flat(got), &flat(want), 1e-3, 1e-5);
}

#[test]
fn golden_template_and_face_size_are_the_reference_s() {
    for golden in goldens() {
        let resolution = u32::try_from(golden.resolution()).unwrap();
        let (width, height) = face_size(resolution);
        assert_eq!(
            golden.get("face_size_wh").data,
            [width as f32, height as f32],
            "{}",
            golden.name
        );
        let got = template(resolution)
            .concat()
            .iter()
            .map(|&v| v as f32)
            .collect::<Vec<_>>();
        check(
            &format!("{} template", golden.name),
            &got,
            &golden.get("template").data,
            1e-5,
            1e-6,
        );
    }
}

#[test]
fn golden_matrices_and_smoothing_follow_the_reference() {
    for golden in goldens() {
        let name = &golden.name;
        let resolution = u32::try_from(golden.resolution()).unwrap();
        let points = golden.points("landmarks3");
        let plain: Vec<_> = points
            .iter()
            .map(|points| similarity(points, resolution))
            .collect();
        check_matrices(
            &format!("{name} matrix_plain"),
            &plain,
            &golden.matrices("matrix_plain"),
        );

        let mut smoother = Smoother::new();
        let mut offsets = Vec::new();
        let mut smooth = Vec::new();
        for points in &points {
            smooth.push(smoother.next(points, resolution));
            offsets.extend(smoother.offset().unwrap().map(|v| v as f32));
        }
        check(
            &format!("{name} p_bias"),
            &offsets,
            &golden.get("p_bias").data,
            1e-5,
            1e-5,
        );
        check_matrices(
            &format!("{name} matrix_smooth"),
            &smooth,
            &golden.matrices("matrix_smooth"),
        );

        let mut smoother = Smoother::new();
        let warp: Vec<_> = golden
            .points("warp.landmarks3")
            .iter()
            .map(|points| smoother.next(points, resolution))
            .collect();
        check_matrices(
            &format!("{name} warp.matrix"),
            &warp,
            &golden.matrices("warp.matrix"),
        );
    }
}

#[test]
fn golden_crops_are_the_reference_s() {
    let mut checked = 0;
    for golden in goldens() {
        if golden.find("warp.face_u8").is_none() {
            continue;
        }
        let (name, resolution) = (&golden.name, golden.resolution());
        let matrices = golden.matrices("warp.matrix");
        let faces = golden.bytes("warp.face_u8");
        let crops = golden.bytes("warp.face_lanczos_u8");
        let floats = golden.find("warp.face_float");
        for (index, matrix) in matrices.iter().enumerate() {
            let frame = golden.frame(index);
            let face = warp_face(&frame, matrix, resolution);
            if let Some(floats) = &floats {
                let want = &floats.data[index * face.len()..][..face.len()];
                check(
                    &format!("{name} warp.face_float {index}"),
                    &face,
                    want,
                    0.05,
                    1e-4,
                );
            }
            let bytes: Vec<u8> = face.iter().map(|&v| v as u8).collect();
            let want = &faces[index * bytes.len()..][..bytes.len()];
            check_levels(&format!("{name} warp.face_u8 {index}"), &bytes, want, 0.005);
            let crop = crop(&frame, matrix, resolution);
            let want = &crops[index * crop.len()..][..crop.len()];
            check_levels(&format!("{name} warp.face_lanczos_u8 {index}"), &crop, want, 0.01);
            checked += 1;
        }
    }
    assert!(checked > 0, "no file holds pictures");
}

/// A plane of the whole frame from one that covers an area, `outside` elsewhere.
fn spread(area: Area, plane: &[f32], frame: &Rgb, outside: f32) -> Vec<f32> {
    let mut whole = vec![outside; frame.width * frame.height];
    for (y, row) in plane.chunks_exact(area.width).enumerate() {
        whole[(area.top + y) * frame.width + area.left..][..area.width].copy_from_slice(row);
    }
    whole
}

#[test]
fn golden_restored_frames_are_the_reference_s() {
    let mut checked = 0;
    for golden in goldens() {
        let resolution = golden.resolution();
        let matrices = golden.matrices("warp.matrix");
        for n in golden.restores() {
            let name = |part: &str| format!("{} restore{n}.{part}", golden.name);
            let value = |part: &str| golden.find(&format!("restore{n}.{part}"));
            let frame = golden.frame(n);
            let face = value("face_in").unwrap().data;
            let restored = restore_rgb(&frame, &matrices[n], &face, resolution);
            let Restored {
                mask,
                resized,
                inverse,
                blend,
                ..
            } = &restored;

            if let Some(want) = value("face_resized") {
                check(&name("face_resized"), resized, &want.data, 1e-4, 1e-5);
            }
            if let Some(want) = value("inv_face_raw") {
                let pixels = mask.inverse.len();
                let got: Vec<f32> = inverse
                    .chunks_exact(pixels)
                    .flat_map(|plane| spread(mask.area, plane, &frame, 127.0))
                    .collect();
                check(&name("inv_face_raw"), &got, &want.data, 0.05, 1e-4);
            }
            for (part, plane) in [
                ("inv_mask", &mask.inverse),
                ("inv_mask_erosion", &mask.eroded),
                ("inv_mask_center", &mask.centre),
                ("inv_soft_mask", &mask.soft),
            ] {
                if let Some(want) = value(part) {
                    check(
                        &name(part),
                        &spread(mask.area, plane, &frame, 0.0),
                        &want.data,
                        1e-3,
                        1e-4,
                    );
                }
            }
            let want = value("face_area").unwrap().data[0];
            assert!(
                (mask.face_area as f32 - want).abs() < 1e-4 * want,
                "{}: {}",
                name("face_area"),
                mask.face_area
            );
            assert_eq!(
                value("w_edge").unwrap().data,
                [mask.edge as f32],
                "{}",
                name("w_edge")
            );
            let got = [(2 * mask.edge + 1) as f32, mask.sigma];
            check(
                &name("blur_ksize_sigma"),
                &got,
                &value("blur_ksize_sigma").unwrap().data,
                1e-5,
                1e-5,
            );
            if let Some(want) = value("out_float") {
                let mut got: Vec<f32> = frame.data.iter().copied().map(f32::from).collect();
                for (y, row) in blend.chunks_exact(mask.area.width * 3).enumerate() {
                    let at = ((mask.area.top + y) * frame.width + mask.area.left) * 3;
                    got[at..at + row.len()].copy_from_slice(row);
                }
                check(&name("out_float"), &got, &want.data, 0.05, 1e-4);
            }
            let want = golden.bytes(&format!("restore{n}.out_u8"));
            check_levels(&name("out_u8"), &restored.frame.data, &want, 0.005);
            checked += 1;
        }
    }
    assert!(checked > 0, "no file holds pictures");
}
