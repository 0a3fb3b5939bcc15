//! Scripts for the fake workers, and conditions on events.

use std::sync::Arc;

use latentfarm_common::ids::WorkKind;
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::Task;
use latentfarm_coordinator::dispatch::JobEvent;

use super::{Act, Script};

pub fn always(act: Act) -> Script {
    Arc::new(move |_, _| act.clone())
}

/// A script that does `act` the first time that render chunk `index` is begun, and succeeds otherwise.
pub fn first_time(index: u32, act: Act) -> Script {
    Arc::new(move |task, before| {
        let meant = is_render(task, index) && before == 0;
        if meant { act.clone() } else { Act::Succeed }
    })
}

pub fn is_render(task: &Task, index: u32) -> bool {
    task.chunk.work == WorkKind::Render && task.chunk.index == index
}

pub fn transient() -> Failure {
    Failure::Transient {
        message: "the link went down".to_owned(),
    }
}

/// A condition that accepts the event that render chunk `index` was begun.
pub fn begins(index: u32) -> impl FnMut(&JobEvent) -> bool {
    move |event| match event {
        JobEvent::ChunkStarted { chunk, .. } => chunk.work == WorkKind::Render && chunk.index == index,
        _ => false,
    }
}
