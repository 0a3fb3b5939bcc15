//! How work is split so that no launch is larger than a device's kernels can index, and none takes more memory
//! than it should. Pure functions of the shapes.

/// Most elements of one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Attention scores.
    pub scores: usize,
    /// Input values laid out under the weights of a convolution ("im2col"), or values of its result.
    pub columns: usize,
    /// Values that the first layer of a feed-forward gives.
    pub hidden: usize,
    /// Values that a group norm has in `f32` at once; with no limit it takes all of them.
    pub normed: usize,
}

impl Limits {
    /// What the kernels can index. Past that they do not fail, they give wrong results: the softmax kernel
    /// counts with 32-bit signed numbers, the kernel that lays out patches is launched with a 32-bit count.
    pub const INDEXABLE: Self = Self {
        scores: 1 << 31,
        columns: (1 << 32) - 1,
        hidden: usize::MAX,
        normed: usize::MAX,
    };
    /// What is taken at once where memory is not short: 512 MiB of scores and of patches in a 16-bit type.
    pub const USUAL: Self = Self {
        scores: 1 << 28,
        columns: 1 << 28,
        ..Self::INDEXABLE
    };
    /// Where memory is short: 32 MiB of scores, 128 of patches and 16 of a feed-forward in a 16-bit type, 16 MiB of a
    /// norm's input in `f32`. Still enough to keep a device busy.
    pub const LEAN: Self = Self {
        scores: 1 << 24,
        columns: 1 << 26,
        hidden: 1 << 23,
        normed: 1 << 22,
    };
}

// A larger limit than the kernels can index would be a silent mistake.
const _: () = assert!(Limits::USUAL.scores <= Limits::INDEXABLE.scores);
const _: () = assert!(Limits::USUAL.columns <= Limits::INDEXABLE.columns);
const _: () = assert!(Limits::LEAN.scores <= Limits::USUAL.scores);
const _: () = assert!(Limits::LEAN.columns <= Limits::USUAL.columns);

/// The sizes of one attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    pub rows: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
}

/// So many rows, heads and queries at once. Fewer than all heads are taken only of a single row, fewer than all
/// queries only of a single head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionStep {
    pub rows: usize,
    pub heads: usize,
    pub queries: usize,
}

impl Attention {
    /// The largest step within `limits`; none where not even the scores of one query are.
    pub fn step(self, limits: Limits) -> Option<AttentionStep> {
        let one_query = self.keys.max(1);
        if one_query > limits.scores {
            return None;
        }
        let queries = (limits.scores / one_query).min(self.queries).max(1);
        let one_head = one_query * self.queries.max(1);
        let heads = (limits.scores / one_head).clamp(1, self.heads.max(1));
        let one_row = one_head * self.heads.max(1);
        let rows = (limits.scores / one_row).clamp(1, self.rows.max(1));
        Some(AttentionStep { rows, heads, queries })
    }
}

/// The sizes of one convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convolution {
    pub images: usize,
    pub input: usize,
    pub output: usize,
    /// Of the result.
    pub height: usize,
    /// Of the result.
    pub width: usize,
    pub kernel: usize,
}

/// So many images and rows of the result at once. Fewer than all rows are taken only of a single image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvolutionStep {
    pub images: usize,
    pub rows: usize,
}

impl Convolution {
    /// The largest step within `limits`; none where not even one row of the result is.
    pub fn step(self, limits: Limits) -> Option<ConvolutionStep> {
        let depth = (self.input * self.kernel * self.kernel).max(self.output).max(1);
        let one_row = depth * self.width.max(1);
        if one_row > limits.columns {
            return None;
        }
        let rows = (limits.columns / one_row).min(self.height).max(1);
        let one_image = one_row * self.height.max(1);
        let images = (limits.columns / one_image).clamp(1, self.images.max(1));
        Some(ConvolutionStep { images, rows })
    }
}

/// The sizes of one group norm.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub images: usize,
    pub groups: usize,
    /// Values of one group of one image.
    pub per_group: usize,
}

/// So many images and groups at once. Fewer than all groups are taken only of a single image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormStep {
    pub images: usize,
    pub groups: usize,
}

impl Norm {
    /// The largest step within `limits`, but a group of an image at least.
    pub fn step(self, limits: Limits) -> NormStep {
        let one_group = self.per_group.max(1);
        let one_image = one_group * self.groups.max(1);
        NormStep {
            images: (limits.normed / one_image).clamp(1, self.images.max(1)),
            groups: (limits.normed / one_group).clamp(1, self.groups.max(1)),
        }
    }
}

/// Rows of a feed-forward whose first layer gives `width` values a row that are taken at once.
pub fn feed_forward_rows(rows: usize, width: usize, limits: Limits) -> usize {
    (limits.hidden / width.max(1)).clamp(1, rows.max(1))
}

/// `(start, count)` of the pieces of `total`, `at_once` each.
pub fn pieces(total: usize, at_once: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..total)
        .step_by(at_once.max(1))
        .map(move |start| (start, at_once.min(total - start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMES: usize = 16;

    fn scores(attention: Attention, step: AttentionStep) -> usize {
        step.rows * step.heads * step.queries * attention.keys
    }

    /// Every attention of the published UNet and autoencoder at `side` pixels, guidance in one batch.
    fn attentions(side: usize) -> Vec<Attention> {
        let mut all = Vec::new();
        for batch in [1, 2] {
            for level in 0..4 {
                let tokens = ((side / 8) >> level).pow(2);
                let images = batch * FRAMES;
                for (rows, heads, queries, keys) in [
                    (images, 8, tokens, tokens),
                    (images, 8, tokens, 50),
                    (batch * tokens, 8, FRAMES, FRAMES),
                    (images, 1, tokens, tokens),
                ] {
                    all.push(Attention {
                        rows,
                        heads,
                        queries,
                        keys,
                    });
                }
            }
        }
        all
    }

    #[test]
    fn no_attention_at_512_px_is_larger_than_its_kernel_can_index() {
        for limits in [Limits::INDEXABLE, Limits::USUAL, Limits::LEAN] {
            for attention in attentions(512) {
                let step = attention.step(limits).unwrap();
                assert!(
                    scores(attention, step) <= limits.scores,
                    "{attention:?} as {step:?}"
                );
            }
        }
    }

    #[test]
    fn two_to_the_31_scores_are_one_launch_and_twice_as_many_are_two() {
        let frames = |rows| Attention {
            rows,
            heads: 8,
            queries: 4096,
            keys: 4096,
        };
        let last_legal = frames(16).step(Limits::INDEXABLE).unwrap();
        assert_eq!(scores(frames(16), last_legal), 1 << 31);
        assert_eq!(last_legal.rows, 16);
        let with_guidance = frames(32).step(Limits::INDEXABLE).unwrap();
        assert_eq!(pieces(32, with_guidance.rows).count(), 2);
    }

    #[test]
    fn one_huge_row_is_split_by_heads_and_then_by_queries() {
        let attention = Attention {
            rows: 2,
            heads: 8,
            queries: 1 << 15,
            keys: 1 << 15,
        };
        let step = attention.step(Limits::INDEXABLE).unwrap();
        assert_eq!(
            step,
            AttentionStep {
                rows: 1,
                heads: 2,
                queries: 1 << 15
            }
        );
        let tight = Limits {
            scores: 1 << 20,
            ..Limits::USUAL
        };
        let step = attention.step(tight).unwrap();
        assert_eq!(
            step,
            AttentionStep {
                rows: 1,
                heads: 1,
                queries: 32
            }
        );
        let impossible = Limits {
            scores: 1000,
            ..Limits::USUAL
        };
        assert_eq!(attention.step(impossible), None);
    }

    fn columns(convolution: Convolution, step: ConvolutionStep) -> usize {
        let Convolution {
            input, kernel, width, ..
        } = convolution;
        step.images * step.rows * width * input * kernel * kernel
    }

    #[test]
    fn no_convolution_at_512_px_is_larger_than_its_kernel_can_index() {
        // The autoencoder's at full size, and the UNet's widest with guidance in one batch.
        let mut all = Vec::new();
        for (level, channels) in [128, 256, 512, 512].into_iter().enumerate() {
            for (input, kernel) in [(channels, 3), (2 * channels, 3), (channels, 1), (4, 3)] {
                all.push((FRAMES, input, 512 >> level, kernel));
            }
        }
        for (level, channels) in [960, 1920, 2560, 2560].into_iter().enumerate() {
            all.push((2 * FRAMES, channels, 64 >> level, 3));
        }
        for limits in [Limits::INDEXABLE, Limits::USUAL, Limits::LEAN] {
            for (images, input, side, kernel) in all.iter().copied() {
                let (height, width, output) = (side, side, 1280);
                let convolution = Convolution {
                    images,
                    input,
                    output,
                    height,
                    width,
                    kernel,
                };
                let step = convolution.step(limits).unwrap();
                assert!(
                    columns(convolution, step) <= limits.columns,
                    "{convolution:?} as {step:?}"
                );
                assert!(step.rows == height || step.images == 1);
            }
        }
    }

    #[test]
    fn two_to_the_32_columns_are_never_one_launch() {
        // 16 x 512 x 512 x 1024 = 2^32: as a 32-bit count, nothing at all.
        let sizes = |images| Convolution {
            images,
            input: 1024,
            output: 8,
            height: 512,
            width: 512,
            kernel: 1,
        };
        let step = sizes(16).step(Limits::INDEXABLE).unwrap();
        assert_eq!((step.images, step.rows), (15, 512));
        // A whole window of the decoder at 512 px would be 9.7e9.
        let decoder = Convolution {
            images: 16,
            input: 256,
            output: 256,
            kernel: 3,
            ..sizes(16)
        };
        assert_eq!(decoder.step(Limits::INDEXABLE).unwrap().images, 7);
    }

    #[test]
    fn pieces_cover_everything_once() {
        for (total, at_once) in [(16, 16), (16, 5), (1, 7), (0, 3), (7, 1)] {
            let mut next = 0;
            for (start, count) in pieces(total, at_once) {
                assert_eq!(start, next);
                assert!((1..=at_once).contains(&count));
                next = start + count;
            }
            assert_eq!(next, total);
        }
    }
}
