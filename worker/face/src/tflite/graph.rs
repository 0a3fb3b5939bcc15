//! The graph of a network, as its file describes it.

use std::ops::Range;

/// The element types that the face networks use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ElementType {
    F32,
    F16,
    I32,
}

/// A tensor of the graph. `data` is the range of the file that holds its values, if it is a constant.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    pub(crate) shape: Vec<usize>,
    pub(crate) element: ElementType,
    pub(crate) data: Option<Range<usize>>,
}

/// How far a kernel may reach over the edges of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// The kernel reaches over them so far that the output has the size of the input divided by the stride.
    Same,
    /// The kernel stays inside the image.
    Valid,
}

/// How a kernel slides over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Striding {
    pub(crate) padding: Padding,
    /// Rows and columns from one position to the next.
    pub(crate) stride: [usize; 2],
}

/// The supported operators with their options; `relu` is a fused activation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OperatorKind {
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
pub(crate) struct Operator {
    pub(crate) kind: OperatorKind,
    pub(crate) inputs: Vec<usize>,
    pub(crate) outputs: Vec<usize>,
}

/// The only subgraph of the file, with its operators in an order in which they can run.
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) inputs: Vec<usize>,
    pub(crate) outputs: Vec<usize>,
    pub(crate) operators: Vec<Operator>,
}
