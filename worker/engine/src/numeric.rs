//! The numeric kind: results are equal bit for bit only where it is equal.

use candle_core::DType;

/// Build, instruction set, first-level cache, device (`cpu` or a GPU's model) and number type, as one token for records and reports, such as
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

/// Size and ways of the first-level cache: the matrix kernels cut their sums by them.
fn first_cache() -> String {
    let first = gemm_common::cache::CACHE_INFO[0];
    format!("+l1:{}k{}", first.cache_bytes >> 10, first.associativity)
}

/// Extensions that the matrix kernels choose their code by.
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
    fn device_and_type_are_told_apart() {
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
