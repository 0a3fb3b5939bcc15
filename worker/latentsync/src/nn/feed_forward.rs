//! The gated feed-forward of transformers.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::gelu::gated;
use super::layers::Linear;
use super::linear::bands;
use super::on_own_ops;
use super::whole::Whole;
use crate::boundary::{Op, before, levers};
use crate::slices::{Limits, feed_forward_rows, pieces};
use crate::trace::Trace;
use crate::weights::Keys;

/// GEGLU feed-forward: `net.0.proj` gives value and gate, `net.2` goes back. The exact (erf) GELU.
pub(crate) struct FeedForward {
    path: String,
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    pub(crate) fn load(keys: &Keys, width: usize) -> Result<Self> {
        let net = keys.pp("net");
        Ok(Self {
            path: keys.path().to_owned(),
            proj: Linear::load(&net.pp(0).pp("proj"), width, 8 * width)?,
            out: Linear::load(&net.pp(2), 4 * width, width)?,
        })
    }

    /// The feed-forward of `x`, and `residual` added.
    pub(crate) fn forward_add(&self, x: &Tensor, residual: &Tensor, trace: &Trace) -> Result<Tensor> {
        let y = self.sliced(x, residual)?;
        trace.put_derived(&self.path, "", || &y - residual)?;
        Ok(y)
    }

    /// As many rows at a time as the levers allow. On the CPU in `f32` a slice is a whole number of the tiles that both
    /// products would have anyway, so that it changes no bit.
    fn sliced(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let (input, hidden, output) = (self.proj.input(), self.proj.output(), self.out.output());
        let rows = self.proj.announce(x, input)?;
        let width = hidden / 2;
        before(Op::Geglu { rows, width }, x)?;
        self.out.announce(x, input)?;
        let _at_work = (self.proj.weight.at_work(), self.out.weight.at_work());

        let (inner, outer) = (bands(rows, hidden), bands(rows, output));
        let slices = if on_own_ops(x) {
            whole_tiles(rows, hidden, output, levers().limits)
        } else {
            let most = feed_forward_rows(rows, hidden, levers().limits);
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
                .compute(&some(&x_rows)?, None, &within(&inner, &slice))?;
            hidden = gated(&hidden)?;
            let y = self
                .out
                .compute(&hidden, Some(&some(&residual_rows)?), &within(&outer, &slice))?;
            drop(hidden);
            whole.put(y, |whole| Ok(whole.clone()), (0, slice.start))?;
        }
        whole.finish(x)?.reshape(residual.shape())
    }
}

/// Slices for the CPU, each a whole number of the tiles of both products.
pub(super) fn whole_tiles(rows: usize, hidden: usize, output: usize, limits: Limits) -> Vec<Range<usize>> {
    let most = feed_forward_rows(rows, hidden, limits);
    common_slices(&bands(rows, hidden), &bands(rows, output), most)
}

/// Slices that end where both sets of bands have an end, of at most `most` rows where they have enough of them.
fn common_slices(inner: &[Range<usize>], outer: &[Range<usize>], most: usize) -> Vec<Range<usize>> {
    let mut slices: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    for end in inner.iter().map(|band| band.end) {
        if !outer.iter().any(|band| band.end == end) {
            continue;
        }
        match slices.last_mut() {
            Some(last) if end - last.start <= most => last.end = end,
            _ => slices.push(start..end),
        }
        start = end;
    }
    slices
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
