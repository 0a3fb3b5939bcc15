//! Whether a worker's own settings keep it from taking tasks for now, as outside its hours.

use futures::future::select_all;
use tokio::sync::watch;

/// Why a worker takes no task by its own settings, as it changes. The default is that it always takes tasks.
#[derive(Clone, Debug, Default)]
pub struct OffDuty(Vec<watch::Receiver<Option<String>>>);

impl OffDuty {
    /// Follows several reasons, each in one line for people; the worker takes tasks while all are `None`.
    pub fn of(reasons: impl IntoIterator<Item = watch::Receiver<Option<String>>>) -> Self {
        Self(reasons.into_iter().collect())
    }

    /// Returns the first reason, if the worker takes no task now.
    pub(super) fn reason(&self) -> Option<String> {
        self.0.iter().find_map(|reason| reason.borrow().clone())
    }

    /// Waits until the first reason is another one than `known`. Safe to drop and call again.
    pub(super) async fn changed(&self, known: Option<&str>) {
        let mut reasons = self.0.clone();
        loop {
            for reason in &mut reasons {
                reason.mark_unchanged();
            }
            if self.reason().as_deref() != known {
                return;
            }
            let changes = reasons.iter_mut().map(|reason| {
                Box::pin(async move {
                    if reason.changed().await.is_err() {
                        // Nobody changes it any more.
                        std::future::pending::<()>().await;
                    }
                })
            });
            let changes: Vec<_> = changes.collect();
            if changes.is_empty() {
                return std::future::pending().await;
            }
            select_all(changes).await;
        }
    }
}
