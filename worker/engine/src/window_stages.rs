//! The stages of one window in their order: VAE encode frame by frame, denoising step by step, VAE decode
//! frame by frame. The engine has one [`WindowStages`] for each window that it renders; memory is cleaned up
//! at the end of every frame and step.

use latentfarm_common::wire::engine::EngineStage;
use latentfarm_common::wire::memory::{MemorySample, MemoryStage};

use super::memory_monitor::{MemoryMonitor, SharedMonitor};
use crate::memory::cleanup::{CleanupGuard, CleanupScope};
use latentsync::Stopped;

/// Callback after every frame and step, with a sample of the memory. Its error stops the request.
pub type ProgressFn<'a> = &'a mut dyn FnMut(EngineStage, MemorySample) -> Result<(), Stopped>;

/// Takes one window from stage to stage.
pub(super) struct WindowStages<'a> {
    monitor: &'a SharedMonitor,
    frames: u32,
    on_progress: ProgressFn<'a>,
    /// Cleans up after the frame or step that is running.
    guard: Option<CleanupGuard<MemoryMonitor>>,
}

impl<'a> WindowStages<'a> {
    pub(super) fn new(monitor: &'a SharedMonitor, frames: u32, on_progress: ProgressFn<'a>) -> Self {
        Self {
            monitor,
            frames,
            on_progress,
            guard: None,
        }
    }

    /// Begins a frame or step of `stage`.
    ///
    /// # Errors
    /// Fails if the stage does not fit into memory.
    pub(super) fn begin(&mut self, stage: MemoryStage) -> Result<(), Stopped> {
        self.guard = Some(CleanupGuard::new(self.monitor, CleanupScope::Step));
        // The monitor keeps the shortage; `Engine::failure` reads it there when the request ends with this
        // error.
        let begun = self.monitor.borrow_mut().begin_stage(stage);
        begun.map_err(|_shortage| Stopped)
    }

    /// Ends a frame or step and begins the next one.
    ///
    /// # Errors
    /// Fails if the callback stops the request, or the next stage does not fit into memory.
    pub(super) fn end(&mut self, stage: EngineStage) -> Result<(), Stopped> {
        drop(self.guard.take());
        let memory = self.monitor.borrow_mut().sample();
        (self.on_progress)(stage, memory)?;
        match next(stage, self.frames) {
            Some(next) => self.begin(next),
            None => Ok(()),
        }
    }
}

/// Returns the stage of the next frame or step, or `None` after the last.
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
