//! Affine maps of the plane: the matrices between the pixels of a frame and those of the aligned face in it.
//!
//! A matrix has the shape `2 x 3`, row by row.

/// Applies a matrix to a point.
#[inline]
pub fn transform(matrix: &[f64; 6], x: f64, y: f64) -> [f64; 2] {
    [
        matrix[0] * x + matrix[1] * y + matrix[2],
        matrix[3] * x + matrix[4] * y + matrix[5],
    ]
}

/// Returns the inverse of a matrix, or `None` if it has none or is not finite.
pub fn invert(matrix: &[f32; 6]) -> Option<[f64; 6]> {
    let [a, b, tx, c, d, ty] = matrix.map(f64::from);
    let determinant = a * d - b * c;
    if !matrix.iter().all(|value| value.is_finite()) || determinant.abs() < 1e-12 {
        return None;
    }
    let [a, b, c, d] = [
        d / determinant,
        -b / determinant,
        -c / determinant,
        a / determinant,
    ];
    Some([a, b, -(a * tx + b * ty), c, d, -(c * tx + d * ty)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverting_twice_gives_the_matrix_back() {
        let matrix = [1.5_f32, -0.3, 12.0, 0.3, 1.5, -7.0];
        let back = invert(&matrix).unwrap();
        let [x, y] = transform(&back, 20.0, 30.0);
        let [x, y] = transform(&matrix.map(f64::from), x, y);
        assert!((x - 20.0).abs() < 1e-9 && (y - 30.0).abs() < 1e-9);
        assert!(invert(&[0.0; 6]).is_none());
        assert!(invert(&[f32::NAN, 0.0, 0.0, 0.0, 1.0, 0.0]).is_none());
    }
}
