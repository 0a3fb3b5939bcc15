//! The numeric kind: results are equal bit for bit only where it is equal.

/// Build, instruction set and device, as one token for records and reports, such as
/// `latentfarm-0.1.0/x86_64+avx512f+avx2+fma/cpu`.
pub fn numeric_kind(device: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "latentfarm-{version}/{}{}/{device}",
        std::env::consts::ARCH,
        extensions().concat()
    )
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
