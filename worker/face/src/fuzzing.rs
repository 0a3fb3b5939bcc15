//! The reader of `.tflite` files, which is private otherwise, for the fuzz target `weights`.

use crate::error::FaceError;
use crate::network::network;

/// Reads the graph of a `.tflite` file and makes a network of it, as is done with the two face networks.
///
/// # Errors
/// Fails unless the file is a supported network without outputs.
pub fn read_network(file: &[u8]) -> Result<(), FaceError> {
    network("fuzzed", file, &[]).map(drop)
}
