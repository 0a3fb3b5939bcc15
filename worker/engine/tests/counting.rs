//! Tests the counting allocator. The binary has a single test, so that nothing else allocates while it runs.

use latentfarm_engine::memory::counting::{CountingAllocator, live_bytes, take_peak};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: CountingAllocator<MiMalloc> = CountingAllocator(MiMalloc);

#[test]
fn every_byte_is_counted_and_a_peak_is_returned_once() {
    const MANY: usize = 3 << 20;
    let before = live_bytes();
    let zeroed = std::hint::black_box(vec![0_u8; MANY]);
    assert_eq!(live_bytes(), before + MANY as u64);
    let mut grown: Vec<u8> = Vec::with_capacity(MANY);
    grown.resize(MANY, 1);
    grown.reserve_exact(MANY);
    assert_eq!(live_bytes(), before + 3 * MANY as u64);
    grown.shrink_to(MANY);
    assert_eq!(live_bytes(), before + 2 * MANY as u64);
    drop(std::hint::black_box(grown));
    drop(zeroed);
    assert_eq!(live_bytes(), before);
    let peak = take_peak();
    assert!(peak >= before + 3 * MANY as u64, "{peak}");
    assert_eq!(take_peak(), before);
    // Threads count alike, and what one allocates another may free.
    let from_thread = std::thread::spawn(|| vec![7_u8; MANY]).join().unwrap();
    assert!(take_peak() >= before + MANY as u64);
    drop(from_thread);
    assert!(
        live_bytes().abs_diff(before) < 4096,
        "a thread's own bookkeeping is small"
    );
}
