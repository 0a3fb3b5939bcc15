//! There is one queue of tasks for each resource class and each priority. The coordinator publishes a task to
//! the queue of its class; a worker pulls from the queues of the classes that fit at the moment.
//!
//! A class states how much memory a worker must have free to take the task. Its number is the upper bound of
//! the requirement in GiB, so a worker with 11 GiB free pulls from `g10`, `g08`, `g06` and so on.

use std::fmt;
use std::str::FromStr;

use crate::text::{InvalidText, serde_as_text};
use crate::wire::memory::RenderMemory;

/// Bounds of the classes on host memory, in GiB.
pub const CPU_CLASSES_GIB: [u16; 7] = [2, 4, 8, 16, 24, 32, 64];
/// Bounds of the classes on device memory, in GiB.
pub const GPU_CLASSES_GIB: [u16; 14] = [2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 80, 141];
/// Number of priorities, of which 0 is the highest. A render has the farm for itself and needs one priority;
/// on a farm of many jobs an urgent one uses queues of its own, from which workers pull first.
pub const PRIORITIES: u8 = 3;
/// Priority of a job whose request has none.
pub const DEFAULT_PRIORITY: u8 = 1;

const MIB_PER_GIB: u64 = 1024;

/// What a worker must offer to take a task. Text forms are `analyze`, `cpu08`, `g08` and `g141`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceClass {
    /// Face analysis, which any worker can do.
    Analyze,
    /// Rendering on the CPU, with up to this many GiB of host memory: one of [`CPU_CLASSES_GIB`].
    Cpu(u16),
    /// Rendering on a GPU, with up to this many GiB of its memory: one of [`GPU_CLASSES_GIB`].
    Gpu(u16),
}

impl ResourceClass {
    /// Returns the smallest CPU class of at least `need_mib`, or `None` if it is above the largest.
    pub fn cpu_for(need_mib: u64) -> Option<Self> {
        smallest(&CPU_CLASSES_GIB, need_mib).map(Self::Cpu)
    }

    /// Returns the smallest GPU class of at least `need_mib`, or `None` if it is above the largest.
    pub fn gpu_for(need_mib: u64) -> Option<Self> {
        smallest(&GPU_CLASSES_GIB, need_mib).map(Self::Gpu)
    }
}

fn smallest(classes: &[u16], need_mib: u64) -> Option<u16> {
    classes
        .iter()
        .copied()
        .find(|gib| u64::from(*gib) * MIB_PER_GIB >= need_mib)
}

impl fmt::Display for ResourceClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Analyze => f.write_str("analyze"),
            Self::Cpu(gib) => write!(f, "cpu{gib:02}"),
            Self::Gpu(gib) => write!(f, "g{gib:02}"),
        }
    }
}

impl FromStr for ResourceClass {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let all = CPU_CLASSES_GIB
            .map(Self::Cpu)
            .into_iter()
            .chain(GPU_CLASSES_GIB.map(Self::Gpu))
            .chain([Self::Analyze]);
        let found = all.into_iter().find(|class| class.to_string() == text);
        found.ok_or_else(|| InvalidText::new("resource class (analyze, cpuNN or gNN)", text))
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    let gpu = within(&GPU_CLASSES_GIB, memory.device_mib).map(ResourceClass::Gpu);
    let cpu = within(&CPU_CLASSES_GIB, memory.host_mib).map(ResourceClass::Cpu);
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
fn within(classes: &[u16], free_mib: Option<u64>) -> impl Iterator<Item = u16> {
    let fits = move |gib: &u16| free_mib.is_some_and(|free| u64::from(*gib) * MIB_PER_GIB <= free);
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
            memory: gpu(4 * 1024 + 100),
        };
        assert_eq!(
            names(&available),
            [
                "g04-p0",
                "g03-p0",
                "g02-p0",
                "analyze-p0",
                "g04-p1",
                "g03-p1",
                "g02-p1",
                "analyze-p1",
                "g04-p2",
                "g03-p2",
                "g02-p2",
                "analyze-p2"
            ]
        );
    }

    #[test]
    fn no_queue_fits_a_worker_without_free_memory() {
        assert_eq!(fitting(&Available::default()), []);
        let too_small = Available {
            analyze: false,
            memory: RenderMemory {
                host_mib: Some(2047),
                device_mib: Some(2047),
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
        let classes = 1 + CPU_CLASSES_GIB.len() + GPU_CLASSES_GIB.len();
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
        assert_eq!(ResourceClass::Gpu(4).to_string(), "g04");
        assert_eq!(ResourceClass::Gpu(141).to_string(), "g141");
        assert_eq!(ResourceClass::Cpu(2).to_string(), "cpu02");
        for text in ["g4", "g05", "g004", "cpu2", "gpu04", "", "analyze-p1", "*"] {
            assert!(text.parse::<ResourceClass>().is_err(), "{text}");
        }
        for text in ["g04", "g04-p3", "g04-1", "g04-p01", "g05-p1"] {
            assert!(text.parse::<Queue>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_class_of_a_need_is_asked_by_whoever_has_that_much_free(need_mib in 1_u64..141 * 1024) {
            let Some(class @ ResourceClass::Gpu(gib)) = ResourceClass::gpu_for(need_mib) else {
                return Err(TestCaseError::fail("every need up to the largest class has one"));
            };
            prop_assert!(u64::from(gib) * 1024 >= need_mib);
            let available = Available { analyze: false, memory: gpu(u64::from(gib) * 1024) };
            prop_assert_eq!(fitting(&available)[0].class, class);
        }
    }

    #[test]
    fn a_need_beyond_the_largest_class_has_none() {
        assert_eq!(ResourceClass::gpu_for(141 * 1024 + 1), None);
        assert_eq!(ResourceClass::cpu_for(64 * 1024), Some(ResourceClass::Cpu(64)));
        assert_eq!(ResourceClass::cpu_for(64 * 1024 + 1), None);
    }
}
