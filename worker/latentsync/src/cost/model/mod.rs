//! What a task needs of a device, in closed form: the largest of a handful of named terms.
//!
//! The terms are sums of the tensors that are alive at the places of the networks where it becomes tight, with
//! [`cost`](super::cost) for the operation that runs there. A test compares them with the [`walk`](super::walk) over
//! every operation, another one with what the engine really takes on a CPU.
//!
//! What is predicted is what a supervisor sees of the engine, at its highest, over a task:
//! - on the CPU its resident set: weights (pages of mapped files count as soon as they were touched), live tensors and
//!   buffers, and a constant for the rest of the process ([`HOST_BASE`]). Without that constant it is what the counting
//!   allocator has at the highest, and the mapped weights;
//! - on CUDA its share of the device: the context ([`CUDA_CONTEXT`]) and the pool. No GPU has been seen yet: these
//!   figures follow from what each operation allocates and are marked unconfirmed.
//!
//! Not in it: whatever else runs on the device, and the margin that a worker leaves free for it.

mod place;
#[cfg(test)]
mod tests;
mod unet;
mod vae;
mod whisper;

use std::fmt;

use candle_core::{DType, Result};
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryStage, Needs};

use self::place::Place;
use super::op::Account;
use super::walk::ModelShape;
use crate::Levers;

const MIB: u64 = 1 << 20;

/// What the engine's resident set has besides weights and live tensors: the program, its threads, and what the allocator
/// keeps of freed memory for a second. Measured: 34 to 78 MiB, by what was freed within the last second.
pub const HOST_BASE: u64 = 64 * MIB;
/// A CUDA context with the libraries' own memory. Assumed: 0.3 to 0.6 GiB are usual.
pub const CUDA_CONTEXT: u64 = 614 * MIB;

/// The prediction.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryModel;

/// One reason for memory: the sum of what is alive at one place, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    pub stage: MemoryStage,
    pub what: &'static str,
    /// Level of the network that it is at: 0 is the finest, with the largest pictures.
    pub level: usize,
    /// Weights among the bytes.
    pub weights: u64,
    pub bytes: u64,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            stage,
            what,
            level,
            weights,
            bytes,
        } = self;
        write!(
            f,
            "{stage}, {what}, level {level}: weights {} MiB, tensors {} MiB",
            weights / MIB,
            (bytes - weights) / MIB
        )
    }
}

/// How the need under one plan comes about.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    pub plan: MemoryPlan,
    pub need_mib: u64,
    /// The constant part, in MiB: the process on the CPU, the context on CUDA.
    pub base_mib: u64,
    /// Largest first. The first one decides.
    pub terms: Vec<Term>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} MiB, {} of it the base",
            self.plan, self.need_mib, self.base_mib
        )?;
        match self.terms.first() {
            Some(term) => write!(f, "; {term}"),
            None => Ok(()),
        }
    }
}

impl MemoryModel {
    /// The need under every plan; never growing.
    ///
    /// # Errors
    /// Where the networks cannot be built from their configurations.
    pub fn needs(shape: &ModelShape, kind: DeviceKind, dtype: DType, guided: bool) -> Result<Needs> {
        let mut needs = Needs::default();
        let mut least = u64::MAX;
        for plan in MemoryPlan::ALL {
            least = least.min(Self::explain(shape, kind, dtype, plan, guided)?.need_mib);
            needs.mib[plan.index()] = least;
        }
        Ok(needs)
    }

    /// How the need under one plan comes about.
    ///
    /// # Errors
    /// As for [`MemoryModel::needs`].
    pub fn explain(
        shape: &ModelShape,
        kind: DeviceKind,
        dtype: DType,
        plan: MemoryPlan,
        guided: bool,
    ) -> Result<Explanation> {
        let account = Account {
            bytes_per_value: dtype.size_in_bytes(),
            ..Account::of(kind)
        };
        let terms = Self::terms(shape, &account, plan, guided)?;
        let peak = terms.first().map_or(0, |term| term.bytes);
        let base = match kind {
            DeviceKind::Cpu => HOST_BASE,
            DeviceKind::Cuda => CUDA_CONTEXT,
        };
        Ok(Explanation {
            plan,
            need_mib: (base + peak).div_ceil(MIB),
            base_mib: base / MIB,
            terms,
        })
    }

    /// The terms without the constant part, largest first.
    ///
    /// # Errors
    /// As for [`MemoryModel::needs`].
    pub fn terms(shape: &ModelShape, account: &Account, plan: MemoryPlan, guided: bool) -> Result<Vec<Term>> {
        let place = Place::new(shape, account, Levers::of(plan), guided)?;
        let mut terms = unet::terms(&place);
        terms.extend(vae::encode_terms(&place));
        terms.extend(vae::decode_terms(&place));
        terms.extend(whisper::terms(&place));
        terms.sort_by_key(|term| std::cmp::Reverse(term.bytes));
        Ok(terms)
    }

    /// Whether figures for such devices were compared with measured ones.
    pub fn is_confirmed(kind: DeviceKind) -> bool {
        kind == DeviceKind::Cpu
    }
}
