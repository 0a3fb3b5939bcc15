//! A result that is put together piece by piece.

use candle_core::{Result, Shape, Tensor};

/// Pieces are written where they belong and dropped; a single one that is all of the result is taken as it is.
pub(super) struct Whole {
    shape: Shape,
    tensor: Option<Tensor>,
}

impl Whole {
    pub(super) fn new(shape: impl Into<Shape>) -> Self {
        Self {
            shape: shape.into(),
            tensor: None,
        }
    }

    /// Writes `piece` from `offset` on in dimension `dim` of what `part` takes of the whole; that must be contiguous.
    pub(super) fn put(
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

    /// The result; without any piece an empty one in the type of `like`.
    pub(super) fn finish(self, like: &Tensor) -> Result<Tensor> {
        match self.tensor {
            Some(whole) => Ok(whole),
            None => Tensor::zeros(self.shape, like.dtype(), like.device()),
        }
    }
}
