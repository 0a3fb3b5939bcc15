//! The host's memory, for an engine that computes on the CPU.

use latentfarm_common::wire::memory::{DeviceKind, MemorySample};

use super::interface::{EngineMemory, MIB, Shortage, StageWork};
use crate::memory::counting;
use latentfarm_common::host;
use latentsync::Checkpoint;
use latentsync::Op;
use latentsync::cost::compute::ComputeSpec;
use latentsync::cost::op::{OpParams, op_memory};
use latentsync::slices::SliceLimits;

/// Host memory, measured by the counting allocator and limited by a soft budget.
pub struct HostMemory {
    /// Most bytes that may be in use, weights that are mapped from their files included.
    budget: Option<u64>,
    /// Bytes in use before weights were loaded.
    without_weights: u64,
    /// Bytes of weights that are used in the page cache, where they are mapped: memory without an allocation.
    mapped: u64,
    /// Anonymous resident bytes from before the first request: stacks, tables, and what the allocator holds
    /// for itself.
    resident_before: u64,
    leaked: Vec<Vec<u8>>,
}

/// Bytes that the allocator may hold beyond the peak of what was in use before it is purged: its pages are
/// never all full, so that a purge would gain little.
const SLACK: u64 = 64 * MIB;

impl HostMemory {
    /// Makes the memory of this process, of which at most `budget` bytes may be in use.
    pub fn new(budget: Option<u64>) -> Self {
        Self {
            budget,
            resident_before: host::own_anonymous_bytes(),
            without_weights: counting::live_bytes(),
            mapped: 0,
            leaked: Vec::new(),
        }
    }

    fn in_use(&self) -> u64 {
        counting::live_bytes() + self.mapped
    }

    fn check(&self, more: u64) -> Result<(), Shortage> {
        let needed = self.in_use() + more;
        match self.budget {
            Some(limit) if needed > limit => Err(Shortage { needed, limit }),
            _ => Ok(()),
        }
    }
}

impl EngineMemory for HostMemory {
    fn survives_panic(&self) -> bool {
        true
    }

    fn reading(&self) -> MemorySample {
        let rss = host::own_rss_mib() * MIB;
        let (mut free, mut total) = (host::available_mib() * MIB, host::total_mib() * MIB);
        if let Some(budget) = self.budget {
            free = free.min(budget.saturating_sub(self.in_use()));
            total = total.min(budget);
        }
        MemorySample {
            free,
            total,
            own: rss,
            reserved: rss,
            reserved_peak: 0,
            live: counting::live_bytes(),
            live_peak: 0,
            host_rss: rss,
        }
    }

    fn take_peak(&mut self) -> u64 {
        counting::take_peak()
    }

    fn load(&mut self, checkpoint: &Checkpoint, _work: StageWork) -> Result<(), Shortage> {
        self.without_weights = counting::live_bytes();
        self.check(checkpoint.bytes())
    }

    fn loaded(&mut self, checkpoint: &Checkpoint) {
        // Weights that had to be converted were allocated; the others are used in the mapped files.
        let allocated = counting::live_bytes().saturating_sub(self.without_weights);
        self.mapped = checkpoint.bytes().saturating_sub(allocated);
    }

    fn unloaded(&mut self) {
        self.mapped = 0;
    }

    fn begin(&mut self, _work: StageWork) -> Result<(), Shortage> {
        self.check(0)
    }

    fn before(&mut self, op: Op, value_bytes: usize) -> Result<(), Shortage> {
        if self.budget.is_none() {
            return Ok(());
        }
        let spec = ComputeSpec {
            kind: DeviceKind::Cpu,
            bytes_per_value: value_bytes,
            threads: rayon::current_num_threads(),
        };
        self.check(op_memory(op, OpParams::default(), &spec, SliceLimits::DEFAULT).peak)
    }

    fn needed_at_least(&self) -> u64 {
        self.in_use()
    }

    fn trim(&mut self, keep: u64) {
        // Reading the resident set takes microseconds; purging memory that is soon used again takes a seventh
        // of a step.
        let allowed = self.resident_before + keep + keep / 8 + SLACK;
        if keep == 0 || host::own_anonymous_bytes() > allowed {
            purge();
        }
    }

    fn leak(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // The bytes are written, so that the resident set grows too.
        self.leaked.push(vec![1; bytes]);
    }
}

/// Has the allocator return free memory to the system now instead of after its purge delay. mimalloc purges
/// the pages of this thread and those that other threads have abandoned; what other threads still hold goes
/// when their purge delay is over.
#[expect(
    unsafe_code,
    reason = "the allocator's own function, which its crate does not wrap"
)]
fn purge() {
    // The crate links the library that contains the function.
    use mimalloc as _;
    // SAFETY: the allocator's header declares `void mi_collect(bool force)`, which may be called at any time
    // from any thread.
    unsafe extern "C" {
        safe fn mi_collect(force: bool);
    }
    mi_collect(true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_refuses_what_would_exceed_it_and_reports_the_need() {
        let mut memory = HostMemory::new(Some(100 * MIB));
        memory.mapped = 60 * MIB;
        // The counting allocator is not installed in this process: only the mapped bytes are in use.
        let copy = |mib: usize| Op::Copy { elements: mib << 18 };
        assert_eq!(memory.before(copy(40), 4), Ok(()));
        let shortage = memory.before(copy(41), 4).unwrap_err();
        assert_eq!((shortage.needed, shortage.limit), (101 * MIB, 100 * MIB));
        assert_eq!(
            shortage.to_string(),
            "out of memory: at least 101 MiB are needed, 100 MiB may be used"
        );
        let reading = memory.reading();
        assert!(
            reading.free <= 40 * MIB && reading.total <= 100 * MIB,
            "{reading:?}"
        );
        assert_eq!(HostMemory::new(None).before(copy(1 << 20), 4), Ok(()));
    }
}
