//! The layers that the networks share, on ghosts. Each does what its namesake in `latentsync::nn` does, in order.

use super::tape::{Ghost, Tape};
use crate::boundary::Op;
use crate::cost::op::{Details, feed_forward as cost_of_feed_forward};
use crate::slices::{Attention, Convolution};

impl Tape {
    /// A linear layer with a bias.
    pub(super) fn linear(&self, x: &Ghost, output: usize) -> Ghost {
        self.linear_with(x, output, 1)
    }

    /// A linear layer to whose result so many tensors are added.
    pub(super) fn linear_with(&self, x: &Ghost, output: usize, addends: usize) -> Ghost {
        let input = x.shape.last().copied().unwrap_or(1);
        let op = Op::Linear {
            rows: x.elements() / input.max(1),
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
    pub(super) fn conv2d(&self, x: &Ghost, output: usize, kernel: usize, stride: usize) -> Ghost {
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
        (q, k): (&Ghost, &Ghost),
        heads: usize,
        (rows, queries, keys): (usize, usize, usize),
        across: bool,
    ) -> Ghost {
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

    pub(super) fn group_norm(&self, x: &Ghost, groups: usize, together: usize) -> Ghost {
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

    pub(super) fn layer_norm(&self, x: &Ghost) -> Ghost {
        let width = x.shape.last().copied().unwrap_or(1);
        let op = Op::LayerNorm {
            rows: x.elements() / width.max(1),
            width,
        };
        self.run(op, Details::default(), &x.shape)
    }

    /// A copy of `x` in another shape.
    pub(super) fn copy(&self, shape: &[usize]) -> Ghost {
        let elements = shape.iter().product();
        self.run(Op::Copy { elements }, Details::default(), shape)
    }

    /// A copy with another one beside it while it is made.
    pub(super) fn copy_twice(&self, shape: &[usize]) -> Ghost {
        let elements = shape.iter().product();
        let details = Details {
            addends: 1,
            ..Details::default()
        };
        self.run(Op::Copy { elements }, details, shape)
    }

    /// The tokens of a picture: `(images, h x w, channels)`.
    pub(super) fn to_tokens(&self, picture: &Ghost) -> Ghost {
        let (images, channels, height, width) = picture.picture();
        self.copy(&[images, height * width, channels])
    }

    /// The picture of tokens, and a residual of its shape added.
    pub(super) fn to_picture(&self, residual: &Ghost) -> Ghost {
        self.copy_twice(&residual.shape)
    }

    /// The gated feed-forward of `x`, and a residual added.
    pub(super) fn feed_forward(&self, x: &Ghost) -> Ghost {
        let width = x.shape.last().copied().unwrap_or(1);
        let rows = x.elements() / width.max(1);
        let first = Op::Linear {
            rows,
            input: width,
            output: 8 * width,
        };
        self.tell(first);
        self.tell(Op::Geglu {
            rows,
            width: 4 * width,
        });
        self.tell(Op::Linear {
            rows,
            input: 4 * width,
            output: width,
        });
        let cost = cost_of_feed_forward(rows, width, &self.account, self.levers.limits);
        self.charge(first, cost, 12 * width * width, &x.shape)
    }
}
