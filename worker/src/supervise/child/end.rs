//! How a child ended, and what that says about memory.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use latentfarm_common::host;
use latentfarm_engine::{EXIT_POISONED, is_out_of_memory};

/// A machine whose tasks wait so much for memory is short of it, in percent of the time.
const SHORT_OF_MEMORY_PERCENT: f32 = 10.0;
const SIGKILL: i32 = 9;

/// What a child died of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    OutOfMemory {
        /// Inferred, not told by an allocator.
        suspected: bool,
    },
    /// The GPU's context broke; a new process has a new one.
    Poisoned,
    Other,
}

/// How a child ended.
#[derive(Clone, Debug)]
pub struct ChildEnd {
    status: Option<ExitStatus>,
    /// Its last log lines.
    pub last_words: String,
    pressure: Pressure,
}

/// What the kernel says of its own part in a kill.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pressure {
    /// Kills for want of memory before the child started and after its end.
    kills: Option<(u64, u64)>,
    percent: Option<f32>,
}

impl Pressure {
    fn read(kills_before: Option<u64>) -> Self {
        Self {
            kills: kills_before.zip(host::oom_kills()),
            percent: host::pressure_percent(),
        }
    }

    /// Whether a kill without words may have been for want of memory. Only a kernel that counts such kills, counted
    /// none and sees no pressure rules it out: daemons that kill before the kernel does leave its count alone.
    fn may_have_killed(self) -> bool {
        let is_short = self
            .percent
            .is_some_and(|percent| percent >= SHORT_OF_MEMORY_PERCENT);
        self.kills.is_none_or(|(before, after)| after > before) || is_short
    }
}

impl ChildEnd {
    pub(super) fn new(status: Option<ExitStatus>, last_words: String, kills_before: Option<u64>) -> Self {
        Self {
            status,
            last_words,
            pressure: Pressure::read(kills_before),
        }
    }

    /// A failed allocation aborts the process with words; the kernel kills it without where the machine or its group
    /// runs out.
    pub fn cause(&self) -> Cause {
        let signal = self.status.and_then(|status| status.signal());
        let code = self.status.and_then(|status| status.code());
        if is_out_of_memory(&self.last_words) {
            Cause::OutOfMemory { suspected: false }
        } else if signal == Some(SIGKILL) && self.pressure.may_have_killed() {
            Cause::OutOfMemory { suspected: true }
        } else if code == Some(i32::from(EXIT_POISONED)) {
            Cause::Poisoned
        } else {
            Cause::Other
        }
    }
}

impl fmt::Display for ChildEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "{status}")?,
            None => write!(f, "still running")?,
        }
        if !self.last_words.is_empty() {
            write!(f, "; its last words: {}", self.last_words)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(wait_status: i32, words: &str, kills: Option<(u64, u64)>, percent: Option<f32>) -> Cause {
        let end = ChildEnd {
            status: Some(ExitStatus::from_raw(wait_status)),
            last_words: words.to_owned(),
            pressure: Pressure { kills, percent },
        };
        end.cause()
    }

    #[test]
    fn a_kill_without_words_is_suspected_unless_the_kernel_rules_it_out() {
        let suspected = Cause::OutOfMemory { suspected: true };
        assert_eq!(end(9, "", None, None), suspected, "the kernel tells nothing");
        assert_eq!(end(9, "", Some((3, 4)), Some(0.0)), suspected);
        assert_eq!(end(9, "", Some((3, 3)), Some(25.0)), suspected);
        assert_eq!(end(9, "", Some((3, 3)), Some(0.5)), Cause::Other);
        assert_eq!(end(9, "", Some((3, 3)), None), Cause::Other);
        assert_eq!(
            end(15, "", None, Some(90.0)),
            Cause::Other,
            "the kernel kills with 9 only"
        );
    }

    #[test]
    fn words_tell_a_failed_allocation_and_the_exit_code_a_broken_context() {
        let told = Cause::OutOfMemory { suspected: false };
        assert_eq!(
            end(6, "memory allocation of 99 bytes failed", Some((0, 0)), None),
            told
        );
        assert_eq!(
            end(i32::from(EXIT_POISONED) << 8, "", None, None),
            Cause::Poisoned
        );
        assert_eq!(end(0x100, "no such file", None, None), Cause::Other);
    }
}
