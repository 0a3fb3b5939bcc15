use super::*;
use candle_core::{DType, Device};
use latentsync::Run;

/// A device on which a refused allocation may succeed if it is repeated.
#[derive(Default)]
struct FakeDeviceMemory {
    trims: Rc<RefCell<Vec<u64>>>,
    peak: u64,
    condition: Option<DeviceCondition>,
}

impl EngineMemory for FakeDeviceMemory {
    fn survives_panic(&self) -> bool {
        false
    }
    fn reading(&self) -> MemorySample {
        MemorySample {
            free: 1000,
            live: 7,
            ..MemorySample::default()
        }
    }
    fn take_peak(&mut self) -> u64 {
        std::mem::take(&mut self.peak)
    }
    fn begin(&mut self, work: StageWork) -> std::result::Result<(), Shortage> {
        self.peak = if work.stage == MemoryStage::Denoise {
            500
        } else {
            900
        };
        Ok(())
    }
    fn before(&mut self, _: Op, _: usize) -> std::result::Result<(), Shortage> {
        Err(Shortage {
            needed: 2000,
            limit: 1000,
        })
    }
    fn needed_at_least(&self) -> u64 {
        1234
    }
    fn examine(&mut self) -> DeviceCondition {
        self.condition.unwrap_or(DeviceCondition::Works)
    }
    fn recover(&mut self) -> bool {
        self.trim(0);
        true
    }
    fn trim(&mut self, keep: u64) {
        self.trims.borrow_mut().push(keep);
    }
    fn leak(&mut self, _: u64) {}
}

fn window() -> StageWork {
    StageWork {
        stage: MemoryStage::VaeEncode,
        plan: MemoryPlan::default(),
        guided: false,
    }
}

fn monitor(cleanup: CleanupPolicy) -> (MemoryMonitor, Rc<RefCell<Vec<u64>>>) {
    let device = FakeDeviceMemory::default();
    let trims = Rc::clone(&device.trims);
    let mut monitor = MemoryMonitor::new(Box::new(device), cleanup, FaultInjector::default());
    monitor.begin_request(RequestKind::Window, window());
    (monitor, trims)
}

#[test]
fn what_the_driver_refuses_is_repeated_once_and_what_the_monitor_refuses_is_not() {
    let (mut monitor, trims) = monitor(CleanupPolicy::Step);
    let refusal = Error::wrap("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
    assert!(!monitor.retry(&Error::Msg("a shape does not fit".to_owned())));
    assert!(monitor.retry(&refusal));
    assert!(!monitor.retry(&refusal), "a second time in the same request");
    assert_eq!(*trims.borrow(), [0]);
    let details = monitor.out_of_memory_details(ErrorClass::OutOfMemory).unwrap();
    assert_eq!((details.needed, details.free_before), (1234, 1000));
    monitor.begin_request(RequestKind::Window, window());
    let x = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
    let own = monitor.before(Op::Copy { elements: 1 }, &x).unwrap_err();
    assert!(!monitor.retry(&own));
    assert_eq!(
        monitor.out_of_memory_details(ErrorClass::Other).unwrap().needed,
        2000
    );
    assert!(
        monitor.out_of_memory_details(ErrorClass::Poisoned).is_none(),
        "the shortage was reported"
    );
}

#[test]
fn an_unclear_error_is_lack_of_memory_only_if_the_device_is_nearly_full() {
    let unclear = "CublasError(CUBLAS_STATUS_EXECUTION_FAILED)";
    for (condition, expected) in [
        (DeviceCondition::Works, ErrorClass::Other),
        (DeviceCondition::NearlyFull, ErrorClass::OutOfMemory),
        (DeviceCondition::Broken, ErrorClass::Poisoned),
    ] {
        let device = FakeDeviceMemory {
            condition: Some(condition),
            ..FakeDeviceMemory::default()
        };
        let policy = CleanupPolicy::Step;
        let mut monitor = MemoryMonitor::new(Box::new(device), policy, FaultInjector::default());
        monitor.begin_request(RequestKind::Window, window());
        let is_full = expected == ErrorClass::OutOfMemory;
        assert_eq!(monitor.retry(&Error::wrap(unclear)), is_full, "{condition:?}");
        let class = monitor.classify(unclear);
        assert_eq!(class, expected);
        assert_eq!(monitor.out_of_memory_details(class).is_some(), is_full);
        assert_eq!(monitor.classify("CUDA_ERROR_INVALID_PTX"), ErrorClass::Unfit);
    }
}

#[test]
fn a_step_is_run_again_through_the_context() {
    let (monitor, trims) = monitor(CleanupPolicy::Step);
    let monitor = RefCell::new(monitor);
    let run = Run::default().with_hooks(&monitor);
    let runs = std::cell::Cell::new(0);
    let outcome = run.retried(|| {
        runs.set(runs.get() + 1);
        if runs.get() == 1 {
            return Err(Error::wrap("CUDA_ERROR_OUT_OF_MEMORY"));
        }
        Ok(runs.get())
    });
    assert_eq!(outcome.unwrap(), 2);
    assert_eq!(*trims.borrow(), [0]);
}

#[test]
fn a_step_is_trimmed_to_the_steps_peak_and_its_peak_is_reported() {
    for (cleanup, expected) in [
        (CleanupPolicy::Strict, &[0, 0, 0][..]),
        (CleanupPolicy::Step, &[500, 0]),
        (CleanupPolicy::Window, &[0]),
        (CleanupPolicy::Task, &[]),
    ] {
        let (mut monitor, trims) = monitor(cleanup);
        monitor.begin_stage(MemoryStage::VaeEncode).unwrap();
        monitor.clean(CleanupScope::Step);
        assert_eq!(monitor.sample().live_peak, 900);
        monitor.begin_stage(MemoryStage::Denoise).unwrap();
        monitor.clean(CleanupScope::Step);
        assert_eq!(monitor.sample().live_peak, 500);
        assert_eq!(monitor.sample().live_peak, 7, "a peak is reported once");
        monitor.clean(CleanupScope::Window);
        assert_eq!(*trims.borrow(), expected, "{cleanup:?}");
        assert_eq!(monitor.stage(), MemoryStage::Idle);
    }
}
