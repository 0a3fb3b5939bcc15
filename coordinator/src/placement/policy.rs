//! What an operator asks of the placement of a job. Each variant's comment is its help on the command line.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// When the CPU renders a chunk on a farm that has GPUs. Without a GPU worker it always does, unless `Never`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuFallback {
    /// The CPU renders nothing: chunks wait for a GPU that they fit into
    Never,
    /// The CPU renders a chunk if no live GPU can ever fit it, or if the CPU is predicted to finish it
    /// earlier
    #[default]
    Last,
    /// The CPU renders too: workers without a GPU are always kept busy
    Always,
}

/// What of a job is rendered by machines of one numeric kind only, as far as the farm has such machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OneKind {
    /// All frames
    Job,
    /// All frames that show one mouth without a break: the kind changes only at cuts, and where no mouth is
    /// rendered
    Shot,
}
