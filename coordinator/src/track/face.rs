//! The result of face tracking for one source frame.

/// The speaker's face in one source frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FrameFace {
    /// The affine matrix, 2 x 3 and row-major, that maps pixels of the frame to pixels of the aligned face.
    Matrix([f32; 6]),
    /// The frame has no usable face and passes through unchanged.
    Absent,
    /// The face is not known, because an analysis chunk that the answer depends on has failed for good.
    Unknown,
}
