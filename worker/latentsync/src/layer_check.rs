//! Compares single layers on a device with the CPU in `f32`, on the same weights and inputs. The widths are
//! those of the published model, which the small weights of tests do not have. `latentfarm-engine check
//! layers` runs it on a machine that is to join a farm.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};

use crate::kernels::cuda::{KernelCheck, relative_distance};
use crate::layers::{Conv2d, FeedForward, GroupNorm, LayerNorm, attend};
use crate::noise::{DrawPurpose, normals};
use crate::run::Run;
use crate::tensors::{LoadReport, TensorFile, VarBuilder};

/// Values repeat after this many. It is a prime, so that they repeat at another place of every row.
const PERIOD: usize = 1_000_003;

/// Compares the layers in one number type and passes every result to `report` as soon as it is known.
/// `shrink`, which should be a power of two up to 8, divides the sides of images and the numbers of tokens;
/// with 1 they are those of faces of 512 px.
///
/// # Errors
/// Fails if a layer cannot run, and with the errors of `report`.
pub fn check_layers(
    device: &Device,
    dtype: DType,
    shrink: usize,
    report: &mut dyn FnMut(KernelCheck) -> Result<()>,
) -> Result<()> {
    let mut checker = LayerChecker {
        device,
        dtype,
        values: normals(20_26, DrawPurpose::InitLatents, 7, PERIOD),
        report,
    };
    checker.convolutions(shrink)?;
    checker.norms(shrink)?;
    checker.attentions(shrink)?;
    checker.feed_forwards(shrink)
}

/// Compares the layers in one number type.
struct LayerChecker<'a> {
    device: &'a Device,
    dtype: DType,
    /// Standard normals, from which all weights and inputs are taken.
    values: Vec<f32>,
    report: &'a mut dyn FnMut(KernelCheck) -> Result<()>,
}

impl LayerChecker<'_> {
    /// Returns values in `f32` on the CPU which the number type can represent. Weights are divided by the
    /// root of the number of products in a sum. Different `stream`s give different values.
    fn tensor(&self, shape: &[usize], stream: usize) -> Result<Tensor> {
        let count = shape.iter().product();
        let products = shape.get(1..).unwrap_or_default().iter().product::<usize>();
        let scale = if stream < FIRST_INPUT && products > 1 {
            1.0 / (products as f64).sqrt()
        } else {
            1.0
        };
        let values = self.values.iter().cycle().skip(stream * 1009).take(count);
        (Tensor::from_iter(values.copied(), &Device::Cpu)?.reshape(shape)? * scale)?
            .to_dtype(self.dtype)?
            .to_dtype(DType::F32)
    }

    /// Loads a layer with random weights of the given names and shapes on the device and on the CPU, runs
    /// both on random inputs of the given shapes, and reports how far apart the results are.
    fn compare<L>(
        &mut self,
        case: String,
        weights: &[(&str, &[usize])],
        load: impl Fn(&VarBuilder) -> Result<L>,
        inputs: &[&[usize]],
        forward: impl Fn(&L, &Run, &[Tensor]) -> Result<Tensor>,
    ) -> Result<()> {
        let mut named = HashMap::new();
        for (stream, (name, shape)) in weights.iter().enumerate() {
            named.insert(*name, self.tensor(shape, stream)?);
        }
        let file = tempfile::Builder::new().suffix(".safetensors").tempfile()?;
        candle_core::safetensors::save(&named, file.path())?;
        let tensors = TensorFile::open(file.path()).map_err(candle_core::Error::wrap)?;
        let inputs = (FIRST_INPUT..)
            .zip(inputs)
            .map(|(stream, shape)| self.tensor(shape, stream))
            .collect::<Result<Vec<_>>>()?;
        let run = |device: &Device, dtype: DType| {
            let layer = load(&VarBuilder::root(&tensors, &LoadReport::default(), device, dtype))?;
            let inputs = inputs
                .iter()
                .map(|input| input.to_dtype(dtype)?.to_device(device))
                .collect::<Result<Vec<_>>>()?;
            forward(&layer, &Run::default(), &inputs)?
                .to_dtype(DType::F32)?
                .to_device(&Device::Cpu)
        };
        let distance = relative_distance(&run(self.device, self.dtype)?, &run(&Device::Cpu, DType::F32)?)?;
        let limit = match self.dtype {
            DType::F16 => 2e-3,
            DType::BF16 => 1.6e-2,
            // cuBLAS sums in another order than the CPU.
            _ => 1e-5,
        };
        (self.report)(KernelCheck {
            case,
            dtype: self.dtype.as_str().to_owned(),
            distance,
            limit,
        })
    }

    fn convolutions(&mut self, shrink: usize) -> Result<()> {
        // The last one is the VAE's, whose columns are made in strips of rows.
        for (images, input, output, side, stride) in [
            (2, 320, 320, 32, 1),
            (2, 320, 320, 64, 1),
            (2, 320, 320, 64, 2),
            (1, 960, 320, 64, 1),
            (16, 1280, 1280, 8, 1),
            (1, 128, 128, 512, 1),
        ] {
            let side = side / shrink;
            self.compare(
                format!("convolution {images} x {input} to {output}, {side} px, stride {stride}"),
                &[("weight", &[output, input, 3, 3]), ("bias", &[output])],
                |vb| Conv2d::load(vb, input, output, 3, stride, 1),
                &[&[images, input, side, side]],
                |layer, run, x| layer.forward(run, &x[0]),
            )?;
        }
        Ok(())
    }

    fn norms(&mut self, shrink: usize) -> Result<()> {
        for (images, channels, side) in [(16, 320, 64), (16, 1280, 8), (1, 512, 64), (1, 128, 512)] {
            let side = side / shrink;
            self.compare(
                format!("group norm and SiLU over {images} x {channels}, {side} px"),
                &[("weight", &[channels]), ("bias", &[channels])],
                |vb| GroupNorm::load(vb, 32, channels, 1e-5),
                &[&[images, channels, side, side]],
                |layer, run, x| layer.forward_silu(run, &x[0], images),
            )?;
        }
        for width in [320, 640, 1280] {
            let rows = 4096 / shrink;
            self.compare(
                format!("layer norm {rows} x {width}"),
                &[("weight", &[width]), ("bias", &[width])],
                |vb| LayerNorm::load(vb, width),
                &[&[rows, width]],
                |layer, run, x| layer.forward(run, &x[0]),
            )?;
        }
        Ok(())
    }

    fn attentions(&mut self, shrink: usize) -> Result<()> {
        // Heads of 40, 80, 160 and 512 values: within a picture, from a picture to the audio, and the VAE's.
        for (queries, keys, width, heads) in [
            (4096, 4096, 320, 8),
            (1024, 1024, 640, 8),
            (256, 256, 1280, 8),
            (4096, 50 * shrink, 320, 8),
            (4096, 4096, 512, 1),
        ] {
            let (queries, keys) = (queries / shrink, keys / shrink);
            self.compare(
                format!("attention {queries} to {keys}, width {width}, {heads} heads"),
                &[],
                |_vb| Ok(()),
                &[
                    &[1, 1, queries, width],
                    &[1, 1, keys, width],
                    &[1, 1, keys, width],
                ],
                |(), run, x| attend(run, &x[0], &x[1], &x[2], heads),
            )?;
        }
        // Between the frames of each place: one product more than a 16-bit number counts, and one fewer.
        for (places, width, heads) in [(13_107, 200, 5), (8192, 320, 8)] {
            let places = places / shrink;
            let shape: &[usize] = &[1, 16, places, width];
            self.compare(
                format!("attention between 16 frames, {places} places, width {width}, {heads} heads"),
                &[],
                |_vb| Ok(()),
                &[shape, shape, shape],
                |(), run, x| {
                    let across = |x: &Tensor| x.transpose(1, 2);
                    attend(run, &across(&x[0])?, &across(&x[1])?, &across(&x[2])?, heads)
                },
            )?;
        }
        Ok(())
    }

    fn feed_forwards(&mut self, shrink: usize) -> Result<()> {
        for (rows, width) in [(4096, 320), (1024, 640), (256, 1280)] {
            let rows = rows / shrink;
            self.compare(
                format!("gated feed-forward {rows} x {width}"),
                &[
                    ("net.0.proj.weight", &[8 * width, width]),
                    ("net.0.proj.bias", &[8 * width]),
                    ("net.2.weight", &[width, 4 * width]),
                    ("net.2.bias", &[width]),
                ],
                |vb| FeedForward::load(vb, width),
                &[&[1, rows, width], &[1, rows, width]],
                |layer, run, x| layer.forward_add(run, &x[0], &x[1]),
            )?;
        }
        Ok(())
    }
}

/// The streams from this one on are inputs, those before it weights.
const FIRST_INPUT: usize = 16;
