//! The gated feed-forward (GEGLU) of transformer blocks.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::gelu::geglu;
use super::linear::Linear;
use crate::hooks::Op;
use crate::kernels::PiecewiseTensor;
use crate::kernels::cpu::{bands, whole_tiles};
use crate::run::Run;
use crate::slices::{feed_forward_rows, pieces};
use crate::tensors::VarBuilder;

/// A GEGLU feed-forward with the exact (erf) GELU: `net.0.proj` computes value and gate, `net.2` projects
/// back.
pub(crate) struct FeedForward {
    path: String,
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    /// Loads the two linear layers for tokens of `width` values.
    pub(crate) fn load(vb: &VarBuilder, width: usize) -> Result<Self> {
        let net = vb.pp("net");
        Ok(Self {
            path: vb.path().to_owned(),
            proj: Linear::load(&net.pp(0).pp("proj"), width, 8 * width)?,
            out: Linear::load(&net.pp(2), 4 * width, width)?,
        })
    }

    /// Runs the feed-forward on `x`, `(.., width)`, and adds `residual`, which has the same shape.
    pub(crate) fn forward_add(&self, run: &Run, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let y = self.sliced(run, x, residual)?;
        run.put_derived(&self.path, "", || &y - residual)?;
        Ok(y)
    }

    /// Works on as many rows at a time as the options allow. On the CPU in `f32` a slice consists of whole
    /// tiles of both products, so that slicing changes no bit.
    fn sliced(&self, run: &Run, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let (input, hidden, output) = (self.proj.input(), self.proj.output(), self.out.output());
        let rows = self.proj.call_hooks(run, x, input)?;
        let width = hidden / 2;
        run.before(Op::Geglu { rows, width }, x)?;
        self.out.call_hooks(run, x, input)?;
        let _evict = (
            self.proj.weight.evict_after_use(run),
            self.out.weight.evict_after_use(run),
        );

        let (inner, outer) = (bands(rows, hidden), bands(rows, output));
        let slices = if run.on_cpu(x) {
            whole_tiles(rows, hidden, output, run.options.limits)
        } else {
            let most = feed_forward_rows(rows, hidden, run.options.limits);
            pieces(rows, most)
                .map(|(start, count)| start..start + count)
                .collect()
        };
        let (x_rows, residual_rows) = (x.reshape((rows, input))?, residual.reshape((rows, output))?);
        let mut whole = PiecewiseTensor::new((rows, output));
        for slice in slices {
            let some = |x: &Tensor| x.narrow(0, slice.start, slice.len());
            let mut hidden = self
                .proj
                .compute(run, &some(&x_rows)?, None, &within(&inner, &slice))?;
            hidden = geglu(run, &hidden)?;
            let y = self.out.compute(
                run,
                &hidden,
                Some(&some(&residual_rows)?),
                &within(&outer, &slice),
            )?;
            drop(hidden);
            whole.write(y, |whole| Ok(whole.clone()), (0, slice.start))?;
        }
        whole.finish(x)?.reshape(residual.shape())
    }
}

/// Returns the bands inside `slice`, relative to its start.
fn within(bands: &[Range<usize>], slice: &Range<usize>) -> Vec<Range<usize>> {
    let inside = bands
        .iter()
        .filter(|band| band.start >= slice.start && band.end <= slice.end);
    inside
        .map(|band| band.start - slice.start..band.end - slice.start)
        .collect()
}
