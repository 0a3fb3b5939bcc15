//! How often each kind of fault happens in a run. A run has some of the kinds only, so that rare sequences of the others
//! are not drowned.

use std::collections::BTreeMap;

use super::random::Random;

/// The faults of single operations, with the most times in a thousand that each happens.
const OPERATIONS: [(&str, u64); 23] = [
    ("a message is late", 60),
    ("a message comes twice", 150),
    ("an event is lost", 150),
    ("a heartbeat is lost", 400),
    ("a command is lost", 300),
    ("an answer is slow", 60),
    ("an operation fails", 80),
    ("a publish fails", 250),
    ("the answer to a publish is lost", 250),
    ("a task is lost", 200),
    ("a task is stored twice", 200),
    ("a task overtakes others", 400),
    ("a worker fails a task", 150),
    ("a worker refuses an input", 60),
    ("an engine ends", 150),
    ("memory runs out by chance", 150),
    ("a worker dies of a task", 80),
    ("a worker is unfit for a task", 60),
    ("a worker gives a task back", 100),
    ("a result does not verify", 150),
    ("a result looks wrong", 100),
    ("a result is committed late", 100),
    ("the answer to a commit is lost", 150),
];

/// The faults of whole processes and of the farm, of which one happens now and then, with their weights.
const EVENTS: [(&str, u64); 21] = [
    ("a coordinator is killed", 10),
    ("a coordinator is stopped for a while", 14),
    ("a coordinator is cut off", 10),
    ("a coordinator drains", 6),
    ("a worker is killed", 16),
    ("a worker is killed and starts under another name", 8),
    ("a worker is stopped for a while", 14),
    ("a worker is cut off", 12),
    ("a worker leaves", 8),
    ("a worker joins", 6),
    ("a worker rests", 6),
    ("other programs take memory", 18),
    ("a task vanishes", 14),
    ("all tasks vanish", 3),
    ("a task is doubled", 8),
    ("a record is forged", 8),
    ("a record is garbled", 5),
    ("a job is cancelled", 3),
    ("a job is paused", 6),
    ("a job goes on", 8),
    ("a job gets another priority", 6),
];

/// The faults of one run.
#[derive(Clone, Debug)]
pub(super) struct Rates {
    operations: BTreeMap<&'static str, u64>,
    events: Vec<(&'static str, u64)>,
}

impl Rates {
    /// Draws the kinds of faults of a run, and how often each happens.
    pub(super) fn draw(random: &mut Random) -> Self {
        let share = random.pick(&[0, 150, 400, 800]);
        let mut operations = BTreeMap::new();
        for (name, most) in OPERATIONS {
            if random.chance(share) {
                operations.insert(name, random.within(1, most));
            }
        }
        let share = random.pick(&[100, 300, 600, 900]);
        let events = EVENTS.into_iter().filter(|_| random.chance(share)).collect();
        Self { operations, events }
    }

    /// How often in a thousand times a fault of an operation happens.
    pub(super) fn of(&self, name: &str) -> u64 {
        self.operations.get(name).copied().unwrap_or(0)
    }

    /// Ends all faults.
    pub(super) fn end(&mut self) {
        self.operations.clear();
        self.events.clear();
    }

    /// Draws the next fault of the farm; `None` if the run has none.
    pub(super) fn event(&self, random: &mut Random) -> Option<&'static str> {
        let all: u64 = self.events.iter().map(|(_, weight)| weight).sum();
        let mut drawn = if all == 0 { return None } else { random.below(all) };
        for (name, weight) in &self.events {
            if drawn < *weight {
                return Some(name);
            }
            drawn -= weight;
        }
        None
    }

    /// The names of all kinds of faults.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        OPERATIONS.into_iter().chain(EVENTS).map(|(name, _)| name)
    }
}
