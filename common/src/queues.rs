//! There is one queue of tasks for each resource class and each priority. The coordinator publishes a task to
//! the queue of its class; a worker pulls from the queues of the classes that fit at the moment.
//!
//! A class states how much memory a worker must have free to take the task. Its number is the upper bound of
//! the requirement in GiB, or in MiB with an `m`, so a worker with 11 GiB free pulls from `g10`, `g08`, `g06`
//! and so on, and one with 700 MiB from `g512m`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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

/// A queue of tasks of one class and one priority. Its text form, which is also the name of its consumer, is
/// `<class>-p<priority>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Queue {
    /// The class of the tasks in the queue.
    pub class: ResourceClass,
    /// The priority, in `0..PRIORITIES`; 0 is the highest.
    pub priority: u8,
}
serde_as_text!(Queue);

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-p{}", self.class, self.priority)
    }
}

impl FromStr for Queue {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let invalid = || InvalidText::new("queue (<class>-p<priority>)", text);
        let (class, priority) = text.split_once('-').ok_or_else(invalid)?;
        Ok(Self {
            class: class.parse()?,
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

/// Returns the queues that fit, in the order in which to pull from them: by priority, then rendering before
/// analysis (so that a video is finished front to back), then the largest class first.
pub fn fitting(available: &Available) -> Vec<Queue> {
    let memory = available.memory;
    let gpu = within(&GPU_CLASSES_MIB, memory.device_mib).map(ResourceClass::Gpu);
    let cpu = within(&CPU_CLASSES_MIB, memory.host_mib).map(ResourceClass::Cpu);
    let analyze = available.analyze.then_some(ResourceClass::Analyze);
    let classes: Vec<ResourceClass> = gpu.chain(cpu).chain(analyze).collect();
    (0..PRIORITIES)
        .flat_map(|priority| {
            classes.iter().map(move |class| Queue {
                class: *class,
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(available: &Available) -> Vec<String> {
        fitting(available).iter().map(ToString::to_string).collect()
    }

    fn gpu(device_mib: u64) -> RenderMemory {
        RenderMemory {
            host_mib: None,
            device_mib: Some(device_mib),
        }
    }

    #[test]
    fn queues_are_in_order_of_priority_then_of_size() {
        let available = Available {
            analyze: true,
            memory: gpu(2 * 1024 + 100),
        };
        let classes = ["g02", "g1536m", "g01", "g512m", "analyze"];
        let expected =
            (0..PRIORITIES).flat_map(|priority| classes.map(|class| format!("{class}-p{priority}")));
        assert_eq!(names(&available), expected.collect::<Vec<_>>());
    }

    #[test]
    fn no_queue_fits_a_worker_without_free_memory() {
        assert_eq!(fitting(&Available::default()), []);
        let too_small = Available {
            analyze: false,
            memory: RenderMemory {
                host_mib: Some(255),
                device_mib: Some(511),
            },
        };
        assert_eq!(fitting(&too_small), []);
    }

    #[test]
    fn every_queue_is_read_from_its_own_text() {
        let everything = Available {
            analyze: true,
            memory: RenderMemory {
                host_mib: Some(u64::MAX),
                device_mib: Some(u64::MAX),
            },
        };
        let all = fitting(&everything);
        let classes = 1 + CPU_CLASSES_MIB.len() + GPU_CLASSES_MIB.len();
        assert_eq!(all.len(), classes * usize::from(PRIORITIES));
        for queue in all {
            assert_eq!(queue.to_string().parse::<Queue>().unwrap(), queue);
            assert_eq!(
                queue.class.to_string().parse::<ResourceClass>().unwrap(),
                queue.class
            );
        }
    }

    #[test]
    fn text_forms_are_padded_to_two_digits() {
        let texts = [
            (ResourceClass::Gpu(4096), "g04"),
            (ResourceClass::Gpu(141 * 1024), "g141"),
            (ResourceClass::Cpu(2048), "cpu02"),
            (ResourceClass::Cpu(512), "cpu512m"),
            (ResourceClass::Gpu(1536), "g1536m"),
        ];
        for (class, text) in texts {
            assert_eq!(class.to_string(), text);
        }
        let wrong = [
            "g4",
            "g05",
            "g004",
            "cpu2",
            "gpu04",
            "",
            "analyze-p1",
            "*",
            "cpu512",
            "cpu2048m",
            "g4m",
        ];
        for text in wrong {
            assert!(text.parse::<ResourceClass>().is_err(), "{text}");
        }
        for text in ["g04", "g04-p3", "g04-1", "g04-p01", "g05-p1"] {
            assert!(text.parse::<Queue>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_class_of_a_need_is_asked_by_whoever_has_that_much_free(need_mib in 1_u64..141 * 1024) {
            let Some(class @ ResourceClass::Gpu(_)) = ResourceClass::gpu_for(need_mib) else {
                return Err(TestCaseError::fail("every need up to the largest class has one"));
            };
            prop_assert!(class.mib() >= need_mib);
            let available = Available { analyze: false, memory: gpu(class.mib()) };
            prop_assert_eq!(fitting(&available)[0].class, class);
        }
    }

    #[test]
    fn small_needs_have_small_classes() {
        let cpu = |need_mib| ResourceClass::cpu_for(need_mib).unwrap().mib();
        assert_eq!([1, 130, 257, 1100, 1537].map(cpu), [256, 256, 512, 1536, 2048]);
        let small = Available {
            analyze: false,
            memory: RenderMemory {
                host_mib: Some(700),
                device_mib: None,
            },
        };
        assert_eq!(names(&small)[..2], ["cpu512m-p0", "cpu256m-p0"]);
    }

    #[test]
    fn a_need_beyond_the_largest_class_has_none() {
        assert_eq!(ResourceClass::gpu_for(141 * 1024 + 1), None);
        assert_eq!(
            ResourceClass::cpu_for(64 * 1024),
            Some(ResourceClass::Cpu(64 * 1024))
        );
        assert_eq!(ResourceClass::cpu_for(64 * 1024 + 1), None);
    }
}
