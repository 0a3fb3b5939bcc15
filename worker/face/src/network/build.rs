//! Turns the graph of a `.tflite` file into a network of steps, and checks every shape on the way.

use super::run::{Network, Operation, Step};
use crate::error::FaceError;
use crate::kernels::{ConvLayer, ImageShape, output_axis};
use crate::tflite::{self, ElementType, Graph, Operator, OperatorKind, Striding, TfliteError};

/// Reads the network `name` from a `.tflite` file. The graph must have one input of batch 1 and outputs of
/// `expected` values each.
pub(crate) fn network(name: &'static str, file: &[u8], expected: &[usize]) -> Result<Network, FaceError> {
    let network = read(name, file).map_err(|source| FaceError::Load {
        network: name,
        source,
    })?;
    if network.output_lens == expected {
        return Ok(network);
    }
    Err(FaceError::Outputs {
        network: name,
        expected: expected.to_vec(),
        found: network.output_lens,
    })
}

fn read(name: &'static str, file: &[u8]) -> Result<Network, TfliteError> {
    let graph = tflite::parse(file)?;
    let &[input] = graph.inputs.as_slice() else {
        return Err(TfliteError::Broken {
            at: 0,
            what: "not exactly one input",
        });
    };
    let mut builder = Builder {
        file,
        dequantized: vec![None; graph.tensors.len()],
        graph: &graph,
    };
    let mut steps = Vec::new();
    for (index, operator) in graph.operators.iter().enumerate() {
        let step = builder.step(operator);
        steps.extend(step.map_err(|what| TfliteError::Operator {
            index,
            name: format!("{:?}", operator.kind),
            what,
        })?);
    }
    mark_last_uses(&mut steps, &graph);
    let len = |&tensor: &usize| graph.tensors[tensor].shape.iter().product();
    Ok(Network {
        name,
        input,
        input_len: len(&input),
        output_lens: graph.outputs.iter().map(len).collect(),
        outputs: graph.outputs.clone(),
        tensors: graph.tensors.len(),
        steps,
    })
}

/// Fills in `last_uses`, from the last step to the first.
fn mark_last_uses(steps: &mut [Step], graph: &Graph) {
    let mut read_later = vec![false; graph.tensors.len()];
    for &output in &graph.outputs {
        read_later[output] = true;
    }
    for step in steps.iter_mut().rev() {
        let other = match step.operation {
            Operation::Add { other, .. } => Some(other),
            _ => None,
        };
        for tensor in [Some(step.input), other].into_iter().flatten() {
            if !std::mem::replace(&mut read_later[tensor], true) {
                step.last_uses.push(tensor);
            }
        }
    }
}

/// The file and its graph while the steps are made.
struct Builder<'a> {
    file: &'a [u8],
    graph: &'a Graph,
    /// The f32 values of the constants that a `DEQUANTIZE` converts from f16, by the number of its output.
    dequantized: Vec<Option<Vec<f32>>>,
}

impl Builder<'_> {
    /// Turns an operator into a step, or into none if it only converts a constant.
    fn step(&mut self, operator: &Operator) -> Result<Option<Step>, String> {
        let &[output] = operator.outputs.as_slice() else {
            return Err("does not have exactly one output".to_owned());
        };
        let input = |at: usize| {
            operator
                .inputs
                .get(at)
                .copied()
                .ok_or_else(|| format!("has no input {at}"))
        };
        let operation = match &operator.kind {
            OperatorKind::Dequantize => {
                let values = self.constant(input(0)?)?;
                self.dequantized[output] = Some(values);
                return Ok(None);
            }
            OperatorKind::Add { relu } => {
                self.same_shape(input(0)?, input(1)?)?;
                if input(0)? == input(1)? {
                    return Err("adds a tensor to itself".to_owned());
                }
                Operation::Add {
                    other: input(1)?,
                    relu: *relu,
                }
            }
            OperatorKind::Conv2d { striding, relu } => {
                let shape = self.image(input(0)?)?;
                let [channels, kernel_h, kernel_w, depth] = self.shape4(input(1)?)?;
                if depth != shape[2] {
                    return Err("has weights for another number of channels than its input".to_owned());
                }
                let weight = transpose(&self.constant(input(1)?)?, channels);
                let bias = self.constant(input(2)?)?;
                let sliding = (*striding, *relu);
                let layer = self.layer(shape, output, [kernel_h, kernel_w], sliding, (weight, bias))?;
                Operation::Conv2d(layer)
            }
            OperatorKind::DepthwiseConv2d { striding, relu } => {
                let shape = self.image(input(0)?)?;
                let [_, kernel_h, kernel_w, channels] = self.shape4(input(1)?)?;
                if channels != shape[2] {
                    return Err("has weights for another number of channels than its input".to_owned());
                }
                let values = (self.constant(input(1)?)?, self.constant(input(2)?)?);
                let layer = self.layer(shape, output, [kernel_h, kernel_w], (*striding, *relu), values)?;
                Operation::Depthwise(layer)
            }
            OperatorKind::MaxPool2d { striding, kernel } => {
                let shape = self.image(input(0)?)?;
                self.check_output_shape(output, shape, *kernel, *striding, shape[2])?;
                Operation::MaxPool {
                    shape,
                    kernel: *kernel,
                    striding: *striding,
                }
            }
            OperatorKind::Pad => {
                let ([h, w, from], [to_h, to_w, to]) = (self.image(input(0)?)?, self.image(output)?);
                let appended = i32::try_from(to.saturating_sub(from)).unwrap_or(i32::MAX);
                if (h, w) != (to_h, to_w) || self.integers(input(1)?)? != [0, 0, 0, 0, 0, 0, 0, appended] {
                    return Err("pads more than trailing channels".to_owned());
                }
                Operation::PadChannels { from, to }
            }
            OperatorKind::Prelu => {
                let slope = self.constant(input(1)?)?;
                if slope.len() != self.image(input(0)?)?[2] {
                    return Err("does not have one slope for each channel".to_owned());
                }
                Operation::Prelu { slope }
            }
            OperatorKind::Relu => Operation::Relu,
            OperatorKind::Reshape => Operation::Reshape,
            OperatorKind::ResizeBilinear => {
                let (shape, [h, w, channels]) = (self.image(input(0)?)?, self.image(output)?);
                if channels != shape[2] {
                    return Err("changes the number of channels".to_owned());
                }
                Operation::Resize { shape, to: [h, w] }
            }
        };
        if matches!(
            operation,
            Operation::Add { .. } | Operation::Prelu { .. } | Operation::Relu
        ) {
            self.same_shape(input(0)?, output)?;
        }
        if matches!(operation, Operation::Reshape) && self.len(input(0)?) != self.len(output) {
            return Err("changes the number of values".to_owned());
        }
        Ok(Some(Step {
            operation,
            input: input(0)?,
            output,
            last_uses: Vec::new(),
        }))
    }

    /// Makes a convolution whose `output` has as many channels as `bias` has values.
    fn layer(
        &self,
        shape: ImageShape,
        output: usize,
        kernel: [usize; 2],
        (striding, relu): (Striding, bool),
        (weight, bias): (Vec<f32>, Vec<f32>),
    ) -> Result<ConvLayer, String> {
        self.check_output_shape(output, shape, kernel, striding, bias.len())?;
        Ok(ConvLayer {
            shape,
            weight,
            bias,
            kernel,
            striding,
            relu,
        })
    }

    fn len(&self, tensor: usize) -> usize {
        self.graph.tensors[tensor].shape.iter().product()
    }

    fn shape4(&self, tensor: usize) -> Result<[usize; 4], String> {
        let shape = &self.graph.tensors[tensor].shape;
        shape
            .as_slice()
            .try_into()
            .map_err(|_| format!("tensor {tensor} has shape {shape:?}, not four axes"))
    }

    /// Returns the shape of a tensor that is a batch of one image.
    fn image(&self, tensor: usize) -> Result<ImageShape, String> {
        match self.shape4(tensor)? {
            [1, h, w, c] if h > 0 && w > 0 && c > 0 => Ok([h, w, c]),
            shape => Err(format!(
                "tensor {tensor} has shape {shape:?}, not a batch of one image"
            )),
        }
    }

    fn same_shape(&self, a: usize, b: usize) -> Result<(), String> {
        let (a, b) = (&self.graph.tensors[a].shape, &self.graph.tensors[b].shape);
        if a == b {
            Ok(())
        } else {
            Err(format!("shapes {a:?} and {b:?} differ"))
        }
    }

    /// Refuses an operator whose computed output shape is not that of the file.
    fn check_output_shape(
        &self,
        output: usize,
        [h, w, _]: ImageShape,
        kernel: [usize; 2],
        striding: Striding,
        channels: usize,
    ) -> Result<(), String> {
        let (out_h, _) = output_axis(h, kernel[0], striding.stride[0], striding.padding);
        let (out_w, _) = output_axis(w, kernel[1], striding.stride[1], striding.padding);
        let found = self.image(output)?;
        if found == [out_h, out_w, channels] {
            return Ok(());
        }
        Err(format!(
            "computes the shape {:?}, but the file gives {found:?}",
            [out_h, out_w, channels]
        ))
    }

    fn data(&self, tensor: usize) -> Result<&[u8], String> {
        let range = self.graph.tensors[tensor].data.clone();
        let range = range.ok_or_else(|| format!("tensor {tensor} is not a constant"))?;
        self.file
            .get(range)
            .ok_or_else(|| format!("tensor {tensor} lies outside the file"))
    }

    /// Returns the values of a constant as f32.
    fn constant(&self, tensor: usize) -> Result<Vec<f32>, String> {
        if let Some(values) = &self.dequantized[tensor] {
            return Ok(values.clone());
        }
        let data = self.data(tensor)?;
        match self.graph.tensors[tensor].element {
            ElementType::F32 => Ok(words(data).map(f32::from_le_bytes).collect()),
            ElementType::F16 => Ok(data
                .chunks_exact(2)
                .map(|pair| half::f16::from_le_bytes([pair[0], pair[1]]).to_f32())
                .collect()),
            ElementType::I32 => Err(format!("tensor {tensor} holds integers")),
        }
    }

    fn integers(&self, tensor: usize) -> Result<Vec<i32>, String> {
        match self.graph.tensors[tensor].element {
            ElementType::I32 => Ok(words(self.data(tensor)?).map(i32::from_le_bytes).collect()),
            _ => Err(format!("tensor {tensor} does not hold integers")),
        }
    }
}

fn words(data: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    data.chunks_exact(4)
        .map(|word| [word[0], word[1], word[2], word[3]])
}

/// Transposes weights from `out channels x depth` to `depth x out channels`.
fn transpose(weight: &[f32], channels: usize) -> Vec<f32> {
    let depth = weight.len() / channels.max(1);
    (0..depth)
        .flat_map(|k| (0..channels).map(move |n| weight[n * depth + k]))
        .collect()
}
