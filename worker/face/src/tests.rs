//! Compares the networks with outputs of the original runtime, and tests the analysis on a photo.

use latentfarm_common::align;
use latentfarm_common::frame::{Colour, Picture, PictureFormat, Rgb};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use super::analyze::FaceAnalyzer;
use super::blazeface::{self, Detector};
use super::colour::{self, RgbToYuv, quantize};
use super::error::FaceError;
use super::mesh::{self, Landmarker, Region};
use super::sample::SIDE;

const DETECTOR_SHA256: &str = "99bf9494d84f50acc6617d89873f71bf6635a841ea699c17cb3377f9507cfec3";
const MESH_SHA256: &str = "c603fa6149219a3e9487dc9abd7a0c24474c77263273d24868378cdf40aa26d1";

#[test]
fn the_weight_files_are_the_published_ones() {
    assert_eq!(hex::encode(Sha256::digest(blazeface::WEIGHTS)), DETECTOR_SHA256);
    assert_eq!(hex::encode(Sha256::digest(mesh::WEIGHTS)), MESH_SHA256);
}

/// Makes a picture by the formula in `tests/faces/faces.md`, with values in 0..=1.
fn pattern() -> Vec<f32> {
    let value = |i: usize| ((i * 7919 / 64 + i / 576 * 31 + i % 3 * 57) % 256) as f32 / 255.0;
    (0..SIDE * SIDE * 3).map(value).collect()
}

fn stored(file: &str, name: &str) -> Vec<u8> {
    let path = format!("{}/tests/faces/{file}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    tensors.tensor(name).unwrap().data().to_vec()
}

fn golden(name: &str) -> Vec<f32> {
    let data = stored("face_networks", name);
    data.chunks_exact(4)
        .map(|word| f32::from_le_bytes(word.try_into().unwrap()))
        .collect()
}

fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn golden_mesh_network_agrees_with_the_original_runtime() {
    let outputs = Landmarker::new().unwrap().infer(pattern()).unwrap();
    let points = largest_difference(&outputs[0], &golden("mesh.points"));
    let presence = largest_difference(&outputs[1], &golden("mesh.flag"));
    println!("points {points:e} px, presence {presence:e}");
    assert!(
        points < 1e-3 && presence < 1e-3,
        "points {points:e} px, presence {presence:e}"
    );
}

#[test]
fn golden_detector_network_agrees_with_the_original_runtime() {
    let input = pattern().iter().map(|value| value * 2.0 - 1.0).collect();
    let outputs = Detector::new().unwrap().infer(input).unwrap();
    let rows: Vec<f32> = outputs[0]
        .chunks_exact(16)
        .step_by(37)
        .flatten()
        .copied()
        .collect();
    let boxes = largest_difference(&rows, &golden("detector.regressors"));
    let logits = largest_difference(&outputs[1], &golden("detector.logits"));
    println!("boxes {boxes:e} px, logits {logits:e}");
    assert!(
        boxes < 1e-3 && logits < 1e-3,
        "boxes {boxes:e} px, logits {logits:e}"
    );
}

#[test]
fn networks_give_the_same_bits_each_time() {
    let network = Landmarker::new().unwrap();
    let alone = network.infer(pattern()).unwrap();
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    for threads in [1, 2, 4] {
        assert_eq!(pool(threads).install(|| network.infer(pattern()).unwrap()), alone);
    }
}

const PHOTO_SIDE: usize = 256;

fn photo() -> Rgb {
    Rgb {
        width: PHOTO_SIDE,
        height: PHOTO_SIDE,
        data: stored("face_photo", "photo"),
    }
}

/// Makes a grey frame that shows the photo at some places.
fn scene(width: usize, height: usize, places: &[[usize; 2]]) -> Rgb {
    let photo = photo();
    let mut frame = Rgb {
        width,
        height,
        data: vec![90; width * height * 3],
    };
    for &[left, top] in places {
        for (y, row) in photo.data.chunks_exact(PHOTO_SIDE * 3).enumerate() {
            frame.data[((top + y) * width + left) * 3..][..row.len()].copy_from_slice(row);
        }
    }
    frame
}

fn distance(a: [f32; 2], b: [f32; 2]) -> f32 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

#[test]
fn golden_points_on_a_photo_agree_with_an_independent_implementation() {
    let frame = photo();
    let landmarker = Landmarker::new().unwrap();
    let detection = Detector::new().unwrap().detect(&frame, 0.65).unwrap()[0];
    let rough = landmarker
        .mesh(&frame, &Region::of_detection(&detection))
        .unwrap();
    let mesh = landmarker.mesh(&frame, &rough.region()).unwrap();
    // The expected points are those of the upper rows of the brows, and the plain mean of the nose.
    let mean = |points: &[usize]| -> [f32; 2] {
        std::array::from_fn(|i| points.iter().map(|&p| mesh.points[p][i]).sum::<f32>() / points.len() as f32)
    };
    let expected = [
        (mean(&[70, 63, 105, 66, 107]), [199.22, 88.08]),
        (mean(&[336, 296, 334, 293, 300]), [252.81, 90.39]),
        (mean(&[5, 4, 129, 358]), [223.33, 125.14]),
    ];
    for (got, want) in expected {
        let got = [got[0] + 96.0, got[1]];
        println!("{got:?} for {want:?}");
        assert!(distance(got, want) < 0.75, "{got:?} and not {want:?}");
    }
}

#[test]
fn a_moving_face_is_tracked_through_the_unit() {
    let frames: Vec<Rgb> = (0..16)
        .map(|i| scene(480, 320, &[[40 + 5 * i, 20 + 2 * i]]))
        .collect();
    let observations = FaceAnalyzer::new().unwrap().analyze_unit(None, &frames).unwrap();
    let first = observations[0].faces[0];
    for (i, observation) in observations.iter().enumerate() {
        assert!(!observation.cut, "frame {i}");
        let [face] = observation.faces.as_slice() else {
            panic!("frame {i}: {observation:?}")
        };
        for (point, start) in face.points.iter().zip(first.points) {
            let moved = [start[0] + 5.0 * i as f32, start[1] + 2.0 * i as f32];
            assert!(
                distance(*point, moved) < 1.5,
                "frame {i}: {point:?} and not {moved:?}"
            );
        }
    }
}

#[test]
fn two_faces_are_both_found_and_the_larger_comes_first() {
    // The second photo is enlarged one and a half times by repeating pixels.
    let (width, height) = (650, 384);
    let mut frame = scene(width, height, &[[0, 0]]);
    let photo = photo();
    for y in 0..height {
        for x in 0..384 {
            let from = (y * 2 / 3 * PHOTO_SIDE + x * 2 / 3) * 3;
            let to = (y * width + 260 + x) * 3;
            frame.data[to..to + 3].copy_from_slice(&photo.data[from..from + 3]);
        }
    }
    let frames = vec![frame; 3];
    for observation in FaceAnalyzer::new().unwrap().analyze_unit(None, &frames).unwrap() {
        let [large, small] = observation.faces.as_slice() else {
            panic!("{observation:?}")
        };
        assert!(large.bbox[0] > 260.0 && small.bbox[0] < 256.0, "{observation:?}");
        assert!(large.bbox[2] > small.bbox[2]);
    }
}

#[test]
fn a_cut_is_marked_and_the_face_found_anew() {
    let with_face = scene(480, 320, &[[200, 30]]);
    let elsewhere = scene(480, 320, &[[0, 60]]);
    let analyzer = FaceAnalyzer::new().unwrap();
    let frames = [
        with_face.clone(),
        with_face.clone(),
        elsewhere.clone(),
        elsewhere.clone(),
    ];
    let observations = analyzer.analyze_unit(None, &frames).unwrap();
    assert_eq!(
        observations.iter().map(|o| o.cut).collect::<Vec<_>>(),
        [false, false, true, false]
    );
    assert!(observations[1].faces[0].bbox[0] > 250.0 && observations[2].faces[0].bbox[0] < 150.0);
    // The observations after a cut do not depend on the frames before it.
    let alone = analyzer.analyze_unit(Some(&with_face), &frames[2..]).unwrap();
    assert_eq!(alone, observations[2..]);
}

#[test]
fn only_cut_detection_uses_the_frame_before_the_unit() {
    let frames = vec![scene(480, 320, &[[100, 30]]); 2];
    let analyzer = FaceAnalyzer::new().unwrap();
    let without = analyzer.analyze_unit(None, &frames).unwrap();
    let with = analyzer
        .analyze_unit(Some(&scene(480, 320, &[[101, 30]])), &frames)
        .unwrap();
    assert_eq!(with, without);
    let mut after_cut = analyzer
        .analyze_unit(Some(&scene(480, 320, &[])), &frames)
        .unwrap();
    assert!(std::mem::take(&mut after_cut[0].cut));
    assert_eq!(after_cut, without);
}

#[test]
fn a_face_that_comes_within_the_unit_is_found_and_a_lost_one_is_dropped() {
    let (with, without) = (scene(480, 320, &[[100, 30]]), scene(480, 320, &[]));
    let frames = [without.clone(), with.clone(), with, without];
    let observations = FaceAnalyzer::new().unwrap().analyze_unit(None, &frames).unwrap();
    assert_eq!(
        observations.iter().map(|o| o.faces.len()).collect::<Vec<_>>(),
        [0, 1, 1, 0]
    );
}

#[test]
fn broken_units_are_refused_by_name() {
    let analyzer = FaceAnalyzer::new().unwrap();
    let frame = scene(256, 256, &[]);
    let refused =
        |previous: Option<&Rgb>, frames: &[Rgb]| analyzer.analyze_unit(previous, frames).unwrap_err();
    assert!(matches!(
        refused(None, &[]),
        FaceError::UnitLength { found: 0, .. }
    ));
    assert!(matches!(
        refused(None, &vec![frame.clone(); 17]),
        FaceError::UnitLength { found: 17, .. }
    ));
    let cut_short = Rgb {
        data: vec![0; 7],
        ..frame.clone()
    };
    assert!(matches!(
        refused(None, &[frame.clone(), cut_short]),
        FaceError::Frame { index: 1, .. }
    ));
    let wider = scene(300, 256, &[]);
    assert!(matches!(
        refused(Some(&wider), &[frame]),
        FaceError::FrameSize { .. }
    ));
}

/// Converts a frame to the planes of a picture.
fn picture_of(frame: &Rgb) -> Picture {
    let (width, height) = (frame.width, frame.height);
    let mut picture = Picture::black(PictureFormat {
        width: u32::try_from(width).unwrap(),
        height: u32::try_from(height).unwrap(),
        colour: Colour::BT709,
        sample_aspect: (1, 1),
    });
    let convert = RgbToYuv::new(Colour::BT709);
    let colour = |x: usize, y: usize| -> [f32; 3] {
        std::array::from_fn(|channel| f32::from(frame.data[(y * width + x) * 3 + channel]))
    };
    for y in 0..height {
        for x in 0..width {
            picture.y[y * width + x] = quantize(convert.luma(colour(x, y)));
            let at = y / 2 * (width / 2) + x / 2;
            [picture.u[at], picture.v[at]] = convert.chroma(colour(x, y)).map(quantize);
        }
    }
    picture
}

#[test]
fn lips_in_a_picture_are_as_open_as_the_analysis_sees_them() {
    let picture = picture_of(&scene(640, 480, &[[171, 93]]));
    let analyzer = FaceAnalyzer::new().unwrap();
    let seen = analyzer.analyze_unit(None, &[colour::to_rgb(&picture)]).unwrap();
    let [face] = seen[0].faces.as_slice() else {
        panic!("{seen:?}")
    };
    // She smiles with her teeth apart.
    let expected = face.lips.share();
    assert!((0.05..0.4).contains(&expected), "{expected}");
    for resolution in [128, 256, 512] {
        let to_face = align::similarity(&face.points, resolution);
        let mut meter = analyzer.lip_meter();
        for pass in ["found", "followed"] {
            let measured = meter.measure(&picture, &to_face, resolution).unwrap();
            let share = measured.unwrap().share();
            assert!(
                (share - expected).abs() < 0.03,
                "{resolution} px, {pass}: {share} and not {expected}"
            );
        }
        // A face that is somewhere else in the next picture is not looked for where the last one was.
        let elsewhere = picture_of(&scene(640, 480, &[[371, 193]]));
        let [a, b, tx, c, d, ty] = to_face;
        let moved = [a, b, tx - 200.0 * a - 100.0 * b, c, d, ty - 200.0 * c - 100.0 * d];
        let share = meter
            .measure(&elsewhere, &moved, resolution)
            .unwrap()
            .unwrap()
            .share();
        assert!(
            (share - expected).abs() < 0.03,
            "{resolution} px, elsewhere: {share}"
        );
    }
}

#[test]
fn no_mouth_is_measured_where_no_face_is() {
    let picture = picture_of(&scene(640, 480, &[[171, 93]]));
    let analyzer = FaceAnalyzer::new().unwrap();
    let mut meter = analyzer.lip_meter();
    let mut lips = |to_face: [f32; 6]| meter.measure(&picture, &to_face, 256).unwrap();
    for to_face in [
        [0.0; 6],
        [f32::NAN; 6],
        // The grey corner, and places beside the picture.
        [1.5, 0.0, 10.0, 0.0, 1.5, 10.0],
        [1.0, 0.0, 9e6, 0.0, 1.0, 9e6],
        [1.0, 0.0, -9e6, 0.0, 1.0, 0.0],
    ] {
        assert_eq!(lips(to_face), None, "{to_face:?}");
    }
}
