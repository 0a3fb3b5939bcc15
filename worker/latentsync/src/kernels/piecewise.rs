//! A tensor that is written piece by piece, for operations that slice their work to save memory.

use candle_core::{Result, Shape, Tensor};

/// A tensor of which pieces are written one after another, each being dropped then. A single piece that is
/// the whole tensor is used as it is, without a copy.
pub(crate) struct PiecewiseTensor {
    shape: Shape,
    tensor: Option<Tensor>,
}

impl PiecewiseTensor {
    /// Makes a tensor of `shape`, which is allocated with its first piece.
    pub(crate) fn new(shape: impl Into<Shape>) -> Self {
        Self {
            shape: shape.into(),
            tensor: None,
        }
    }

    /// Writes `piece` into the view that `part` returns of the whole tensor, from `offset` on in dimension
    /// `dim` of the view, which must be contiguous.
    pub(crate) fn write(
        &mut self,
        piece: Tensor,
        part: impl FnOnce(&Tensor) -> Result<Tensor>,
        (dim, offset): (usize, usize),
    ) -> Result<()> {
        if *piece.shape() == self.shape {
            self.tensor = Some(piece);
            return Ok(());
        }
        if self.tensor.is_none() {
            self.tensor = Some(Tensor::zeros(self.shape.clone(), piece.dtype(), piece.device())?);
        }
        match &self.tensor {
            Some(whole) => part(whole)?.slice_set(&piece.contiguous()?, dim, offset),
            None => Ok(()),
        }
    }

    /// Returns the tensor; if no piece was written, it is zero, with the type and the device of `like`.
    pub(crate) fn finish(self, like: &Tensor) -> Result<Tensor> {
        match self.tensor {
            Some(whole) => Ok(whole),
            None => Tensor::zeros(self.shape, like.dtype(), like.device()),
        }
    }
}
