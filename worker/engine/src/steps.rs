//! The course of one window: what each stage is followed by, and a cleanup at the end of every frame and step.

use latentfarm_common::wire::engine::EngineStage;
use latentfarm_common::wire::memory::{MemorySample, MemoryStage};

use super::watch::{Shared, Watch};
use crate::memory::guard::{Guard, Level};
use latentsync::Stopped;

/// Is called after every frame and step, with a sample of the memory; its error stops the request.
pub type Tell<'a> = &'a mut dyn FnMut(EngineStage, MemorySample) -> Result<(), Stopped>;

/// Follows a window through its stages.
pub(super) struct Steps<'a> {
    watch: &'a Shared,
    frames: u32,
    tell: Tell<'a>,
    /// Of the frame or step that runs now.
    guard: Option<Guard<Watch>>,
}

impl<'a> Steps<'a> {
    pub(super) fn new(watch: &'a Shared, frames: u32, tell: Tell<'a>) -> Self {
        Self {
            watch,
            frames,
            tell,
            guard: None,
        }
    }

    /// A frame or step of `stage` begins.
    pub(super) fn begin(&mut self, stage: MemoryStage) -> Result<(), Stopped> {
        self.guard = Some(Guard::new(self.watch, Level::Step));
        // The shortage is kept by the watch: the one who sees the stop asks it.
        let begun = self.watch.borrow_mut().begin(stage);
        begun.map_err(|_shortage| Stopped)
    }

    /// A frame or step is over.
    pub(super) fn over(&mut self, stage: EngineStage) -> Result<(), Stopped> {
        drop(self.guard.take());
        let memory = self.watch.borrow_mut().sample();
        (self.tell)(stage, memory)?;
        match next(stage, self.frames) {
            Some(next) => self.begin(next),
            None => Ok(()),
        }
    }
}

/// What follows a frame or step; `None` where the window is rendered.
fn next(stage: EngineStage, frames: u32) -> Option<MemoryStage> {
    match stage {
        EngineStage::VaeEncode { frame } if frame + 1 < frames => Some(MemoryStage::VaeEncode),
        EngineStage::Denoise { step, of } if step == of => Some(MemoryStage::VaeDecode),
        EngineStage::VaeEncode { .. } | EngineStage::Denoise { .. } => Some(MemoryStage::Denoise),
        EngineStage::VaeDecode { frame } if frame + 1 < frames => Some(MemoryStage::VaeDecode),
        EngineStage::VaeDecode { .. } | EngineStage::Loading | EngineStage::Audio => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_follow_each_other_frame_by_frame_and_step_by_step() {
        let mut seen = Vec::new();
        for frame in 0..2 {
            seen.push(next(EngineStage::VaeEncode { frame }, 2));
        }
        for step in 1..=2 {
            seen.push(next(EngineStage::Denoise { step, of: 2 }, 2));
        }
        for frame in 0..2 {
            seen.push(next(EngineStage::VaeDecode { frame }, 2));
        }
        let expected = [
            Some(MemoryStage::VaeEncode),
            Some(MemoryStage::Denoise),
            Some(MemoryStage::Denoise),
            Some(MemoryStage::VaeDecode),
            Some(MemoryStage::VaeDecode),
            None,
        ];
        assert_eq!(seen, expected);
    }
}
