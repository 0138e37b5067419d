use std::collections::BTreeSet;

use safetensors::{Dtype, SafeTensors};

use crate::ExportError;

/// The tensors of a checkpoint, each of which must find its place in the graph.
pub(crate) struct Weights<'a> {
    file: SafeTensors<'a>,
    unplaced: BTreeSet<String>,
}

impl<'a> Weights<'a> {
    /// `bytes` of a safetensors file.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, ExportError> {
        let file = SafeTensors::deserialize(bytes)?;
        let unplaced = file.names().into_iter().map(str::to_owned).collect();
        Ok(Self { file, unplaced })
    }

    /// The values of tensor `name` as little-endian f32, row by row, if it has this shape.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<u8>, ExportError> {
        let Ok(view) = self.file.tensor(name) else {
            return Err(ExportError::Missing {
                name: name.to_owned(),
            });
        };
        if view.dtype() != Dtype::F32 {
            return Err(ExportError::Dtype {
                name: name.to_owned(),
                dtype: view.dtype(),
            });
        }
        if view.shape() != shape {
            return Err(ExportError::Misshaped {
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: view.shape().to_vec(),
            });
        }
        self.unplaced.remove(name);
        Ok(view.data().to_vec())
    }

    /// Whether every tensor was taken.
    pub(crate) fn finish(self) -> Result<(), ExportError> {
        const SHOWN: usize = 6;
        if self.unplaced.is_empty() {
            return Ok(());
        }
        let count = self.unplaced.len();
        let shown: Vec<String> = self.unplaced.into_iter().take(SHOWN).collect();
        let mut names = shown.join(", ");
        if count > SHOWN {
            names.push_str(&format!(" and {} more", count - SHOWN));
        }
        Err(ExportError::Unplaced { names, count })
    }
}

/// The transpose of a matrix of f32 in row-major bytes.
pub(crate) fn transposed(bytes: &[u8], rows: usize, columns: usize) -> Vec<u8> {
    const WIDTH: usize = size_of::<f32>();
    let mut out = Vec::with_capacity(bytes.len());
    for column in 0..columns {
        for row in 0..rows {
            let at = WIDTH * (row * columns + column);
            out.extend_from_slice(&bytes[at..at + WIDTH]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    fn file(dtype: Dtype, bytes: &[u8]) -> Vec<u8> {
        let view = TensorView::new(dtype, vec![2, 3], bytes).unwrap();
        safetensors::serialize([("fc.weight", &view)], None).unwrap()
    }

    fn values() -> Vec<u8> {
        (0..6_u8).flat_map(|i| f32::from(i).to_le_bytes()).collect()
    }

    #[test]
    fn transposes_whole_numbers_not_bytes() {
        let columns: Vec<u8> = [0_u8, 3, 1, 4, 2, 5]
            .iter()
            .flat_map(|&i| f32::from(i).to_le_bytes())
            .collect();
        assert_eq!(transposed(&values(), 2, 3), columns);
        assert_eq!(transposed(&columns, 3, 2), values());
    }

    #[test]
    fn tells_what_does_not_fit() {
        let bytes = file(Dtype::F32, &values());
        let mut weights = Weights::parse(&bytes).unwrap();
        let told = |error: ExportError| error.to_string();
        let missing = weights.take("fc.bias", &[2]).unwrap_err();
        assert_eq!(
            told(missing),
            "model.safetensors: tensor fc.bias is missing"
        );
        let misshaped = weights.take("fc.weight", &[3, 2]).unwrap_err();
        assert!(told(misshaped).contains("is [2, 3] where the configuration has [3, 2]"));
        let unplaced = Weights::parse(&bytes).unwrap().finish().unwrap_err();
        assert!(told(unplaced).ends_with("no place for a tensor: fc.weight"));
        assert_eq!(weights.take("fc.weight", &[2, 3]).unwrap(), values());
        weights.finish().unwrap();

        let half = file(Dtype::F16, &values()[..12]);
        let dtype = Weights::parse(&half).unwrap().take("fc.weight", &[2, 3]);
        assert!(told(dtype.unwrap_err()).contains("is of type F16"));
        assert!(Weights::parse(&bytes[..bytes.len() - 1]).is_err());
    }
}
