//! The errors of reading a `.tflite` file and of running its network.

/// Why a `.tflite` file or the input of its network cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TfliteError {
    #[error("not a TFLite file: the identifier is {found:?}")]
    Identifier { found: [u8; 4] },
    #[error("reading {len} bytes at {at} passes the end of the file, {size} bytes")]
    Truncated { at: usize, len: usize, size: usize },
    #[error("the file's structure is broken at {at}: {what}")]
    Broken { at: usize, what: &'static str },
    #[error("operator {index} ({name}): {what}")]
    Operator {
        index: usize,
        name: String,
        what: String,
    },
    #[error("tensor {index}: {what}")]
    Tensor { index: usize, what: String },
    #[error("the input holds {found} values, expected {expected}")]
    Input { expected: usize, found: usize },
}
