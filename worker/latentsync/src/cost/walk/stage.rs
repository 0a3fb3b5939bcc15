//! The memory that one stage of a task takes.

use std::fmt;

use latentfarm_common::wire::memory::MemoryStage;

use crate::hooks::Op;

const MIB: u64 = 1 << 20;

/// Bytes of the device in one stage of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageMemory {
    pub stage: MemoryStage,
    /// Weights that stay on the device during the stage; those that are streamed layer by layer are not among them.
    pub weights: u64,
    /// Everything that is on the device after the stage, weights included.
    pub live_after: u64,
    /// Everything that is on the device at the highest, weights included.
    pub peak: u64,
    /// The operation that runs at the highest; `None` if the highest is between two operations.
    pub at_peak: Option<Op>,
}

impl fmt::Display for StageMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layer = self.at_peak.map_or_else(|| "between layers".to_owned(), layer);
        write!(
            f,
            "{}, {layer}: weights {} MiB, tensors {} MiB",
            self.stage,
            self.weights / MIB,
            (self.peak - self.weights) / MIB
        )
    }
}

/// The layer that an operation belongs to, with the sizes that decide what it takes.
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
