//! The memory of one CUDA device: the driver's stream-ordered pool, from which every tensor of candle is
//! allocated.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::cuda_backend::WrapErr as _;
use candle_core::cuda_backend::cudarc::cublas;
use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute, CUmemoryPool};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaStream};
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::{DType, Device, Result, Tensor};
use latentfarm_common::wire::memory::MemorySample;

use super::interface::{DeviceCondition, DeviceFacts, EngineMemory, FreeMemoryReader, MIB};
use crate::is_out_of_memory;
use crate::numerics::driver_version;
use latentfarm_common::error::one_line;
use latentfarm_common::host;
use latentsync::cost::prediction::CUDA_CONTEXT;
use latentsync::{check_kernels, cuda_build, cuda_dtypes, cuda_kernels_enabled};

/// If the driver has less memory free than this, libraries may lack memory for their workspaces (32 MiB on a Hopper GPU),
/// and the driver for modules and for the local memory of kernels.
const NEARLY_FULL: u64 = 128 * MIB;

/// The memory of one CUDA device. It may be used only on the thread that opened it, like every tensor on the
/// device.
pub(super) struct CudaMemory {
    device: Device,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// The driver's pool; `None` if the driver has no pools, when nothing is kept and only free and total
    /// memory are known.
    pool: Option<CUmemoryPool>,
    leaked: Vec<Tensor>,
    /// Bytes that the context, its modules and the libraries' workspaces take outside of the pool.
    beside_pool: u64,
    facts: DeviceFacts,
}

impl CudaMemory {
    /// Opens a device. The order of the steps matters. The device gets a stream of its own, because the
    /// default stream is per thread and unsynchronised. Event tracking is turned off before the first tensor,
    /// because a single stream needs none. Then the pool is set to keep freed memory until it is trimmed; it
    /// would otherwise return it at every synchronisation.
    pub(super) fn open(ordinal: usize) -> Result<(Device, Self)> {
        let device = Device::new_cuda_with_stream(ordinal)?;
        let cuda = device.as_cuda_device()?;
        disable_event_tracking(cuda);
        let stream = cuda.cuda_stream();
        let context = stream.context().clone();
        context.bind_to_thread().w()?;
        let mut facts = facts(&context)?;
        let pool = if context.has_async_alloc() {
            Some(current_pool(&context)?)
        } else {
            tracing::warn!(
                "the driver has no memory pools: memory in use cannot be distinguished from memory that is reserved"
            );
            None
        };
        let mut memory = Self {
            device: device.clone(),
            context,
            stream,
            pool,
            leaked: Vec::new(),
            beside_pool: 0,
            facts: DeviceFacts::default(),
        };
        memory.set(CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX);
        facts.used_at_open_mib = Some(memory.used_beside_pool() / MIB);
        warm_up(&device)?;
        memory.trim(0);
        memory.beside_pool = memory.used_beside_pool().min(CUDA_CONTEXT);
        facts.used_with_modules_mib = Some(memory.used_beside_pool() / MIB);
        facts.own_kernels = Some(cuda_kernels_enabled());
        let cublas = memory.cublas_version()?;
        facts.cublas = Some(format!(
            "{}.{}.{}",
            cublas / 10_000,
            cublas / 100 % 100,
            cublas % 100
        ));
        memory.facts = facts;
        Ok((device, memory))
    }

    /// Returns the GPU's model and compute capability, by which libraries choose kernels, and with the kernels the order
    /// of sums; the driver's version, which compiles kernels for the GPU, and that of cuBLAS: such as
    /// `cuda-NVIDIA-L4-sm89+driver580.159.04+cublas130002`. `+reference` follows if the kernels of this build are not
    /// used.
    pub(super) fn chip(&self) -> Result<String> {
        let name = self.context.name().w()?;
        let (major, minor) = self.context.compute_capability().w()?;
        let is_plain = |c: char| c.is_ascii_alphanumeric();
        let name: String = name.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
        let kernels = if cuda_kernels_enabled() { "" } else { "+reference" };
        let driver = installed_driver()?;
        let cublas = self.cublas_version()?;
        Ok(format!(
            "cuda-{name}-sm{major}{minor}+{driver}+cublas{cublas}{kernels}"
        ))
    }

    /// Returns the version of cuBLAS as the library numbers it, such as 130002 for 13.0.2.
    fn cublas_version(&self) -> Result<i32> {
        let cublas = self.device.as_cuda_device()?.cublas_handle();
        let mut version = 0;
        #[expect(unsafe_code, reason = "a library call that its crate does not wrap")]
        // SAFETY: the handle is that of a library which `cublas` keeps open, and `version` is a C int to write to.
        let status = unsafe { cublas::sys::cublasGetVersion_v2(*cublas.handle(), &raw mut version) };
        status.result().w()?;
        Ok(version)
    }

    /// Reads an attribute of the pool; 0 if there is no pool or the driver refuses.
    fn get(&self, attribute: CUmemPool_attribute) -> u64 {
        let mut value = 0_u64;
        if let Some(pool) = self.pool {
            #[expect(unsafe_code, reason = "a driver call")]
            // SAFETY: the pool is the device's own and lives as long as the context, which `self` keeps;
            // every attribute that is read here is a `cuuint64_t`.
            let read = unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut value).cast()) };
            if let Err(error) = read {
                tracing::debug!(%error, "cannot read an attribute of the driver's memory pool");
            }
        }
        value
    }

    /// Sets an attribute of the pool, if there is a pool.
    fn set(&self, attribute: CUmemPool_attribute, value: u64) {
        let mut value = value;
        if let Some(pool) = self.pool {
            #[expect(unsafe_code, reason = "a driver call")]
            // SAFETY: as in `get`.
            let done = unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut value).cast()) };
            if let Err(error) = done {
                tracing::debug!(%error, "cannot set an attribute of the driver's memory pool");
            }
        }
    }

    /// Returns the free and the total bytes of the device, on which other processes may hold memory too.
    fn driver(&self) -> (u64, u64) {
        let info = self.context.mem_get_info();
        info.map_or((0, 0), |(free, total)| (free as u64, total as u64))
    }

    /// Returns the device's used memory less what the pool holds. What other processes hold is in it: free memory cannot be
    /// compared before and after the context was made, because the context exists already. What this process takes is
    /// therefore supposed to be the smaller of this and of what a context with these libraries is known to take.
    fn used_beside_pool(&self) -> u64 {
        let (free, total) = self.driver();
        let reserved = self.get(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
        total.saturating_sub(free).saturating_sub(reserved)
    }
}

impl EngineMemory for CudaMemory {
    /// Locks inside the libraries may be poisoned, and kernels may still run.
    fn survives_panic(&self) -> bool {
        false
    }

    fn facts(&self) -> DeviceFacts {
        self.facts.clone()
    }

    fn reading(&self) -> MemorySample {
        let (free, total) = self.driver();
        let reserved = self.get(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
        MemorySample {
            free,
            total,
            own: reserved + self.beside_pool,
            reserved,
            reserved_peak: 0,
            live: self.get(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT),
            live_peak: 0,
            host_rss: host::own_rss_mib() * MIB,
        }
    }

    fn take_peak(&mut self) -> u64 {
        let peak = self.get(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH);
        // The driver accepts only 0, which resets the peak to what is in use.
        self.set(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0);
        peak
    }

    fn take_reserved_peak(&mut self) -> u64 {
        let peak = self.get(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH);
        self.set(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, 0);
        peak
    }

    fn free_memory_reader(&self) -> Option<FreeMemoryReader> {
        let context = Arc::clone(&self.context);
        Some(Box::new(move || {
            let (free, _total) = context.mem_get_info().ok()?;
            Some(free as u64)
        }))
    }

    fn needed_at_least(&self) -> u64 {
        // The peak contains only what was allocated; more than that is needed.
        self.get(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH) + self.beside_pool + 1
    }

    fn examine(&mut self) -> DeviceCondition {
        // The error that is being looked into may be kept for the next call.
        let _known = self.context.check_err();
        let (free, _) = self.driver();
        let tried = Tensor::zeros(1, DType::U8, &self.device).and_then(|_| self.device.synchronize());
        match tried {
            Err(error) if is_out_of_memory(&one_line(&error)) => DeviceCondition::NearlyFull,
            Err(_) => DeviceCondition::Broken,
            Ok(()) if free < NEARLY_FULL => DeviceCondition::NearlyFull,
            Ok(()) => DeviceCondition::Works,
        }
    }

    fn recover(&mut self) -> bool {
        // The context keeps errors of frees for the next call, whatever it is. They are cleared, so that the
        // next call does not fail with them.
        if let Err(error) = self.context.check_err() {
            tracing::debug!(%error, "cleared a pending error after an allocation was refused");
        }
        self.trim(0);
        true
    }

    fn trim(&mut self, keep: u64) {
        // The pool can return freed memory only after the stream has passed the free.
        if let Err(error) = self.stream.synchronize() {
            tracing::warn!(%error, "cannot wait for the device");
            return;
        }
        if let Some(pool) = self.pool {
            let keep = usize::try_from(keep).unwrap_or(usize::MAX);
            #[expect(unsafe_code, reason = "a driver call")]
            // SAFETY: the pool is the device's own; trimming touches only what is not in use.
            let done = unsafe { result::mem_pool::trim_to(pool, keep) };
            if let Err(error) = done {
                tracing::warn!(%error, "cannot trim the driver's memory pool");
            }
        }
    }

    fn leak(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        match Tensor::zeros(bytes, DType::U8, &self.device) {
            Ok(tensor) => self.leaked.push(tensor),
            Err(error) => tracing::warn!(%error, "cannot inject a leak"),
        }
    }
}

/// Compares the GPU and its driver with what this build needs, and returns what is known of both. The driver would
/// refuse the kernels as well, but with an error that names neither.
fn facts(context: &CudaContext) -> Result<DeviceFacts> {
    let gpu = context.name().w()?;
    let (major, minor) = context.compute_capability().w()?;
    let driver_cuda = driver_cuda()?;
    let mut facts = DeviceFacts {
        compute_capability: Some(format!("{major}.{minor}")),
        driver_cuda: Some(dotted(driver_cuda)),
        ..DeviceFacts::default()
    };
    if let Some(build) = cuda_build() {
        let built_for = format!("{}.{}", build.capability / 10, build.capability % 10);
        if u32::try_from(major * 10 + minor).is_ok_and(|own| own < build.capability) {
            candle_core::bail!(
                "{gpu} is older than this engine was built for: it has compute capability {major}.{minor}, and {built_for} is \
                 needed; `deploy/build-cuda` builds engines for older GPUs"
            );
        }
        if driver_cuda < version_number(build.toolkit) {
            candle_core::bail!(
                "the NVIDIA driver is too old: it supports CUDA {}, and this engine needs {}; install a newer driver, or \
                 build the engine with a CUDA toolkit that the driver supports",
                dotted(driver_cuda),
                build.toolkit
            );
        }
        facts.built_for = Some(built_for);
        facts.toolkit = Some(build.toolkit.to_owned());
    }
    facts.gpu = Some(gpu);
    Ok(facts)
}

/// Returns the highest version of CUDA that the driver supports: 13000 for 13.0.
fn driver_cuda() -> Result<i32> {
    let mut version = 0;
    #[expect(unsafe_code, reason = "a driver call")]
    // SAFETY: the driver writes one `int`, which lives for the whole call.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }
        .result()
        .w()?;
    Ok(version)
}

/// Returns a version as CUDA numbers it: 13000 for `13.0`, 12040 for `12.4`.
fn version_number(text: &str) -> i32 {
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    let number = |part: &str| part.parse::<i32>().unwrap_or(0);
    1000 * number(major) + 10 * number(minor)
}

fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Loads every module of kernels that the networks use, so that the memory that they take outside of the pool
/// is known from the start, and compares the kernels of this build with the reference on this GPU. The driver
/// compiles the modules for the GPU at the first start, which takes half a minute, and keeps them in its
/// cache.
fn warm_up(device: &Device) -> Result<()> {
    /// If loading takes longer than this, the modules did not come from the driver's cache.
    const LONG: Duration = Duration::from_secs(10);
    let started = Instant::now();
    for &dtype in cuda_dtypes() {
        let x = Tensor::zeros((1, 2, 4, 4), dtype, device)?;
        let first = Tensor::zeros(1, DType::U32, device)?;
        let some = x.upsample_nearest2d(8, 8)?.index_select(&first, 1)?;
        let sum = (some.affine(2.0, 1.0)? + &some)?.to_dtype(DType::F32)?;
        sum.sqr()?
            .mean_keepdim(3)?
            .pad_with_zeros(0, 1, 1)?
            .maximum(0.0)?;
    }
    let checks = check_kernels(device)?;
    for check in checks.iter().filter(|check| !check.passed()) {
        tracing::warn!(
            kernel = %check.case, dtype = %check.dtype, distance = check.distance, limit = check.limit,
            "a kernel of this build computes wrong results on this GPU: the reference operations are used, which are four times slower"
        );
    }
    if started.elapsed() > LONG {
        tracing::info!(
            seconds = started.elapsed().as_secs(),
            "the kernels were compiled for this GPU; the driver keeps them in its cache for the next start"
        );
    }
    Ok(())
}

/// Returns the installed driver for the fingerprint: `driver580.159.04` as its kernel module states it, or, where a
/// container hides that file, only the CUDA interface that the driver has, `driver-cuda13.0`. Drivers of one interface
/// need not compile kernels alike, but nothing else is known without NVML, which the engine does not load.
fn installed_driver() -> Result<String> {
    let module = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    if let Some(version) = driver_version(&module) {
        return Ok(format!("driver{version}"));
    }
    Ok(format!("driver-cuda{}", dotted(driver_cuda()?)))
}

#[expect(
    unsafe_code,
    reason = "without tracking, tensors that cross streams would race"
)]
fn disable_event_tracking(cuda: &candle_core::CudaDevice) {
    // SAFETY: the engine uses one stream, on one thread, and has made no tensor yet.
    unsafe { cuda.disable_event_tracking() };
}

/// Returns the current memory pool of the context's device.
#[expect(unsafe_code, reason = "a driver call")]
fn current_pool(context: &CudaContext) -> Result<CUmemoryPool> {
    // SAFETY: the device is that of a context that exists.
    unsafe { result::device::get_mem_pool(context.cu_device()) }.w()
}
