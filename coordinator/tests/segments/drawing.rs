//! A drawn head that speaks, before and after its mouth was rendered: enough texture for the figures of the check.

use latentfarm_common::frame::{Colour, Picture, PictureFormat};

const SIDE: usize = 256;
/// Side of the face crop in pixels.
pub const RESOLUTION: u32 = 128;
/// The aligned face of that crop has 105 x 140 pixels, and lies at this place of the frame.
const LEFT: f32 = 75.0;
const TOP: f32 = 60.0;
/// The matrix from the frame to the aligned face.
pub const FACE: [f32; 6] = [1.0, 0.0, -LEFT, 0.0, 1.0, -TOP];

/// What is at the place of the mouth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The picture of the source video.
    Source,
    /// Another mouth, and the whole face a little softer, as models leave it.
    Rendered,
    /// As rendered, with the mouth of one frame in all.
    Frozen,
    /// Grey.
    Flat,
    Noise,
}

pub fn format() -> PictureFormat {
    PictureFormat {
        width: 256,
        height: 256,
        colour: Colour::BT709,
        sample_aspect: (1, 1),
    }
}

/// Draws a frame.
pub fn draw(frame: u64, look: Look) -> Picture {
    let mut picture = Picture::black(format());
    picture.u.fill(118);
    picture.v.fill(140);
    let time = u16::try_from(frame).unwrap();
    let time = f32::from(time);
    for (at, luma) in picture.y.iter_mut().enumerate() {
        *luma = scene(at % SIDE, at / SIDE, time);
    }
    if look == Look::Source {
        paint(&mut picture, |x, y, skin| {
            mouth(x, y, skin, 6.0 + 5.0 * (time * 0.5).sin())
        });
        return picture;
    }
    soften(&mut picture);
    let still = if look == Look::Frozen { 40.0 } else { time };
    paint(&mut picture, |x, y, skin| match look {
        Look::Flat if is_lower_face(x, y) => 120.0,
        Look::Noise if is_lower_face(x, y) => f32::from(hash(x, y, frame)),
        _ => mouth(x, y, skin, 9.0 + 7.0 * (still * 0.9).cos()),
    });
    picture
}

/// A wall with a pattern that passes slowly, and a face in front of it.
fn scene(x: usize, y: usize, time: f32) -> u8 {
    let (column, row) = (at(x), at(y));
    let inside = is_face(x, y);
    let value = if inside {
        150.0 + 14.0 * (column * 0.35).sin() * (row * 0.27).cos() + 10.0 * ((column + row) * 0.9).sin()
    } else {
        100.0 + 50.0 * ((column + 3.0 * time) * 0.11).sin() + 20.0 * (row * 0.4).cos()
    };
    level(value)
}

/// An ellipse of darkness, open as far as `height`, with lips around it.
fn mouth(x: usize, y: usize, skin: f32, height: f32) -> f32 {
    let (dx, dy) = (at(x) - (LEFT + 52.0), at(y) - (TOP + 92.0));
    let inner = (dx / 22.0).powi(2) + (dy / height.max(1.0)).powi(2);
    let outer = (dx / 28.0).powi(2) + (dy / (height + 6.0)).powi(2);
    if inner < 1.0 {
        40.0
    } else if outer < 1.0 {
        110.0
    } else {
        skin
    }
}

fn paint(picture: &mut Picture, value: impl Fn(usize, usize, f32) -> f32) {
    for (index, luma) in picture.y.iter_mut().enumerate() {
        let (x, y) = (index % SIDE, index / SIDE);
        if is_face(x, y) {
            *luma = level(value(x, y, f32::from(*luma)));
        }
    }
}

/// Blurs the face over 3 x 3 pixels.
fn soften(picture: &mut Picture) {
    let sharp = picture.y.clone();
    for (index, luma) in picture.y.iter_mut().enumerate() {
        let (x, y) = (index % SIDE, index / SIDE);
        if is_face(x, y) {
            let around =
                (y - 1..=y + 1).flat_map(|row| (x - 1..=x + 1).map(move |column| row * SIDE + column));
            *luma = level(around.map(|at| f32::from(sharp[at])).sum::<f32>() / 9.0);
        }
    }
}

fn is_face(x: usize, y: usize) -> bool {
    let (dx, dy) = ((at(x) - (LEFT + 52.0)) / 50.0, (at(y) - (TOP + 70.0)) / 68.0);
    dx * dx + dy * dy < 1.0
}

fn is_lower_face(x: usize, y: usize) -> bool {
    (85..172).contains(&x) && (122..188).contains(&y)
}

fn at(place: usize) -> f32 {
    f32::from(u16::try_from(place).unwrap())
}

fn level(value: f32) -> u8 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let level = value.round().clamp(16.0, 235.0) as u8;
    level
}

/// A value in 0..=255 that depends on the place and the frame alone.
fn hash(x: usize, y: usize, frame: u64) -> u8 {
    let mixed =
        (x * 7919 + y * 104_729 + usize::try_from(frame).unwrap() * 1_299_709).wrapping_mul(2_654_435_761);
    u8::try_from((mixed >> 13) & 0xff).unwrap()
}
