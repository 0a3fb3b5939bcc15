//! Tests of what workers of one host do if they share a card or the host's memory.

use futures::FutureExt as _;
use latentfarm_common::wire::memory::RenderMemory;

use super::super::task_reservations::{ReservedMemory, TaskReservations};
use super::harness::*;
use super::*;
use crate::machine::probe::Device;

/// Two workers on the simulated card of the harness. An engine renders any number of tasks.
struct Pair {
    harness: RunnerHarness,
    workers: [(Runner, HeartbeatState); 2],
    task: Task,
}

impl Pair {
    async fn new(turn: Duration) -> Self {
        let harness = RunnerHarness::new().await;
        let replies = [vec![loaded()], window(), window(), window()].concat();
        let engine = harness.child("engine", &replies, "exec cat > $INPUT");
        let worker = |name: &str| {
            let state = HeartbeatState::new(name.parse().unwrap(), "sim:card".to_owned());
            let mut settings = harness.settings(engine.clone());
            settings.device_turn = turn;
            settings.scratch = harness.path(name);
            (runner(settings, &state), state)
        };
        let workers = [worker("w1"), worker("w2")];
        let task = harness.task(DeviceKind::Cuda, NEEDS);
        Self {
            harness,
            workers,
            task,
        }
    }

    fn worker(&mut self, index: usize) -> &mut Runner {
        &mut self.workers[index].0
    }

    async fn available_mib(&mut self, index: usize) -> Option<u64> {
        self.worker(index).available().await.memory.device_mib
    }

    async fn run(&mut self, index: usize) {
        let (runner, state) = &mut self.workers[index];
        run(runner, &self.harness, &self.task, state).await.unwrap();
    }

    fn is_engine_idle(&self, index: usize) -> bool {
        self.workers[index].0.engine.idle.is_some()
    }
}

#[tokio::test]
async fn a_worker_offers_no_memory_of_a_card_that_another_one_has() {
    let mut pair = Pair::new(LIMIT).await;
    assert_eq!(pair.available_mib(0).await, Some(8000));
    pair.run(0).await;
    let available = pair.worker(1).available().await;
    assert_eq!((available.memory.device_mib, available.analyze), (None, true));
    let withheld = RenderMemory {
        host_mib: None,
        device_mib: Some(8000),
    };
    assert_eq!(pair.worker(1).withheld(), withheld);
    // The coordinator keeps tasks for its turn.
    let offered = pair.workers[1].1.snapshot().available.memory.device_mib;
    assert_eq!(offered, Some(8000));
    let expected = format!(
        "`sim:card` is used by worker w1 (process {}) of this machine",
        std::process::id()
    );
    assert_eq!(pair.worker(1).shortage(), expected);
    // Even a task that it was given all the same starts no engine.
    let (runner, state) = &mut pair.workers[1];
    let failure = run(runner, &pair.harness, &pair.task, state).await.unwrap_err();
    assert!(
        matches!(failure, Failure::InsufficientMemory { .. }),
        "{failure:?}"
    );
    assert_eq!(pair.harness.starts("engine").len(), 1);
}

#[tokio::test]
async fn a_worker_without_a_task_gives_the_card_up_to_one_that_has_a_task() {
    let mut pair = Pair::new(LIMIT).await;
    pair.available_mib(0).await;
    pair.run(0).await;
    pair.available_mib(1).await;
    pair.worker(0).rest().await;
    assert!(pair.is_engine_idle(0), "nobody waits, as there is no task");
    pair.worker(1).need_device();
    assert_eq!(pair.available_mib(1).await, None);
    assert!(pair.worker(0).device_changed().now_or_never().is_some());
    assert!(pair.worker(1).device_changed().now_or_never().is_none());
    assert_eq!(pair.available_mib(0).await, Some(8000), "its turn is not over");
    pair.worker(0).rest().await;
    assert!(!pair.is_engine_idle(0), "its engine has ended");
    assert!(pair.worker(1).device_changed().now_or_never().is_some());
    assert_eq!(pair.available_mib(0).await, None, "the other one comes first");
    assert_eq!(pair.available_mib(1).await, Some(8000));
    pair.run(1).await;
    pair.worker(1).rest().await;
    assert!(pair.is_engine_idle(1), "nobody waits");
}

#[tokio::test]
async fn workers_with_tasks_take_turns_between_two_tasks() {
    let mut pair = Pair::new(Duration::ZERO).await;
    for index in [0, 1] {
        pair.worker(index).need_device();
        pair.available_mib(index).await;
    }
    for turn in 0..4 {
        let (now, next) = (turn % 2, (turn + 1) % 2);
        pair.run(now).await;
        assert_eq!(pair.available_mib(now).await, None, "turn {turn} is over");
        assert!(!pair.is_engine_idle(now));
        assert_eq!(pair.available_mib(next).await, Some(8000), "turn {turn}");
    }
    assert_eq!(pair.harness.starts("engine").len(), 4);
    // The last one leaves, and its engine ends with it.
    let Pair { workers, .. } = pair;
    let [(first, _), (mut second, _)] = workers;
    first.close().await;
    assert_eq!(second.available().await.memory.device_mib, Some(8000));
}

#[tokio::test]
async fn a_card_whose_worker_looks_for_faces_is_free() {
    let mut pair = Pair::new(LIMIT).await;
    assert_eq!(pair.available_mib(0).await, Some(8000));
    assert_eq!(pair.available_mib(1).await, None);
    pair.worker(0).engine.lend_device().await;
    assert_eq!(pair.available_mib(1).await, Some(8000));
}

#[tokio::test]
async fn workers_on_different_cards_share_the_hosts_memory() {
    let harness = RunnerHarness::new().await;
    let of = |device: Device, worker: &str| {
        let mut settings = harness.settings(harness.child::<EngineReply>("engine", &[], ""));
        settings.device = device;
        TaskReservations::new(&settings, worker)
    };
    let card = |name: &str| Device::Simulated(harness.path(name));
    let (mut first, second) = (of(card("card.gpu"), "w1"), of(card("other.gpu"), "w2"));
    let cpu = of(Device::Cpu, "cpu");
    drop(first.lock_admission().await);
    first.write(ReservedMemory {
        device_mib: 5000,
        host_mib: 1100,
    });
    let others = second.of_others();
    assert_eq!((others.device_mib, others.host_mib), (0, 1100));
    assert_eq!(cpu.of_others().device_mib, 1100, "the host is its device");
    first.release();
    assert_eq!(second.of_others(), ReservedMemory::default());
}
