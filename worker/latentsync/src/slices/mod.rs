//! The slicing of large operations, so that no kernel launch is larger than the kernel can index and none
//! takes more memory than the memory plan allows. The kernels and the memory prediction call the same
//! functions, which depend on the shapes alone.

/// The largest numbers of elements that one slice of an operation may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceLimits {
    /// The attention scores of a slice.
    pub scores: usize,
    /// The matrices that one batched product of a slice multiplies: its rows times its heads.
    pub batches: usize,
    /// The values that a convolution's im2col gives for a slice, or the values of its result if they are
    /// more.
    pub columns: usize,
    /// The values that the first layer of a feed-forward gives for a slice.
    pub hidden: usize,
    /// The values that a group norm converts to `f32` at once. `usize::MAX` means all of them.
    pub normed: usize,
}

impl SliceLimits {
    /// The limits of what candle's kernels can index. Beyond them the kernels do not fail but give wrong
    /// results: the softmax kernel counts with signed 32-bit numbers, and the im2col kernel is launched with
    /// a 32-bit count.
    pub(crate) const INDEXABLE: Self = Self {
        scores: 1 << 31,
        // cuBLAS has given wrong results in `f16` for more matrices on GPUs of compute capability 7.x.
        batches: 65_535,
        columns: (1 << 32) - 1,
        hidden: usize::MAX,
        normed: usize::MAX,
    };
    /// The limits for when memory is not short: 512 MiB of scores and of im2col columns in a 16-bit type.
    pub const DEFAULT: Self = Self {
        scores: 1 << 28,
        columns: 1 << 28,
        ..Self::INDEXABLE
    };
    /// The limits for when memory is short: 32 MiB of scores, 128 MiB of im2col columns and 16 MiB of a
    /// feed-forward in a 16-bit type, and 16 MiB of a norm's input in `f32`. They are still large enough to
    /// keep a device busy.
    pub(crate) const LOW_MEMORY: Self = Self {
        scores: 1 << 24,
        batches: Self::INDEXABLE.batches,
        columns: 1 << 26,
        hidden: 1 << 23,
        normed: 1 << 22,
    };
    /// The limits for a picture that is computed again in `f32` while memory is short: those of
    /// [`LOW_MEMORY`](Self::LOW_MEMORY) in bytes.
    pub(crate) const LOW_MEMORY_F32: Self = Self {
        scores: Self::LOW_MEMORY.scores / 2,
        columns: Self::LOW_MEMORY.columns / 2,
        hidden: Self::LOW_MEMORY.hidden / 2,
        ..Self::LOW_MEMORY
    };
}

// A limit beyond what the kernels can index would give wrong results without an error.
const _: () = assert!(SliceLimits::DEFAULT.scores <= SliceLimits::INDEXABLE.scores);
const _: () = assert!(SliceLimits::DEFAULT.columns <= SliceLimits::INDEXABLE.columns);
const _: () = assert!(SliceLimits::LOW_MEMORY.scores <= SliceLimits::DEFAULT.scores);
const _: () = assert!(SliceLimits::LOW_MEMORY.columns <= SliceLimits::DEFAULT.columns);

/// The sizes of one attention operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionShape {
    /// The number of independent attentions: batch times frames, or batch times positions.
    pub rows: usize,
    /// The heads of each row.
    pub heads: usize,
    /// The queries of each row.
    pub queries: usize,
    /// The keys of each row.
    pub keys: usize,
}

/// The numbers of rows, heads and queries that are computed at once. A slice has fewer than all heads only if
/// it has a single row, and fewer than all queries only if it has a single head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttentionSlice {
    /// The rows of the slice.
    pub(crate) rows: usize,
    /// The heads of the slice.
    pub(crate) heads: usize,
    /// The queries of the slice.
    pub(crate) queries: usize,
}

impl AttentionShape {
    /// Returns the largest slice within `limits`, or `None` if the scores of one query exceed them.
    pub(crate) fn slice_within(self, limits: SliceLimits) -> Option<AttentionSlice> {
        let one_query = self.keys.max(1);
        if one_query > limits.scores {
            return None;
        }
        let queries = (limits.scores / one_query).min(self.queries).max(1);
        let one_head = one_query * self.queries.max(1);
        let heads = (limits.scores / one_head)
            .min(limits.batches)
            .clamp(1, self.heads.max(1));
        let one_row = one_head * self.heads.max(1);
        let rows = (limits.scores / one_row)
            .min(limits.batches / self.heads.max(1))
            .clamp(1, self.rows.max(1));
        Some(AttentionSlice { rows, heads, queries })
    }
}

/// The sizes of one convolution with a square kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvolutionShape {
    /// The number of images in the batch.
    pub images: usize,
    /// The channels of the input.
    pub input: usize,
    /// The channels of the result.
    pub output: usize,
    /// The height of the result in pixels.
    pub height: usize,
    /// The width of the result in pixels.
    pub width: usize,
    /// The side of the kernel.
    pub kernel: usize,
}

/// The numbers of images and of rows of the result that are computed at once. A slice has fewer than all rows
/// only if it has a single image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvolutionSlice {
    /// The images of the slice.
    pub(crate) images: usize,
    /// The rows of the result in the slice.
    pub(crate) rows: usize,
}

impl ConvolutionShape {
    /// Returns the largest slice within `limits`, or `None` if one row of the result exceeds them.
    pub(crate) fn slice_within(self, limits: SliceLimits) -> Option<ConvolutionSlice> {
        let depth = (self.input * self.kernel * self.kernel).max(self.output).max(1);
        let one_row = depth * self.width.max(1);
        if one_row > limits.columns {
            return None;
        }
        let rows = (limits.columns / one_row).min(self.height).max(1);
        let one_image = one_row * self.height.max(1);
        let images = (limits.columns / one_image).clamp(1, self.images.max(1));
        Some(ConvolutionSlice { images, rows })
    }
}

/// The sizes of one group norm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupNormShape {
    /// The number of images in the batch.
    pub(crate) images: usize,
    /// The groups of channels in an image.
    pub(crate) groups: usize,
    /// The number of values in one group of one image.
    pub(crate) per_group: usize,
}

/// The numbers of images and groups that are computed at once. A slice has fewer than all groups only if it
/// has a single image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupNormSlice {
    /// The images of the slice.
    pub(crate) images: usize,
    /// The groups of the slice.
    pub(crate) groups: usize,
}

impl GroupNormShape {
    /// Returns the largest slice within `limits`, but at least one group of one image.
    pub(crate) fn slice_within(self, limits: SliceLimits) -> GroupNormSlice {
        let one_group = self.per_group.max(1);
        let one_image = one_group * self.groups.max(1);
        GroupNormSlice {
            images: (limits.normed / one_image).clamp(1, self.images.max(1)),
            groups: (limits.normed / one_group).clamp(1, self.groups.max(1)),
        }
    }
}

/// Returns how many of the `rows` of a feed-forward are computed at once if its first layer gives `width`
/// values a row.
pub(crate) fn feed_forward_rows(rows: usize, width: usize, limits: SliceLimits) -> usize {
    (limits.hidden / width.max(1)).clamp(1, rows.max(1))
}

/// Returns `(start, count)` for each of the pieces of `total` that have `at_once` elements; the last may have
/// fewer.
pub(crate) fn pieces(total: usize, at_once: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..total)
        .step_by(at_once.max(1))
        .map(move |start| (start, at_once.min(total - start)))
}

#[cfg(test)]
mod tests;
