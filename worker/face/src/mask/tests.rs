//! Tests of the soft mask.

use super::*;

const FRAME: [usize; 2] = [260, 180];
const FACE: [usize; 2] = [52, 70];
const WHOLE_FRAME: PixelRect = PixelRect {
    left: 0,
    top: 0,
    width: FRAME[0],
    height: FRAME[1],
};

/// Returns a matrix that rotates by `angle`, scales by `scale` from frame to face, and puts the face on
/// `centre`.
fn matrix(centre: [f32; 2], scale: f32, angle: f32) -> [f32; 6] {
    let (sin, cos) = (scale * angle.sin(), scale * angle.cos());
    let [x, y] = centre;
    let (mid_x, mid_y) = (FACE[0] as f32 / 2.0, FACE[1] as f32 / 2.0);
    [
        cos,
        -sin,
        mid_x - cos * x + sin * y,
        sin,
        cos,
        mid_y - sin * x - cos * y,
    ]
}

fn places() -> Vec<[f32; 6]> {
    vec![
        matrix([130.0, 90.0], 0.7, 0.2),
        matrix([130.0, 90.0], 0.3, -0.4),
        // These lie over each border and over a corner; the last is larger than the frame.
        matrix([10.0, 90.0], 0.6, 0.1),
        matrix([250.0, 90.0], 0.6, 0.1),
        matrix([130.0, 5.0], 0.5, -0.1),
        matrix([130.0, 175.0], 0.5, 0.3),
        matrix([255.0, 178.0], 0.4, 0.3),
        matrix([130.0, 90.0], 0.15, 0.0),
        // These are tiny, and almost off the frame.
        matrix([130.0, 90.0], 5.0, 0.3),
        matrix([-30.0, 90.0], 0.8, 0.0),
    ]
}

#[test]
fn masks_of_the_rectangle_are_those_of_the_whole_frame() {
    for matrix in places() {
        let area = PixelRect::of_face(FRAME, &matrix, FACE);
        let part = SoftMask::new(FRAME, area, &matrix, FACE);
        let full = SoftMask::new(FRAME, WHOLE_FRAME, &matrix, FACE);
        assert_eq!(
            (part.edge, part.face_area.to_bits()),
            (full.edge, full.face_area.to_bits()),
            "{matrix:?}"
        );
        for (name, part, full) in [
            ("inverse", &part.inverse, &full.inverse),
            ("eroded", &part.eroded, &full.eroded),
            ("centre", &part.centre, &full.centre),
            ("soft", &part.soft, &full.soft),
        ] {
            for (at, value) in full.iter().enumerate() {
                let (x, y) = (at % FRAME[0], at / FRAME[0]);
                let inside = x.checked_sub(area.left).zip(y.checked_sub(area.top));
                let inside = inside.filter(|&(x, y)| x < area.width && y < area.height);
                let got = inside.map_or(0.0, |(x, y)| part[y * area.width + x]);
                assert_eq!(
                    got.to_bits(),
                    value.to_bits(),
                    "{name} at ({x}, {y}) for {matrix:?}"
                );
            }
        }
    }
}

#[test]
fn soft_masks_are_one_inside_and_faint_at_the_face_s_border() {
    let matrix = matrix([130.0, 90.0], 0.5, 0.0);
    let area = PixelRect::of_face(FRAME, &matrix, FACE);
    let mask = SoftMask::new(FRAME, area, &matrix, FACE);
    let at = |x: usize, y: usize| mask.soft[(y - area.top) * area.width + x - area.left];
    assert!((at(130, 90) - 1.0).abs() < 1e-5);
    for (soft, inverse) in mask.soft.iter().zip(&mask.inverse) {
        assert!(
            *inverse >= 1.0 || *soft < 0.05,
            "mask {soft} where the face covers {inverse}"
        );
    }
}

#[test]
fn a_face_off_the_frame_has_an_empty_rectangle() {
    assert!(PixelRect::of_face(FRAME, &matrix([-500.0, 90.0], 0.7, 0.0), FACE).is_empty());
    assert!(PixelRect::of_face(FRAME, &[0.0; 6], FACE).is_empty());
}

#[test]
fn minima_are_those_of_their_definition() {
    let area = PixelRect {
        left: 0,
        top: 0,
        width: 23,
        height: 17,
    };
    let plane: Vec<f32> = (0..23 * 17).map(|i| ((i * 17 + i / 7 * 5) % 53) as f32).collect();
    for (before, after) in [(1, 0), (1, 1), (3, 2), (4, 3), (10, 9), (60, 59)] {
        let got = minimum(&plane, area, before, after);
        for y in 0..17_usize {
            for x in 0..23_usize {
                let rows = y.saturating_sub(before)..(y + after + 1).min(17);
                let want = rows.flat_map(|y| {
                    let columns = x.saturating_sub(before)..(x + after + 1).min(23);
                    plane[y * 23 + columns.start..y * 23 + columns.end]
                        .iter()
                        .copied()
                });
                let want = want.fold(f32::INFINITY, f32::min);
                assert_eq!(
                    got[y * 23 + x].to_bits(),
                    want.to_bits(),
                    "{before} {after} at ({x}, {y})"
                );
            }
        }
    }
}
