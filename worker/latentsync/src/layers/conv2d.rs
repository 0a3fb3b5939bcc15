//! Convolution layers over images `(images, channels, h, w)`.

use candle_core::{Result, Tensor};

use crate::hooks::Op;
use crate::kernels::cpu::CpuConv2d;
use crate::kernels::cuda::{self, Epilogue};
use crate::kernels::reference;
use crate::run::Run;
use crate::slices::ConvolutionShape;
use crate::tensors::{VarBuilder, Weight};

/// A convolution layer with a square kernel and a bias.
pub(crate) struct Conv2d {
    weight: Weight,
    bias: Tensor,
    stride: usize,
    padding: usize,
}

impl Conv2d {
    /// Loads a 3x3 convolution with stride 1 that keeps the size.
    pub(crate) fn load_3x3(vb: &VarBuilder, input: usize, output: usize) -> Result<Self> {
        Self::load(vb, input, output, 3, 1, 1)
    }

    /// Loads `weight`, `(output, input, kernel, kernel)`, and `bias`, `(output)`.
    pub(crate) fn load(
        vb: &VarBuilder,
        input: usize,
        output: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        Ok(Self {
            weight: Weight::load(vb, &[output, input, kernel, kernel], "weight")?,
            bias: vb.get(&[output], "bias")?.force_contiguous()?,
            stride,
            padding,
        })
    }

    /// Runs the convolution.
    ///
    /// # Shapes
    /// `(images, input, h, w)` to `(images, output, h', w')`.
    pub(crate) fn forward(&self, run: &Run, x: &Tensor) -> Result<Tensor> {
        self.apply(run, x, None, None)
    }

    /// Runs the convolution and adds `residual`, which has the shape of the result.
    pub(crate) fn forward_add(&self, run: &Run, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.apply(run, x, None, Some(residual))
    }

    /// Runs the convolution and adds `shift`, `(samples, output)`: one value to each channel of each sample's
    /// images.
    pub(crate) fn forward_shifted(&self, run: &Run, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
        self.apply(run, x, Some(shift), None)
    }

    fn apply(
        &self,
        run: &Run,
        x: &Tensor,
        shift: Option<&Tensor>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (images, input, height, width) = x.dims4()?;
        let op = Op::Conv2d {
            sizes: ConvolutionShape {
                images,
                input,
                output: self.weight.shape()[0],
                height: height / self.stride,
                width: width / self.stride,
                kernel: self.weight.shape()[2],
            },
            stride: self.stride,
        };
        run.before(op, x)?;
        let _evict = self.weight.evict_after_use(run);
        if run.on_cpu(x) {
            let residual = residual.map(Tensor::contiguous).transpose()?;
            let bias = match shift {
                Some(shift) => shift.broadcast_add(&self.bias)?,
                None => self.bias.clone(),
            };
            let op = CpuConv2d {
                weight: &self.weight,
                bias: &bias,
                residual: residual.as_ref(),
                stride: self.stride,
                padding: self.padding,
            };
            return x.contiguous()?.apply_op1_no_bwd(&op);
        }
        let limits = run.options.limits;
        if run.on_cuda(x) {
            let epilogue = Epilogue {
                bias: Some(&self.bias),
                shift,
                residual,
            };
            return cuda::conv2d(
                limits,
                x,
                &self.weight.tensor()?,
                epilogue,
                self.stride,
                self.padding,
            );
        }
        let mut y = reference::conv2d(
            limits,
            x,
            &self.weight.tensor()?,
            &self.bias,
            self.stride,
            self.padding,
        )?;
        if let Some(shift) = shift {
            let (images, channels, h, w) = y.dims4()?;
            let samples = shift.dim(0)?;
            y = y
                .reshape((samples, images / samples, channels, h * w))?
                .broadcast_add(&shift.reshape((samples, 1, channels, 1))?)?
                .reshape((images, channels, h, w))?;
        }
        match residual {
            Some(residual) => y + residual,
            None => Ok(y),
        }
    }
}
