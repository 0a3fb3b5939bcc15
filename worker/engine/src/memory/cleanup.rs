//! Cleanup that no exit path can miss: a guard whose drop is the cleanup.
//!
//! The tensors of a step, a window or a task are dropped by scope. The engine makes a guard before them, so
//! that the guard is dropped after them: on success, on error, on cancellation and while a panic unwinds. The
//! cleaner then waits for the device and trims its allocator as far as the policy requires.

use std::cell::RefCell;
use std::rc::Rc;

/// When memory that is not in use is returned to the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CleanupPolicy {
    /// All unused memory is returned after every step and frame.
    Strict,
    /// After every step and frame, what exceeds the peak of a denoising step is returned; after every window,
    /// all of it.
    #[default]
    Step,
    /// All unused memory is returned after every window.
    Window,
    /// All unused memory is returned at the end of a task.
    Task,
}

/// The scope that has ended and is cleaned up after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanupScope {
    /// A denoising step, or one frame through the VAE.
    Step,
    /// A window, an audio window, or the loading of weights.
    Window,
    /// All requests under one plan, up to the next load request.
    Task,
}

/// How much unused memory the allocator keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// The allocator keeps all of it: the device is neither waited for nor trimmed.
    Everything,
    /// The allocator keeps as much as the highest denoising step of the task used.
    StepPeak,
    /// All unused memory is returned.
    Nothing,
}

impl CleanupPolicy {
    /// Returns how much unused memory is kept at the end of `scope`.
    pub fn at(self, scope: CleanupScope) -> Retention {
        match (self, scope) {
            (Self::Strict, _)
            | (Self::Step | Self::Window, CleanupScope::Window)
            | (_, CleanupScope::Task) => Retention::Nothing,
            (Self::Step, CleanupScope::Step) => Retention::StepPeak,
            (Self::Window | Self::Task, CleanupScope::Step) | (Self::Task, CleanupScope::Window) => {
                Retention::Everything
            }
        }
    }
}

/// Does the cleanup when a guard is dropped; an engine's memory monitor is one.
pub trait Cleaner {
    /// Cleans up after `scope`, which has just ended.
    fn clean(&mut self, scope: CleanupScope);
}

/// Cleans up after its scope when it is dropped.
#[must_use = "the cleanup is done when the guard is dropped"]
pub struct CleanupGuard<C: Cleaner> {
    cleaner: Rc<RefCell<C>>,
    scope: CleanupScope,
}

impl<C: Cleaner> CleanupGuard<C> {
    /// Makes a guard that has `cleaner` clean up after `scope`.
    pub fn new(cleaner: &Rc<RefCell<C>>, scope: CleanupScope) -> Self {
        Self {
            cleaner: Rc::clone(cleaner),
            scope,
        }
    }
}

impl<C: Cleaner> Drop for CleanupGuard<C> {
    fn drop(&mut self) {
        // The cleaner is still borrowed only if it panicked itself; a second panic would abort the process.
        if let Ok(mut cleaner) = self.cleaner.try_borrow_mut() {
            cleaner.clean(self.scope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[derive(Default)]
    struct RecordingCleaner(Vec<CleanupScope>);

    impl Cleaner for RecordingCleaner {
        fn clean(&mut self, scope: CleanupScope) {
            self.0.push(scope);
        }
    }

    #[test]
    fn every_way_out_of_a_scope_cleans_up_from_the_inside_out() {
        let log = Rc::new(RefCell::new(RecordingCleaner::default()));
        let work = |fail: bool, panic: bool| -> Result<(), ()> {
            let _window = CleanupGuard::new(&log, CleanupScope::Window);
            let _step = CleanupGuard::new(&log, CleanupScope::Step);
            assert!(!panic, "on request");
            if fail { Err(()) } else { Ok(()) }
        };
        work(false, false).unwrap();
        work(true, false).unwrap_err();
        catch_unwind(AssertUnwindSafe(|| work(false, true))).unwrap_err();
        assert_eq!(
            log.borrow().0,
            [CleanupScope::Step, CleanupScope::Window].repeat(3)
        );
    }

    #[test]
    fn a_cleaner_that_panics_does_not_end_the_process() {
        struct PanickingCleaner;
        impl Cleaner for PanickingCleaner {
            fn clean(&mut self, _level: CleanupScope) {
                panic!("on request");
            }
        }
        let cleaner = Rc::new(RefCell::new(PanickingCleaner));
        let borrowed = cleaner.borrow_mut();
        drop(CleanupGuard::new(&cleaner, CleanupScope::Step));
        drop(borrowed);
    }

    #[test]
    fn policies_give_back_no_less_the_larger_the_scope() {
        let rank = |keep| match keep {
            Retention::Everything => 0,
            Retention::StepPeak => 1,
            Retention::Nothing => 2,
        };
        for policy in [
            CleanupPolicy::Strict,
            CleanupPolicy::Step,
            CleanupPolicy::Window,
            CleanupPolicy::Task,
        ] {
            let done = [CleanupScope::Step, CleanupScope::Window, CleanupScope::Task]
                .map(|scope| rank(policy.at(scope)));
            assert!(done.is_sorted() && done[2] == 2, "{policy:?}: {done:?}");
        }
        assert_eq!(CleanupPolicy::Step.at(CleanupScope::Step), Retention::StepPeak);
        assert_eq!(CleanupPolicy::Strict.at(CleanupScope::Step), Retention::Nothing);
        assert_eq!(
            CleanupPolicy::Window.at(CleanupScope::Step),
            Retention::Everything
        );
    }
}
