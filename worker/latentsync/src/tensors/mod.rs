//! The store of tensors below the layers: files of named tensors, where their values lie while a network works and
//! while it is idle, and the writer of such files. Nothing here knows a network.

mod error;
mod file;
mod mapped;
mod network_weights;
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
pub(crate) use writer::{Planned, write_safetensors};
