//! The journal of a job: what was decided about each chunk, with the figures, and how each attempt ended. The
//! dispatcher appends one JSON object a line to a file in the job folder; `latentfarm explain` and the report
//! read it. No decision depends on it, with one exception: a new run restores from it which attempts of
//! earlier runs ran out of memory.

mod entry;
mod file;

pub use entry::{JournalEntry, JournalLine};
pub use file::{Journal, page, parse, read};
