//! How many attempts a chunk is granted.

/// Failures that a chunk is granted before it is quarantined.
pub const MAX_FAILURES: u32 = 4;
/// Unfinished attempts that were not the chunk's fault (an unfit or lost worker, a lost queue) before it is
/// quarantined all the same, so that no chunk runs forever.
pub const MAX_EXCUSED: u32 = 8;

/// Unfinished attempts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// Counted against [`MAX_FAILURES`].
    pub failed: u32,
    /// Counted against [`MAX_EXCUSED`].
    pub excused: u32,
    /// Out of memory: counted against nothing, since each is a step up a finite ladder of plans and classes.
    pub out_of_memory: u32,
    /// Memory that was gone before anything was tried: counted against nothing, but waited for longer each time.
    pub no_room: u32,
}

impl Tries {
    pub fn total(self) -> u32 {
        self.failed + self.excused + self.out_of_memory + self.no_room
    }
}
