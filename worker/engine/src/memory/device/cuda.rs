//! One CUDA device: the driver's stream-ordered pool, in which every tensor of candle lies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::cuda_backend::WrapErr as _;
use candle_core::cuda_backend::cudarc::driver::result;
use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute, CUmemoryPool};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaStream};
use candle_core::{DType, Device, Result, Tensor};
use latentfarm_common::wire::memory::MemorySample;

use super::interface::{EngineMemory, MIB, Shortage, Work};
use latentfarm_common::host;
use latentsync::Op;
use latentsync::cost::prediction::CUDA_CONTEXT;
use latentsync::{Checkpoint, check_kernels, kernels_serve};

/// The memory of one CUDA device. To be used on the thread that opened it, like every tensor on the device.
pub(super) struct CudaMemory {
    device: Device,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// `None` where the driver has no pools: then nothing is kept either, and only free and total are known.
    pool: Option<CUmemoryPool>,
    leaked: Vec<Tensor>,
    /// What the context, its modules and the libraries' workspaces take beside the pool.
    beside_pool: u64,
}

impl CudaMemory {
    /// Opens a device. The order matters: a stream of its own, because the default one is per thread and
    /// unsynchronised; event tracking off before the first tensor, because a single stream needs none; then the
    /// pool keeps what is freed until it is trimmed, where it would otherwise return it at every synchronisation.
    pub(super) fn open(ordinal: usize) -> Result<(Device, Self)> {
        let device = Device::new_cuda_with_stream(ordinal)?;
        let cuda = device.as_cuda_device()?;
        disable_event_tracking(cuda);
        let stream = cuda.cuda_stream();
        let context = stream.context().clone();
        context.bind_to_thread().w()?;
        let pool = if context.has_async_alloc() {
            Some(current_pool(&context)?)
        } else {
            tracing::warn!(
                "the driver has no memory pools: what is in use cannot be told apart from what is reserved"
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
        };
        memory.set(CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX);
        warm_up(&device)?;
        memory.trim(0);
        memory.beside_pool = memory.measure_beside_pool();
        Ok((device, memory))
    }

    /// Model and compute capability, such as `cuda-NVIDIA-L4-sm89`: kernels are chosen by them, and with the kernels the
    /// order of sums. `+reference` where the kernels of this build are not used.
    pub(super) fn chip(&self) -> Result<String> {
        let name = self.context.name().w()?;
        let (major, minor) = self.context.compute_capability().w()?;
        let is_plain = |c: char| c.is_ascii_alphanumeric();
        let name: String = name.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
        let kernels = if kernels_serve() { "" } else { "+reference" };
        Ok(format!("cuda-{name}-sm{major}{minor}{kernels}"))
    }

    fn get(&self, attribute: CUmemPool_attribute) -> u64 {
        let mut value = 0_u64;
        if let Some(pool) = self.pool {
            #[expect(unsafe_code, reason = "a driver call")]
            // SAFETY: the pool is the device's own and lives as long as the context, which `self` keeps; every
            // attribute that is asked for here is a `cuuint64_t`.
            let told = unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut value).cast()) };
            if let Err(error) = told {
                tracing::debug!(%error, "the driver does not tell what its pool holds");
            }
        }
        value
    }

    fn set(&self, attribute: CUmemPool_attribute, value: u64) {
        let mut value = value;
        if let Some(pool) = self.pool {
            #[expect(unsafe_code, reason = "a driver call")]
            // SAFETY: as in `get`.
            let done = unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut value).cast()) };
            if let Err(error) = done {
                tracing::debug!(%error, "the driver does not take a pool's setting");
            }
        }
    }

    /// (free, total) of the device, other processes' use included.
    fn driver(&self) -> (u64, u64) {
        let told = self.context.mem_get_info();
        told.map_or((0, 0), |(free, total)| (free as u64, total as u64))
    }

    /// An estimate, from the free memory before and after a context is made, is not to be had here: the context is
    /// there. What the driver says is used, less the pool, counts other processes too, so the smaller of it and of
    /// what a context with these libraries is known to take.
    fn measure_beside_pool(&self) -> u64 {
        let (free, total) = self.driver();
        let reserved = self.get(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
        total
            .saturating_sub(free)
            .saturating_sub(reserved)
            .min(CUDA_CONTEXT)
    }
}

impl EngineMemory for CudaMemory {
    /// Locks inside the libraries may be poisoned, kernels may still run.
    fn survives_panic(&self) -> bool {
        false
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
        // 0 is the one value that the driver takes: the peak begins again at what is in use.
        self.set(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0);
        peak
    }

    fn take_reserved_peak(&mut self) -> u64 {
        let peak = self.get(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH);
        self.set(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, 0);
        peak
    }

    fn load(&mut self, _checkpoint: &Checkpoint, _work: Work) -> std::result::Result<(), Shortage> {
        Ok(())
    }

    fn loaded(&mut self, _checkpoint: &Checkpoint) {}

    fn unloaded(&mut self) {}

    fn begin(&mut self, _work: Work) -> std::result::Result<(), Shortage> {
        Ok(())
    }

    fn before(&mut self, _op: Op, _value_bytes: usize) -> std::result::Result<(), Shortage> {
        Ok(())
    }

    fn refused(&self) -> u64 {
        // Peaks are of what was granted: more than that is needed.
        self.get(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH) + self.beside_pool + 1
    }

    fn recover(&mut self) -> bool {
        // Errors of frees are kept for the next call, whatever it is: cleared, so that it is not blamed.
        if let Err(error) = self.context.check_err() {
            tracing::debug!(%error, "cleared after an allocation was refused");
        }
        self.trim(0);
        true
    }

    fn trim(&mut self, keep: u64) {
        // What is freed on a stream is the pool's to return only once the stream is past it.
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
                tracing::warn!(%error, "cannot trim the device's pool");
            }
        }
    }

    fn leak(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        match Tensor::zeros(bytes, DType::U8, &self.device) {
            Ok(tensor) => self.leaked.push(tensor),
            Err(error) => tracing::warn!(%error, "cannot leak as asked for"),
        }
    }
}

/// Loads every module of kernels that the networks use, so that what they take beside the pool is known from the start, and
/// compares the kernels of this build with the reference on this very GPU. The driver compiles the modules for the GPU the
/// first time, which takes it half a minute, and keeps them in its cache.
fn warm_up(device: &Device) -> Result<()> {
    /// Longer than this it was no load from the cache.
    const LONG: Duration = Duration::from_secs(10);
    let started = Instant::now();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
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
            "a kernel of this build is wrong on this GPU: the reference operations are used, which are four times slower"
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

#[expect(
    unsafe_code,
    reason = "tensors that cross streams would race without tracking"
)]
fn disable_event_tracking(cuda: &candle_core::CudaDevice) {
    // SAFETY: the engine uses one stream, on one thread, and this is before the first tensor.
    unsafe { cuda.disable_event_tracking() };
}

#[expect(unsafe_code, reason = "a driver call")]
fn current_pool(context: &CudaContext) -> Result<CUmemoryPool> {
    // SAFETY: the device of a context that exists.
    unsafe { result::device::get_mem_pool(context.cu_device()) }.w()
}
