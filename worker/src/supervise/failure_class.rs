//! Turns the end or a failure of a child into the failure class that the worker reports to the coordinator,
//! which decides by it whether and how the task is tried again.

use latentfarm_common::error::one_line;
use latentfarm_common::wire::engine::{EngineFailure, EngineStage};
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryStage, OutOfMemory};
use latentfarm_common::wire::outcome::Failure;

use super::child::{ChildError, ExitCause};

/// The device that a task was admitted with and the plan that it runs under, for the report if its memory runs out.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    pub(super) kind: DeviceKind,
    /// The device as logs and heartbeats name it.
    pub(super) device: String,
    pub(super) plan: MemoryPlan,
    /// The memory that the task could use when it was admitted.
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

/// Returns the failure for an engine that ended, hung or sent something invalid in `stage`. If it has not loaded weights
/// yet and would end like this again, the worker is unfit: the chunk is not at fault that an engine does not start.
pub(super) fn engine_lost(
    error: &ChildError,
    stage: EngineStage,
    has_loaded: bool,
    admission: &Admission,
) -> Failure {
    let message = format!("{}, in stage {stage}", one_line(error));
    let is_broken_start = match error {
        ChildError::Ended { exit, .. } => exit.is_broken_start(),
        ChildError::Start { .. } | ChildError::Silent { .. } | ChildError::InvalidMessage { .. } => true,
    };
    match cause(error) {
        ExitCause::OutOfMemory { suspected } => {
            Failure::OutOfMemory(admission.out_of_memory(Some(stage.memory_stage()), suspected))
        }
        _ if !has_loaded && is_broken_start => Failure::WorkerUnfit {
            message: format!("the engine does not start: {message}"),
        },
        ExitCause::Poisoned => Failure::EngineLost {
            message: format!("the GPU's context broke: {message}"),
        },
        ExitCause::Other => Failure::EngineLost { message },
    }
}

/// Returns the failure for a media child that ended, hung or sent something invalid in `stage`. `rendering`
/// is the engine's admission if the engine uses host memory beside it: a leaner plan of the engine then
/// leaves more to the media child.
pub(super) fn media_lost(error: &ChildError, stage: &str, rendering: Option<&Admission>) -> Failure {
    let message = format!("{}, in stage {stage}", one_line(error));
    match (cause(error), rendering) {
        (ExitCause::OutOfMemory { .. }, Some(admission)) => {
            Failure::OutOfMemory(admission.out_of_memory(None, true))
        }
        (ExitCause::OutOfMemory { .. }, None) => Failure::EngineLost {
            message: format!("the host ran out of memory: {message}"),
        },
        (ExitCause::Poisoned | ExitCause::Other, _) => Failure::EngineLost { message },
    }
}

fn cause(error: &ChildError) -> ExitCause {
    match error {
        ChildError::Ended { exit, .. } => exit.cause(),
        ChildError::Start { .. } | ChildError::Silent { .. } | ChildError::InvalidMessage { .. } => {
            ExitCause::Other
        }
    }
}

/// Returns the failure for one that the engine itself reports.
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
            message: format!("the engine has not encoded audio window {window}"),
        },
        EngineFailure::Other { message } => Failure::Transient { message },
    }
}
