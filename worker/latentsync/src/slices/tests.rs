use super::*;

const FRAMES: usize = 16;

fn scores(attention: AttentionShape, step: AttentionSlice) -> usize {
    step.rows * step.heads * step.queries * attention.keys
}

/// Returns every attention of the published UNet and autoencoder at `side` pixels, with and without
/// guidance in one batch.
fn attentions(side: usize) -> Vec<AttentionShape> {
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
                all.push(AttentionShape {
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
    for limits in [
        SliceLimits::INDEXABLE,
        SliceLimits::DEFAULT,
        SliceLimits::LOW_MEMORY,
    ] {
        for attention in attentions(512) {
            let step = attention.slice_within(limits).unwrap();
            assert!(
                scores(attention, step) <= limits.scores,
                "{attention:?} as {step:?}"
            );
        }
    }
}

#[test]
fn two_to_the_31_scores_are_one_launch_and_twice_as_many_are_two() {
    let frames = |rows| AttentionShape {
        rows,
        heads: 8,
        queries: 4096,
        keys: 4096,
    };
    let last_legal = frames(16).slice_within(SliceLimits::INDEXABLE).unwrap();
    assert_eq!(scores(frames(16), last_legal), 1 << 31);
    assert_eq!(last_legal.rows, 16);
    let with_guidance = frames(32).slice_within(SliceLimits::INDEXABLE).unwrap();
    assert_eq!(pieces(32, with_guidance.rows).count(), 2);
}

#[test]
fn no_batched_product_multiplies_more_matrices_than_cublas_can() {
    // Attention over time with guidance at 512 px: one position is one row.
    let across_time = AttentionShape {
        rows: 2 * 4096,
        heads: 8,
        queries: 16,
        keys: 16,
    };
    let step = across_time.slice_within(SliceLimits::DEFAULT).unwrap();
    assert_eq!((step.rows, step.heads), (8191, 8));
    assert_eq!(pieces(across_time.rows, step.rows).count(), 2);
    let without_guidance = AttentionShape {
        rows: 4096,
        ..across_time
    };
    assert_eq!(
        without_guidance.slice_within(SliceLimits::DEFAULT).unwrap().rows,
        4096
    );
    for limits in [SliceLimits::DEFAULT, SliceLimits::LOW_MEMORY] {
        for attention in attentions(1024) {
            let step = attention.slice_within(limits).unwrap();
            assert!(step.rows * step.heads <= 65_535, "{attention:?} as {step:?}");
        }
    }
    // A row of more heads than fit is split by heads.
    let few = SliceLimits {
        batches: 3,
        ..SliceLimits::DEFAULT
    };
    let step = across_time.slice_within(few).unwrap();
    assert_eq!((step.rows, step.heads, step.queries), (1, 3, 16));
}

#[test]
fn one_huge_row_is_split_by_heads_and_then_by_queries() {
    let attention = AttentionShape {
        rows: 2,
        heads: 8,
        queries: 1 << 15,
        keys: 1 << 15,
    };
    let step = attention.slice_within(SliceLimits::INDEXABLE).unwrap();
    assert_eq!(
        step,
        AttentionSlice {
            rows: 1,
            heads: 2,
            queries: 1 << 15
        }
    );
    let tight = SliceLimits {
        scores: 1 << 20,
        ..SliceLimits::DEFAULT
    };
    let step = attention.slice_within(tight).unwrap();
    assert_eq!(
        step,
        AttentionSlice {
            rows: 1,
            heads: 1,
            queries: 32
        }
    );
    let impossible = SliceLimits {
        scores: 1000,
        ..SliceLimits::DEFAULT
    };
    assert_eq!(attention.slice_within(impossible), None);
}

fn columns(convolution: ConvolutionShape, step: ConvolutionSlice) -> usize {
    let ConvolutionShape {
        input, kernel, width, ..
    } = convolution;
    step.images * step.rows * width * input * kernel * kernel
}

#[test]
fn no_convolution_at_512_px_is_larger_than_its_kernel_can_index() {
    // These are the autoencoder's at full size, and the UNet's widest with guidance in one batch.
    let mut all = Vec::new();
    for (level, channels) in [128, 256, 512, 512].into_iter().enumerate() {
        for (input, kernel) in [(channels, 3), (2 * channels, 3), (channels, 1), (4, 3)] {
            all.push((FRAMES, input, 512 >> level, kernel));
        }
    }
    for (level, channels) in [960, 1920, 2560, 2560].into_iter().enumerate() {
        all.push((2 * FRAMES, channels, 64 >> level, 3));
    }
    for limits in [
        SliceLimits::INDEXABLE,
        SliceLimits::DEFAULT,
        SliceLimits::LOW_MEMORY,
    ] {
        for (images, input, side, kernel) in all.iter().copied() {
            let (height, width, output) = (side, side, 1280);
            let convolution = ConvolutionShape {
                images,
                input,
                output,
                height,
                width,
                kernel,
            };
            let step = convolution.slice_within(limits).unwrap();
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
    // 16 x 512 x 512 x 1024 = 2^32, which is 0 as a 32-bit count.
    let sizes = |images| ConvolutionShape {
        images,
        input: 1024,
        output: 8,
        height: 512,
        width: 512,
        kernel: 1,
    };
    let step = sizes(16).slice_within(SliceLimits::INDEXABLE).unwrap();
    assert_eq!((step.images, step.rows), (15, 512));
    // A whole window of the decoder at 512 px would be 9.7e9.
    let decoder = ConvolutionShape {
        images: 16,
        input: 256,
        output: 256,
        kernel: 3,
        ..sizes(16)
    };
    assert_eq!(decoder.slice_within(SliceLimits::INDEXABLE).unwrap().images, 7);
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
