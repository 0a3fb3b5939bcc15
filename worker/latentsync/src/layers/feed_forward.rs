//! The gated feed-forward of transformers.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::gelu::gated;
use super::linear::Linear;
use crate::hooks::Op;
use crate::kernels::Whole;
use crate::kernels::cpu::{bands, whole_tiles};
use crate::run::Run;
use crate::slices::{feed_forward_rows, pieces};
use crate::tensors::VarBuilder;

/// GEGLU feed-forward: `net.0.proj` gives value and gate, `net.2` goes back. The exact (erf) GELU.
pub(crate) struct FeedForward {
    path: String,
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    pub(crate) fn load(vb: &VarBuilder, width: usize) -> Result<Self> {
        let net = vb.pp("net");
        Ok(Self {
            path: vb.path().to_owned(),
            proj: Linear::load(&net.pp(0).pp("proj"), width, 8 * width)?,
            out: Linear::load(&net.pp(2), 4 * width, width)?,
        })
    }

    /// The feed-forward of `x`, and `residual` added.
    pub(crate) fn forward_add(&self, run: &Run, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let y = self.sliced(run, x, residual)?;
        run.put_derived(&self.path, "", || &y - residual)?;
        Ok(y)
    }

    /// As many rows are worked on at a time as the options allow. On the CPU in `f32` a slice is a whole number of the tiles that both
    /// products would have anyway, so that it changes no bit.
    fn sliced(&self, run: &Run, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let (input, hidden, output) = (self.proj.input(), self.proj.output(), self.out.output());
        let rows = self.proj.announce(run, x, input)?;
        let width = hidden / 2;
        run.before(Op::Geglu { rows, width }, x)?;
        self.out.announce(run, x, input)?;
        let _at_work = (self.proj.weight.at_work(run), self.out.weight.at_work(run));

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
        let mut whole = Whole::new((rows, output));
        for slice in slices {
            let some = |x: &Tensor| x.narrow(0, slice.start, slice.len());
            let mut hidden = self
                .proj
                .compute(run, &some(&x_rows)?, None, &within(&inner, &slice))?;
            hidden = gated(run, &hidden)?;
            let y = self.out.compute(
                run,
                &hidden,
                Some(&some(&residual_rows)?),
                &within(&outer, &slice),
            )?;
            drop(hidden);
            whole.put(y, |whole| Ok(whole.clone()), (0, slice.start))?;
        }
        whole.finish(x)?.reshape(residual.shape())
    }
}

/// The bands inside `slice`, counted from its start.
fn within(bands: &[Range<usize>], slice: &Range<usize>) -> Vec<Range<usize>> {
    let inside = bands
        .iter()
        .filter(|band| band.start >= slice.start && band.end <= slice.end);
    inside
        .map(|band| band.start - slice.start..band.end - slice.start)
        .collect()
}
