//! The log lines of a worker without a task: what it waits for. The loop calls the reporter whenever a pull
//! has brought nothing, and when one has brought a task.

use latentfarm_common::queues::{Available, fitting};
use latentfarm_common::tags::Tags;
use latentfarm_common::waiting::{WaitReport, WaitReporter, rough_time};
use latentfarm_common::wire::memory::RenderMemory;
use tokio::time::Instant;

/// What a worker without a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdleReason {
    /// The link to the server is down, which the connection itself reports.
    Server,
    /// The machine has too little free memory for any rendering.
    Memory,
    /// The queues that fit hold no task.
    Task,
}

/// Reports what one worker waits for.
#[derive(Debug, Default)]
pub(super) struct IdleReporter {
    reporter: WaitReporter<IdleReason>,
}

impl IdleReporter {
    /// Records that the worker has a task.
    pub(super) fn end(&mut self) {
        self.reporter.observe(None, Instant::now());
    }

    /// Records that the worker found no task with this memory, and returns the line that is due, if one is.
    /// `is_up` is whether the link to the server at `url` is up; `shortage` describes a lack of memory.
    pub(super) fn note(
        &mut self,
        (is_up, url): (bool, &str),
        available: &Available,
        shortage: &str,
        now: Instant,
    ) -> Option<String> {
        let reason = if !is_up {
            IdleReason::Server
        } else if renders(available.memory) {
            IdleReason::Task
        } else {
            IdleReason::Memory
        };
        let WaitReport::GoesOn(waited) = self.reporter.observe(Some(reason), now)? else {
            return None;
        };
        let waited = rough_time(waited);
        match reason {
            IdleReason::Server => None,
            IdleReason::Memory => Some(format!("waiting for free memory for {waited}: {shortage}")),
            IdleReason::Task => Some(format!(
                "connected to {url} and idle for {waited}: no queue that fits has a task"
            )),
        }
    }
}

/// Whether some class of render tasks fits into the memory.
fn renders(memory: RenderMemory) -> bool {
    let analyze = false;
    !fitting(&Available { analyze, memory }, None, &Tags::NONE).is_empty()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn with(host_mib: u64) -> Available {
        Available {
            analyze: true,
            memory: RenderMemory {
                host_mib: Some(host_mib),
                device_mib: None,
            },
        }
    }

    #[test]
    fn a_worker_without_a_task_says_every_minute_whether_it_lacks_memory_or_work() {
        let (start, mut idle) = (Instant::now(), IdleReporter::default());
        let mut lines = |seconds: std::ops::Range<u64>, link, available: &Available| -> Vec<String> {
            let at = |second| start + Duration::from_secs(second);
            let note = |second| idle.note(link, available, "100 MiB are free", at(second));
            seconds.filter_map(note).collect()
        };
        let up = (true, "nats://farm:4222");
        let bare = lines(0..100, up, &with(100));
        assert_eq!(
            bare,
            [
                "waiting for free memory for 10 s: 100 MiB are free",
                "waiting for free memory for 70 s: 100 MiB are free"
            ]
        );
        let free = lines(100..120, up, &with(8000));
        assert_eq!(
            free,
            ["connected to nats://farm:4222 and idle for 10 s: no queue that fits has a task"]
        );
        let down = lines(120..300, (false, up.1), &with(8000));
        assert_eq!(down, Vec::<String>::new(), "the connection reports that itself");
    }
}
