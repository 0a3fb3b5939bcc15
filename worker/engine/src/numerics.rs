//! The numerics fingerprint: two results can be expected to be equal bit for bit only if their fingerprints
//! are equal. Each result carries it; the coordinator reports outputs of mixed fingerprints.

use candle_core::DType;

/// Returns the numerics fingerprint of computing in `dtype` on `device`, which is `cpu` or a GPU's model:
/// build, instruction set, first-level cache, device and number type in one token, such as
/// `latentfarm-0.1.0/x86_64+avx512f+avx2+fma+l1:32k8/cpu/f32`.
pub fn numerics_fingerprint(device: &str, dtype: DType) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "latentfarm-{version}/{}{}{}/{device}/{}",
        std::env::consts::ARCH,
        extensions().concat(),
        first_cache(),
        dtype.as_str()
    )
}

/// Returns the size and the associativity of the first-level cache: the matrix kernels cut their sums by
/// them.
fn first_cache() -> String {
    let first = gemm_common::cache::CACHE_INFO[0];
    format!("+l1:{}k{}", first.cache_bytes >> 10, first.associativity)
}

/// Returns the instruction set extensions by which the matrix kernels choose their code.
#[cfg(target_arch = "x86_64")]
fn extensions() -> Vec<&'static str> {
    let found = [
        (std::arch::is_x86_feature_detected!("avx512f"), "+avx512f"),
        (std::arch::is_x86_feature_detected!("avx2"), "+avx2"),
        (std::arch::is_x86_feature_detected!("fma"), "+fma"),
    ];
    found
        .iter()
        .filter(|(has, _)| *has)
        .map(|(_, name)| *name)
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn extensions() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_and_type_change_the_fingerprint() {
        let kinds = [
            ("cpu", DType::F32),
            ("cpu", DType::F16),
            ("cpu", DType::BF16),
            ("cuda-NVIDIA-L4-sm89", DType::F16),
            ("cuda-NVIDIA-A100-sm80", DType::F16),
        ];
        let mut texts: Vec<String> = kinds
            .map(|(device, dtype)| numerics_fingerprint(device, dtype))
            .into();
        assert!(texts[1].ends_with("/cpu/f16"), "{}", texts[1]);
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), kinds.len());
    }
}
