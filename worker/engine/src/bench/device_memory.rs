//! The memory of a GPU while a part runs: what the engine's pool holds, and what the driver has left.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::memory::device::{EngineMemory, FreeMemoryReader};

/// How often the driver is asked for the free memory.
const SAMPLING_INTERVAL: Duration = Duration::from_millis(5);

/// The memory of the device that a part took, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceMemoryUse {
    /// Bytes in tensors with the networks loaded, before the part ran.
    pub used_before: u64,
    /// Highest bytes in tensors during warm-up and repetitions.
    pub used_peak: u64,
    /// Highest bytes that the pool held during warm-up and repetitions; see
    /// [`MemorySample::fragmented_peak`](latentfarm_common::wire::memory::MemorySample::fragmented_peak).
    pub reserved_peak: u64,
    /// Bytes that the context and the libraries take outside of the pool.
    pub beside_pool: u64,
    /// Least free bytes of the device, according to the driver, over one more repetition that is not timed.
    /// Other programs on the device count, too.
    pub least_free: u64,
    /// Bytes of the device in all.
    pub total: u64,
}

impl DeviceMemoryUse {
    /// Returns the bytes that the pool held at its peak and that no tensor used at theirs.
    pub fn fragmented(&self) -> u64 {
        self.reserved_peak.saturating_sub(self.used_peak)
    }
}

/// Measures the memory of a device from [`DeviceGauge::start`] to [`DeviceGauge::finish`].
pub(super) struct DeviceGauge<'a> {
    memory: &'a mut dyn EngineMemory,
    used_before: u64,
}

impl<'a> DeviceGauge<'a> {
    /// Forgets the peaks of what was before, such as loading.
    pub(super) fn start(memory: &'a mut dyn EngineMemory) -> Self {
        memory.take_peak();
        memory.take_reserved_peak();
        let used_before = memory.reading().live;
        Self { memory, used_before }
    }

    /// Runs `again`, another repetition, while the driver is asked for the free memory, and returns all measurements.
    ///
    /// # Errors
    /// That of `again`.
    pub(super) fn finish<E>(self, again: impl FnOnce() -> Result<(), E>) -> Result<DeviceMemoryUse, E> {
        let sampler = self.memory.free_memory_reader().map(FreeSampler::start);
        let ran = again();
        let least_sampled = sampler.and_then(FreeSampler::finish);
        ran?;
        let reading = self.memory.reading();
        let used_peak = self.memory.take_peak().max(reading.live);
        Ok(DeviceMemoryUse {
            used_before: self.used_before,
            used_peak,
            reserved_peak: self.memory.take_reserved_peak().max(reading.reserved),
            beside_pool: reading.own.saturating_sub(reading.reserved),
            least_free: least_sampled.map_or(reading.free, |free| free.min(reading.free)),
            total: reading.total,
        })
    }
}

/// A thread that reads the free memory again and again.
struct FreeSampler {
    stop: Sender<()>,
    thread: JoinHandle<Option<u64>>,
}

impl FreeSampler {
    fn start(mut read: FreeMemoryReader) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut least = read();
            while stopped.recv_timeout(SAMPLING_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                least = [least, read()].into_iter().flatten().min();
            }
            least
        });
        Self { stop, thread }
    }

    /// Ends the thread and returns the least free bytes; `None` if the driver gave none.
    fn finish(self) -> Option<u64> {
        drop(self.stop);
        self.thread.join().ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use latentfarm_common::wire::memory::MemorySample;

    use super::*;

    /// A pool whose high waters a test sets, on a device whose free memory goes down and up again.
    struct FakePool {
        used_high: u64,
        reserved_high: u64,
        reads: Option<mpsc::Sender<u64>>,
    }

    impl EngineMemory for FakePool {
        fn survives_panic(&self) -> bool {
            true
        }
        fn reading(&self) -> MemorySample {
            MemorySample {
                free: 900,
                total: 1000,
                own: 70,
                reserved: 40,
                live: 30,
                ..MemorySample::default()
            }
        }
        fn take_peak(&mut self) -> u64 {
            std::mem::replace(&mut self.used_high, 30)
        }
        fn take_reserved_peak(&mut self) -> u64 {
            std::mem::replace(&mut self.reserved_high, 40)
        }
        fn needed_at_least(&self) -> u64 {
            0
        }
        fn free_memory_reader(&self) -> Option<FreeMemoryReader> {
            let reads = self.reads.clone()?;
            let mut values = [800, 250, 600].into_iter().cycle();
            Some(Box::new(move || {
                let value = values.next()?;
                // The test may have seen enough and be gone.
                let _heard = reads.send(value);
                Some(value)
            }))
        }
        fn trim(&mut self, _: u64) {}
        fn leak(&mut self, _: u64) {}
    }

    #[test]
    fn the_part_alone_is_measured_and_the_driver_is_asked_while_it_runs_again() {
        let (reads, seen) = mpsc::channel();
        let mut pool = FakePool {
            used_high: 5000,
            reserved_high: 6000,
            reads: Some(reads),
        };
        let gauge = DeviceGauge::start(&mut pool);
        // The high waters of the part; those of loading are forgotten.
        assert_eq!(gauge.memory.take_peak() + gauge.memory.take_reserved_peak(), 70);
        let measured = gauge.finish(|| {
            while seen.recv().map_err(drop)? != 600 {}
            Ok::<(), ()>(())
        });
        let measured = measured.unwrap();
        assert_eq!((measured.used_before, measured.least_free), (30, 250));
        assert_eq!((measured.used_peak, measured.reserved_peak), (30, 40));
        assert_eq!((measured.fragmented(), measured.beside_pool), (10, 30));
    }

    #[test]
    fn a_device_that_cannot_be_asked_meanwhile_is_read_at_the_end() {
        let mut pool = FakePool {
            used_high: 0,
            reserved_high: 0,
            reads: None,
        };
        let measured = DeviceGauge::start(&mut pool).finish(|| Ok::<(), ()>(()));
        assert_eq!(measured.unwrap().least_free, 900);
        let failed = DeviceGauge::start(&mut pool).finish(|| Err("it broke"));
        assert_eq!(failed, Err("it broke"));
    }
}
