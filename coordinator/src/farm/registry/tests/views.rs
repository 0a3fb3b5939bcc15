//! Tests of what is shown of jobs, and of what the upkeep of the store asks about them.

use super::*;
use crate::farm::messages::{JobSort, ListFilter, PAGE};

#[test]
fn jobs_are_listed_newest_first_in_pages_and_by_phase_and_text() {
    let mut registry = Registry::default();
    for index in 0..PAGE + 10 {
        submit(&mut registry, &format!("talk {index:03}"), 1);
    }
    let cancelled = id("talk 007");
    registry.control(cancelled, Control::Cancel, 1).unwrap();
    let (page, total) = registry.list(&ListFilter::default(), 0);
    assert_eq!((page.len(), total), (PAGE, PAGE + 10));
    assert_eq!(page[0].name, format!("talk {:03}", PAGE + 9));
    let rest = ListFilter {
        offset: PAGE,
        ..ListFilter::default()
    };
    let (page, _) = registry.list(&rest, 0);
    assert_eq!((page.len(), page[9].name.as_str()), (10, "talk 000"));
    let (page, total) = registry.list(
        &ListFilter {
            phases: vec![JobPhase::Cancelled],
            ..ListFilter::default()
        },
        0,
    );
    assert_eq!((page[0].job, total), (cancelled, 1));
    let (page, total) = registry.list(
        &ListFilter {
            text: "007".to_owned(),
            ..ListFilter::default()
        },
        0,
    );
    assert_eq!((page[0].job, total), (cancelled, 1));
}

#[test]
fn open_jobs_are_promised_what_they_have_not_stored_yet() {
    let mut registry = Registry::default();
    registry.submit(id("a"), 10, order("any", 1), 0).unwrap();
    registry.submit(id("b"), 10, order("any", 1), 0).unwrap();
    assert_eq!(registry.outstanding_bytes(), 2 * 1300);
    let number = registry.on_dispatched(id("a"), 1).unwrap().number;
    registry.on_progress(id("a"), number, 4);
    assert_eq!(registry.outstanding_bytes(), 600 + 1300);
    registry.on_left(id("a"), number, (JobPhase::Complete, None), 5);
    assert_eq!(registry.outstanding_bytes(), 1300);
}

#[test]
fn a_complete_job_is_fetched_once_and_over_when_it_is_old() {
    let mut registry = Registry::default();
    registry.submit(id("a"), 10, order("any", 1), 0).unwrap();
    assert_eq!(registry.on_fetched(id("a"), 3), Ok(false), "it is not complete");
    let number = registry.on_dispatched(id("a"), 1).unwrap().number;
    registry.on_left(id("a"), number, (JobPhase::Complete, None), 5);
    assert_eq!(registry.on_fetched(id("a"), 7), Ok(true));
    assert_eq!(registry.on_fetched(id("a"), 9), Ok(false));
    assert_eq!(registry.view(id("a"), 0).unwrap().record.fetched_ms, Some(7));
    assert_eq!(
        (registry.ended_before(5), registry.ended_before(6)),
        (vec![], vec![id("a")])
    );
    let expired = |expiry_ms| registry.swept(expiry_ms)[0].is_expired;
    assert!(!expired(5) && expired(6));
}

#[test]
fn open_jobs_are_forecast_from_the_rates_of_those_that_are_rendered() {
    let mut registry = Registry::default();
    let jobs = ["a", "b", "c", "d"].map(|name| submit(&mut registry, name, 1));
    let done_in = |registry: &Registry, now_ms| {
        jobs.map(|job| {
            registry
                .view(job, now_ms)
                .unwrap()
                .done_in
                .map(|time| time.as_millis())
        })
    };
    assert_eq!(done_in(&registry, 10), [None; 4], "nothing is rendered yet");
    for job in &jobs[..2] {
        registry.on_dispatched(*job, 1000).unwrap();
    }
    for (job, frames) in [(jobs[0], 50), (jobs[1], 25)] {
        let number = number(&registry, job);
        registry.on_progress(job, number, frames);
    }
    registry.control(jobs[3], Control::Pause, 1).unwrap();
    // 75 frames in 1000 ms; 125 frames are left of the first two, and 100 of the third.
    assert_eq!(
        done_in(&registry, 2000),
        [Some(1000), Some(3000), Some(3000), None]
    );
    // Frames that were rendered before do not count.
    let number = number(&registry, jobs[0]);
    registry.on_left(jobs[0], number, (JobPhase::Queued, None), 2000);
    registry.on_dispatched(jobs[0], 3000).unwrap();
    registry.on_progress(jobs[0], number, 60);
    assert_eq!(
        registry
            .view(jobs[0], 4000)
            .unwrap()
            .done_in
            .map(|time| time.as_millis()),
        Some(4000)
    );
}

#[test]
fn a_complete_job_that_asks_for_it_is_delivered_until_that_is_done_or_has_failed() {
    let mut registry = Registry::default();
    let order = JobOrder {
        deliver: Some("night/a.mp4".to_owned()),
        ..order("a", 1)
    };
    registry.submit(id("a"), 10, order, 0).unwrap();
    submit(&mut registry, "b", 1);
    let next = |registry: &Registry| {
        registry
            .next_delivery(0)
            .map(|(view, name, begun)| (view.job, name, begun))
    };
    for job in [id("a"), id("b")] {
        let number = registry.on_dispatched(job, 1).unwrap().number;
        assert_eq!(next(&registry), None, "it is not complete");
        registry.on_left(job, number, (JobPhase::Complete, None), 5);
        if job == id("a") {
            assert_eq!(next(&registry), Some((job, "night/a.mp4".to_owned(), false)));
            assert!(registry.set_delivery(job, Delivery::Begun));
            assert_eq!(next(&registry), Some((job, "night/a.mp4".to_owned(), true)));
            let reason = "the disk is full".to_owned();
            registry.set_delivery(job, Delivery::Failed { reason });
            assert_eq!(next(&registry), None);
            assert_eq!(registry.control(job, Control::Retry, 6), Ok(true));
            assert!(next(&registry).is_some());
            registry.set_delivery(job, Delivery::Done);
        }
    }
    assert_eq!(next(&registry), None);
}

#[test]
fn jobs_are_listed_in_four_orders() {
    let mut registry = Registry::default();
    for (name, priority) in [("b", 1), ("c", 0), ("a", 1)] {
        submit(&mut registry, name, priority);
    }
    let names = |sort| -> String {
        let filter = ListFilter {
            sort,
            ..ListFilter::default()
        };
        registry
            .list(&filter, 0)
            .0
            .into_iter()
            .map(|view| view.name)
            .collect()
    };
    let orders = [JobSort::Newest, JobSort::Oldest, JobSort::Turn, JobSort::Name];
    assert_eq!(orders.map(names), ["acb", "bca", "cba", "abc"]);
}
