//! Tests of the layers as the networks use them: half types and large shapes, numbers of threads, options of
//! the memory plans.

mod options;
mod threads;
mod traps;
