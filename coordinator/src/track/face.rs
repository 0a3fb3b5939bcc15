//! The answer of the track for one frame.

/// Where the speaker's face is in one source frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FrameFace {
    /// Frame-to-face matrix, 2 x 3, row-major, in pixels.
    Matrix([f32; 6]),
    /// No usable face: the frame passes through untouched.
    Absent,
    /// A needed analysis failed for good.
    Unknown,
}
