//! The slices that the rows of a feed-forward are partitioned into, such that slicing changes no bit.

use std::ops::Range;

use super::linear::bands;
use crate::slices::{SliceLimits, feed_forward_rows};

/// Returns the slices of `rows` rows on the CPU, within `limits` if possible. Each consists of whole tiles of
/// both products of the feed-forward, `hidden` and `output` wide.
pub(crate) fn whole_tiles(
    rows: usize,
    hidden: usize,
    output: usize,
    limits: SliceLimits,
) -> Vec<Range<usize>> {
    let most = feed_forward_rows(rows, hidden, limits);
    common_slices(&bands(rows, hidden), &bands(rows, output), most)
}

/// Returns slices that end where a band of either set ends, of at most `most` rows if both sets have enough
/// such ends.
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
