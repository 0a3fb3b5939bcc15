//! What can go wrong while looking at faces.

use super::tflite::TfliteError;

#[derive(Debug, thiserror::Error)]
pub enum FaceError {
    #[error("cannot load the {network} network")]
    Load {
        network: &'static str,
        #[source]
        source: TfliteError,
    },
    #[error("the {network} network gives outputs of {found:?} values where {expected:?} are meant")]
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
    #[error("frame {index} of the unit holds {bytes} bytes, which is no picture of {width} x {height}")]
    Frame {
        index: usize,
        width: usize,
        height: usize,
        bytes: usize,
    },
    #[error("frame {index} of the unit is {width} x {height}, the first is {first_width} x {first_height}")]
    FrameSize {
        index: usize,
        width: usize,
        height: usize,
        first_width: usize,
        first_height: usize,
    },
}
