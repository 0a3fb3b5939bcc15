//! Chooses the results that are checked by rendering their chunks again.

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;

use latentfarm_common::ids::ChunkId;

/// Chooses the chunks that are checked. Workers cannot know which: the choice depends on a random number of this process.
#[derive(Debug)]
pub(super) struct Sampler {
    /// One chunk of so many is checked.
    every: Option<NonZeroU32>,
    salt: RandomState,
}

impl Sampler {
    pub(super) fn new(every: Option<NonZeroU32>) -> Self {
        Self {
            every,
            salt: RandomState::new(),
        }
    }

    /// Whether a chunk is one of the sample.
    pub(super) fn takes(&self, chunk: ChunkId) -> bool {
        self.every
            .is_some_and(|every| self.salt.hash_one(chunk).is_multiple_of(u64::from(every.get())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::digest::Digest;
    use latentfarm_common::ids::{JobId, WorkKind};

    #[test]
    fn one_chunk_of_so_many_is_chosen_and_another_process_chooses_others() {
        let chunk = |index| ChunkId {
            job: JobId::from_digest(&Digest::of(b"job")),
            work: WorkKind::Render,
            index,
        };
        let chosen = |every| -> Vec<u32> {
            let sampler = Sampler::new(NonZeroU32::new(every));
            (0..20_000).filter(|index| sampler.takes(chunk(*index))).collect()
        };
        assert_eq!(chosen(0).len(), 0);
        assert_eq!(chosen(1).len(), 20_000);
        let of_one_process = chosen(100);
        // Binomial: 200 on average, with a standard deviation of 14.
        assert!(
            (100..300).contains(&of_one_process.len()),
            "{}",
            of_one_process.len()
        );
        assert_ne!(of_one_process, chosen(100));
    }
}
