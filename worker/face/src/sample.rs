//! Samples a square of a frame, at any position, size and rotation, as the input of a face network.

use latentfarm_common::frame::Rgb;

/// Side of both networks' input in pixels.
pub(super) const SIDE: usize = 192;

/// The colour of samples outside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Border {
    Black,
    /// The nearest pixel of the frame.
    Repeat,
}

/// A square in a frame. Input pixel (i, j) of the network lies at `origin + i * across + j * down`, in frame
/// pixels whose centres are at whole numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Square {
    pub(super) origin: [f32; 2],
    pub(super) across: [f32; 2],
    pub(super) down: [f32; 2],
}

impl Square {
    /// Converts a position from input pixels to frame pixels.
    pub(super) fn to_frame(self, [x, y]: [f32; 2]) -> [f32; 2] {
        std::array::from_fn(|i| self.origin[i] + x * self.across[i] + y * self.down[i])
    }

    /// Returns the number of frame pixels along one input pixel.
    fn scale(self) -> f32 {
        self.across[0].hypot(self.across[1])
    }

    /// Samples `SIDE x SIDE x 3` values, each `colour * gain + offset`. If an input pixel covers more than
    /// one and a half frame pixels, it is the mean of 2 x 2 bilinear samples, which reduces the noise of
    /// grain and fine patterns.
    pub(super) fn sample(self, frame: &Rgb, border: Border, gain: f32, offset: f32) -> Vec<f32> {
        let taps: u8 = if self.scale() > 1.5 { 2 } else { 1 };
        let share = 1.0 / (f32::from(taps) * f32::from(taps));
        let shift = |tap: u8| (f32::from(tap) + 0.5) / f32::from(taps) - 0.5;
        let mut out = Vec::with_capacity(SIDE * SIDE * 3);
        for j in 0..SIDE {
            for i in 0..SIDE {
                let mut sum = [0.0_f32; 3];
                for tap_y in 0..taps {
                    for tap_x in 0..taps {
                        let at = self.to_frame([i as f32 + shift(tap_x), j as f32 + shift(tap_y)]);
                        let colour = pixel(frame, at, border);
                        for (sum, colour) in sum.iter_mut().zip(colour) {
                            *sum += colour;
                        }
                    }
                }
                out.extend(sum.map(|sum| sum * share * gain + offset));
            }
        }
        out
    }
}

/// Returns a bilinear sample; more than half a pixel outside the frame it has the colour of the border.
fn pixel(frame: &Rgb, [x, y]: [f32; 2], border: Border) -> [f32; 3] {
    let (right, bottom) = ((frame.width - 1) as f32, (frame.height - 1) as f32);
    let outside = x < -0.5 || y < -0.5 || x > right + 0.5 || y > bottom + 0.5;
    if outside && border == Border::Black {
        return [0.0; 3];
    }
    let (x, y) = (x.clamp(0.0, right), y.clamp(0.0, bottom));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the frame"
    )]
    let (column, row) = (x as usize, y as usize);
    let (dx, dy) = (x - column as f32, y - row as f32);
    let next = if column + 1 < frame.width { 3 } else { 0 };
    let below = if row + 1 < frame.height {
        frame.width * 3
    } else {
        0
    };
    let at = (row * frame.width + column) * 3;
    let read = |from: usize| -> [f32; 3] {
        let data = &frame.data[from..from + 3];
        [f32::from(data[0]), f32::from(data[1]), f32::from(data[2])]
    };
    let corners = [
        read(at),
        read(at + next),
        read(at + below),
        read(at + below + next),
    ];
    std::array::from_fn(|i| {
        let upper = corners[0][i] + (corners[1][i] - corners[0][i]) * dx;
        let lower = corners[2][i] + (corners[3][i] - corners[2][i]) * dx;
        upper + (lower - upper) * dy
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: usize, height: usize) -> Rgb {
        let data = (0..width * height)
            .flat_map(|i| {
                let (x, y) = (i % width, i / width);
                [x, y, 7].map(|v| u8::try_from(v).unwrap())
            })
            .collect();
        Rgb { width, height, data }
    }

    #[test]
    fn input_pixels_hold_the_colours_of_their_places() {
        let frame = gradient(200, 100);
        let square = Square {
            origin: [20.0, 10.0],
            across: [0.5, 0.1],
            down: [-0.1, 0.4],
        };
        let input = square.sample(&frame, Border::Repeat, 1.0, 0.0);
        let (i, j) = (50, 60);
        let [x, y] = square.to_frame([50.0, 60.0]);
        let pixel = &input[(j * SIDE + i) * 3..][..3];
        assert!(
            (pixel[0] - x).abs() < 1e-3 && (pixel[1] - y).abs() < 1e-3 && (pixel[2] - 7.0).abs() < 1e-3,
            "{pixel:?}"
        );
    }

    #[test]
    fn outside_is_black_or_the_repeated_edge() {
        let frame = gradient(64, 64);
        let square = Square {
            origin: [-40.0, 30.0],
            across: [1.0, 0.0],
            down: [0.0, 1.0],
        };
        assert_eq!(
            square.sample(&frame, Border::Black, 1.0, -1.0)[..3],
            [-1.0, -1.0, -1.0]
        );
        assert_eq!(
            square.sample(&frame, Border::Repeat, 1.0, 0.0)[..3],
            [0.0, 30.0, 7.0]
        );
    }
}
