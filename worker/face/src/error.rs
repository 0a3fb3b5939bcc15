//! The errors of the face networks and of face analysis.

use super::tflite::TfliteError;

#[derive(Debug, thiserror::Error)]
pub enum FaceError {
    #[error("cannot load the {network} network")]
    Load {
        network: &'static str,
        #[source]
        source: TfliteError,
    },
    #[error("the {network} network has outputs of {found:?} values, expected {expected:?}")]
    Outputs {
        network: &'static str,
        expected: Vec<usize>,
        found: Vec<usize>,
    },
    #[error("cannot run the {network} network")]
    Run {
        network: &'static str,
        #[source]
        source: TfliteError,
    },
    #[error("a unit of analysis has 1 to {limit} frames, not {found}")]
    UnitLength { limit: usize, found: usize },
    #[error("frame {index} of the unit holds {bytes} bytes, which is not a picture of {width} x {height}")]
    Frame {
        index: usize,
        width: usize,
        height: usize,
        bytes: usize,
    },
    #[error(
        "frame {index} of the unit is {width} x {height}, but the first is {first_width} x {first_height}"
    )]
    FrameSize {
        index: usize,
        width: usize,
        height: usize,
        first_width: usize,
        first_height: usize,
    },
}
