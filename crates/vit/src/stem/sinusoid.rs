//! The frozen position embedding of T2T-ViT.

/// Row p, column j: sin(p / 10000^(2 floor(j/2) / D)) where j is even, the cosine where it is odd.
/// [tokens, width], row by row.
pub(super) fn table(tokens: i64, width: i64) -> Vec<f32> {
    let angle = |position: i64, column: i64| {
        let exponent = (2 * (column / 2)) as f64 / width as f64;
        position as f64 / 10_000_f64.powf(exponent)
    };
    let value = |position, column| {
        let angle = angle(position, column);
        if column % 2 == 0 {
            angle.sin() as f32
        } else {
            angle.cos() as f32
        }
    };
    (0..tokens)
        .flat_map(|position| (0..width).map(move |column| value(position, column)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_turn_slower_from_column_to_column() {
        let table = table(3, 4);
        assert_eq!(table[..4], [0.0, 1.0, 0.0, 1.0]);
        let expected = [2_f64.sin(), 2_f64.cos(), 0.02_f64.sin(), 0.02_f64.cos()];
        for (found, expected) in table[8..].iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-7);
        }
    }
}
