mod views;

use std::time::Duration;

use latentfarm_common::digest::Digest;
use latentfarm_common::tags::Tags;

use super::*;
use crate::placement::{CpuFallback, JobNeeds};

fn id(name: &str) -> JobId {
    JobId::from_digest(&Digest::of(name.as_bytes()))
}

fn order(name: &str, priority: u8) -> JobOrder {
    JobOrder {
        name: name.to_owned(),
        submitter: "me@here".to_owned(),
        priority,
        needs: JobNeeds::default(),
        cpu_fallback: CpuFallback::default(),
        one_kind: None,
        needed_tags: Tags::NONE,
        unplaceable_wait: Duration::from_mins(10),
        allow_no_face: false,
        keeps_tail: false,
        extension: "mp4".to_owned(),
        after: None,
        deadline: None,
        deliver: None,
        video: Digest::of(b"video"),
        input_bytes: 300,
        result_bytes: 1000,
        weights: "weights".to_owned(),
    }
}

fn submit(registry: &mut Registry, name: &str, priority: u8) -> JobId {
    let job = id(name);
    assert_eq!(registry.submit(job, 100, order(name, priority), 1), Ok(true));
    job
}

/// Brings the jobs that are due to the dispatcher, and returns them.
fn dispatch(registry: &mut Registry) -> Vec<JobId> {
    let due = registry.due();
    for job in &due {
        registry.on_dispatched(*job, 2).unwrap();
    }
    due
}

fn phase(registry: &Registry, job: JobId) -> JobPhase {
    registry.get(job).unwrap().record.phase
}

fn number(registry: &Registry, job: JobId) -> u64 {
    registry.get(job).unwrap().record.number
}

#[test]
fn jobs_come_to_the_dispatcher_by_priority_and_age_and_a_few_at_a_time() {
    let mut registry = Registry::default();
    let names: Vec<String> = (0..AT_A_TIME + 4).map(|index| format!("job {index}")).collect();
    let usual: Vec<JobId> = names.iter().map(|name| submit(&mut registry, name, 1)).collect();
    let urgent = submit(&mut registry, "urgent", 0);
    let first = dispatch(&mut registry);
    assert_eq!(first[0], urgent);
    assert_eq!(first[1..], usual[..AT_A_TIME]);
    assert_eq!(dispatch(&mut registry), [], "the dispatcher has enough");

    // One that waits for a larger machine holds up no other, and so does one that ended or is paused.
    let seq = |registry: &Registry, index: usize| number(registry, usual[index]);
    let waiting = seq(&registry, 0);
    registry.on_wait(usual[0], waiting, Some("memory".to_owned()));
    assert_eq!(dispatch(&mut registry), [usual[AT_A_TIME]]);
    let ended = seq(&registry, 1);
    registry.on_left(usual[1], ended, (JobPhase::Complete, None), 3);
    assert_eq!(dispatch(&mut registry), [usual[AT_A_TIME + 1]]);
    registry.control(usual[2], Control::Pause, 3).unwrap();
    assert_eq!(dispatch(&mut registry), [usual[AT_A_TIME + 2]]);
    // Too many for a moment, because the first one goes on.
    registry.on_wait(usual[0], waiting, None);
    assert_eq!(dispatch(&mut registry), []);
}

#[test]
fn the_same_job_is_submitted_once_and_again_only_if_it_was_not_completed() {
    let mut registry = Registry::default();
    let job = submit(&mut registry, "a", 1);
    let again = |registry: &mut Registry| registry.submit(job, 100, order("a", 1), 5);
    assert_eq!(again(&mut registry), Ok(false), "it is queued");
    dispatch(&mut registry);
    assert_eq!(again(&mut registry), Ok(false), "it is running");
    for (ending, is_new) in [
        (JobPhase::Incomplete, true),
        (JobPhase::Failed, true),
        (JobPhase::Complete, false),
    ] {
        let current = number(&registry, job);
        registry.on_left(job, current, (ending, Some("a reason".to_owned())), 3);
        assert_eq!(registry.get(job).unwrap().record.ended_ms, Some(3));
        assert_eq!(again(&mut registry), Ok(is_new), "{ending}");
        if is_new {
            assert_eq!(registry.get(job).unwrap().record.reason, None);
            assert_eq!(dispatch(&mut registry), [job]);
        }
    }
    assert_eq!(
        registry.submit(id("b"), 100, order("b", PRIORITIES), 1),
        Err(Refusal::Priority(PRIORITIES))
    );
}

#[test]
fn a_late_report_about_a_cancelled_job_does_not_end_its_next_submission() {
    let mut registry = Registry::default();
    let job = submit(&mut registry, "a", 1);
    dispatch(&mut registry);
    let first = number(&registry, job);
    assert_eq!(registry.control(job, Control::Cancel, 3), Ok(true));
    let over = Refusal::Over {
        job,
        phase: JobPhase::Cancelled,
    };
    assert_eq!(registry.control(job, Control::Pause, 3), Err(over));
    assert_eq!(registry.submit(job, 100, order("a", 1), 4), Ok(true));
    assert_eq!(dispatch(&mut registry), [job]);
    registry.on_progress(job, first, 77, 0);
    registry.on_left(job, first, (JobPhase::Cancelled, None), 5);
    assert_eq!(phase(&registry, job), JobPhase::Running);
    assert_eq!(registry.get(job).unwrap().record.frames_done, 0);
}

#[test]
fn a_job_that_an_operator_has_cancelled_stays_cancelled_when_it_leaves_the_dispatcher() {
    let mut registry = Registry::default();
    let job = submit(&mut registry, "a", 1);
    dispatch(&mut registry);
    registry.control(job, Control::Cancel, 3).unwrap();
    let current = number(&registry, job);
    registry.on_left(job, current, (JobPhase::Complete, None), 4);
    assert_eq!(phase(&registry, job), JobPhase::Cancelled);
    assert_eq!(dispatch(&mut registry), []);
}

#[test]
fn a_paused_job_goes_on_where_it_was() {
    let mut registry = Registry::default();
    let (queued, running) = (submit(&mut registry, "a", 1), submit(&mut registry, "b", 1));
    assert_eq!(registry.control(queued, Control::Pause, 1), Ok(true));
    assert_eq!(registry.control(queued, Control::Pause, 1), Ok(false));
    assert_eq!(dispatch(&mut registry), [running]);
    registry.control(running, Control::Pause, 1).unwrap();
    for (job, expected) in [(queued, JobPhase::Queued), (running, JobPhase::Running)] {
        assert_eq!(phase(&registry, job), JobPhase::Paused);
        assert_eq!(registry.control(job, Control::Resume, 1), Ok(true));
        assert_eq!(phase(&registry, job), expected);
        assert_eq!(registry.control(job, Control::Resume, 1), Ok(false));
    }
    assert_eq!(dispatch(&mut registry), [queued]);
}

#[test]
fn the_next_coordinator_goes_on_with_what_was_not_over() {
    let mut registry = Registry::default();
    let names = ["running", "paused", "complete"];
    let [running, paused, complete] = names.map(|name| submit(&mut registry, name, 1));
    dispatch(&mut registry);
    registry.control(paused, Control::Pause, 2).unwrap();
    let current = number(&registry, complete);
    registry.on_left(complete, current, (JobPhase::Complete, None), 3);

    let mut next = Registry::default();
    for (job, entry) in &registry.jobs {
        next.restore(*job, entry.order.clone(), entry.record.clone());
    }
    assert_eq!(phase(&next, paused), JobPhase::Paused);
    assert_eq!(phase(&next, complete), JobPhase::Complete);
    assert_eq!(dispatch(&mut next), [running]);
    submit(&mut next, "new", 1);
    assert_eq!(number(&next, id("new")), 4, "numbers are not used twice");
}

#[test]
fn a_job_that_follows_another_waits_until_that_one_is_complete() {
    let mut registry = Registry::default();
    let first = submit(&mut registry, "first", 1);
    let (second, unknown) = (id("second"), id("unknown"));
    let after = |before| JobOrder {
        after: Some(before),
        ..order("second", 0)
    };
    assert_eq!(
        registry.submit(second, 1, after(unknown), 1),
        Err(Refusal::NoSuchJob(unknown))
    );
    assert_eq!(
        registry.submit(first, 1, after(first), 1),
        Err(Refusal::AfterItself)
    );
    assert_eq!(registry.submit(second, 1, after(first), 1), Ok(true));
    let waits_for = |registry: &Registry| registry.view(second, 0).unwrap().waits_for;
    assert_eq!(
        dispatch(&mut registry),
        [first],
        "although the second is more urgent"
    );
    assert!(waits_for(&registry).unwrap().contains("is running"));
    let current = number(&registry, first);
    registry.on_left(first, current, (JobPhase::Failed, None), 3);
    assert_eq!(dispatch(&mut registry), []);
    assert!(waits_for(&registry).unwrap().contains("retry that one"));

    assert_eq!(registry.control(first, Control::Retry, 4), Ok(true));
    assert_eq!(dispatch(&mut registry), [first]);
    let current = number(&registry, first);
    registry.on_left(first, current, (JobPhase::Complete, None), 5);
    assert_eq!(waits_for(&registry), None);
    assert_eq!(dispatch(&mut registry), [second]);
}

#[test]
fn only_a_job_that_is_over_is_retried_or_forgotten() {
    let mut registry = Registry::default();
    let job = submit(&mut registry, "a", 1);
    let phase = JobPhase::Queued;
    assert_eq!(registry.remove(job), Err(Refusal::NotOver { job, phase }));
    assert_eq!(registry.control(job, Control::Retry, 1), Ok(false));
    dispatch(&mut registry);
    registry.control(job, Control::Cancel, 2).unwrap();
    let first = number(&registry, job);
    assert_eq!(registry.control(job, Control::Retry, 3), Ok(true));
    assert_eq!(dispatch(&mut registry), [job]);
    registry.on_left(job, first, (JobPhase::Cancelled, None), 4);
    assert_eq!(registry.get(job).unwrap().record.phase, JobPhase::Running);
    let current = number(&registry, job);
    registry.on_left(job, current, (JobPhase::Complete, None), 5);
    // Of a complete one the result is looked at again.
    assert_eq!(registry.control(job, Control::Retry, 6), Ok(true));
    assert_eq!(dispatch(&mut registry), [job]);
    let current = number(&registry, job);
    registry.on_left(job, current, (JobPhase::Complete, None), 7);
    assert_eq!(registry.remove(job), Ok(()));
    assert_eq!(registry.remove(job), Err(Refusal::NoSuchJob(job)));
}

#[test]
fn a_complete_job_whose_result_is_lost_is_tried_and_submitted_again() {
    let mut registry = Registry::default();
    let job = submit(&mut registry, "a", 1);
    registry.on_lost(job);
    assert_eq!(registry.get(job).unwrap().record.phase, JobPhase::Queued);
    for again in [
        |registry: &mut Registry, job| registry.control(job, Control::Retry, 3),
        |registry: &mut Registry, job| registry.submit(job, 100, order("a", 1), 3),
    ] {
        dispatch(&mut registry);
        let current = number(&registry, job);
        registry.on_left(job, current, (JobPhase::Complete, None), 2);
        registry.on_lost(job);
        let record = &registry.get(job).unwrap().record;
        assert_eq!(record.phase, JobPhase::Incomplete);
        assert!(record.reason.as_ref().unwrap().contains("no longer stored"));
        assert_eq!(again(&mut registry, job), Ok(true));
        assert_eq!(registry.get(job).unwrap().record.phase, JobPhase::Queued);
    }
}

#[test]
fn among_jobs_of_one_priority_those_that_are_wanted_first_go_first() {
    let mut registry = Registry::default();
    for (name, hours) in [("none", None), ("late", Some(9)), ("soon", Some(1))] {
        let order = JobOrder {
            deadline: hours.map(Duration::from_hours),
            ..order(name, 1)
        };
        registry.submit(id(name), 10, order, 0).unwrap();
    }
    registry.submit(id("urgent"), 10, order("any", 0), 0).unwrap();
    assert_eq!(registry.due(), ["urgent", "soon", "late", "none"].map(id));
    assert_eq!(
        registry.view(id("soon"), 0).unwrap().record.deadline_ms,
        Some(3_600_000)
    );
}

#[test]
fn the_newest_other_jobs_of_a_video_are_found() {
    let mut registry = Registry::default();
    let names: Vec<String> = (0..SAME_VIDEO + 2).map(|index| format!("job {index}")).collect();
    let jobs: Vec<JobId> = names.iter().map(|name| submit(&mut registry, name, 1)).collect();
    let video = Digest::of(b"video");
    let newest: Vec<JobId> = jobs[1..jobs.len() - 1].iter().rev().copied().collect();
    assert_eq!(registry.with_video(video, jobs[jobs.len() - 1]), newest);
    assert!(registry.with_video(Digest::of(b"another"), jobs[0]).is_empty());
}
