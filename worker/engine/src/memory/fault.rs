//! Faults on demand, for tests of what follows. None happens but by a hidden option of the engine.
//!
//! `KIND@STAGE`, or `KIND@STAGE#N` for the engine's Nth window alone (for `load` and `audio`, the Nth of those
//! requests); `leak=BYTES` keeps bytes at every window. A fault comes in the middle of its stage, with tensors alive.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::str::FromStr;

use latentfarm_common::wire::memory::MemoryStage;

/// Operations of a stage that run before its fault comes.
const OPERATIONS_BEFORE: u32 = 9;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    OutOfMemory,
    Error,
    Panic,
    Abort,
    Kill,
    Hang,
}

const KINDS: [(&str, FaultKind); 6] = [
    ("oom", FaultKind::OutOfMemory),
    ("error", FaultKind::Error),
    ("panic", FaultKind::Panic),
    ("abort", FaultKind::Abort),
    ("kill", FaultKind::Kill),
    ("hang", FaultKind::Hang),
];

const STAGES: [(&str, MemoryStage); 5] = [
    ("load", MemoryStage::Load),
    ("audio", MemoryStage::Audio),
    ("vae-encode", MemoryStage::VaeEncode),
    ("denoise", MemoryStage::Denoise),
    ("vae-decode", MemoryStage::VaeDecode),
];

/// One fault, as given on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    At {
        kind: FaultKind,
        stage: MemoryStage,
        /// Counted from 1; `None`: every time.
        nth: Option<u32>,
    },
    /// Bytes kept at every window.
    Leak(u64),
}

/// A text that describes no fault.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is no fault: (oom|error|panic|abort|kill|hang)@(load|audio|vae-encode|denoise|vae-decode), with #N for the \
     Nth window alone, or leak=BYTES"
)]
pub struct InvalidFault(String);

impl FromStr for Fault {
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
                kind: KINDS.iter().find(|(name, _)| *name == kind)?.1,
                stage: STAGES.iter().find(|(name, _)| *name == stage)?.1,
                nth,
            })
        };
        parse().ok_or_else(|| InvalidFault(text.to_owned()))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, stage, nth) = match self {
            Self::Leak(bytes) => return write!(f, "leak={bytes}"),
            Self::At { kind, stage, nth } => (kind, stage, nth),
        };
        let kind = KINDS
            .iter()
            .find(|(_, known)| known == kind)
            .map_or("", |(name, _)| name);
        let stage = STAGES
            .iter()
            .find(|(_, known)| known == stage)
            .map_or("", |(name, _)| name);
        write!(f, "{kind}@{stage}")?;
        match nth {
            Some(nth) => write!(f, "#{nth}"),
            None => Ok(()),
        }
    }
}

/// The faults of one engine.
#[derive(Debug, Default)]
pub struct Faults {
    list: Vec<Fault>,
    /// A fault comes only where this file is not there yet, and makes it.
    once: Option<PathBuf>,
    /// Whether this engine is the one that leaks.
    leaks: Option<bool>,
    loads: u32,
    audios: u32,
    windows: u32,
    stage: Option<MemoryStage>,
    operations: u32,
}

impl Faults {
    pub fn new(list: Vec<Fault>, once: Option<PathBuf>) -> Self {
        Self {
            list,
            once,
            ..Self::default()
        }
    }

    /// Whether any fault is to come at all.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// A request begins.
    pub fn begin(&mut self, request: Request) {
        let count = match request {
            Request::Load => &mut self.loads,
            Request::Audio => &mut self.audios,
            Request::Window => &mut self.windows,
        };
        *count += 1;
        self.stage = None;
    }

    /// An operation of `stage` is about to run: the fault that comes now.
    pub fn at_operation(&mut self, stage: MemoryStage) -> Option<FaultKind> {
        if self.list.is_empty() {
            return None;
        }
        if self.stage != Some(stage) {
            (self.stage, self.operations) = (Some(stage), 0);
        }
        self.operations += 1;
        if self.operations != OPERATIONS_BEFORE {
            return None;
        }
        self.at(stage)
    }

    /// The fault of a stage that has no operations of its own.
    pub fn at(&mut self, stage: MemoryStage) -> Option<FaultKind> {
        let count = match stage {
            MemoryStage::Load => self.loads,
            MemoryStage::Audio => self.audios,
            _ => self.windows,
        };
        let found = self.list.iter().find_map(|fault| match *fault {
            Fault::At { kind, stage: at, nth } if at == stage && nth.is_none_or(|nth| nth == count) => {
                Some(kind)
            }
            _ => None,
        })?;
        self.may_happen().then_some(found)
    }

    /// Bytes to keep at the end of a window.
    pub fn leak(&mut self) -> u64 {
        let leaks = self.list.iter().filter_map(|fault| match fault {
            Fault::Leak(bytes) => Some(*bytes),
            Fault::At { .. } => None,
        });
        let bytes: u64 = leaks.sum();
        if bytes == 0 {
            return 0;
        }
        let leaks = self.leaks.unwrap_or_else(|| self.may_happen());
        self.leaks = Some(leaks);
        if leaks { bytes } else { 0 }
    }

    /// Of several engines that race for the file, one makes it.
    fn may_happen(&self) -> bool {
        self.once
            .as_ref()
            .is_none_or(|path| File::create_new(path).is_ok())
    }
}

/// Kinds of request, each counted on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Load,
    Audio,
    Window,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_reads_as_it_is_written() {
        for (kind, _) in KINDS {
            for (stage, _) in STAGES {
                for text in [format!("{kind}@{stage}"), format!("{kind}@{stage}#3")] {
                    assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
                }
            }
        }
        assert_eq!("leak=1048576".parse::<Fault>().unwrap(), Fault::Leak(1 << 20));
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
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }

    fn faults(list: &[&str], once: Option<PathBuf>) -> Faults {
        Faults::new(list.iter().map(|text| text.parse().unwrap()).collect(), once)
    }

    /// The window's operation at which a fault comes.
    fn strikes(faults: &mut Faults) -> Vec<u32> {
        faults.begin(Request::Window);
        let operations = 1..=50;
        operations
            .filter(|_| faults.at_operation(MemoryStage::Denoise).is_some())
            .collect()
    }

    #[test]
    fn a_fault_comes_once_in_the_middle_of_its_stage_of_its_window() {
        let mut faults = faults(&["error@denoise#2"], None);
        assert_eq!(strikes(&mut faults), [0_u32; 0]);
        assert_eq!(strikes(&mut faults), [OPERATIONS_BEFORE]);
        assert_eq!(strikes(&mut faults), [0_u32; 0]);
        assert_eq!(faults.at(MemoryStage::Load), None);
    }

    #[test]
    fn a_file_lets_a_fault_happen_in_one_engine_once() {
        let dir = tempfile::tempdir().unwrap();
        let mark = Some(dir.path().join("mark"));
        let mut first = faults(&["error@denoise"], mark.clone());
        assert_eq!(strikes(&mut first).len(), 1);
        assert_eq!(strikes(&mut first).len(), 0);
        assert_eq!(strikes(&mut faults(&["error@denoise"], mark)).len(), 0);
        // A leak is a habit: the engine that began goes on.
        let mark = Some(dir.path().join("leak"));
        let mut leaking = faults(&["leak=5"], mark.clone());
        assert_eq!((leaking.leak(), leaking.leak()), (5, 5));
        assert_eq!(faults(&["leak=5"], mark).leak(), 0);
    }
}
