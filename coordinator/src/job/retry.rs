//! Why an attempt ended without a result, which count of the chunk that raises, and how long the next attempt
//! waits.

use latentfarm_common::wire::outcome::Failure;
use serde::{Deserialize, Serialize};

/// The reasons for which an attempt may end without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RetryClass {
    OutOfMemory,
    InsufficientMemory,
    WorkerUnfit,
    Transient,
    EngineLost,
    BadInput,
    WorkerLost,
    QueueLost,
    BadResult,
    ForgedResult,
}

/// The count of the chunk that an attempt without a result raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// The attempt failed, by the fault of the chunk or of the worker.
    Failures,
    /// The attempt ended by no fault of the chunk. There is no limit.
    Excused,
    /// The attempt ran out of memory. There is no limit, because each time raises the chunk's memory plan or
    /// class.
    OutOfMemory,
    /// Too little memory was free to begin. There is no limit.
    InsufficientMemory,
}

/// The kind of delay before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDelay {
    /// The next attempt does not wait, because the chunk is not at fault.
    Immediate,
    /// The next attempt waits for the shortest delay, because it runs under another plan or on another
    /// worker.
    Shortest,
    /// The delay doubles with each attempt.
    Exponential,
}

impl RetryClass {
    /// The table of reasons: the label of each in the report, the count that it raises, and the delay that
    /// follows.
    fn row(self) -> (&'static str, Budget, RetryDelay) {
        use RetryDelay::{Exponential, Immediate, Shortest};
        match self {
            Self::OutOfMemory => ("out of memory", Budget::OutOfMemory, Shortest),
            Self::InsufficientMemory => ("insufficient memory", Budget::InsufficientMemory, Exponential),
            Self::WorkerUnfit => ("unfit worker", Budget::Excused, Shortest),
            Self::Transient => ("transient failure", Budget::Failures, Exponential),
            Self::EngineLost => ("lost engine or media process", Budget::Failures, Exponential),
            Self::BadInput => ("bad input", Budget::Failures, Shortest),
            Self::WorkerLost => ("lost worker", Budget::Excused, Immediate),
            Self::QueueLost => ("lost task", Budget::Excused, Immediate),
            Self::BadResult => ("result that failed verification", Budget::Failures, Exponential),
            Self::ForgedResult => ("result that its worker has not signed", Budget::Excused, Shortest),
        }
    }

    /// The reason as a noun phrase, for the report.
    pub fn label(self) -> &'static str {
        self.row().0
    }

    pub fn budget(self) -> Budget {
        self.row().1
    }

    pub fn delay(self) -> RetryDelay {
        self.row().2
    }
}

/// Why one attempt ended: its class, and one clause with the details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub class: RetryClass,
    pub reason: String,
}

impl Cause {
    /// Whether the attempt had not begun, for want of memory.
    pub fn is_refusal(&self) -> bool {
        self.class == RetryClass::InsufficientMemory
    }

    /// The cause that a worker reported.
    pub fn of(failure: &Failure) -> Self {
        let (class, reason) = match failure {
            Failure::OutOfMemory(oom) => {
                let needed = oom
                    .needed_at_least_mib
                    .map_or_else(String::new, |mib| format!(", needs at least {mib} MiB"));
                let seems = if oom.suspected {
                    "it seems that it ran "
                } else {
                    ""
                };
                let reason = format!(
                    "{seems}out of memory on {}{} under plan {} ({} MiB were free{needed})",
                    oom.device,
                    oom.during(),
                    oom.plan,
                    oom.free_before_mib
                );
                (RetryClass::OutOfMemory, reason)
            }
            Failure::InsufficientMemory {
                device,
                needed_mib,
                free_mib,
            } => (
                RetryClass::InsufficientMemory,
                format!("{device} had {free_mib} MiB free, but {needed_mib} MiB are needed"),
            ),
            Failure::BadInput { message } => (RetryClass::BadInput, format!("bad input: {message}")),
            Failure::WorkerUnfit { message } => {
                (RetryClass::WorkerUnfit, format!("the worker is unfit: {message}"))
            }
            Failure::Transient { message } => (RetryClass::Transient, message.clone()),
            Failure::EngineLost { message } => (
                RetryClass::EngineLost,
                format!("a child process ended: {message}"),
            ),
        };
        Self { class, reason }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, OutOfMemory};

    #[test]
    fn the_report_tells_the_reasons_apart() {
        let all = [
            RetryClass::OutOfMemory,
            RetryClass::InsufficientMemory,
            RetryClass::WorkerUnfit,
            RetryClass::Transient,
            RetryClass::EngineLost,
            RetryClass::BadInput,
            RetryClass::WorkerLost,
            RetryClass::QueueLost,
            RetryClass::BadResult,
            RetryClass::ForgedResult,
        ];
        let labels: BTreeSet<&str> = all.into_iter().map(RetryClass::label).collect();
        assert_eq!(labels.len(), all.len());
    }

    #[test]
    fn a_suspected_shortage_is_not_called_a_fact() {
        let mut oom = OutOfMemory {
            kind: DeviceKind::Cuda,
            device: "cuda:0".to_owned(),
            stage: None,
            plan: MemoryPlan::Sliced,
            needed_at_least_mib: Some(900),
            free_before_mib: 800,
            suspected: false,
        };
        let reason = |oom: &OutOfMemory| Cause::of(&Failure::OutOfMemory(oom.clone())).reason;
        assert_eq!(
            reason(&oom),
            "out of memory on cuda:0 under plan sliced (800 MiB were free, needs at least 900 MiB)"
        );
        (oom.suspected, oom.needed_at_least_mib) = (true, None);
        assert_eq!(
            reason(&oom),
            "it seems that it ran out of memory on cuda:0 under plan sliced (800 MiB were free)"
        );
    }
}
