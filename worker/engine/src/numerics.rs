//! The numerics fingerprint: two results can be expected to be equal bit for bit only if their fingerprints
//! are equal. Each result carries it; the coordinator reports outputs of mixed fingerprints.

use candle_core::DType;

/// What computes on the CPU in a numerics fingerprint; everything else is a GPU.
const CPU: &str = "cpu";

/// Returns the numerics fingerprint of computing in `dtype` on `device`, in one token.
///
/// On the CPU, which `cpu` stands for, it names build, instruction set, first-level cache and number type, such as
/// `latentfarm-0.1.0/x86_64+avx512f+avx2+fma+l1:32k8/cpu/f32`. On a GPU, `device` names its model and the versions of
/// driver and cuBLAS, such as `latentfarm-0.1.0/x86_64/cuda-NVIDIA-L4-sm89+driver580.159.04+cublas130002/f16`. Of the
/// host it has only the architecture then: the networks run on the GPU, and what the host adds is exact to the last
/// bits, except that sound is transformed in `f64` by vectors as wide as the CPU has.
pub fn numerics_fingerprint(device: &str, dtype: DType) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let host = if device == CPU {
        extensions().concat() + &first_cache()
    } else {
        String::new()
    };
    format!(
        "latentfarm-{version}/{}{host}/{device}/{}",
        std::env::consts::ARCH,
        dtype.as_str()
    )
}

/// Returns the version in the first line of `/proc/driver/nvidia/version`, such as `580.159.04`.
#[cfg(any(feature = "cuda", test))]
pub(crate) fn driver_version(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with("NVRM version:"))?;
    let is_version = |word: &&str| {
        let parts: Vec<&str> = word.split('.').collect();
        let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
        parts.len() >= 2 && parts.iter().all(is_number)
    };
    line.split_whitespace().find(is_version)
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
        let host = [extensions().concat(), first_cache()].concat();
        assert!(texts[0].contains(&host), "{}", texts[0]);
        for text in &texts[3..] {
            let expected = format!("/{}/cuda-", std::env::consts::ARCH);
            assert!(
                text.contains(&expected) && !text.contains(&first_cache()),
                "{text}"
            );
        }
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), kinds.len());
    }

    #[test]
    fn the_version_of_the_driver_is_read_from_what_each_kind_of_module_writes() {
        for (line, expected) in [
            (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024",
                Some("535.183.01"),
            ),
            (
                "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (root@host)",
                Some("580.159.04"),
            ),
            ("NVRM version: unknown", None),
            ("GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)", None),
        ] {
            let text = format!("{line}\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n");
            assert_eq!(driver_version(&text), expected, "{line}");
        }
    }
}
