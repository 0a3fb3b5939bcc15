//! The graph of a network, as its file describes it.

use std::ops::Range;

/// The element types that the face networks use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::face) enum ElementType {
    F32,
    F16,
    I32,
}

/// A tensor of the graph. `data` is the range of the file that holds its values, if it is a constant.
#[derive(Clone, Debug)]
pub(in crate::face) struct TensorInfo {
    pub(in crate::face) shape: Vec<usize>,
    pub(in crate::face) element: ElementType,
    pub(in crate::face) data: Option<Range<usize>>,
}

/// How far a kernel may reach over the edges of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::face) enum Padding {
    /// The kernel reaches over them so far that the output has the size of the input divided by the stride.
    Same,
    /// The kernel stays inside the image.
    Valid,
}

/// How a kernel slides over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::face) struct Striding {
    pub(in crate::face) padding: Padding,
    /// Rows and columns from one position to the next.
    pub(in crate::face) stride: [usize; 2],
}

/// The supported operators with their options; `relu` is a fused activation.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::face) enum OperatorKind {
    Add { relu: bool },
    Conv2d { striding: Striding, relu: bool },
    DepthwiseConv2d { striding: Striding, relu: bool },
    Dequantize,
    MaxPool2d { striding: Striding, kernel: [usize; 2] },
    Pad,
    Prelu,
    Relu,
    Reshape,
    ResizeBilinear,
}

/// An operator, with the numbers of the tensors that it reads and writes.
#[derive(Clone, Debug)]
pub(in crate::face) struct Operator {
    pub(in crate::face) kind: OperatorKind,
    pub(in crate::face) inputs: Vec<usize>,
    pub(in crate::face) outputs: Vec<usize>,
}

/// The only subgraph of the file, with its operators in an order in which they can run.
#[derive(Clone, Debug)]
pub(in crate::face) struct Graph {
    pub(in crate::face) tensors: Vec<TensorInfo>,
    pub(in crate::face) inputs: Vec<usize>,
    pub(in crate::face) outputs: Vec<usize>,
    pub(in crate::face) operators: Vec<Operator>,
}
