//! A network ready to run: each intermediate is dropped after its last use.

use crate::face::error::FaceError;
use crate::face::kernels::{self, Shape};
use crate::face::tflite::{Slide, TfliteError};

/// Runs on one thread; shared freely.
#[derive(Debug)]
pub(in crate::face) struct Network {
    pub(super) name: &'static str,
    pub(super) input: usize,
    pub(super) input_len: usize,
    pub(super) outputs: Vec<usize>,
    /// Number of values of each output, in the file's order.
    pub(super) output_lens: Vec<usize>,
    pub(super) slots: usize,
    pub(super) steps: Vec<Step>,
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) action: Action,
    pub(super) input: usize,
    pub(super) output: usize,
    /// Slots that no later step reads.
    pub(super) last_uses: Vec<usize>,
}

#[derive(Debug)]
pub(super) enum Action {
    /// Adds another slot.
    Add {
        other: usize,
        relu: bool,
    },
    Prelu {
        slope: Vec<f32>,
    },
    Relu,
    /// The same values under another shape.
    Keep,
    Conv2d(Filter),
    Depthwise(Filter),
    MaxPool {
        shape: Shape,
        filter: [usize; 2],
        slide: Slide,
    },
    PadChannels {
        from: usize,
        to: usize,
    },
    Resize {
        shape: Shape,
        to: [usize; 2],
    },
}

#[derive(Debug)]
pub(super) struct Filter {
    pub(super) shape: Shape,
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) kernel: [usize; 2],
    pub(super) slide: Slide,
    pub(super) relu: bool,
}

/// Intermediates by tensor number.
type Slots = Vec<Option<Vec<f32>>>;

impl Network {
    /// Runs on one picture, `height x width x channels`; gives the outputs in the file's order.
    pub(in crate::face) fn run(&self, input: Vec<f32>) -> Result<Vec<Vec<f32>>, FaceError> {
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
        let mut slots: Slots = vec![None; self.slots];
        slots[self.input] = Some(input);
        for step in &self.steps {
            let output = step.run(&mut slots)?;
            for &slot in &step.last_uses {
                slots[slot] = None;
            }
            slots[step.output] = Some(output);
        }
        self.outputs
            .iter()
            .map(|&slot| slots[slot].take().ok_or_else(|| unwritten(slot)))
            .collect()
    }
}

fn unwritten(slot: usize) -> TfliteError {
    TfliteError::Tensor {
        index: slot,
        what: "is read before it is written".to_owned(),
    }
}

fn read(slots: &Slots, slot: usize) -> Result<&[f32], TfliteError> {
    slots[slot].as_deref().ok_or_else(|| unwritten(slot))
}

impl Step {
    fn run(&self, slots: &mut Slots) -> Result<Vec<f32>, TfliteError> {
        match &self.action {
            Action::Add { other, relu } => {
                let mut sum = self.take(slots)?;
                for (sum, other) in sum.iter_mut().zip(read(slots, *other)?) {
                    *sum += other;
                }
                if *relu {
                    kernels::relu(&mut sum);
                }
                Ok(sum)
            }
            Action::Prelu { slope } => {
                let mut values = self.take(slots)?;
                kernels::prelu(&mut values, slope);
                Ok(values)
            }
            Action::Relu => {
                let mut values = self.take(slots)?;
                kernels::relu(&mut values);
                Ok(values)
            }
            Action::Keep => self.take(slots),
            Action::Conv2d(filter) => Ok(filter.run(read(slots, self.input)?, kernels::conv2d)),
            Action::Depthwise(filter) => Ok(filter.run(read(slots, self.input)?, kernels::depthwise)),
            Action::MaxPool { shape, filter, slide } => Ok(kernels::max_pool(
                read(slots, self.input)?,
                *shape,
                *filter,
                *slide,
            )),
            Action::PadChannels { from, to } => {
                Ok(kernels::pad_channels(read(slots, self.input)?, *from, *to))
            }
            Action::Resize { shape, to } => {
                Ok(kernels::resize_bilinear(read(slots, self.input)?, *shape, *to))
            }
        }
    }

    /// The input to change in place: taken where nobody reads it later.
    fn take(&self, slots: &mut Slots) -> Result<Vec<f32>, TfliteError> {
        let slot = &mut slots[self.input];
        let value = if self.last_uses.contains(&self.input) {
            slot.take()
        } else {
            slot.clone()
        };
        value.ok_or_else(|| unwritten(self.input))
    }
}

type Convolve = fn(&[f32], Shape, &[f32], &[f32], [usize; 2], Slide) -> Vec<f32>;

impl Filter {
    fn run(&self, input: &[f32], convolve: Convolve) -> Vec<f32> {
        let mut out = convolve(
            input,
            self.shape,
            &self.weight,
            &self.bias,
            self.kernel,
            self.slide,
        );
        if self.relu {
            kernels::relu(&mut out);
        }
        out
    }
}
