//! The jobs as the commands show them.

use std::time::Duration;

use latentfarm_common::ids::JobId;

use super::forecast::{Forecast, OpenJob};
use super::{Entry, Refusal, Registry};
use crate::farm::messages::{JobPhase, JobSort, JobView, ListFilter, Outlook, PAGE};

impl Registry {
    pub(super) fn forecast(&self, now_ms: u64) -> Forecast {
        let in_phase = |phase| {
            let jobs = self
                .jobs
                .iter()
                .filter(move |(_, entry)| entry.record.phase == phase);
            let open = |(job, entry): (&JobId, &Entry)| OpenJob {
                job: *job,
                frames_left: entry.record.frames.saturating_sub(entry.record.frames_done),
                rate: entry.rate(now_ms),
            };
            let mut jobs: Vec<(&JobId, &Entry)> = jobs.collect();
            jobs.sort_by_key(|(_, entry)| entry.record.turn());
            jobs.into_iter().map(open).collect::<Vec<_>>()
        };
        Forecast::new(&in_phase(JobPhase::Running), &in_phase(JobPhase::Queued))
    }

    /// Returns the view of one job.
    pub(in crate::farm) fn view(&self, job: JobId, now_ms: u64) -> Result<JobView, Refusal> {
        Ok(self.view_of(job, self.get(job)?, &self.forecast(now_ms)))
    }

    fn view_of(&self, job: JobId, entry: &Entry, forecast: &Forecast) -> JobView {
        JobView {
            job,
            name: entry.order.name.clone(),
            submitter: entry.order.submitter.clone(),
            record: entry.record.clone(),
            waits_for: entry.waits_for.clone().or_else(|| self.held_by(entry)),
            needed_tags: entry.order.needed_tags.clone(),
            done_in: forecast.of(job),
            extension: entry.order.extension.clone(),
            keeps_tail: entry.order.keeps_tail,
        }
    }

    /// Returns a page of the jobs that the filter selects, in the order of the filter, with the number and the outlook of
    /// all of them.
    pub(in crate::farm) fn list(&self, filter: &ListFilter, now_ms: u64) -> (Vec<JobView>, usize, Outlook) {
        let forecast = self.forecast(now_ms);
        let is_wanted = |job: &JobId, entry: &Entry| {
            let in_phase = filter.phases.is_empty() || filter.phases.contains(&entry.record.phase);
            in_phase && (entry.order.name.contains(&filter.text) || job.to_string().contains(&filter.text))
        };
        let wanted = self.jobs.iter().filter(|(job, entry)| is_wanted(job, entry));
        let mut wanted: Vec<(&JobId, &Entry)> = wanted.collect();
        wanted.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.record.number));
        match filter.sort {
            JobSort::Newest => {}
            JobSort::Oldest => wanted.reverse(),
            JobSort::Turn => wanted.sort_by_key(|(_, entry)| entry.record.turn()),
            JobSort::Name => wanted.sort_by_key(|(_, entry)| &entry.order.name),
        }
        let page = wanted.iter().skip(filter.offset).take(PAGE);
        let views = page
            .map(|(job, entry)| self.view_of(**job, entry, &forecast))
            .collect();
        let open = wanted.iter().filter(|(_, entry)| !entry.record.phase.is_over());
        let open: Vec<&(&JobId, &Entry)> = open.collect();
        (views, wanted.len(), self.outlook(&open, &forecast, now_ms))
    }

    /// What is to be expected of some jobs that are not over. Those that are paused are left out of the time.
    fn outlook(&self, open: &[&(&JobId, &Entry)], forecast: &Forecast, now_ms: u64) -> Outlook {
        let left = |entry: &Entry| entry.record.frames.saturating_sub(entry.record.frames_done);
        let done_in = open.iter().filter_map(|(job, _)| forecast.of(**job)).max();
        Outlook {
            open: open.len(),
            frames_left: open.iter().map(|(_, entry)| left(entry)).sum(),
            done_in,
            one_more: done_in.and_then(|time| self.workers.one_more(time, now_ms)),
        }
    }
}

impl Entry {
    /// The frames that are rendered in a second, since the job came to the dispatcher.
    fn rate(&self, now_ms: u64) -> Option<f64> {
        let (begun_ms, frames_then) = self.rated_since.filter(|_| self.is_dispatched)?;
        let frames = self
            .record
            .frames_done
            .checked_sub(frames_then)
            .filter(|frames| *frames > 0)?;
        let time = now_ms.checked_sub(begun_ms).filter(|time| *time > 0)?;
        Some(frames as f64 / Duration::from_millis(time).as_secs_f64())
    }
}
