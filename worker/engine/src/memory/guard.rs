//! Cleanup that no exit path can miss: guards whose end is the cleanup.
//!
//! What a step, a window or a task needed is dropped by scope. A guard is made before it and so dropped after it, on
//! success, on error, on a cancel and while a panic unwinds; then the device is waited for and its allocator trimmed,
//! as the policy says.

use std::cell::RefCell;
use std::rc::Rc;

/// How eagerly memory that is not in use is given back to the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Cleanup {
    /// All of it after every step and frame.
    Strict,
    /// After every step and frame what is above the planned peak of a step, after every window all of it.
    #[default]
    Step,
    /// All of it after every window.
    Window,
    /// All of it when a task is over.
    Task,
}

/// What has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A denoising step, or a frame through the autoencoder.
    Step,
    Window,
    Task,
}

/// How much of the memory that is not in use is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing is waited for or trimmed.
    Everything,
    /// So much that a step finds what it needs.
    StepPeak,
    Nothing,
}

impl Cleanup {
    /// What is to be done at the end of `level`.
    pub fn at(self, level: Level) -> Keep {
        match (self, level) {
            (Self::Strict, _) | (Self::Step | Self::Window, Level::Window) | (_, Level::Task) => {
                Keep::Nothing
            }
            (Self::Step, Level::Step) => Keep::StepPeak,
            (Self::Window | Self::Task, Level::Step) | (Self::Task, Level::Window) => Keep::Everything,
        }
    }
}

/// Does the cleanup.
pub trait Cleaner {
    fn clean(&mut self, level: Level);
}

/// Cleans up where it is dropped.
#[must_use = "the cleanup is done where the guard is dropped"]
pub struct Guard<C: Cleaner> {
    cleaner: Rc<RefCell<C>>,
    level: Level,
}

impl<C: Cleaner> Guard<C> {
    pub fn new(cleaner: &Rc<RefCell<C>>, level: Level) -> Self {
        Self {
            cleaner: Rc::clone(cleaner),
            level,
        }
    }
}

impl<C: Cleaner> Drop for Guard<C> {
    fn drop(&mut self) {
        // Borrowed still only if the cleaner itself is what panicked: a second panic would end the process.
        if let Ok(mut cleaner) = self.cleaner.try_borrow_mut() {
            cleaner.clean(self.level);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[derive(Default)]
    struct Log(Vec<Level>);

    impl Cleaner for Log {
        fn clean(&mut self, level: Level) {
            self.0.push(level);
        }
    }

    #[test]
    fn every_way_out_of_a_scope_cleans_up_from_the_inside_out() {
        let log = Rc::new(RefCell::new(Log::default()));
        let work = |fail: bool, panic: bool| -> Result<(), ()> {
            let _window = Guard::new(&log, Level::Window);
            let _step = Guard::new(&log, Level::Step);
            assert!(!panic, "on request");
            if fail { Err(()) } else { Ok(()) }
        };
        work(false, false).unwrap();
        work(true, false).unwrap_err();
        catch_unwind(AssertUnwindSafe(|| work(false, true))).unwrap_err();
        assert_eq!(log.borrow().0, [Level::Step, Level::Window].repeat(3));
    }

    #[test]
    fn a_cleaner_that_panics_does_not_end_the_process() {
        struct Bad;
        impl Cleaner for Bad {
            fn clean(&mut self, _level: Level) {
                panic!("on request");
            }
        }
        let bad = Rc::new(RefCell::new(Bad));
        let borrowed = bad.borrow_mut();
        drop(Guard::new(&bad, Level::Step));
        drop(borrowed);
    }

    #[test]
    fn policies_give_back_no_less_the_larger_the_scope() {
        let rank = |keep| match keep {
            Keep::Everything => 0,
            Keep::StepPeak => 1,
            Keep::Nothing => 2,
        };
        for policy in [Cleanup::Strict, Cleanup::Step, Cleanup::Window, Cleanup::Task] {
            let done = [Level::Step, Level::Window, Level::Task].map(|level| rank(policy.at(level)));
            assert!(done.is_sorted() && done[2] == 2, "{policy:?}: {done:?}");
        }
        assert_eq!(Cleanup::Step.at(Level::Step), Keep::StepPeak);
        assert_eq!(Cleanup::Strict.at(Level::Step), Keep::Nothing);
        assert_eq!(Cleanup::Window.at(Level::Step), Keep::Everything);
    }
}
