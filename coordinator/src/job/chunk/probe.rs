//! Notes each event that a chunk takes, and what its state answers, for the simulation of the dispatcher. A thread that
//! has not begun to take notes keeps none.

use std::cell::{Cell, RefCell};

use latentfarm_common::ids::{Attempt, ChunkId, WorkerId};

use super::event::ChunkEvent;
use super::state::{ChunkState, Phase, Step};

/// An event that a chunk took.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) chunk: ChunkId,
    /// The coordinator that it is for.
    by: usize,
    /// The name of the event.
    pub(crate) event: &'static str,
    /// The names of the phases before and after it.
    pub(crate) phases: (&'static str, &'static str),
    /// Why the event was denied, if it was.
    pub(crate) denied: Option<String>,
    /// Whether it changed the state.
    pub(crate) moved: bool,
    /// The worker on which an attempt failed by it.
    pub(crate) failed_on: Option<WorkerId>,
    /// The attempt that a worker reported, or that of a record.
    pub(crate) attempt: Option<Attempt>,
    /// Why the chunk is given up, if it is.
    pub(crate) reason: Option<String>,
}

thread_local! {
    static NOTES: RefCell<Option<Vec<Note>>> = const { RefCell::new(None) };
    static OBSERVER: Cell<usize> = const { Cell::new(0) };
}

/// Begins to take notes on this thread.
pub(crate) fn begin() {
    NOTES.set(Some(Vec::new()));
}

/// Has the next notes of this thread be for this coordinator.
pub(crate) fn set_observer(coordinator: usize) {
    OBSERVER.set(coordinator);
}

/// Returns the notes for a coordinator since the last call.
pub(crate) fn take(coordinator: usize) -> Vec<Note> {
    NOTES.with_borrow_mut(|notes| {
        let notes = notes.iter_mut();
        notes
            .flat_map(|notes| notes.extract_if(.., |note| note.by == coordinator))
            .collect()
    })
}

/// Notes an event and its answer.
pub(crate) fn note(chunk: ChunkId, before: &ChunkState, event: &ChunkEvent, step: &Step) {
    NOTES.with_borrow_mut(|notes| {
        let Some(notes) = notes else { return };
        let after = match step {
            Step::Moved(next) => &next.phase,
            Step::Ignored | Step::Denied(_) => &before.phase,
        };
        notes.push(Note {
            chunk,
            by: OBSERVER.get(),
            event: name_of_event(event),
            phases: (name_of_phase(&before.phase), name_of_phase(after)),
            denied: match step {
                Step::Denied(reason) => Some(reason.to_string()),
                Step::Moved(_) | Step::Ignored => None,
            },
            moved: matches!(step, Step::Moved(_)),
            failed_on: event.failed_on().cloned(),
            attempt: match event {
                ChunkEvent::DoneSeen { record } => Some(record.attempt),
                ChunkEvent::Retracted { attempt, .. }
                | ChunkEvent::Started { attempt, .. }
                | ChunkEvent::Failed { attempt, .. }
                | ChunkEvent::Returned { attempt } => Some(*attempt),
                _ => None,
            },
            reason: match event {
                ChunkEvent::Blocked { reason } => Some(reason.clone()),
                _ => None,
            },
        });
    });
}

fn name_of_phase(phase: &Phase) -> &'static str {
    match phase {
        Phase::Waiting => "Waiting",
        Phase::Backlog => "Backlog",
        Phase::Queued => "Queued",
        Phase::Running { .. } => "Running",
        Phase::Done { .. } => "Done",
        Phase::Quarantined { .. } => "Quarantined",
    }
}

fn name_of_event(event: &ChunkEvent) -> &'static str {
    match event {
        ChunkEvent::Released => "Released",
        ChunkEvent::Blocked { .. } => "Blocked",
        ChunkEvent::Enqueued { .. } => "Enqueued",
        ChunkEvent::Started { .. } => "Started",
        ChunkEvent::DoneSeen { .. } => "DoneSeen",
        ChunkEvent::Failed { .. } => "Failed",
        ChunkEvent::Reassigned { .. } => "Reassigned",
        ChunkEvent::Returned { .. } => "Returned",
        ChunkEvent::WorkerLost { .. } => "WorkerLost",
        ChunkEvent::Retracted { .. } => "Retracted",
        ChunkEvent::Forged { .. } => "Forged",
        ChunkEvent::QueueLost { .. } => "QueueLost",
    }
}
