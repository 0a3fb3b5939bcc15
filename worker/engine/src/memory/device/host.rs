//! The host as an engine's device.

use latentfarm_common::wire::memory::{DeviceKind, MemorySample};

use super::interface::{EngineMemory, MIB, Shortage, Work};
use crate::memory::counting;
use latentfarm_common::host;
use latentsync::Checkpoint;
use latentsync::Op;
use latentsync::cost::compute::ComputeSpec;
use latentsync::cost::op::{Details, op_memory};
use latentsync::slices::Limits;

/// Host memory, measured by the counting allocator and bounded by a soft budget.
pub struct HostMemory {
    /// Bytes that may be in use, weights that are mapped from their files included.
    budget: Option<u64>,
    /// Live bytes before weights were loaded.
    without_weights: u64,
    /// Weights that are used where they lie in the page cache: no allocation, but memory all the same.
    mapped: u64,
    /// Anonymous resident bytes that were there first: stacks, tables, what the allocator holds for itself.
    resident_before: u64,
    leaked: Vec<Vec<u8>>,
}

/// What an allocator may hold beyond what was in use at the peak before it is worth having it give that back: its
/// pages are never all full.
const SLACK: u64 = 64 * MIB;

impl HostMemory {
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

    fn load(&mut self, checkpoint: &Checkpoint, _work: Work) -> Result<(), Shortage> {
        self.without_weights = counting::live_bytes();
        self.check(checkpoint.bytes())
    }

    fn loaded(&mut self, checkpoint: &Checkpoint) {
        // Those that had to be converted were allocated; the rest lies in the mapped files.
        let allocated = counting::live_bytes().saturating_sub(self.without_weights);
        self.mapped = checkpoint.bytes().saturating_sub(allocated);
    }

    fn unloaded(&mut self) {
        self.mapped = 0;
    }

    fn begin(&mut self, _work: Work) -> Result<(), Shortage> {
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
        self.check(op_memory(op, Details::default(), &spec, Limits::USUAL).peak)
    }

    fn refused(&self) -> u64 {
        self.in_use()
    }

    /// A failed allocation of this process is its end; what the budget refused, it refuses again.
    fn recover(&mut self) -> bool {
        false
    }

    fn trim(&mut self, keep: u64) {
        // Reading the resident set costs microseconds, purging what is soon used again a seventh of a step.
        let allowed = self.resident_before + keep + keep / 8 + SLACK;
        if keep == 0 || host::own_anonymous_bytes() > allowed {
            purge();
        }
    }

    fn leak(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // Written to, so that the resident set grows too.
        self.leaked.push(vec![1; bytes]);
    }
}

/// Has the allocator return free memory to the system now, not after its delay. It sees this thread's share and
/// what other threads have given back to the whole; theirs alone goes when their delay is over.
#[expect(
    unsafe_code,
    reason = "the allocator's own function, which its crate does not wrap"
)]
fn purge() {
    // Linked in by the crate of this name.
    use mimalloc as _;
    // SAFETY: as declared in the allocator's header, `void mi_collect(bool force)`; it may be called at any time
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
    fn a_budget_refuses_what_would_exceed_it_and_tells_the_need() {
        let mut memory = HostMemory::new(Some(100 * MIB));
        memory.mapped = 60 * MIB;
        // This process does not count its allocations: what is mapped is all that is in use.
        let copy = |mib: usize| Op::Copy { elements: mib << 18 };
        assert_eq!(memory.before(copy(40), 4), Ok(()));
        let shortage = memory.before(copy(41), 4).unwrap_err();
        assert_eq!((shortage.needed, shortage.limit), (101 * MIB, 100 * MIB));
        assert_eq!(
            shortage.to_string(),
            "out of memory: 101 MiB are needed at least, 100 MiB may be used"
        );
        let reading = memory.reading();
        assert!(
            reading.free <= 40 * MIB && reading.total <= 100 * MIB,
            "{reading:?}"
        );
        assert_eq!(HostMemory::new(None).before(copy(1 << 20), 4), Ok(()));
    }
}
