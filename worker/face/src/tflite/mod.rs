//! Reads the flatbuffer of a `.tflite` file: the tensors, constants and operators of its only subgraph.
//!
//! It supports what the two face networks use and refuses everything else by name.

mod error;
mod flatbuffer;
mod graph;

use std::ops::Range;

pub use error::TfliteError;
pub(super) use graph::{ElementType, Graph, Operator, OperatorKind, Padding, Striding, TensorInfo};

use flatbuffer::{Bytes, Table};

/// The most bytes of a tensor; those of the face networks have up to four MiB.
const LARGEST_TENSOR: usize = 256 << 20;

/// Field numbers in the tables of the `.tflite` schema, version 3.
mod field {
    pub(super) const MODEL_CODES: usize = 1;
    pub(super) const MODEL_SUBGRAPHS: usize = 2;
    pub(super) const MODEL_BUFFERS: usize = 4;
    pub(super) const CODE_DEPRECATED: usize = 0;
    pub(super) const CODE_BUILTIN: usize = 3;
    pub(super) const GRAPH_TENSORS: usize = 0;
    pub(super) const GRAPH_INPUTS: usize = 1;
    pub(super) const GRAPH_OUTPUTS: usize = 2;
    pub(super) const GRAPH_OPERATORS: usize = 3;
    pub(super) const TENSOR_SHAPE: usize = 0;
    pub(super) const TENSOR_TYPE: usize = 1;
    pub(super) const TENSOR_BUFFER: usize = 2;
    pub(super) const OPERATOR_CODE: usize = 0;
    pub(super) const OPERATOR_INPUTS: usize = 1;
    pub(super) const OPERATOR_OUTPUTS: usize = 2;
    pub(super) const OPERATOR_OPTIONS: usize = 4;
    pub(super) const BUFFER_DATA: usize = 0;
}

/// Parses the content of a file.
///
/// # Errors
/// If it is not a `.tflite` file, is damaged, or uses something that is not supported.
pub(super) fn parse(file: &[u8]) -> Result<Graph, TfliteError> {
    let bytes = Bytes(file);
    let identifier = bytes.array::<4>(4)?;
    if &identifier != b"TFL3" {
        return Err(TfliteError::Identifier { found: identifier });
    }
    let model = Table {
        bytes,
        at: bytes.follow(0)?,
    };
    let codes = model
        .tables(field::MODEL_CODES)?
        .iter()
        .map(|code| {
            // Codes below 127 are in the older one-byte field; the newer field is then 0 or equal.
            let old = i32::from(code.i8(field::CODE_DEPRECATED, 0)?);
            Ok(old.max(code.i32(field::CODE_BUILTIN, 0)?))
        })
        .collect::<Result<Vec<i32>, TfliteError>>()?;
    let buffers = model
        .tables(field::MODEL_BUFFERS)?
        .iter()
        .map(|buffer| buffer.vector(field::BUFFER_DATA, 1))
        .collect::<Result<Vec<_>, _>>()?;
    let subgraphs = model.tables(field::MODEL_SUBGRAPHS)?;
    let [graph] = subgraphs.as_slice() else {
        return Err(TfliteError::Broken {
            at: model.at,
            what: "not exactly one subgraph",
        });
    };
    let tensors = graph
        .tables(field::GRAPH_TENSORS)?
        .iter()
        .enumerate()
        .map(|(index, table)| tensor(index, table, &buffers))
        .collect::<Result<Vec<_>, _>>()?;
    let operators = graph
        .tables(field::GRAPH_OPERATORS)?
        .iter()
        .enumerate()
        .map(|(index, table)| operator(index, table, &codes, tensors.len()))
        .collect::<Result<Vec<_>, _>>()?;
    let inputs = graph.indices(field::GRAPH_INPUTS, tensors.len())?;
    let outputs = graph.indices(field::GRAPH_OUTPUTS, tensors.len())?;
    Ok(Graph {
        tensors,
        inputs,
        outputs,
        operators,
    })
}

fn tensor(index: usize, table: &Table, buffers: &[Range<usize>]) -> Result<TensorInfo, TfliteError> {
    let refuse = |what: String| TfliteError::Tensor { index, what };
    let shape = table
        .i32s(field::TENSOR_SHAPE)?
        .into_iter()
        .map(|size| usize::try_from(size).map_err(|_| refuse(format!("size {size} is negative"))))
        .collect::<Result<Vec<_>, _>>()?;
    let element = match table.i8(field::TENSOR_TYPE, 0)? {
        0 => ElementType::F32,
        1 => ElementType::F16,
        2 => ElementType::I32,
        other => return Err(refuse(format!("element type {other} is not supported"))),
    };
    let buffer = table.i32(field::TENSOR_BUFFER, 0)?;
    let data = usize::try_from(buffer).ok().and_then(|at| buffers.get(at));
    let data = data.ok_or_else(|| refuse(format!("there is no buffer {buffer}")))?;
    let width = if element == ElementType::F16 { 2 } else { 4 };
    // Sizes of 0 hide no large ones: every product of some of them is taken later.
    let mut sizes = shape.iter().map(|&size| size.max(1));
    let fits = sizes.try_fold(width, usize::checked_mul);
    if fits.is_none_or(|bytes| bytes > LARGEST_TENSOR) {
        return Err(refuse(format!("shape {shape:?} is too large")));
    }
    let expected = shape.iter().product::<usize>() * width;
    if !data.is_empty() && data.len() != expected {
        return Err(refuse(format!(
            "{} bytes of data for shape {shape:?}",
            data.len()
        )));
    }
    Ok(TensorInfo {
        shape,
        element,
        data: (!data.is_empty()).then(|| data.clone()),
    })
}

fn operator(index: usize, table: &Table, codes: &[i32], tensors: usize) -> Result<Operator, TfliteError> {
    let code = table.i32(field::OPERATOR_CODE, 0)?;
    let code = usize::try_from(code).ok().and_then(|at| codes.get(at));
    let code = *code.ok_or(TfliteError::Broken {
        at: table.at,
        what: "an operator without a code",
    })?;
    let options = table.child(field::OPERATOR_OPTIONS)?;
    let refuse = |name: &str, what: &str| TfliteError::Operator {
        index,
        name: name.to_owned(),
        what: what.to_owned(),
    };
    let need = |name| options.as_ref().ok_or_else(|| refuse(name, "has no options"));
    let relu = |name, table: &Table, at| match table.i8(at, 0)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(refuse(name, "has a fused activation other than RELU")),
    };
    let undilated = |name, table: &Table, at| match (table.i32(at, 1)?, table.i32(at + 1, 1)?) {
        (1, 1) => Ok(()),
        _ => Err(refuse(name, "is dilated")),
    };
    let kind = match code {
        0 => OperatorKind::Add {
            relu: options
                .as_ref()
                .map_or(Ok(false), |table| relu("ADD", table, 0))?,
        },
        3 => {
            let table = need("CONV_2D")?;
            undilated("CONV_2D", table, 4)?;
            OperatorKind::Conv2d {
                striding: table.striding()?,
                relu: relu("CONV_2D", table, 3)?,
            }
        }
        4 => {
            let table = need("DEPTHWISE_CONV_2D")?;
            undilated("DEPTHWISE_CONV_2D", table, 5)?;
            if table.i32(3, 0)? != 1 {
                return Err(refuse("DEPTHWISE_CONV_2D", "has a depth multiplier other than 1"));
            }
            OperatorKind::DepthwiseConv2d {
                striding: table.striding()?,
                relu: relu("DEPTHWISE_CONV_2D", table, 4)?,
            }
        }
        6 => OperatorKind::Dequantize,
        17 => {
            let table = need("MAX_POOL_2D")?;
            if relu("MAX_POOL_2D", table, 5)? {
                return Err(refuse("MAX_POOL_2D", "has a fused activation"));
            }
            OperatorKind::MaxPool2d {
                striding: table.striding()?,
                kernel: [table.positive(4)?, table.positive(3)?],
            }
        }
        19 => OperatorKind::Relu,
        22 => OperatorKind::Reshape,
        23 => {
            let table = need("RESIZE_BILINEAR")?;
            if table.i8(2, 0)? != 0 || table.i8(3, 0)? != 1 {
                return Err(refuse("RESIZE_BILINEAR", "does not have half-pixel centres"));
            }
            OperatorKind::ResizeBilinear
        }
        34 => OperatorKind::Pad,
        54 => OperatorKind::Prelu,
        other => return Err(refuse(&format!("builtin {other}"), "is not supported")),
    };
    Ok(Operator {
        kind,
        inputs: table.indices(field::OPERATOR_INPUTS, tensors)?,
        outputs: table.indices(field::OPERATOR_OUTPUTS, tensors)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_format_is_refused() {
        assert!(matches!(
            parse(b"\x10\0\0\0GGUF rest").unwrap_err(),
            TfliteError::Identifier { .. }
        ));
        assert!(matches!(parse(b"TF").unwrap_err(), TfliteError::Truncated { .. }));
    }

    #[test]
    fn a_file_cut_short_anywhere_is_an_error_and_not_a_panic() {
        let file = crate::mesh::WEIGHTS;
        for keep in (0..file.len()).step_by(9973) {
            assert!(parse(&file[..keep]).is_err(), "{keep} bytes were accepted");
        }
    }

    #[test]
    fn a_shape_whose_size_overflows_is_refused() {
        let mut file = crate::mesh::WEIGHTS.to_vec();
        let words = |sizes: [i32; 4]| sizes.map(i32::to_le_bytes).concat();
        let shape = words([1, 192, 192, 3]);
        let at = file.windows(16).position(|bytes| bytes == shape).unwrap();
        file[at..at + 16].copy_from_slice(&words([i32::MAX; 4]));
        let refused = parse(&file).unwrap_err().to_string();
        assert!(refused.contains("too large"), "{refused}");
    }
}
