//! A check for infinities and NaN, which the pipeline runs on latents and pictures before they are used
//! further.

use candle_core::{DType, Result, Tensor};

/// Returns whether no value is infinite or NaN. The sum of zero times each value shows both; the largest
/// magnitude would not, because comparisons pass over NaN.
pub(super) fn is_finite(x: &Tensor) -> Result<bool> {
    let sum = (x.to_dtype(DType::F32)? * 0.0)?.sum_all()?;
    Ok(sum.to_scalar::<f32>()? == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn one_bad_value_among_many_is_found() {
        let finite = |values: &[f32], dtype| {
            let x = Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype);
            is_finite(&x.unwrap()).unwrap()
        };
        let good: Vec<f32> = (0..1000_u16).map(|i| f32::from(i) * 60.0 - 3e4).collect();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            assert!(finite(&good, dtype), "{dtype:?}");
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 500, 999] {
                    let mut values = good.clone();
                    values[at] = bad;
                    assert!(!finite(&values, dtype), "{bad} at {at} as {dtype:?}");
                }
            }
        }
        assert!(
            finite(&[f32::MAX, f32::MAX], DType::F32),
            "the sum of the values overflows, they do not"
        );
        assert!(!finite(&[f32::MAX], DType::F16));
    }
}
