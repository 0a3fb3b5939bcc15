//! Fault injection, for tests of how the engine and the farm react to a fault. Only the engine's hidden
//! option `--fault` turns it on.
//!
//! A fault is written `KIND@STAGE`, or `KIND@STAGE#N` for the engine's Nth window alone (for `load` and
//! `audio`, the Nth of those requests); `leak=BYTES` leaks bytes at every window. A fault happens in the
//! middle of its stage, while tensors are alive.

use std::fs::File;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum as _;
use latentfarm_common::wire::memory::MemoryStage;

/// The operation of a stage, counted from 1, at which its fault happens.
const FAULTY_OPERATION: u32 = 9;

/// What happens when a fault is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FaultKind {
    /// An allocation is refused, as if memory had run out.
    #[value(name = "oom")]
    OutOfMemory,
    /// An operation fails with an error.
    Error,
    /// The engine panics in the middle of an operation.
    Panic,
    /// The process aborts, as if an assertion of a library had failed.
    Abort,
    /// The process is killed by `SIGKILL`.
    Kill,
    /// The engine stops making progress for ever.
    Hang,
}

/// Names of the stages at which a fault can be injected.
const STAGES: [(&str, MemoryStage); 5] = [
    ("load", MemoryStage::Load),
    ("audio", MemoryStage::Audio),
    ("vae-encode", MemoryStage::VaeEncode),
    ("denoise", MemoryStage::Denoise),
    ("vae-decode", MemoryStage::VaeDecode),
];

/// One fault, as the command line gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectedFault {
    /// A fault in the middle of a stage.
    At {
        /// What happens at the fault.
        kind: FaultKind,
        /// The stage in which it happens.
        stage: MemoryStage,
        /// The only request in which it happens, counted from 1; `None` for all.
        nth: Option<u32>,
    },
    /// A leak of so many bytes at every window.
    Leak(u64),
}

/// The error for a text that describes no fault.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a fault: (oom|error|panic|abort|kill|hang)@(load|audio|vae-encode|denoise|vae-decode), with #N for the \
     Nth window alone, or leak=BYTES"
)]
pub struct InvalidFault(String);

impl FromStr for InjectedFault {
    type Err = InvalidFault;

    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        let parse = || {
            if let Some(bytes) = text.strip_prefix("leak=") {
                return bytes.parse().ok().map(Self::Leak);
            }
            let (kind, place) = text.split_once('@')?;
            let (stage, nth) = match place.split_once('#') {
                Some((stage, nth)) => (stage, Some(nth.parse().ok().filter(|&nth: &u32| nth > 0)?)),
                None => (place, None),
            };
            Some(Self::At {
                kind: FaultKind::from_str(kind, false).ok()?,
                stage: STAGES.iter().find(|(name, _)| *name == stage)?.1,
                nth,
            })
        };
        parse().ok_or_else(|| InvalidFault(text.to_owned()))
    }
}

/// The faults of one engine, with the counters that decide when each of them happens.
#[derive(Debug, Default)]
pub struct FaultInjector {
    list: Vec<InjectedFault>,
    /// A file that a fault creates; a fault happens only if it does not exist yet.
    once: Option<PathBuf>,
    /// Whether this engine leaks, once that is decided.
    leaks: Option<bool>,
    /// Requests of each [`RequestKind`] so far.
    requests: [u32; 3],
    /// The stage that runs, and its operations so far.
    stage: Option<MemoryStage>,
    operations: u32,
}

impl FaultInjector {
    /// Makes the faults of an engine. With a file `once`, the first fault of all engines that share the file
    /// is the only one.
    pub fn new(list: Vec<InjectedFault>, once: Option<PathBuf>) -> Self {
        Self {
            list,
            once,
            ..Self::default()
        }
    }

    /// Returns whether there are no faults.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Counts a request that begins.
    pub fn begin(&mut self, request: RequestKind) {
        self.requests[request as usize] += 1;
        self.stage = None;
    }

    /// Counts an operation of `stage` that is about to run, and returns the fault that must happen now.
    pub fn at_operation(&mut self, stage: MemoryStage) -> Option<FaultKind> {
        if self.list.is_empty() {
            return None;
        }
        if self.stage != Some(stage) {
            (self.stage, self.operations) = (Some(stage), 0);
        }
        self.operations += 1;
        if self.operations != FAULTY_OPERATION {
            return None;
        }
        self.at(stage)
    }

    /// Returns the fault that must happen now in a stage without operations.
    pub fn at(&mut self, stage: MemoryStage) -> Option<FaultKind> {
        let request = match stage {
            MemoryStage::Load => RequestKind::Load,
            MemoryStage::Audio => RequestKind::Audio,
            _ => RequestKind::Window,
        };
        let count = self.requests[request as usize];
        let found = self.list.iter().find_map(|fault| match *fault {
            InjectedFault::At { kind, stage: at, nth }
                if at == stage && nth.is_none_or(|nth| nth == count) =>
            {
                Some(kind)
            }
            _ => None,
        })?;
        self.may_happen().then_some(found)
    }

    /// Returns the bytes to leak at the end of a window.
    pub fn leak(&mut self) -> u64 {
        let leaks = self.list.iter().filter_map(|fault| match fault {
            InjectedFault::Leak(bytes) => Some(*bytes),
            InjectedFault::At { .. } => None,
        });
        let bytes: u64 = leaks.sum();
        if bytes == 0 {
            return 0;
        }
        let leaks = self.leaks.unwrap_or_else(|| self.may_happen());
        self.leaks = Some(leaks);
        if leaks { bytes } else { 0 }
    }

    /// Returns whether a fault may happen. Of several engines that race for the file, one creates it.
    fn may_happen(&self) -> bool {
        self.once
            .as_ref()
            .is_none_or(|path| File::create_new(path).is_ok())
    }
}

/// The kinds of request, each of which is counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    Load,
    Audio,
    Window,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_parsed() {
        for &kind in FaultKind::value_variants() {
            let name = kind.to_possible_value().unwrap();
            for (stage_name, stage) in STAGES {
                let text = format!("{}@{stage_name}", name.get_name());
                let nth = Some(3);
                let every_time = InjectedFault::At {
                    kind,
                    stage,
                    nth: None,
                };
                assert_eq!(text.parse::<InjectedFault>().unwrap(), every_time);
                let third = InjectedFault::At { kind, stage, nth };
                assert_eq!(format!("{text}#3").parse::<InjectedFault>().unwrap(), third);
            }
        }
        assert_eq!(
            "leak=1048576".parse::<InjectedFault>().unwrap(),
            InjectedFault::Leak(1 << 20)
        );
        for bad in [
            "oom",
            "oom@",
            "oom@paste",
            "oops@load",
            "oom@load#0",
            "leak=",
            "leak=1M",
            "",
        ] {
            assert!(bad.parse::<InjectedFault>().is_err(), "{bad}");
        }
    }

    fn faults(list: &[&str], once: Option<PathBuf>) -> FaultInjector {
        FaultInjector::new(list.iter().map(|text| text.parse().unwrap()).collect(), once)
    }

    /// Returns the operations of a window at which a fault happens.
    fn fault_operations(faults: &mut FaultInjector) -> Vec<u32> {
        faults.begin(RequestKind::Window);
        let operations = 1..=50;
        operations
            .filter(|_| faults.at_operation(MemoryStage::Denoise).is_some())
            .collect()
    }

    #[test]
    fn a_fault_happens_once_in_the_middle_of_its_stage_of_its_window() {
        let mut faults = faults(&["error@denoise#2"], None);
        assert_eq!(fault_operations(&mut faults), [0_u32; 0]);
        assert_eq!(fault_operations(&mut faults), [FAULTY_OPERATION]);
        assert_eq!(fault_operations(&mut faults), [0_u32; 0]);
        assert_eq!(faults.at(MemoryStage::Load), None);
    }

    #[test]
    fn a_file_lets_a_fault_happen_in_one_engine_once() {
        let dir = tempfile::tempdir().unwrap();
        let mark = Some(dir.path().join("mark"));
        let mut first = faults(&["error@denoise"], mark.clone());
        assert_eq!(fault_operations(&mut first).len(), 1);
        assert_eq!(fault_operations(&mut first).len(), 0);
        assert_eq!(fault_operations(&mut faults(&["error@denoise"], mark)).len(), 0);
        // The engine that began to leak goes on leaking.
        let mark = Some(dir.path().join("leak"));
        let mut leaking = faults(&["leak=5"], mark.clone());
        assert_eq!((leaking.leak(), leaking.leak()), (5, 5));
        assert_eq!(faults(&["leak=5"], mark).leak(), 0);
    }
}
