//! Tells what an error means for the device, by its text.
//!
//! candle wraps driver errors in several ways, some of which keep only the text (`Error::Wrapped`), and the text of
//! every one of them names the driver's or the library's own constant: the text is the one thing that every path has.

/// What an error means for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Memory ran out: an allocation was refused, all else is sound.
    OutOfMemory,
    /// The process's context on the device is past use, whatever is called next.
    Poisoned,
    /// Nothing.
    Other,
}

const OUT_OF_MEMORY: [&str; 5] = [
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "memory allocation of",
];

/// Errors after which every further call fails with the same, until the process ends.
const POISONED: [&str; 15] = [
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
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_EXECUTION_FAILED",
];

/// What `text`, an error with all its causes, means. A text that names both kinds is of a device past use: the refused
/// allocation followed from it.
pub(super) fn classify(text: &str) -> Fault {
    let names = |constants: &[&str]| constants.iter().any(|constant| text.contains(constant));
    if names(&POISONED) {
        Fault::Poisoned
    } else if names(&OUT_OF_MEMORY) {
        Fault::OutOfMemory
    } else {
        Fault::Other
    }
}

/// Whether `text`, an error with all its causes or a dead process's last words, says that memory ran out.
pub fn is_out_of_memory(text: &str) -> bool {
    classify(text) == Fault::OutOfMemory
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
            ("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"..\")", Fault::Poisoned),
            (
                "CUDA_ERROR_OUT_OF_MEMORY after CUDA_ERROR_LAUNCH_FAILED",
                Fault::Poisoned,
            ),
            ("DriverError(CUDA_ERROR_INVALID_VALUE, \"..\")", Fault::Other),
            ("cannot denoise: out of step", Fault::Other),
        ] {
            assert_eq!(classify(text), expected, "{text}");
        }
    }

    /// What a driver's error looks like, without a driver.
    #[derive(Debug, thiserror::Error)]
    #[error("DriverError({0}, \"...\")")]
    struct Driver(&'static str);

    #[test]
    fn the_text_survives_every_way_in_which_errors_are_wrapped() {
        for (constant, expected) in [
            ("CUDA_ERROR_OUT_OF_MEMORY", Fault::OutOfMemory),
            ("CUDA_ERROR_MISALIGNED_ADDRESS", Fault::Poisoned),
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
