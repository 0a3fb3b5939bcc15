//! The journal of a job: what was decided about each chunk, with the figures, and what came of it. One JSON object
//! a line in the job folder, appended as things happen; for `latentfarm explain` and for the report. It is told
//! from, never decided from, but for the memory history of chunks that an earlier run had begun.

mod entry;
mod file;

pub use entry::{Entry, Line};
pub use file::{Journal, read};
