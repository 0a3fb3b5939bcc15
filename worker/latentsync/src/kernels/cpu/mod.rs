//! Our own operations on the CPU in `f32`, as candle's custom operations. Each one partitions its work by its
//! shape alone, so that its bits do not depend on the number of threads.

mod attention;
mod conv;
mod feed_forward;
mod gelu;
mod group_norm;
mod layer_norm;
mod linear;
mod matrix;
mod neighbours;
mod simd;
mod transpose;
pub(crate) mod workspace;

pub(crate) use attention::CpuAttention;
pub(crate) use conv::CpuConv2d;
pub(crate) use feed_forward::whole_tiles;
pub(crate) use gelu::{CpuGeglu, CpuGelu};
pub(crate) use group_norm::CpuGroupNorm;
pub(crate) use layer_norm::{CpuLayerNorm, EPS};
pub(crate) use linear::{CpuLinear, bands};
pub(crate) use neighbours::{CpuNeighbours, TAPS};
pub(crate) use transpose::CpuTranspose;
