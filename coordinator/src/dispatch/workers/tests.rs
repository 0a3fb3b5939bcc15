use super::*;

fn heartbeat(name: &str, state: WorkerState) -> Heartbeat {
    Heartbeat {
        state,
        ..Heartbeat::starting(name.parse().unwrap(), "cpu".to_owned())
    }
}

const SILENCE: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// Calls `expire` once a second, as the dispatcher does on its ticks.
fn expire_until(workers: &mut Workers, from: Instant, seconds: u32, listening: bool) -> Vec<DepartedWorker> {
    (1..=seconds)
        .flat_map(|second| workers.expire(from + SECOND * second, listening))
        .collect()
}

#[test]
fn a_silent_worker_is_gone_after_ten_seconds_and_joins_again() {
    let start = Instant::now();
    let mut workers = Workers::new(SILENCE, SILENCE);
    assert!(workers.record_heartbeat(heartbeat("w1", WorkerState::Working), start));
    assert!(!workers.record_heartbeat(heartbeat("w1", WorkerState::Working), start));
    assert_eq!(expire_until(&mut workers, start, 9, true), []);
    let departed = expire_until(&mut workers, start, 10, true);
    assert_eq!(departed.len(), 1);
    assert!(!departed[0].announced);
    assert_eq!(workers.live(&Tags::NONE), 0);
    assert!(workers.record_heartbeat(heartbeat("w1", WorkerState::Idle), start));
}

#[test]
fn a_worker_that_dies_before_its_first_heartbeat_is_missed() {
    let start = Instant::now();
    let worker: WorkerId = "w1".parse().unwrap();
    let mut workers = Workers::new(SILENCE, SILENCE);
    workers.record_report(&worker, start);
    assert_eq!(workers.live(&Tags::NONE), 1);
    let announced = false;
    assert_eq!(
        expire_until(&mut workers, start, 10, true),
        [DepartedWorker {
            worker,
            held: Vec::new(),
            announced
        }]
    );
    workers.record_report(&"w2".parse().unwrap(), start);
    assert!(
        workers.record_heartbeat(heartbeat("w2", WorkerState::Idle), start),
        "it joins with its heartbeat"
    );
}

#[test]
fn a_drained_worker_is_expected_to_leave() {
    let start = Instant::now();
    let mut workers = Workers::new(SILENCE, SILENCE);
    workers.record_heartbeat(heartbeat("w1", WorkerState::Draining), start);
    assert_eq!(workers.live(&Tags::NONE), 0);
    assert!(expire_until(&mut workers, start, 10, true)[0].announced);
}

#[test]
fn a_worker_that_said_that_it_is_gone_is_not_waited_for() {
    let start = Instant::now();
    let mut workers = Workers::new(SILENCE, SILENCE);
    workers.record_heartbeat(heartbeat("w1", WorkerState::Working), start);
    assert_eq!(workers.expire(start, true), []);
    workers.record_heartbeat(heartbeat("w1", WorkerState::Left), start);
    let worker: WorkerId = "w1".parse().unwrap();
    let announced = true;
    assert_eq!(
        workers.expire(start, true),
        [DepartedWorker {
            worker,
            held: Vec::new(),
            announced
        }]
    );
}

fn offers(host_mib: Option<u64>, device_mib: Option<u64>) -> Available {
    Available {
        analyze: true,
        memory: RenderMemory { host_mib, device_mib },
    }
}

fn with_gpu(free_mib: u64, own_mib: u64) -> Heartbeat {
    Heartbeat {
        device_free_mib: free_mib,
        device_total_mib: 8192,
        capacity: RenderMemory {
            host_mib: None,
            device_mib: Some(7680),
        },
        available: offers(None, Some(free_mib + own_mib - 512)),
        ..heartbeat("w1", WorkerState::Idle)
    }
}

#[test]
fn memory_that_others_hold_for_long_is_not_counted_on() {
    let start = Instant::now();
    let mut workers = Workers::new(SILENCE, SILENCE);
    let offered = |workers: &Workers| workers.capacities(&Tags::NONE)[0].capacity.device_mib;
    workers.record_heartbeat(with_gpu(8192, 0), start);
    // The memory of the worker's own engine counts as available.
    workers.record_heartbeat(with_gpu(2192, 6000), start + SECOND);
    assert_eq!(offered(&workers), Some(7680));
    for second in 2..=9 {
        workers.record_heartbeat(with_gpu(3192, 0), start + SECOND * second);
        assert_eq!(offered(&workers), Some(7680), "it may go again");
    }
    for second in 10..=20 {
        workers.record_heartbeat(with_gpu(3192, 0), start + SECOND * second);
    }
    assert_eq!(offered(&workers), Some(2680));
    workers.record_heartbeat(with_gpu(8192, 0), start + SECOND * 21);
    assert_eq!(offered(&workers), Some(7680), "back at once");
}

#[test]
fn a_worker_that_cannot_render_or_is_leaving_is_no_machine() {
    let start = Instant::now();
    let mut workers = Workers::new(SILENCE, SILENCE);
    workers.record_heartbeat(heartbeat("w1", WorkerState::Idle), start);
    let mut leaving = with_gpu(8192, 0);
    leaving.worker = "w2".parse().unwrap();
    leaving.state = WorkerState::Draining;
    workers.record_heartbeat(leaving, start);
    assert_eq!(workers.capacities(&Tags::NONE), []);
}

#[test]
fn nobody_is_lost_while_nobody_listens() {
    let start = Instant::now();
    let mut workers = Workers::new(SILENCE, SILENCE);
    workers.record_heartbeat(heartbeat("w1", WorkerState::Working), start);
    assert_eq!(expire_until(&mut workers, start, 60, false), []);
    let back = start + SECOND * 60;
    assert_eq!(expire_until(&mut workers, back, 9, true), []);
    // This process was stopped for an hour.
    assert_eq!(workers.expire(back + SECOND * 3600, true), []);
    assert_eq!(workers.live(&Tags::NONE), 1);
}

fn on_host(free_mib: u64, task: Option<TaskProgress>) -> Heartbeat {
    Heartbeat {
        capacity: RenderMemory {
            host_mib: Some(7680),
            device_mib: None,
        },
        available: offers(Some(free_mib), None),
        task,
        ..heartbeat("w1", WorkerState::Idle)
    }
}

#[test]
fn host_memory_that_other_programs_hold_is_not_offered_but_that_of_the_own_task_is() {
    let start = Instant::now();
    let offered = |workers: &Workers| {
        let machine = workers.capacities(&Tags::NONE).remove(0);
        (machine.capacity.host_mib, machine.alone.host_mib)
    };
    let mut workers = Workers::new(SILENCE, SILENCE);
    workers.record_heartbeat(on_host(500, None), start);
    assert_eq!(
        offered(&workers),
        (Some(500), Some(7680)),
        "held from the beginning"
    );
    assert!(workers.take_changed());
    workers.record_heartbeat(on_host(7000, None), start + SECOND);
    assert_eq!(offered(&workers).0, Some(7000), "free at once");
    let task = TaskProgress {
        chunk: "0123456789abcdef.r00000".parse().unwrap(),
        attempt: latentfarm_common::ids::Attempt::default(),
        frames_done: 0,
        frames_total: 16,
        stage: latentfarm_common::wire::outcome::TaskStage::Starting,
        queue: None,
        plan: None,
    };
    for second in 2..=60 {
        workers.record_heartbeat(on_host(500, Some(task.clone())), start + SECOND * second);
    }
    assert_eq!(offered(&workers).0, Some(7000), "it is merely busy");
    for second in 61..=100 {
        workers.record_heartbeat(on_host(500, None), start + SECOND * second);
    }
    assert_eq!(offered(&workers).0, Some(500));
}

#[test]
fn memory_that_drifts_within_a_class_changes_no_placement() {
    let start = Instant::now();
    let mut workers = Workers::new(SILENCE, SILENCE);
    workers.record_heartbeat(on_host(4100, None), start);
    assert!(workers.take_changed() && workers.take_drifted());
    workers.record_heartbeat(on_host(4200, None), start + SECOND);
    assert!(!workers.take_changed() && workers.take_drifted());
    workers.record_heartbeat(on_host(6200, None), start + SECOND);
    assert!(workers.take_changed());
}
