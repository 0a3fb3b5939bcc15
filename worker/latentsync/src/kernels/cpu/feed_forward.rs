//! How the rows of a feed-forward are cut into slices that change no bit.

use std::ops::Range;

use super::linear::bands;
use crate::slices::{Limits, feed_forward_rows};

/// Slices for the CPU, each a whole number of the tiles of both products.
pub(crate) fn whole_tiles(rows: usize, hidden: usize, output: usize, limits: Limits) -> Vec<Range<usize>> {
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
