//! The memory that one stage of a task takes, with the operation that decides it.

use std::fmt;

use latentfarm_common::wire::memory::MemoryStage;

use crate::hooks::Op;

const MIB: u64 = 1 << 20;

/// The bytes that one stage of a task takes of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageMemory {
    /// The stage that the figures are for.
    pub stage: MemoryStage,
    /// Whether the figures are for a picture that is computed again in `f32` in this stage, because values
    /// left the range of a half type.
    pub in_f32: bool,
    /// The bytes of the weights that stay on the device during the stage, without those that are streamed
    /// layer by layer.
    pub weights: u64,
    /// The bytes that are on the device after the stage, weights included.
    pub live_after: u64,
    /// The most bytes that are on the device at once, weights included.
    pub peak: u64,
    /// The operation during which the peak is reached; `None` if that is between two operations.
    pub at_peak: Option<Op>,
}

impl fmt::Display for StageMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = if self.in_f32 { " again in f32" } else { "" };
        let layer = self.at_peak.map_or_else(|| "between layers".to_owned(), layer);
        write!(
            f,
            "{}{again}, {layer}: weights {} MiB, tensors {} MiB",
            self.stage,
            self.weights / MIB,
            (self.peak - self.weights) / MIB
        )
    }
}

/// Describes the layer of an operation with the sizes that its memory depends on.
fn layer(op: Op) -> String {
    match op {
        Op::Linear { rows, input, output } => format!("linear {input} to {output}, {rows} rows"),
        Op::Conv2d { sizes, .. } => format!(
            "convolution {k} x {k}, {} to {} channels, {} of {} x {}",
            sizes.input,
            sizes.output,
            sizes.images,
            sizes.height,
            sizes.width,
            k = sizes.kernel
        ),
        Op::Attention { sizes, width } => format!(
            "attention of {} queries to {} keys, width {width}, {} rows",
            sizes.queries, sizes.keys, sizes.rows
        ),
        Op::GroupNorm {
            images,
            channels,
            area,
            ..
        } => format!("group norm, {channels} channels, {images} of {area} pixels"),
        Op::LayerNorm { rows, width } => format!("layer norm, width {width}, {rows} rows"),
        Op::Geglu { rows, width } => format!("GEGLU, width {width}, {rows} rows"),
        Op::Copy { elements } => format!("copy of {elements} values"),
    }
}
