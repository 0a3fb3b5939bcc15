//! The errors of arguments that the parser accepts and that are refused all the same: exit code 2.

use latentfarm_common::InvalidText;
use latentfarm_common::tags::TooManyTags;

use crate::local::ToolError;
use crate::plan::split::InvalidChunkFrames;
use crate::render::WeightsError;
use crate::stitch::OutputError;

/// An argument that is missing, malformed or out of its bounds.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArgumentError {
    #[error("--fps must be `source`, N, N/D or a decimal number")]
    Rate(#[from] InvalidText),
    #[error("--chunk-frames is not a valid chunk length")]
    ChunkFrames(#[from] InvalidChunkFrames),
    #[error("--guidance {0} is not between 0 and 20")]
    Guidance(f32),
    #[error(
        "--worker `{spec}` is not `key=value,...` with keys such as name, device and reserve, or its name is used twice"
    )]
    Worker { spec: String },
    #[error("--workers {0} is not between 1 and 64")]
    Workers(usize),
    #[error("--need-tag is given too often")]
    Tags(#[from] TooManyTags),
    #[error("--need-tag chooses among the workers of a farm: name its server with --nats URL")]
    TagsWithoutFarm,
    #[error(
        "no weights are given: name with --weights DIR the folder of those that the farm's workers have; \
         `latentfarm-worker weights demo` prints the folder of the demo weights, for a trial"
    )]
    NoWeights,
    #[error("no weights are named with --weights DIR, and the demo weights cannot be used")]
    DemoWeights(#[from] WeightsError),
    #[error("no weights are named with --weights DIR, and the demo weights are not at hand")]
    NoWorkerProgram(#[from] ToolError),
    #[error("cannot write the result")]
    Output(#[from] OutputError),
}
