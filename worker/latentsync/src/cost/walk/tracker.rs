//! Runs operations on tensors without values, and tracks what is alive while they pass by. The layers are those that the
//! networks share; each announces what its namesake does, in order.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use latentfarm_common::wire::memory::DeviceKind;

use super::tensor::{MemoryUse, WalkedTensor};
use crate::ExecutionOptions;
use crate::cost::compute::ComputeSpec;
use crate::cost::op::{Details, OpMemory, feed_forward_memory, op_memory};
use crate::hooks::Op;
use crate::slices::{Attention, Convolution};

/// The device on which the networks are walked, and the memory that they use of it.
pub(super) struct MemoryTracker {
    pub(super) spec: ComputeSpec,
    pub(super) options: ExecutionOptions,
    /// Bytes of a weight that is on the device only while its layer runs; 0 if the weights stay.
    pub(super) streamed_bytes: Cell<usize>,
    memory: Rc<RefCell<MemoryUse>>,
}

impl MemoryTracker {
    pub(super) fn new(spec: ComputeSpec, options: ExecutionOptions) -> Self {
        Self {
            spec,
            options,
            streamed_bytes: Cell::new(0),
            memory: Rc::default(),
        }
    }

    pub(super) fn live(&self) -> u64 {
        self.memory.borrow().live
    }

    /// The highest use since the last call, and the operation that was running then.
    pub(super) fn take_peak(&self) -> (u64, Option<Op>) {
        let mut memory = self.memory.borrow_mut();
        let taken = (memory.peak, memory.at_peak.take());
        memory.peak = memory.live;
        taken
    }

    pub(super) fn into_ops(self) -> Vec<Op> {
        std::mem::take(&mut self.memory.borrow_mut().ops)
    }

    /// Storage of so many bytes.
    pub(super) fn hold(&self, bytes: u64, shape: &[usize]) -> WalkedTensor {
        let tensor = WalkedTensor::new(&self.memory, bytes, shape);
        let mut memory = self.memory.borrow_mut();
        if memory.live > memory.peak {
            memory.peak = memory.live;
            memory.at_peak = None;
        }
        tensor
    }

    /// A tensor on the device, of values that take `each` bytes.
    pub(super) fn tensor(&self, each: usize, shape: &[usize]) -> WalkedTensor {
        self.hold(shape.iter().product::<usize>() as u64 * each as u64, shape)
    }

    /// A tensor on the host, which counts if the host's memory is the device's.
    pub(super) fn on_host(&self, each: usize, shape: &[usize]) -> WalkedTensor {
        match self.spec.kind {
            DeviceKind::Cpu => self.tensor(each, shape),
            DeviceKind::Cuda => self.hold(0, shape),
        }
    }

    /// Records an operation whose memory is counted by another one.
    fn announce(&self, op: Op) {
        self.memory.borrow_mut().ops.push(op);
    }

    /// Runs an operation.
    fn run(&self, op: Op, details: Details, shape: &[usize]) -> WalkedTensor {
        self.announce(op);
        let needed = op_memory(op, details, &self.spec, self.options.limits);
        self.charge(op, needed, weights(op), shape)
    }

    /// Counts the memory of an operation whose layers have so many weights.
    fn charge(&self, op: Op, needed: OpMemory, weights: usize, shape: &[usize]) -> WalkedTensor {
        {
            let streamed = weights as u64 * self.streamed_bytes.get() as u64;
            let mut memory = self.memory.borrow_mut();
            let high = (memory.live + streamed).saturating_add(needed.peak.max(needed.kept));
            if high > memory.peak {
                memory.peak = high;
                memory.at_peak = Some(op);
            }
        }
        WalkedTensor::new(&self.memory, needed.kept, shape)
    }

    /// A linear layer with a bias.
    pub(super) fn linear(&self, x: &WalkedTensor, output: usize) -> WalkedTensor {
        self.linear_with(x, output, 1)
    }

    /// A linear layer to whose result so many tensors are added.
    pub(super) fn linear_with(&self, x: &WalkedTensor, output: usize, addends: usize) -> WalkedTensor {
        let input = x.width();
        let op = Op::Linear {
            rows: x.rows(),
            input,
            output,
        };
        let mut shape = x.shape.clone();
        shape.pop();
        shape.push(output);
        let details = Details {
            addends,
            ..Details::default()
        };
        self.run(op, details, &shape)
    }

    /// A square convolution with padding that keeps the size, or with `stride` divides it.
    pub(super) fn conv2d(
        &self,
        x: &WalkedTensor,
        output: usize,
        kernel: usize,
        stride: usize,
    ) -> WalkedTensor {
        let (images, input, height, width) = x.picture();
        let (height, width) = (height / stride, width / stride);
        let sizes = Convolution {
            images,
            input,
            output,
            height,
            width,
            kernel,
        };
        let details = Details {
            addends: 1,
            ..Details::default()
        };
        self.run(
            Op::Conv2d { sizes, stride },
            details,
            &[images, output, height, width],
        )
    }

    /// Operands are `(rows, tokens, width)`; `across` where they are seen transposed.
    pub(super) fn attend(
        &self,
        (q, k): (&WalkedTensor, &WalkedTensor),
        heads: usize,
        (rows, queries, keys): (usize, usize, usize),
        across: bool,
    ) -> WalkedTensor {
        let width = q.elements() / (rows * queries).max(1);
        debug_assert_eq!(k.elements(), rows * keys * width);
        let sizes = Attention {
            rows,
            heads,
            queries,
            keys,
        };
        let details = Details {
            across,
            ..Details::default()
        };
        self.run(Op::Attention { sizes, width }, details, &q.shape)
    }

    pub(super) fn group_norm(&self, x: &WalkedTensor, groups: usize, together: usize) -> WalkedTensor {
        let (images, channels, height, width) = x.picture();
        let op = Op::GroupNorm {
            images,
            together,
            channels,
            area: height * width,
        };
        let details = Details {
            groups,
            ..Details::default()
        };
        self.run(op, details, &x.shape)
    }

    pub(super) fn layer_norm(&self, x: &WalkedTensor) -> WalkedTensor {
        let width = x.width();
        let op = Op::LayerNorm {
            rows: x.rows(),
            width,
        };
        self.run(op, Details::default(), &x.shape)
    }

    /// A copy of `x` in another shape.
    pub(super) fn copy(&self, shape: &[usize]) -> WalkedTensor {
        let elements = shape.iter().product();
        self.run(Op::Copy { elements }, Details::default(), shape)
    }

    /// A copy with another one beside it while it is made.
    pub(super) fn copy_twice(&self, shape: &[usize]) -> WalkedTensor {
        let elements = shape.iter().product();
        let details = Details {
            addends: 1,
            ..Details::default()
        };
        self.run(Op::Copy { elements }, details, shape)
    }

    /// The tokens of a picture: `(images, h x w, channels)`.
    pub(super) fn to_tokens(&self, picture: &WalkedTensor) -> WalkedTensor {
        let (images, channels, height, width) = picture.picture();
        self.copy(&[images, height * width, channels])
    }

    /// The picture of tokens, and a residual of its shape added.
    pub(super) fn to_picture(&self, residual: &WalkedTensor) -> WalkedTensor {
        self.copy_twice(&residual.shape)
    }

    /// The gated feed-forward of `x`, and a residual added.
    pub(super) fn feed_forward(&self, x: &WalkedTensor) -> WalkedTensor {
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

/// Values in the weights of a layer.
fn weights(op: Op) -> usize {
    match op {
        Op::Linear { input, output, .. } => input * output,
        Op::Conv2d { sizes, .. } => sizes.input * sizes.output * sizes.kernel * sizes.kernel,
        _ => 0,
    }
}
