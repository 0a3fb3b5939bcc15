//! The class of a child's death or hang.

use latentfarm_common::error::one_line;
use latentfarm_common::wire::engine::{EngineFailure, EngineStage};
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryStage, OutOfMemory};
use latentfarm_common::wire::outcome::Failure;

use super::child::{Cause, ChildError};

/// What a task was admitted with, for the report if its memory runs out.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    pub(super) kind: DeviceKind,
    /// Text form of the device.
    pub(super) device: String,
    pub(super) plan: MemoryPlan,
    pub(super) free_mib: u64,
}

impl Admission {
    fn out_of_memory(&self, stage: Option<MemoryStage>, suspected: bool) -> OutOfMemory {
        OutOfMemory {
            kind: self.kind,
            device: self.device.clone(),
            stage,
            plan: self.plan,
            needed_at_least_mib: None,
            free_before_mib: self.free_mib,
            suspected,
        }
    }
}

/// The engine ended, hung or spoke out of turn in `stage`.
pub(super) fn engine_lost(error: &ChildError, stage: EngineStage, admission: &Admission) -> Failure {
    let message = format!("{}, in stage {stage}", one_line(error));
    match cause(error) {
        Cause::OutOfMemory { suspected } => {
            Failure::OutOfMemory(admission.out_of_memory(Some(stage.memory_stage()), suspected))
        }
        Cause::Poisoned => Failure::EngineLost {
            message: format!("the GPU's context broke: {message}"),
        },
        Cause::Other => Failure::EngineLost { message },
    }
}

/// The media process ended, hung or spoke out of turn while it was at `work`. `rendering` is the engine's admission
/// beside it where both live on the host: a leaner plan there leaves more for it.
pub(super) fn media_lost(error: &ChildError, work: &str, rendering: Option<&Admission>) -> Failure {
    let message = format!("{}, in stage {work}", one_line(error));
    match (cause(error), rendering) {
        (Cause::OutOfMemory { .. }, Some(admission)) => {
            Failure::OutOfMemory(admission.out_of_memory(None, true))
        }
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
pub(super) fn engine_failed(failure: EngineFailure, admission: &Admission) -> Failure {
    match failure {
        EngineFailure::OutOfMemory {
            stage,
            needed_at_least_mib,
            free_before_mib,
        } => Failure::OutOfMemory(OutOfMemory {
            needed_at_least_mib,
            free_before_mib,
            ..admission.out_of_memory(Some(stage), false)
        }),
        EngineFailure::Unfit { message } => Failure::WorkerUnfit { message },
        EngineFailure::AudioMissing { window } => Failure::Transient {
            message: format!("audio window {window} is not in the engine"),
        },
        EngineFailure::Other { message } => Failure::Transient { message },
    }
}
