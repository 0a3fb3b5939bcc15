//! Work that goes on beside the task that the runner runs, and that ends when it is dropped.

use std::panic::resume_unwind;

use latentfarm_common::wire::outcome::Failure;
use tokio::task::JoinSet;

/// A piece of work in a task of its own.
pub(super) struct Background<T> {
    work: JoinSet<Result<T, Failure>>,
    done: Option<T>,
}

impl<T: Send + 'static> Background<T> {
    pub(super) fn spawn(work: impl Future<Output = Result<T, Failure>> + Send + 'static) -> Self {
        Self {
            work: JoinSet::from_iter([work]),
            done: None,
        }
    }

    /// Waits for the end of the work, and returns how it failed, if it did. The future may be dropped at any time.
    pub(super) async fn failed(&mut self) -> Option<Failure> {
        match self.join().await {
            Ok(done) => {
                self.done = Some(done);
                None
            }
            Err(failure) => Some(failure),
        }
    }

    /// Waits for the result of work that has not failed so far.
    pub(super) async fn finish(mut self) -> Result<T, Failure> {
        match self.done.take() {
            Some(done) => Ok(done),
            None => self.join().await,
        }
    }

    async fn join(&mut self) -> Result<T, Failure> {
        match self.work.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(error)) if error.is_panic() => resume_unwind(error.into_panic()),
            Some(Err(_)) | None => Err(Failure::Transient {
                message: "the work was cut short".to_owned(),
            }),
        }
    }
}
