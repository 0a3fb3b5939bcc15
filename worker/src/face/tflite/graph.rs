//! A network as its file describes it.

use std::ops::Range;

/// Element types that occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::face) enum ElementType {
    F32,
    F16,
    I32,
}

/// One tensor; constants have `data`, a range of the file.
#[derive(Clone, Debug)]
pub(in crate::face) struct TensorInfo {
    pub(in crate::face) shape: Vec<usize>,
    pub(in crate::face) element: ElementType,
    pub(in crate::face) data: Option<Range<usize>>,
}

/// What a kernel finds beyond the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::face) enum Padding {
    Same,
    Valid,
}

/// Sliding of a kernel over the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::face) struct Slide {
    pub(in crate::face) padding: Padding,
    pub(in crate::face) stride: [usize; 2],
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::face) enum OperatorKind {
    Add { relu: bool },
    Conv2d { slide: Slide, relu: bool },
    DepthwiseConv2d { slide: Slide, relu: bool },
    Dequantize,
    MaxPool2d { slide: Slide, filter: [usize; 2] },
    Pad,
    Prelu,
    Relu,
    Reshape,
    ResizeBilinear,
}

#[derive(Clone, Debug)]
pub(in crate::face) struct Operator {
    pub(in crate::face) kind: OperatorKind,
    pub(in crate::face) inputs: Vec<usize>,
    pub(in crate::face) outputs: Vec<usize>,
}

/// The file's only subgraph. Operators stand in an order in which they can run.
#[derive(Clone, Debug)]
pub(in crate::face) struct Graph {
    pub(in crate::face) tensors: Vec<TensorInfo>,
    pub(in crate::face) inputs: Vec<usize>,
    pub(in crate::face) outputs: Vec<usize>,
    pub(in crate::face) operators: Vec<Operator>,
}
