//! The two face networks. `build` turns the graph of a `.tflite` file into steps with f32 weights laid out
//! for the kernels, and checks all shapes; `run` runs the steps.

mod build;
mod run;

pub(super) use build::network;
pub(super) use run::Network;
