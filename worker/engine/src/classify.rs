//! Classifies an error by its text: what it means for the device. The engine does so for each request that
//! fails, the supervisor for the last lines of an engine that died.
//!
//! candle wraps driver errors in several ways, some of which keep only the text (`Error::Wrapped`). The text
//! of each of them contains the driver's or the library's own constant, so that the text is what all of them
//! have in common.

/// What an error means for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorClass {
    /// Memory ran out: an allocation was refused, and the device can still be used.
    OutOfMemory,
    /// The process's context on the device is broken: every further call fails.
    Poisoned,
    /// This program cannot compute on this device with this driver, whatever the request is.
    Unfit,
    /// A library failed without saying why. On a nearly full device lack of memory is the usual reason, else the context
    /// may be broken: [`EngineMemory::examine`](crate::memory::device::EngineMemory::examine) finds out.
    Unclear,
    /// The error has nothing to do with the state of the device.
    Other,
}

/// Texts of an allocation that was refused: by the driver, by its libraries, by Rust's allocator.
const OUT_OF_MEMORY: [&str; 5] = [
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "memory allocation of",
];

/// Driver and library errors after which every further call fails with the same error until the process ends.
const POISONED: [&str; 19] = [
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_DEINITIALIZED",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_UNKNOWN",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_CONTAINED",
    "CUDA_ERROR_TENSOR_MEMORY_LEAK",
    "CUDA_ERROR_INVALID_CONTEXT",
    "CUDA_ERROR_EXTERNAL_DEVICE",
    "CUDA_ERROR_MPS_CLIENT_TERMINATED",
];

/// Errors of a driver, a device and a program that do not go together. They stay until somebody changes one of the three.
/// The last group are kernels that the program does not contain, for instance those in `bf16` if it was built for a GPU
/// that has none.
const UNFIT: [&str; 25] = [
    "CUDA_ERROR_NO_DEVICE",
    "CUDA_ERROR_INVALID_DEVICE",
    "CUDA_ERROR_DEVICE_NOT_LICENSED",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDA_ERROR_STUB_LIBRARY",
    "CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER",
    "CUDA_ERROR_INSUFFICIENT_LOADER_VERSION",
    "CUDA_ERROR_SYSTEM_NOT_READY",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
    "CUDA_ERROR_FABRIC_NOT_READY",
    "CUDA_ERROR_NOT_PERMITTED",
    "CUDA_ERROR_MPS_CONNECTION_FAILED",
    "CUDA_ERROR_NO_BINARY_FOR_GPU",
    "CUDA_ERROR_INVALID_IMAGE",
    "CUDA_ERROR_INVALID_PTX",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
    "CUDA_ERROR_JIT_COMPILER_NOT_FOUND",
    "CUDA_ERROR_JIT_COMPILATION_DISABLED",
    "CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND",
    "CUDA_ERROR_SHARED_OBJECT_INIT_FAILED",
    "CUBLAS_STATUS_ARCH_MISMATCH",
    "CUBLAS_STATUS_LICENSE_ERROR",
    "CURAND_STATUS_ARCH_MISMATCH",
    "CUDA_ERROR_NOT_FOUND",
];

/// Errors by which libraries report lack of memory too, among others.
const UNCLEAR: [&str; 6] = [
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CURAND_STATUS_INITIALIZATION_FAILED",
    "CURAND_STATUS_LAUNCH_FAILURE",
];

/// Classifies `text`, an error with all its causes. If the text contains constants of several kinds, the worst of them
/// holds: a refused allocation follows from a poisoned device, and an unclear error from a refused allocation.
pub(super) fn classify(text: &str) -> ErrorClass {
    let names = |constants: &[&str]| constants.iter().any(|constant| text.contains(constant));
    if names(&POISONED) {
        ErrorClass::Poisoned
    } else if names(&OUT_OF_MEMORY) {
        ErrorClass::OutOfMemory
    } else if names(&UNFIT) {
        ErrorClass::Unfit
    } else if names(&UNCLEAR) {
        ErrorClass::Unclear
    } else {
        ErrorClass::Other
    }
}

/// Returns whether `text`, an error with all its causes or the last lines of a dead process, means that
/// memory ran out.
pub fn is_out_of_memory(text: &str) -> bool {
    classify(text) == ErrorClass::OutOfMemory
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Context as _, Error};
    use latentfarm_common::error::one_line;

    #[test]
    fn driver_library_and_abort_messages_are_recognised() {
        for text in [
            "denoise: DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "CURAND_STATUS_ALLOCATION_FAILED",
            "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "memory allocation of 34359738368 bytes failed",
        ] {
            assert!(is_out_of_memory(text), "{text}");
        }
        for (text, expected) in [
            (
                "DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"..\")",
                ErrorClass::Poisoned,
            ),
            (
                "CUDA_ERROR_OUT_OF_MEMORY after CUDA_ERROR_LAUNCH_FAILED",
                ErrorClass::Poisoned,
            ),
            (
                "DriverError(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, \"..\")",
                ErrorClass::Unfit,
            ),
            (
                "DriverError(CUDA_ERROR_NOT_FOUND, \"named symbol not found\")",
                ErrorClass::Unfit,
            ),
            ("CUDA_ERROR_FILE_NOT_FOUND", ErrorClass::Other),
            ("CublasError(CUBLAS_STATUS_EXECUTION_FAILED)", ErrorClass::Unclear),
            (
                "CUBLAS_STATUS_EXECUTION_FAILED after CUDA_ERROR_OUT_OF_MEMORY",
                ErrorClass::OutOfMemory,
            ),
            ("DriverError(CUDA_ERROR_INVALID_VALUE, \"..\")", ErrorClass::Other),
            ("cannot denoise: out of step", ErrorClass::Other),
        ] {
            assert_eq!(classify(text), expected, "{text}");
        }
    }

    #[test]
    fn every_constant_is_one_of_cuda_and_has_one_class() {
        let known: Vec<&str> = include_str!("cuda_constants.txt").lines().collect();
        let listed: Vec<&str> = [&POISONED[..], &UNFIT, &UNCLEAR].concat();
        for constant in &listed {
            assert!(known.contains(constant), "CUDA has no {constant}");
            let classes = [&POISONED[..], &UNFIT, &UNCLEAR, &OUT_OF_MEMORY];
            let matching = classes
                .iter()
                .filter(|list| list.iter().any(|other| constant.contains(other)));
            assert_eq!(matching.count(), 1, "{constant}");
        }
        for fragment in &OUT_OF_MEMORY[..4] {
            assert!(
                known.iter().any(|name| name.contains(fragment)),
                "CUDA has no {fragment}"
            );
        }
    }

    /// An error that reads like a driver's.
    #[derive(Debug, thiserror::Error)]
    #[error("DriverError({0}, \"...\")")]
    struct Driver(&'static str);

    #[test]
    fn the_text_survives_every_way_in_which_errors_are_wrapped() {
        for (constant, expected) in [
            ("CUDA_ERROR_OUT_OF_MEMORY", ErrorClass::OutOfMemory),
            ("CUDA_ERROR_MISALIGNED_ADDRESS", ErrorClass::Poisoned),
        ] {
            let cuda = || Error::Cuda(Box::new(Driver(constant)));
            let wrapped_context = Err::<(), _>(Driver(constant)).context("unet").unwrap_err();
            let with_backtrace = Error::WithBacktrace {
                inner: Box::new(cuda()),
                backtrace: Box::new(std::backtrace::Backtrace::disabled()),
            };
            for error in [
                cuda(),
                Error::wrap(Driver(constant)),
                Error::wrap(Error::wrap(Driver(constant))),
                cuda().context("vae"),
                cuda().with_path("unet.safetensors"),
                wrapped_context,
                with_backtrace,
            ] {
                assert_eq!(classify(&one_line(&error)), expected, "{error:?}");
            }
        }
    }
}
