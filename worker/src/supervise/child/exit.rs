//! Explains how a child ended, and whether a lack of memory was the cause. The runner reads it to choose the
//! failure that it reports to the coordinator.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use latentfarm_common::host;
use latentfarm_engine::{EXIT_POISONED, is_out_of_memory};

/// A machine counts as short of memory if its tasks wait for memory in at least this percentage of the time.
const SHORT_OF_MEMORY_PERCENT: f32 = 10.0;
/// The signal with which the kernel kills a process for want of memory.
const SIGKILL: i32 = 9;
/// The signal with which a process ends itself when an allocation fails.
const SIGABRT: i32 = 6;

/// The cause of a child's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCause {
    /// The child ran out of memory.
    OutOfMemory {
        /// True if that is inferred from a kill by the kernel, and not reported by an allocator.
        suspected: bool,
    },
    /// The GPU's context is broken, which only a new process can repair ([`EXIT_POISONED`]).
    Poisoned,
    /// Anything else: a bug, a signal, an exit code.
    Other,
}

/// A child's exit status, with what else is needed to explain it.
#[derive(Clone, Debug)]
pub struct ChildExit {
    /// `None` if the process had closed its output and was still running.
    status: Option<ExitStatus>,
    /// The last lines of the child's log, separated by ` | `.
    pub log_tail: String,
    pressure: Pressure,
}

/// What the kernel reports about its own part in a kill.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pressure {
    /// The number of kills for want of memory before the child started and after its end; `None` if the
    /// kernel does not count them.
    kills: Option<(u64, u64)>,
    /// Memory pressure at the end, in percent of the time; `None` if the kernel does not measure it.
    percent: Option<f32>,
}

impl Pressure {
    fn read(kills_before: Option<u64>) -> Self {
        Self {
            kills: kills_before.zip(host::oom_kills()),
            percent: host::pressure_percent(),
        }
    }

    /// Returns whether a kill that the log does not explain may have been for want of memory. It is ruled out
    /// only if the kernel counts such kills, counted none and measures no pressure: daemons that kill before
    /// the kernel does leave its count alone.
    fn may_have_killed(self) -> bool {
        let is_short = self
            .percent
            .is_some_and(|percent| percent >= SHORT_OF_MEMORY_PERCENT);
        self.kills.is_none_or(|(before, after)| after > before) || is_short
    }
}

impl ChildExit {
    pub(super) fn new(status: Option<ExitStatus>, log_tail: String, kills_before: Option<u64>) -> Self {
        Self {
            status,
            log_tail,
            pressure: Pressure::read(kills_before),
        }
    }

    /// Returns what ended the child. A failed allocation logs a line and aborts the process; if the machine
    /// or its control group runs out of memory, the kernel kills the process without a line.
    pub fn cause(&self) -> ExitCause {
        let signal = self.status.and_then(|status| status.signal());
        let code = self.status.and_then(|status| status.code());
        if is_out_of_memory(&self.log_tail) {
            ExitCause::OutOfMemory { suspected: false }
        } else if signal == Some(SIGKILL) && self.pressure.may_have_killed() {
            ExitCause::OutOfMemory { suspected: true }
        } else if code == Some(i32::from(EXIT_POISONED)) {
            ExitCause::Poisoned
        } else {
            ExitCause::Other
        }
    }
}

impl ChildExit {
    /// Whether a child that ended like this before it was ready would do so again: it exited by itself or crashed. A kill or
    /// an abort may be for want of memory.
    pub fn is_broken_start(&self) -> bool {
        let signal = self.status.and_then(|status| status.signal());
        !matches!(signal, Some(SIGKILL | SIGABRT))
    }
}

impl fmt::Display for ChildExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "{status}")?,
            None => write!(f, "still running")?,
        }
        if !self.log_tail.is_empty() {
            write!(f, "; the end of its log: {}", self.log_tail)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(wait_status: i32, log: &str, kills: Option<(u64, u64)>, percent: Option<f32>) -> ExitCause {
        let exit = ChildExit {
            status: Some(ExitStatus::from_raw(wait_status)),
            log_tail: log.to_owned(),
            pressure: Pressure { kills, percent },
        };
        exit.cause()
    }

    #[test]
    fn a_kill_without_a_log_line_is_suspected_unless_the_kernel_rules_it_out() {
        let suspected = ExitCause::OutOfMemory { suspected: true };
        assert_eq!(cause(9, "", None, None), suspected, "the kernel reports nothing");
        assert_eq!(cause(9, "", Some((3, 4)), Some(0.0)), suspected);
        assert_eq!(cause(9, "", Some((3, 3)), Some(25.0)), suspected);
        assert_eq!(cause(9, "", Some((3, 3)), Some(0.5)), ExitCause::Other);
        assert_eq!(cause(9, "", Some((3, 3)), None), ExitCause::Other);
        assert_eq!(
            cause(15, "", None, Some(90.0)),
            ExitCause::Other,
            "the kernel kills with 9 only"
        );
    }

    #[test]
    fn an_engine_that_exits_or_crashes_at_its_start_is_broken_and_one_that_is_killed_may_lack_memory() {
        let broken = |wait_status| {
            let exit = ChildExit::new(Some(ExitStatus::from_raw(wait_status)), String::new(), None);
            exit.is_broken_start()
        };
        assert!(broken(3 << 8) && broken(127 << 8) && broken(11) && broken(4));
        assert!(!broken(9) && !broken(6));
    }

    #[test]
    fn the_log_shows_a_failed_allocation_and_the_exit_code_a_broken_context() {
        let reported = ExitCause::OutOfMemory { suspected: false };
        assert_eq!(
            cause(6, "memory allocation of 99 bytes failed", Some((0, 0)), None),
            reported
        );
        assert_eq!(
            cause(i32::from(EXIT_POISONED) << 8, "", None, None),
            ExitCause::Poisoned
        );
        assert_eq!(cause(0x100, "no such file", None, None), ExitCause::Other);
    }
}
