//! Tensor storage, which the layers are built on: files of named tensors, the copying of weights to the
//! device and back, and the writer of such files. Nothing here depends on a particular network.

mod error;
mod file;
mod mapped;
mod network_weights;
mod pickle;
mod torch;
mod var_builder;
mod weight;
mod writer;

pub use error::WeightsError;
pub(crate) use file::TensorFile;
pub use file::{list_tensors, read_tensor};
pub(crate) use mapped::Values;
pub(crate) use network_weights::NetworkWeights;
pub(crate) use var_builder::{LoadReport, VarBuilder};
pub(crate) use weight::Weight;
pub use writer::FileRecord;
pub(crate) use writer::{TensorSpec, write_safetensors};
