//! The delays that the dispatcher draws. They are jittered at random; a simulation must come to the same ones with each run.

use std::time::Duration;

/// Takes a delay that was drawn from a [`Backoff`](latentfarm_common::backoff::Backoff).
pub(super) fn drawn(delay: Duration) -> Duration {
    #[cfg(test)]
    let delay = super::simulation::random::repeatable(delay);
    delay
}
