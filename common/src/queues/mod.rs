//! There is one queue of tasks for each resource class and each priority. The coordinator publishes a task to
//! the queue of its class; a worker pulls from the queues of the classes that fit at the moment. A task that is
//! only for machines of one numeric kind is in a queue of that class and kind, and one that is only for workers
//! with a tag in a queue of that tag.
//!
//! A class states how much memory a worker must have free to take the task. Its number is the upper bound of
//! the requirement in GiB, or in MiB with an `m`, so a worker with 11 GiB free pulls from `g10`, `g08`, `g06`
//! and so on, and one with 700 MiB from `g512m`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::numeric_kind::NumericKind;
use crate::tags::{Tag, Tags};
use crate::text::{InvalidText, serde_as_text};
use crate::wire::memory::{DeviceKind, RenderMemory};

/// Bounds of the classes on host memory, in MiB. A queue without a consumer costs a worker one request every
/// half minute, and the server keeps a consumer only for a queue that was used: fine classes are cheap.
pub const CPU_CLASSES_MIB: [u32; 14] = [
    256,
    512,
    GIB,
    GIB + GIB / 2,
    2 * GIB,
    3 * GIB,
    4 * GIB,
    6 * GIB,
    8 * GIB,
    12 * GIB,
    16 * GIB,
    24 * GIB,
    32 * GIB,
    64 * GIB,
];
/// Bounds of the classes on device memory, in MiB.
pub const GPU_CLASSES_MIB: [u32; 17] = [
    512,
    GIB,
    GIB + GIB / 2,
    2 * GIB,
    3 * GIB,
    4 * GIB,
    6 * GIB,
    8 * GIB,
    10 * GIB,
    12 * GIB,
    16 * GIB,
    20 * GIB,
    24 * GIB,
    32 * GIB,
    48 * GIB,
    80 * GIB,
    141 * GIB,
];
/// Number of priorities, of which 0 is the highest. A render has the farm for itself and needs one priority;
/// on a farm of many jobs an urgent one uses queues of its own, from which workers pull first.
pub const PRIORITIES: u8 = 3;
/// Priority of a job whose request has none.
pub const DEFAULT_PRIORITY: u8 = 1;

/// MiB of a GiB.
const GIB: u32 = 1024;

/// What a worker must offer to take a task. Text forms are `analyze`, `cpu08`, `cpu512m`, `g08` and `g141`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceClass {
    /// Face analysis, which any worker can do.
    Analyze,
    /// Rendering on the CPU, with up to this many MiB of host memory: one of [`CPU_CLASSES_MIB`].
    Cpu(u32),
    /// Rendering on a GPU, with up to this many MiB of its memory: one of [`GPU_CLASSES_MIB`].
    Gpu(u32),
}

impl ResourceClass {
    /// Returns the smallest CPU class of at least `need_mib`, or `None` if it is above the largest.
    pub fn cpu_for(need_mib: u64) -> Option<Self> {
        smallest(&CPU_CLASSES_MIB, need_mib).map(Self::Cpu)
    }

    /// Returns the smallest GPU class of at least `need_mib`, or `None` if it is above the largest.
    pub fn gpu_for(need_mib: u64) -> Option<Self> {
        smallest(&GPU_CLASSES_MIB, need_mib).map(Self::Gpu)
    }

    /// Returns the kind of device whose memory the class bounds; `None` for analyses, which use no model.
    pub fn kind(self) -> Option<DeviceKind> {
        match self {
            Self::Analyze => None,
            Self::Cpu(_) => Some(DeviceKind::Cpu),
            Self::Gpu(_) => Some(DeviceKind::Cuda),
        }
    }

    /// Returns what a worker that pulls from the class's queue has free at least, in MiB.
    pub fn mib(self) -> u64 {
        match self {
            Self::Analyze => 0,
            Self::Cpu(mib) | Self::Gpu(mib) => u64::from(mib),
        }
    }
}

fn smallest(classes: &[u32], need_mib: u64) -> Option<u32> {
    classes.iter().copied().find(|mib| u64::from(*mib) >= need_mib)
}

impl fmt::Display for ResourceClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, mib) = match self {
            Self::Analyze => return f.write_str("analyze"),
            Self::Cpu(mib) => ("cpu", mib),
            Self::Gpu(mib) => ("g", mib),
        };
        if mib.is_multiple_of(GIB) {
            write!(f, "{kind}{:02}", mib / GIB)
        } else {
            write!(f, "{kind}{mib}m")
        }
    }
}

impl FromStr for ResourceClass {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let all = CPU_CLASSES_MIB
            .map(Self::Cpu)
            .into_iter()
            .chain(GPU_CLASSES_MIB.map(Self::Gpu))
            .chain([Self::Analyze]);
        let found = all.into_iter().find(|class| class.to_string() == text);
        found.ok_or_else(|| {
            InvalidText::new(
                "resource class (analyze, cpuNN, gNN, or a number of MiB as in cpu512m)",
                text,
            )
        })
    }
}

/// What a machine must be to take a task: its resource class and, if the task is only for one, its numeric
/// kind and its tag. The text form is `<class>`, `<class>-<kind>`, or one of these with `+<tag>` behind it; neither
/// a class nor a kind has a `+`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The class of the task.
    pub class: ResourceClass,
    /// The numeric kind of the machines that may take the task; `None` if all may.
    pub kind: Option<NumericKind>,
    /// The tag of the workers that may take the task; `None` if all may.
    pub tag: Option<Tag>,
}

impl Lane {
    /// Returns the lane of the tasks of a class that all machines may take.
    pub const fn any(class: ResourceClass) -> Self {
        let (kind, tag) = (None, None);
        Self { class, kind, tag }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.class.fmt(f)?;
        self.kind.map_or(Ok(()), |kind| write!(f, "-{kind}"))?;
        self.tag.map_or(Ok(()), |tag| write!(f, "+{tag}"))
    }
}

impl FromStr for Lane {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let (machine, tag) = match text.split_once('+') {
            Some((machine, tag)) => (machine, Some(tag.parse()?)),
            None => (text, None),
        };
        let (class, kind) = match machine.split_once('-') {
            Some((class, kind)) => (class, Some(kind.parse()?)),
            None => (machine, None),
        };
        let class = class.parse()?;
        Ok(Self { class, kind, tag })
    }
}

/// A queue of tasks of one lane and one priority. Its text form, which is also the name of its consumer, is
/// `<lane>-p<priority>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Queue {
    /// What a machine must be to take the tasks in the queue.
    pub lane: Lane,
    /// The priority, in `0..PRIORITIES`; 0 is the highest.
    pub priority: u8,
}
serde_as_text!(Queue);

impl Queue {
    /// Returns the queue of the tasks of a class and priority that all machines may take.
    pub const fn any(class: ResourceClass, priority: u8) -> Self {
        let lane = Lane::any(class);
        Self { lane, priority }
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-p{}", self.lane, self.priority)
    }
}

impl FromStr for Queue {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let invalid = || InvalidText::new("queue (<class>[-<kind>][+<tag>]-p<priority>)", text);
        let (lane, priority) = text.rsplit_once('-').ok_or_else(invalid)?;
        Ok(Self {
            lane: lane.parse()?,
            priority: parse_priority(priority).ok_or_else(invalid)?,
        })
    }
}

/// Parses `p0`, `p1` or `p2`.
pub(crate) fn parse_priority(text: &str) -> Option<u8> {
    (0..PRIORITIES).find(|priority| text == format!("p{priority}"))
}

/// What a worker can offer to a task at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Available {
    /// Whether the worker can analyze faces.
    pub analyze: bool,
    /// Memory that render tasks can use.
    pub memory: RenderMemory,
}

/// Returns the queues that fit a machine of this numeric kind whose worker has these tags, in the order in which to
/// pull from them: by priority, then rendering before analysis (so that a video is finished front to back), then the
/// largest class first, and of one class those of the tags, and the tasks that only machines of this kind may take.
/// Without a kind, or a tag, only tasks fit that need none.
pub fn fitting(available: &Available, kind: Option<NumericKind>, tags: &Tags) -> Vec<Queue> {
    let memory = available.memory;
    let gpu = within(&GPU_CLASSES_MIB, memory.device_mib).map(ResourceClass::Gpu);
    let cpu = within(&CPU_CLASSES_MIB, memory.host_mib).map(ResourceClass::Cpu);
    let of_class = |class| {
        // Analyses are for machines of any kind.
        let own_kind = kind.filter(|_| class != ResourceClass::Analyze).map(Some);
        tags.iter().map(Some).chain([None]).flat_map(move |tag| {
            let kinds = own_kind.into_iter().chain([None]);
            kinds.map(move |kind| Lane { class, kind, tag })
        })
    };
    let analyze = available.analyze.then_some(ResourceClass::Analyze);
    let lanes: Vec<Lane> = gpu.chain(cpu).chain(analyze).flat_map(of_class).collect();
    (0..PRIORITIES)
        .flat_map(|priority| {
            lanes.iter().map(move |lane| Queue {
                lane: *lane,
                priority,
            })
        })
        .collect()
}

/// Returns the bounds of classes that are at most `free_mib`, the largest first; none if `free_mib` is
/// `None`.
fn within(classes: &[u32], free_mib: Option<u64>) -> impl Iterator<Item = u32> {
    let fits = move |mib: &u32| free_mib.is_some_and(|free| u64::from(*mib) <= free);
    classes.iter().rev().copied().filter(fits)
}

#[cfg(test)]
mod tests;
