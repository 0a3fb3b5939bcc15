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
    let (page, total, _) = registry.list(&ListFilter::default(), 0);
    assert_eq!((page.len(), total), (PAGE, PAGE + 10));
    assert_eq!(page[0].name, format!("talk {:03}", PAGE + 9));
    let rest = ListFilter {
        offset: PAGE,
        ..ListFilter::default()
    };
    let (page, ..) = registry.list(&rest, 0);
    assert_eq!((page.len(), page[9].name.as_str()), (10, "talk 000"));
    let (page, total, _) = registry.list(
        &ListFilter {
            phases: vec![JobPhase::Cancelled],
            ..ListFilter::default()
        },
        0,
    );
    assert_eq!((page[0].job, total), (cancelled, 1));
    let (page, total, _) = registry.list(
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
    registry.on_progress(id("a"), number, 4, 0);
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
        registry.on_progress(job, number, frames, 0);
    }
    registry.control(jobs[3], Control::Pause, 1).unwrap();
    // 75 frames in 1000 ms; 125 frames are left of the first two, and 100 of the third.
    assert_eq!(
        done_in(&registry, 2000),
        [Some(1000), Some(3000), Some(3000), None]
    );
    // The time before the first frame does not count.
    let late = submit(&mut registry, "late", 1);
    registry.on_dispatched(late, 0).unwrap();
    let its_number = registry.view(late, 0).unwrap().record.number;
    registry.on_progress(late, its_number, 0, 9000);
    registry.on_progress(late, its_number, 10, 9500);
    assert_eq!(
        registry.view(late, 10_000).unwrap().done_in,
        Some(Duration::from_secs(9))
    );
    registry.control(late, Control::Cancel, 1).unwrap();
    // Frames that were rendered before do not count.
    let number = number(&registry, jobs[0]);
    registry.on_left(jobs[0], number, (JobPhase::Queued, None), 2000);
    registry.on_dispatched(jobs[0], 3000).unwrap();
    registry.on_progress(jobs[0], number, 60, 0);
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

#[test]
fn a_selection_has_one_forecast_and_says_what_one_more_worker_would_save() {
    let mut registry = Registry::default();
    let jobs = ["night 1", "night 2", "other"].map(|name| submit(&mut registry, name, 1));
    let outlook = |registry: &Registry, text: &str, now_ms| {
        let filter = ListFilter {
            text: text.to_owned(),
            ..ListFilter::default()
        };
        registry.list(&filter, now_ms).2
    };
    let before = outlook(&registry, "night", 10);
    assert_eq!((before.open, before.frames_left, before.done_in), (2, 200, None));
    registry.on_dispatched(jobs[0], 1000).unwrap();
    let number = number(&registry, jobs[0]);
    registry.on_progress(jobs[0], number, 20, 0);
    let heartbeat = |name: &str, frames_per_second| Heartbeat {
        frames_per_second,
        device_total_mib: 24_000,
        ..Heartbeat::starting(name.parse().unwrap(), "cuda:0".to_owned())
    };
    for (name, rate) in [("slow", 5.0), ("fast", 15.0), ("gone", 100.0)] {
        let at_ms = if name == "gone" { 0 } else { 40_000 };
        registry.on_heartbeat(&heartbeat(name, rate), at_ms);
    }
    // 20 frames in 40 s: 80 frames of the first and 100 of the second are left.
    let night = outlook(&registry, "night", 41_000);
    assert_eq!(night.frames_left, 180);
    assert_eq!(night.done_in, Some(Duration::from_mins(6)));
    let more = night.one_more.unwrap();
    assert_eq!((more.like.as_str(), more.device_mib), ("fast", 24_000));
    // 20 frames a second become 35.
    assert_eq!(more.saves.as_secs(), 154);
    let all = outlook(&registry, "", 41_000);
    assert_eq!((all.open, all.done_in), (3, Some(Duration::from_secs(560))));
}

#[test]
fn the_first_forecast_of_a_job_is_kept() {
    let mut registry = Registry::default();
    let job = submit(&mut registry, "a", 1);
    registry.on_dispatched(job, 0).unwrap();
    let number = number(&registry, job);
    registry.on_progress(job, number, 9, 0);
    assert_eq!(registry.record_forecasts(900), [], "too little is rendered");
    registry.on_progress(job, number, 10, 0);
    assert_eq!(registry.record_forecasts(1000), [job]);
    registry.on_progress(job, number, 90, 0);
    assert_eq!(registry.record_forecasts(2000), []);
    let forecast = registry.view(job, 2000).unwrap().record.forecast.unwrap();
    assert_eq!((forecast.made_ms, forecast.done_ms), (1000, 10_000));
}
