//! Runs operations on tensors without values, and tracks the memory that is in use during each. The methods
//! stand for the layers that the networks share; each records the operations that the real layer calls its
//! hooks for.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use latentfarm_common::wire::memory::DeviceKind;

use super::tensor::{MetaTensor, TrackedMemory};
use crate::ExecutionOptions;
use crate::cost::compute::ComputeSpec;
use crate::cost::op::{OpMemory, OpParams, feed_forward_memory, op_memory};
use crate::hooks::Op;
use crate::slices::{AttentionShape, ConvolutionShape};
use crate::vae::f32_options;

/// The device and the options of a walk, and the memory that is in use.
pub(super) struct MemoryTracker {
    pub(super) spec: ComputeSpec,
    pub(super) options: ExecutionOptions,
    /// The bytes of one weight that is on the device only while its layer runs; 0 if the weights stay there.
    pub(super) streamed_bytes: Cell<usize>,
    /// Whether the operations are recorded, besides their memory.
    records_ops: bool,
    memory: Rc<RefCell<TrackedMemory>>,
}

impl MemoryTracker {
    pub(super) fn new(spec: ComputeSpec, options: ExecutionOptions) -> Self {
        Self {
            spec,
            options,
            streamed_bytes: Cell::new(0),
            records_ops: true,
            memory: Rc::default(),
        }
    }

    /// Returns a tracker of the same memory for a network that computes in `f32` under the options of
    /// [`f32_options`]. It records no operations, because such a network runs only where a half type
    /// overflowed.
    pub(super) fn in_f32(&self) -> Self {
        Self {
            spec: ComputeSpec {
                bytes_per_value: size_of::<f32>(),
                ..self.spec
            },
            options: f32_options(self.options),
            streamed_bytes: Cell::new(match self.spec.kind {
                // Layers are used as they lie in the mapped file.
                DeviceKind::Cpu => 0,
                DeviceKind::Cuda => size_of::<f32>(),
            }),
            records_ops: false,
            memory: Rc::clone(&self.memory),
        }
    }

    /// Returns the bytes that are in use.
    pub(super) fn live(&self) -> u64 {
        self.memory.borrow().live
    }

    /// Returns the peak since the last call, and the operation during which it was reached.
    pub(super) fn take_peak(&self) -> (u64, Option<Op>) {
        let mut memory = self.memory.borrow_mut();
        let taken = (memory.peak, memory.at_peak.take());
        memory.peak = memory.live;
        taken
    }

    /// Returns the recorded operations in order.
    pub(super) fn into_ops(self) -> Vec<Op> {
        std::mem::take(&mut self.memory.borrow_mut().ops)
    }

    /// Allocates a tensor of `bytes` bytes.
    pub(super) fn hold(&self, bytes: u64, shape: &[usize]) -> MetaTensor {
        let tensor = MetaTensor::new(&self.memory, bytes, shape);
        let mut memory = self.memory.borrow_mut();
        if memory.live > memory.peak {
            memory.peak = memory.live;
            memory.at_peak = None;
        }
        tensor
    }

    /// Allocates a tensor on the device whose values take `each` bytes.
    pub(super) fn tensor(&self, each: usize, shape: &[usize]) -> MetaTensor {
        self.hold(shape.iter().product::<usize>() as u64 * each as u64, shape)
    }

    /// Allocates a tensor on the host, which counts only if the device is the CPU.
    pub(super) fn on_host(&self, each: usize, shape: &[usize]) -> MetaTensor {
        match self.spec.kind {
            DeviceKind::Cpu => self.tensor(each, shape),
            DeviceKind::Cuda => self.hold(0, shape),
        }
    }

    /// Records an operation without counting its memory.
    fn announce(&self, op: Op) {
        if self.records_ops {
            self.memory.borrow_mut().ops.push(op);
        }
    }

    /// Records an operation, counts its memory and returns its result.
    fn run(&self, op: Op, details: OpParams, shape: &[usize]) -> MetaTensor {
        self.announce(op);
        let needed = op_memory(op, details, &self.spec, self.options.limits);
        self.charge(op, needed, weights(op), shape)
    }

    /// Counts the memory of an operation whose layers have `weights` weights, and returns its result.
    fn charge(&self, op: Op, needed: OpMemory, weights: usize, shape: &[usize]) -> MetaTensor {
        {
            let streamed = weights as u64 * self.streamed_bytes.get() as u64;
            let mut memory = self.memory.borrow_mut();
            let high = (memory.live + streamed).saturating_add(needed.peak.max(needed.kept));
            if high > memory.peak {
                memory.peak = high;
                memory.at_peak = Some(op);
            }
        }
        MetaTensor::new(&self.memory, needed.kept, shape)
    }

    /// Runs a linear layer with a bias.
    pub(super) fn linear(&self, x: &MetaTensor, output: usize) -> MetaTensor {
        self.linear_with(x, output, 1)
    }

    /// Runs a linear layer to whose result `addends` tensors are added.
    pub(super) fn linear_with(&self, x: &MetaTensor, output: usize, addends: usize) -> MetaTensor {
        let input = x.width();
        let op = Op::Linear {
            rows: x.rows(),
            input,
            output,
        };
        let mut shape = x.shape.clone();
        shape.pop();
        shape.push(output);
        let details = OpParams {
            addends,
            ..OpParams::default()
        };
        self.run(op, details, &shape)
    }

    /// Runs a convolution with a square kernel whose padding keeps the size; `stride` divides it.
    pub(super) fn conv2d(&self, x: &MetaTensor, output: usize, kernel: usize, stride: usize) -> MetaTensor {
        let (images, input, height, width) = x.picture();
        let (height, width) = (height / stride, width / stride);
        let sizes = ConvolutionShape {
            images,
            input,
            output,
            height,
            width,
            kernel,
        };
        let details = OpParams {
            addends: 1,
            ..OpParams::default()
        };
        self.run(
            Op::Conv2d { sizes, stride },
            details,
            &[images, output, height, width],
        )
    }

    /// Runs an attention over operands of `(rows, tokens, width)`, which are transposed views if `across`.
    pub(super) fn attend(
        &self,
        (q, k): (&MetaTensor, &MetaTensor),
        heads: usize,
        (rows, queries, keys): (usize, usize, usize),
        across: bool,
    ) -> MetaTensor {
        let width = q.elements() / (rows * queries).max(1);
        debug_assert_eq!(k.elements(), rows * keys * width);
        let sizes = AttentionShape {
            rows,
            heads,
            queries,
            keys,
        };
        let details = OpParams {
            across,
            ..OpParams::default()
        };
        self.run(Op::Attention { sizes, width }, details, &q.shape)
    }

    /// Runs a group norm whose statistics span `together` images.
    pub(super) fn group_norm(&self, x: &MetaTensor, groups: usize, together: usize) -> MetaTensor {
        let (images, channels, height, width) = x.picture();
        let op = Op::GroupNorm {
            images,
            together,
            channels,
            area: height * width,
        };
        let details = OpParams {
            groups,
            ..OpParams::default()
        };
        self.run(op, details, &x.shape)
    }

    /// Runs a layer norm over the last dimension.
    pub(super) fn layer_norm(&self, x: &MetaTensor) -> MetaTensor {
        let width = x.width();
        let op = Op::LayerNorm {
            rows: x.rows(),
            width,
        };
        self.run(op, OpParams::default(), &x.shape)
    }

    /// Runs an operation that allocates a result of this shape alone.
    pub(super) fn copy(&self, shape: &[usize]) -> MetaTensor {
        let elements = shape.iter().product();
        self.run(Op::Copy { elements }, OpParams::default(), shape)
    }

    /// Runs an operation that allocates its result twice while it runs.
    pub(super) fn copy_twice(&self, shape: &[usize]) -> MetaTensor {
        let elements = shape.iter().product();
        let details = OpParams {
            addends: 1,
            ..OpParams::default()
        };
        self.run(Op::Copy { elements }, details, shape)
    }

    /// Transposes a picture to tokens, `(images, h x w, channels)`.
    pub(super) fn to_tokens(&self, picture: &MetaTensor) -> MetaTensor {
        let (images, channels, height, width) = picture.picture();
        self.copy(&[images, height * width, channels])
    }

    /// Transposes tokens to a picture and adds a residual of its shape.
    pub(super) fn to_image(&self, residual: &MetaTensor) -> MetaTensor {
        self.copy_twice(&residual.shape)
    }

    /// Runs the gated feed-forward of `x` and adds a residual.
    pub(super) fn feed_forward(&self, x: &MetaTensor) -> MetaTensor {
        let width = x.width();
        let rows = x.rows();
        let first = Op::Linear {
            rows,
            input: width,
            output: 8 * width,
        };
        self.announce(first);
        self.announce(Op::Geglu {
            rows,
            width: 4 * width,
        });
        self.announce(Op::Linear {
            rows,
            input: 4 * width,
            output: width,
        });
        let needed = feed_forward_memory(rows, width, &self.spec, self.options.limits);
        self.charge(first, needed, 12 * width * width, &x.shape)
    }
}

/// Returns the number of weights of an operation's layer.
fn weights(op: Op) -> usize {
    match op {
        Op::Linear { input, output, .. } => input * output,
        Op::Conv2d { sizes, .. } => sizes.input * sizes.output * sizes.kernel * sizes.kernel,
        _ => 0,
    }
}
