//! An allocator that counts the bytes in use, exactly, and their peak.
//!
//! There is one pair of counters in a process; it stays 0 if no [`CountingAllocator`] is installed. The
//! counters contain the sizes that were requested, not what the allocator below rounds them up to. Thread
//! stacks and mapped files are not counted.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes in use. All accesses are relaxed: a counter orders nothing, and every addition counts whatever its
/// order.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// Highest value of [`LIVE`] since the last [`take_peak`].
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Counts the allocations of `A`. It is installed with
/// `#[global_allocator] static ALLOCATOR: CountingAllocator<MiMalloc> = CountingAllocator(MiMalloc);`.
pub struct CountingAllocator<A>(pub A);

/// Returns the bytes in use now.
pub fn live_bytes() -> u64 {
    LIVE.load(Ordering::Relaxed) as u64
}

/// Returns the highest [`live_bytes`] since the last call, or since the process began.
pub fn take_peak() -> u64 {
    let live = LIVE.load(Ordering::Relaxed);
    PEAK.swap(live, Ordering::Relaxed).max(live) as u64
}

fn grow(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    // The condition is mostly false, which saves the write that all threads would contend for.
    if live > PEAK.load(Ordering::Relaxed) {
        PEAK.fetch_max(live, Ordering::Relaxed);
    }
}

fn shrink(bytes: usize) {
    LIVE.fetch_sub(bytes, Ordering::Relaxed);
}

#[expect(
    unsafe_code,
    reason = "an allocator's methods are unsafe to call and to define"
)]
// SAFETY: every method calls that of `A` with the same arguments and returns its result; counting neither
// allocates nor fails.
unsafe impl<A: GlobalAlloc> GlobalAlloc for CountingAllocator<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the promises of `A::alloc`.
        let place = unsafe { self.0.alloc(layout) };
        if !place.is_null() {
            grow(layout.size());
        }
        place
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the promises of `A::alloc_zeroed`.
        let place = unsafe { self.0.alloc_zeroed(layout) };
        if !place.is_null() {
            grow(layout.size());
        }
        place
    }

    #[inline]
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the promises of `A::dealloc`.
        unsafe { self.0.dealloc(place, layout) };
        shrink(layout.size());
    }

    #[inline]
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the promises of `A::realloc`.
        let moved = unsafe { self.0.realloc(place, layout, new_size) };
        if !moved.is_null() {
            // Only the difference is counted, although old and new block may exist together while one is
            // copied.
            if new_size >= layout.size() {
                grow(new_size - layout.size());
            } else {
                shrink(layout.size() - new_size);
            }
        }
        moved
    }
}
