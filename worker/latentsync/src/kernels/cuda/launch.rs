//! Launches the kernels of `kernels.cu`.

use candle_core::{DType, Result, Tensor, bail};

/// One argument of a kernel, in the order of its declaration.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only a driver reads them"))]
pub(super) enum Arg<'a> {
    /// The address of the tensor's first value. Kernels read and write only inside the tensor.
    Tensor(&'a Tensor),
    /// The address of the tensor's first value, or the null pointer.
    Optional(Option<&'a Tensor>),
    U32(usize),
    U64(usize),
    F32(f32),
}

/// The blocks of a launch and the threads of a block, in three dimensions.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only a driver reads them"))]
pub(super) struct LaunchGrid {
    pub(super) blocks: (usize, usize, usize),
    pub(super) threads: (u32, u32, u32),
}

impl LaunchGrid {
    /// Returns a grid of `blocks` blocks of `threads` threads.
    pub(super) fn new(blocks: (usize, usize, usize), threads: (u32, u32, u32)) -> Self {
        Self { blocks, threads }
    }

    /// Returns a grid of one thread for each of `count` elements, in blocks of 256.
    pub(super) fn each(count: usize) -> Self {
        Self::new((count.div_ceil(256), 1, 1), (256, 1, 1))
    }

    /// Returns a grid of one warp for each of `rows` rows, with four rows in a block.
    pub(super) fn warps(rows: usize) -> Self {
        Self::new((rows.div_ceil(4), 1, 1), (32, 4, 1))
    }
}

/// Returns the part of a kernel's name that stands for a number type; `None` if there are no kernels for it.
pub(super) fn dtype_suffix(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("f32"),
        DType::F16 => Some("f16"),
        DType::BF16 => Some("bf16"),
        _ => None,
    }
}

/// Allocates an uninitialised tensor in the type of `like`, of which a kernel is about to write every value.
pub(super) fn empty_like(shape: impl Into<candle_core::Shape>, like: &Tensor) -> Result<Tensor> {
    empty_as(shape, like.dtype(), like)
}

/// Allocates an uninitialised tensor like [`empty_like`], in another type.
#[expect(
    unsafe_code,
    reason = "clearing the tensor first would take a pass over memory"
)]
pub(super) fn empty_as(shape: impl Into<candle_core::Shape>, dtype: DType, like: &Tensor) -> Result<Tensor> {
    // SAFETY: the caller's kernel writes every value before anything reads one, because launches on the
    // device's only stream run in order.
    unsafe { Tensor::empty(shape, dtype, like.device()) }
}

/// Returns the number of values that one thread moves at once, and the suffix of the kernel's name for it. A
/// thread moves 16 bytes if every row of `width` values and every tensor begins at a multiple of 16 bytes,
/// otherwise one value.
pub(super) fn vector_width(width: usize, tensors: &[Option<&Tensor>]) -> (usize, &'static str) {
    let Some(first) = tensors.iter().flatten().next() else {
        return (1, "");
    };
    let values = 16 / first.dtype().size_in_bytes();
    let aligned = |tensor: &&Tensor| tensor.layout().start_offset().is_multiple_of(values);
    if width.is_multiple_of(values) && tensors.iter().flatten().all(aligned) {
        (values, "_v")
    } else {
        (1, "")
    }
}

/// Launches the kernel for the type of `x`; its name is `<kernel>_<type><suffix>`.
pub(super) fn launch_typed(
    x: &Tensor,
    kernel: &str,
    suffix: &str,
    grid: LaunchGrid,
    args: &[Arg],
) -> Result<()> {
    let Some(dtype) = dtype_suffix(x.dtype()) else {
        bail!("there is no `{kernel}` for {:?}", x.dtype());
    };
    launch(x, &format!("{kernel}_{dtype}{suffix}"), grid, args)
}

#[cfg(feature = "cuda")]
mod driver {
    use candle_core::cuda_backend::cudarc::driver::{DevicePtr as _, LaunchConfig, PushKernelArg as _};
    use candle_core::cuda_backend::{CudaStorageSlice, WrapErr as _};
    use candle_core::{Result, Storage, Tensor, bail};

    use super::{Arg, LaunchGrid};

    const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));

    /// The value of an argument for the driver.
    enum Value {
        U32(u32),
        U64(u64),
        F32(f32),
    }

    /// Launches `kernel` on the device of `x`.
    #[expect(unsafe_code, reason = "a kernel launch")]
    pub(crate) fn launch(x: &Tensor, kernel: &str, grid: LaunchGrid, args: &[Arg]) -> Result<()> {
        let device = x.device().as_cuda_device()?;
        let function = device.get_or_load_custom_func(kernel, "latentsync", PTX)?;
        let values = args
            .iter()
            .map(|arg| {
                Ok(match *arg {
                    Arg::Tensor(tensor) => Value::U64(address(tensor)?),
                    Arg::Optional(tensor) => Value::U64(tensor.map(address).transpose()?.unwrap_or(0)),
                    Arg::U32(value) => Value::U32(u32::try_from(value)?),
                    Arg::U64(value) => Value::U64(value as u64),
                    Arg::F32(value) => Value::F32(value),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let mut builder = function.builder();
        for value in &values {
            match value {
                Value::U32(value) => builder.arg(value),
                Value::U64(value) => builder.arg(value),
                Value::F32(value) => builder.arg(value),
            };
        }
        let (columns, rows, layers) = grid.blocks;
        let config = LaunchConfig {
            grid_dim: (
                u32::try_from(columns)?,
                u32::try_from(rows)?,
                u32::try_from(layers)?,
            ),
            block_dim: grid.threads,
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments are those that the kernel declares, in its order; the tensors are on this
        // device, and their memory is freed on the same stream, after the kernel.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }

    /// Returns the device address of a tensor's first value.
    fn address(tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            bail!("a tensor that is not on the device was given to a kernel");
        };
        let stream = storage.device.cuda_stream();
        let start = match &storage.slice {
            CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::F16(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
            _ => bail!("no kernel takes a tensor of {:?}", tensor.dtype()),
        };
        Ok(start + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
    }
}

#[cfg(not(feature = "cuda"))]
mod driver {
    use candle_core::{Result, Tensor, bail};

    use super::{Arg, LaunchGrid};

    /// This is never reached: a build without CUDA has no tensors on CUDA.
    pub(crate) fn launch(_x: &Tensor, kernel: &str, grid: LaunchGrid, args: &[Arg]) -> Result<()> {
        let (blocks, count) = (grid.blocks, args.len());
        bail!(
            "this build cannot start `{kernel}` with {count} arguments on {blocks:?} blocks: it has no CUDA"
        )
    }
}

pub(super) use driver::launch;
