//! Linear layers, and the convolutions that are computed as linear layers.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::hooks::Op;
use crate::kernels::cpu::{CpuLinear, bands};
use crate::kernels::cuda::{self, Epilogue};
use crate::kernels::reference;
use crate::run::Run;
use crate::tensors::{VarBuilder, Weight};

/// `x W^T + b` over the last dimension.
pub(crate) struct Linear {
    pub(super) weight: Weight,
    bias: Option<Tensor>,
}

impl Linear {
    /// Loads `weight`, `(output, input)`, and `bias`, `(output)`.
    pub(crate) fn load(vb: &VarBuilder, input: usize, output: usize) -> Result<Self> {
        Self::shaped(vb, &[output, input])
    }

    /// Loads `weight`, `(output, input)`, of a layer without a bias.
    pub(crate) fn load_no_bias(vb: &VarBuilder, input: usize, output: usize) -> Result<Self> {
        Ok(Self {
            weight: Weight::load(vb, &[output, input], "weight")?,
            bias: None,
        })
    }

    /// Loads a 1x1 convolution, which is applied to `(.., channels)` instead of `(channels, h, w)`.
    pub(crate) fn load_1x1(vb: &VarBuilder, input: usize, output: usize) -> Result<Self> {
        Self::shaped(vb, &[output, input, 1, 1])
    }

    /// Loads a convolution over time, which is applied to the `taps` neighbours of a token side by side.
    pub(super) fn load_taps(vb: &VarBuilder, input: usize, output: usize, taps: usize) -> Result<Self> {
        Self::shaped(vb, &[output, input, taps])
    }

    /// Loads weights of a shape whose first dimension is the output's, and a bias.
    fn shaped(vb: &VarBuilder, shape: &[usize]) -> Result<Self> {
        Ok(Self {
            weight: Weight::load(vb, shape, "weight")?,
            bias: Some(vb.get(&shape[..1], "bias")?.force_contiguous()?),
        })
    }

    /// Runs the layer.
    ///
    /// # Shapes
    /// `(.., input)` to `(.., output)`.
    pub(crate) fn forward(&self, run: &Run, x: &Tensor) -> Result<Tensor> {
        self.apply(run, x, None)
    }

    /// Runs the layer and adds `residual`, which has the shape of the result.
    pub(crate) fn forward_add(&self, run: &Run, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.apply(run, x, Some(residual))
    }

    fn apply(&self, run: &Run, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let rows = self.call_hooks(run, x, self.input())?;
        let _evict = self.weight.evict_after_use(run);
        self.compute(run, x, residual, &bands(rows, self.output()))
    }

    pub(super) fn input(&self) -> usize {
        self.weight.shape()[1..].iter().product()
    }

    pub(super) fn output(&self) -> usize {
        self.weight.shape()[0]
    }

    /// Calls the hooks for the layer on all rows of `x`, which are `width` wide, and returns the number of
    /// rows.
    pub(super) fn call_hooks(&self, run: &Run, x: &Tensor, width: usize) -> Result<usize> {
        let op = Op::Linear {
            rows: x.elem_count() / width.max(1),
            input: self.input(),
            output: self.output(),
        };
        run.before(op, x)?;
        Ok(x.elem_count() / width.max(1))
    }

    /// Runs the layer without a call of the hooks. `bands` are the rows of the CPU kernel's tiles.
    pub(super) fn compute(
        &self,
        run: &Run,
        x: &Tensor,
        residual: Option<&Tensor>,
        bands: &[Range<usize>],
    ) -> Result<Tensor> {
        let (input, output) = (self.input(), self.output());
        let mut shape = x.dims().to_vec();
        shape.pop();
        shape.push(output);
        let rows = x.reshape(((), input))?.contiguous()?;
        if run.on_cpu(x) {
            let residual = residual
                .map(|residual| residual.reshape(((), output))?.contiguous())
                .transpose()?;
            let op = CpuLinear {
                weight: &self.weight,
                bias: self.bias.as_ref(),
                residual: residual.as_ref(),
                bands,
            };
            return rows.apply_op1_no_bwd(&op)?.reshape(shape);
        }
        let weight = self.weight.tensor()?.reshape((output, input))?;
        let mut y = reference::linear(&rows, &weight)?;
        if run.on_cuda(&y) {
            let residual = residual.map(|residual| residual.reshape(y.shape())).transpose()?;
            let epilogue = Epilogue {
                bias: self.bias.as_ref(),
                shift: None,
                residual: residual.as_ref(),
            };
            cuda::add_epilogue_to_rows(&y, epilogue)?;
            return y.reshape(shape);
        }
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        y = y.reshape(shape)?;
        match residual {
            Some(residual) => y + residual,
            None => Ok(y),
        }
    }
}
