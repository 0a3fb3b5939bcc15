//! Tells out-of-memory errors from others by their text.
//!
//! candle wraps driver errors in several ways, some of which keep only the text (`Error::Wrapped`), so that the
//! text is the one thing that every path has.

const OUT_OF_MEMORY: [&str; 5] = [
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "memory allocation of",
];

/// Whether `text`, an error with all its causes or a dead process's last words, says that memory ran out.
pub fn is_out_of_memory(text: &str) -> bool {
    OUT_OF_MEMORY.iter().any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_library_and_abort_messages_are_recognised() {
        for text in [
            "denoise: DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "CURAND_STATUS_ALLOCATION_FAILED",
            "memory allocation of 34359738368 bytes failed",
        ] {
            assert!(is_out_of_memory(text), "{text}");
        }
        assert!(!is_out_of_memory("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS)"));
    }
}
