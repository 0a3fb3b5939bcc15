//! Keeps the workers of this process off duty outside their hours.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::consume::OffDuty;
use crate::machine::hours::{Minute, Shift, next_begin};

/// How often the clock is looked at. It may be set, and the machine may be suspended.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Follows the hours of some shifts until the returned set is dropped. Without shifts the workers are always on duty.
pub(super) fn follow(shifts: Vec<Shift>) -> (OffDuty, JoinSet<()>) {
    let mut watcher = JoinSet::new();
    if shifts.is_empty() {
        return (OffDuty::default(), watcher);
    }
    let (sender, receiver) = watch::channel(reason(&shifts));
    watcher.spawn(async move {
        loop {
            sleep(LOOK_EVERY).await;
            let reason = reason(&shifts);
            sender.send_if_modified(|known| {
                let is_new = *known != reason;
                *known = reason;
                is_new
            });
        }
    });
    (OffDuty::of(receiver), watcher)
}

fn reason(shifts: &[Shift]) -> Option<String> {
    let begin = next_begin(shifts, Minute::now())?;
    Some(format!("outside its hours, which begin on {begin}"))
}
