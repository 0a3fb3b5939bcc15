//! Why an attempt ended without a result, and what each reason costs the chunk.

use latentfarm_common::wire::outcome::Failure;

/// The reasons for which an attempt was not the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryClass {
    OutOfMemory,
    NoRoom,
    WorkerUnfit,
    Transient,
    EngineLost,
    BadInput,
    WorkerLost,
    QueueLost,
    BadResult,
}

/// What an attempt that ended for some reason counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// It was the chunk's own failure: [`super::attempt::MAX_FAILURES`].
    Failures,
    /// It was not the chunk's fault: [`super::attempt::MAX_EXCUSED`].
    Excused,
    /// It ran out of memory: without limit, since each time is a step along a finite list of plans and classes.
    OutOfMemory,
    /// The memory was gone before anything was tried: without limit.
    NoRoom,
    /// No further attempt can help.
    Final,
}

/// How long the next attempt waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: the chunk did nothing wrong.
    None,
    /// The shortest delay: the next attempt runs under another plan, or elsewhere.
    Short,
    /// A delay that doubles with each attempt.
    Growing,
}

impl RetryClass {
    /// The table of reasons: how each reads in the report, what it counts against, how long the next attempt waits.
    fn row(self) -> (&'static str, Budget, Wait) {
        match self {
            Self::OutOfMemory => ("out of memory", Budget::OutOfMemory, Wait::Short),
            Self::NoRoom => ("no room any more", Budget::NoRoom, Wait::Growing),
            Self::WorkerUnfit => ("unfit worker", Budget::Excused, Wait::Growing),
            Self::Transient => ("transient failure", Budget::Failures, Wait::Growing),
            Self::EngineLost => ("lost engine or media process", Budget::Failures, Wait::Growing),
            Self::BadInput => ("bad input", Budget::Final, Wait::Growing),
            Self::WorkerLost => ("lost worker", Budget::Excused, Wait::None),
            Self::QueueLost => ("lost task", Budget::Excused, Wait::None),
            Self::BadResult => ("result that failed verification", Budget::Failures, Wait::Growing),
        }
    }

    /// The class in words, for the report.
    pub fn label(self) -> &'static str {
        self.row().0
    }

    pub fn budget(self) -> Budget {
        self.row().1
    }

    pub fn wait(self) -> Wait {
        self.row().2
    }
}

/// The class of one attempt's end, and the end in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub class: RetryClass,
    pub reason: String,
}

impl Cause {
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
            Failure::NoRoom {
                device,
                needed_mib,
                free_mib,
            } => (
                RetryClass::NoRoom,
                format!("{device} had {free_mib} MiB free where {needed_mib} MiB are needed"),
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
