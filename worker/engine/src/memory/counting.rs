//! An allocator that counts: exact bytes in use, and their peak.
//!
//! The counters are the process's, not an allocator's, and stay 0 where [`Counting`] is not installed. They count
//! what was asked for, not what the allocator below rounds it up to; the stacks of threads and mapped files are
//! not in them.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Relaxed throughout: a counter orders nothing, and every single addition counts whatever its order.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Counts what goes through `A`. Installed by
/// `#[global_allocator] static ALLOCATOR: Counting<MiMalloc> = Counting(MiMalloc);`.
pub struct Counting<A>(pub A);

/// Bytes in use now.
pub fn live_bytes() -> u64 {
    LIVE.load(Ordering::Relaxed) as u64
}

/// Highest [`live_bytes`] since the last call, or since the process began.
pub fn take_peak() -> u64 {
    let live = LIVE.load(Ordering::Relaxed);
    PEAK.swap(live, Ordering::Relaxed).max(live) as u64
}

fn grow(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    // Mostly false: the write, which every thread would wait for, is saved.
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
// SAFETY: every method is `A`'s, with the same arguments and the same result; counting neither allocates nor fails.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
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
            // Growing first: the old block may still lie there while the new one is filled.
            if new_size >= layout.size() {
                grow(new_size - layout.size());
            } else {
                shrink(layout.size() - new_size);
            }
        }
        moved
    }
}
