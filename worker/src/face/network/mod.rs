//! The two face networks, read from their files: constants unfolded from f16, weights laid out for the kernels, shapes
//! checked once.

mod build;
mod run;

pub(super) use build::network;
pub(super) use run::Network;
