//! From the file's graph to steps.

use super::run::{Action, Filter, Network, Step};
use crate::face::error::FaceError;
use crate::face::kernels::{Shape, slide_axis};
use crate::face::tflite::{self, ElementType, Graph, Operator, OperatorKind, Slide, TfliteError};

/// The network `name` in a `.tflite` file whose graph has one input, of batch 1, and outputs of `expected` values each.
pub(in crate::face) fn network(
    name: &'static str,
    file: &[u8],
    expected: &[usize],
) -> Result<Network, FaceError> {
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
        unfolded: vec![None; graph.tensors.len()],
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
    let len = |&slot: &usize| graph.tensors[slot].shape.iter().product();
    Ok(Network {
        name,
        input,
        input_len: len(&input),
        output_lens: graph.outputs.iter().map(len).collect(),
        outputs: graph.outputs.clone(),
        slots: graph.tensors.len(),
        steps,
    })
}

fn mark_last_uses(steps: &mut [Step], graph: &Graph) {
    let mut read_later = vec![false; graph.tensors.len()];
    for &output in &graph.outputs {
        read_later[output] = true;
    }
    for step in steps.iter_mut().rev() {
        let other = match step.action {
            Action::Add { other, .. } => Some(other),
            _ => None,
        };
        for slot in [Some(step.input), other].into_iter().flatten() {
            if !std::mem::replace(&mut read_later[slot], true) {
                step.last_uses.push(slot);
            }
        }
    }
}

struct Builder<'a> {
    file: &'a [u8],
    graph: &'a Graph,
    /// Constants that a `DEQUANTIZE` unfolds.
    unfolded: Vec<Option<Vec<f32>>>,
}

impl Builder<'_> {
    /// The step that an operator becomes; none where it only unfolds a constant.
    fn step(&mut self, operator: &Operator) -> Result<Option<Step>, String> {
        let &[output] = operator.outputs.as_slice() else {
            return Err("has not exactly one output".to_owned());
        };
        let input = |at: usize| {
            operator
                .inputs
                .get(at)
                .copied()
                .ok_or_else(|| format!("has no input {at}"))
        };
        let action = match &operator.kind {
            OperatorKind::Dequantize => {
                let values = self.constant(input(0)?)?;
                self.unfolded[output] = Some(values);
                return Ok(None);
            }
            OperatorKind::Add { relu } => {
                self.same_shape(input(0)?, input(1)?)?;
                if input(0)? == input(1)? {
                    return Err("adds a tensor to itself".to_owned());
                }
                Action::Add {
                    other: input(1)?,
                    relu: *relu,
                }
            }
            OperatorKind::Conv2d { slide, relu } => {
                let shape = self.picture(input(0)?)?;
                let [channels, kernel_h, kernel_w, depth] = self.shape4(input(1)?)?;
                if depth != shape[2] {
                    return Err("weights and input disagree".to_owned());
                }
                let weight = transpose(&self.constant(input(1)?)?, channels);
                let bias = self.constant(input(2)?)?;
                let sliding = (*slide, *relu);
                let filter = self.filter(shape, output, [kernel_h, kernel_w], sliding, (weight, bias))?;
                Action::Conv2d(filter)
            }
            OperatorKind::DepthwiseConv2d { slide, relu } => {
                let shape = self.picture(input(0)?)?;
                let [_, kernel_h, kernel_w, channels] = self.shape4(input(1)?)?;
                if channels != shape[2] {
                    return Err("weights and input disagree".to_owned());
                }
                let values = (self.constant(input(1)?)?, self.constant(input(2)?)?);
                let filter = self.filter(shape, output, [kernel_h, kernel_w], (*slide, *relu), values)?;
                Action::Depthwise(filter)
            }
            OperatorKind::MaxPool2d { slide, filter } => {
                let shape = self.picture(input(0)?)?;
                self.slides_to(output, shape, *filter, *slide, shape[2])?;
                Action::MaxPool {
                    shape,
                    filter: *filter,
                    slide: *slide,
                }
            }
            OperatorKind::Pad => {
                let ([h, w, from], [to_h, to_w, to]) = (self.picture(input(0)?)?, self.picture(output)?);
                let appended = i32::try_from(to.saturating_sub(from)).unwrap_or(i32::MAX);
                if (h, w) != (to_h, to_w) || self.integers(input(1)?)? != [0, 0, 0, 0, 0, 0, 0, appended] {
                    return Err("pads more than trailing channels".to_owned());
                }
                Action::PadChannels { from, to }
            }
            OperatorKind::Prelu => {
                let slope = self.constant(input(1)?)?;
                if slope.len() != self.picture(input(0)?)?[2] {
                    return Err("has not one slope a channel".to_owned());
                }
                Action::Prelu { slope }
            }
            OperatorKind::Relu => Action::Relu,
            OperatorKind::Reshape => Action::Keep,
            OperatorKind::ResizeBilinear => {
                let (shape, [h, w, channels]) = (self.picture(input(0)?)?, self.picture(output)?);
                if channels != shape[2] {
                    return Err("changes the number of channels".to_owned());
                }
                Action::Resize { shape, to: [h, w] }
            }
        };
        if matches!(action, Action::Add { .. } | Action::Prelu { .. } | Action::Relu) {
            self.same_shape(input(0)?, output)?;
        }
        if matches!(action, Action::Keep) && self.len(input(0)?) != self.len(output) {
            return Err("changes the number of values".to_owned());
        }
        Ok(Some(Step {
            action,
            input: input(0)?,
            output,
            last_uses: Vec::new(),
        }))
    }

    /// A filter whose bias says how many channels `output` has.
    fn filter(
        &self,
        shape: Shape,
        output: usize,
        kernel: [usize; 2],
        (slide, relu): (Slide, bool),
        (weight, bias): (Vec<f32>, Vec<f32>),
    ) -> Result<Filter, String> {
        self.slides_to(output, shape, kernel, slide, bias.len())?;
        Ok(Filter {
            shape,
            weight,
            bias,
            kernel,
            slide,
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

    /// Height, width, channels of a tensor of batch 1.
    fn picture(&self, tensor: usize) -> Result<Shape, String> {
        match self.shape4(tensor)? {
            [1, h, w, c] if h > 0 && w > 0 && c > 0 => Ok([h, w, c]),
            shape => Err(format!(
                "tensor {tensor} has shape {shape:?}, no batch of one picture"
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

    fn slides_to(
        &self,
        output: usize,
        [h, w, _]: Shape,
        kernel: [usize; 2],
        slide: Slide,
        channels: usize,
    ) -> Result<(), String> {
        let (out_h, _) = slide_axis(h, kernel[0], slide.stride[0], slide.padding);
        let (out_w, _) = slide_axis(w, kernel[1], slide.stride[1], slide.padding);
        let found = self.picture(output)?;
        if found == [out_h, out_w, channels] {
            return Ok(());
        }
        Err(format!(
            "gives {:?} where the file says {found:?}",
            [out_h, out_w, channels]
        ))
    }

    fn data(&self, tensor: usize) -> Result<&[u8], String> {
        let range = self.graph.tensors[tensor].data.clone();
        let range = range.ok_or_else(|| format!("tensor {tensor} is no constant"))?;
        self.file
            .get(range)
            .ok_or_else(|| format!("tensor {tensor} lies outside the file"))
    }

    fn constant(&self, tensor: usize) -> Result<Vec<f32>, String> {
        if let Some(values) = &self.unfolded[tensor] {
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
            _ => Err(format!("tensor {tensor} holds no integers")),
        }
    }
}

fn words(data: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    data.chunks_exact(4)
        .map(|word| [word[0], word[1], word[2], word[3]])
}

/// From `out channels x depth` to `depth x out channels`.
fn transpose(weight: &[f32], channels: usize) -> Vec<f32> {
    let depth = weight.len() / channels.max(1);
    (0..depth)
        .flat_map(|k| (0..channels).map(move |n| weight[n * depth + k]))
        .collect()
}
