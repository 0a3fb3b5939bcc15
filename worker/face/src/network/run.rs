//! Runs a network step by step, and drops each activation after its last use.

use crate::error::FaceError;
use crate::kernels::{self, ConvLayer, ImageShape};
use crate::tflite::{Striding, TfliteError};

/// A network that is ready to run on one thread. Tensors are named by their number in the file.
#[derive(Debug)]
pub(crate) struct Network {
    /// Name of the network in errors.
    pub(super) name: &'static str,
    pub(super) input: usize,
    /// Number of values of the input.
    pub(super) input_len: usize,
    pub(super) outputs: Vec<usize>,
    /// Number of values of each output, in the order of the file.
    pub(super) output_lens: Vec<usize>,
    /// Number of tensors in the file.
    pub(super) tensors: usize,
    pub(super) steps: Vec<Step>,
}

/// One operation with the tensors that it reads and writes.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) operation: Operation,
    pub(super) input: usize,
    pub(super) output: usize,
    /// Activations that this step reads and no later step does.
    pub(super) last_uses: Vec<usize>,
}

/// What a step computes from its input.
#[derive(Debug)]
pub(super) enum Operation {
    /// Adds another activation of the same shape.
    Add {
        other: usize,
        relu: bool,
    },
    Prelu {
        slope: Vec<f32>,
    },
    Relu,
    /// Passes the values on; only their shape changes.
    Reshape,
    Conv2d(ConvLayer),
    Depthwise(ConvLayer),
    MaxPool {
        shape: ImageShape,
        kernel: [usize; 2],
        striding: Striding,
    },
    PadChannels {
        from: usize,
        to: usize,
    },
    Resize {
        shape: ImageShape,
        to: [usize; 2],
    },
}

/// The activations that are in memory, by tensor number.
type Activations = Vec<Option<Vec<f32>>>;

impl Network {
    /// Runs the network on one image, `height x width x channels`, and returns the outputs in the order of
    /// the file.
    pub(crate) fn run(&self, input: Vec<f32>) -> Result<Vec<Vec<f32>>, FaceError> {
        self.infer(input).map_err(|source| FaceError::Run {
            network: self.name,
            source,
        })
    }

    fn infer(&self, input: Vec<f32>) -> Result<Vec<Vec<f32>>, TfliteError> {
        if input.len() != self.input_len {
            return Err(TfliteError::Input {
                expected: self.input_len,
                found: input.len(),
            });
        }
        let mut activations: Activations = vec![None; self.tensors];
        activations[self.input] = Some(input);
        for step in &self.steps {
            let output = step.run(&mut activations)?;
            for &tensor in &step.last_uses {
                activations[tensor] = None;
            }
            activations[step.output] = Some(output);
        }
        self.outputs
            .iter()
            .map(|&tensor| activations[tensor].take().ok_or_else(|| unwritten(tensor)))
            .collect()
    }
}

fn unwritten(tensor: usize) -> TfliteError {
    TfliteError::Tensor {
        index: tensor,
        what: "is read before it is written".to_owned(),
    }
}

fn read(activations: &Activations, tensor: usize) -> Result<&[f32], TfliteError> {
    activations[tensor].as_deref().ok_or_else(|| unwritten(tensor))
}

impl Step {
    fn run(&self, activations: &mut Activations) -> Result<Vec<f32>, TfliteError> {
        let input = || read(activations, self.input);
        Ok(match &self.operation {
            Operation::Conv2d(layer) => activated(kernels::conv2d(input()?, layer), layer.relu),
            Operation::Depthwise(layer) => activated(kernels::depthwise(input()?, layer), layer.relu),
            Operation::MaxPool {
                shape,
                kernel,
                striding,
            } => kernels::max_pool(input()?, *shape, *kernel, *striding),
            Operation::PadChannels { from, to } => kernels::pad_channels(input()?, *from, *to),
            Operation::Resize { shape, to } => kernels::resize_bilinear(input()?, *shape, *to),
            Operation::Add { other, relu } => {
                let mut sum = self.take(activations)?;
                for (sum, other) in sum.iter_mut().zip(read(activations, *other)?) {
                    *sum += other;
                }
                activated(sum, *relu)
            }
            Operation::Prelu { slope } => kernels::prelu(self.take(activations)?, slope),
            Operation::Relu => kernels::relu(self.take(activations)?),
            Operation::Reshape => self.take(activations)?,
        })
    }

    /// Returns the input for a change in place: it is moved if no later step reads it, and copied otherwise.
    fn take(&self, activations: &mut Activations) -> Result<Vec<f32>, TfliteError> {
        let tensor = &mut activations[self.input];
        let value = if self.last_uses.contains(&self.input) {
            tensor.take()
        } else {
            tensor.clone()
        };
        value.ok_or_else(|| unwritten(self.input))
    }
}

/// Applies `relu` if it is fused with the operation.
fn activated(values: Vec<f32>, relu: bool) -> Vec<f32> {
    if relu { kernels::relu(values) } else { values }
}
