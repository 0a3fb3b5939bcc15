//! The class of a child's death or hang.

use latentfarm_common::error::one_line;
use latentfarm_common::wire::engine::EngineFailure;
use latentfarm_common::wire::memory::Rung;
use latentfarm_common::wire::outcome::Failure;

use super::child::{Cause, ChildError};

/// What was tried when memory ran out.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// Text form of the device.
    pub(super) device: String,
    pub(super) rung: Rung,
    /// What the task was admitted with.
    pub(super) free_mib: u64,
}

impl Attempt {
    fn out_of_memory(&self, stage: &str, suspected: bool) -> Failure {
        Failure::OutOfMemory {
            device: self.device.clone(),
            stage: stage.to_owned(),
            rung: self.rung,
            needed_at_least_mib: None,
            free_before_mib: self.free_mib,
            suspected,
        }
    }
}

/// The engine ended, hung or spoke out of turn in `stage`.
pub(super) fn engine_lost(error: &ChildError, stage: &str, attempt: &Attempt) -> Failure {
    let message = format!("{}, in stage {stage}", one_line(error));
    match cause(error) {
        Cause::OutOfMemory { suspected } => attempt.out_of_memory(stage, suspected),
        Cause::Poisoned => Failure::EngineLost {
            message: format!("the GPU's context broke: {message}"),
        },
        Cause::Other => Failure::EngineLost { message },
    }
}

/// The media process ended, hung or spoke out of turn. `rendering` is the engine's attempt beside it where both live
/// on the host: a leaner plan there leaves more for it.
pub(super) fn media_lost(error: &ChildError, stage: &str, rendering: Option<&Attempt>) -> Failure {
    let message = format!("{}, in stage {stage}", one_line(error));
    match (cause(error), rendering) {
        (Cause::OutOfMemory { .. }, Some(attempt)) => attempt.out_of_memory(stage, true),
        (Cause::OutOfMemory { .. }, None) => Failure::EngineLost {
            message: format!("the host ran out of memory: {message}"),
        },
        (Cause::Poisoned | Cause::Other, _) => Failure::EngineLost { message },
    }
}

fn cause(error: &ChildError) -> Cause {
    match error {
        ChildError::Ended { end, .. } => end.cause(),
        ChildError::Start { .. } | ChildError::Silent { .. } | ChildError::Garbled { .. } => Cause::Other,
    }
}

/// What the engine itself says went wrong.
pub(super) fn engine_failed(failure: EngineFailure, attempt: &Attempt) -> Failure {
    match failure {
        EngineFailure::OutOfMemory {
            stage,
            needed_at_least_mib,
            free_before_mib,
        } => Failure::OutOfMemory {
            device: attempt.device.clone(),
            stage,
            rung: attempt.rung,
            needed_at_least_mib,
            free_before_mib,
            suspected: false,
        },
        EngineFailure::Unfit { message } => Failure::WorkerUnfit { message },
        EngineFailure::AudioMissing { window } => Failure::Transient {
            message: format!("audio window {window} is not in the engine"),
        },
        EngineFailure::Other { message } => Failure::Transient { message },
    }
}
