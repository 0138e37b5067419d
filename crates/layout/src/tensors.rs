use std::collections::BTreeMap;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::LayoutError;

/// A tensor of f32: its shape, and its values row by row, little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Values {
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) type Tensors = BTreeMap<String, Values>;

/// The tensors of a checkpoint.
pub(crate) fn read(file: &[u8]) -> Result<Tensors, LayoutError> {
    let file = SafeTensors::deserialize(file)?;
    let one = |(name, view): (&str, TensorView<'_>)| {
        if view.dtype() != Dtype::F32 {
            return Err(LayoutError::Tensor {
                name: name.to_owned(),
                reason: format!("is of type {}; published weights are F32", view.dtype()),
            });
        }
        let values = Values {
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        Ok((name.to_owned(), values))
    };
    file.iter().map(one).collect()
}

/// A safetensors file of the tensors.
pub(crate) fn write(tensors: &Tensors) -> Result<Vec<u8>, LayoutError> {
    // A reader of these libraries asks for the format by name.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let views = tensors.iter().map(|(name, values)| {
        let view = TensorView::new(Dtype::F32, values.shape.clone(), &values.bytes)?;
        Ok((name, view))
    });
    let views = views.collect::<Result<Vec<_>, SafeTensorError>>()?;
    Ok(safetensors::serialize(views, Some(metadata))?)
}

impl Values {
    /// Three tensors of a third of the rows each.
    pub(crate) fn thirds(&self) -> Option<[Self; 3]> {
        let rows = *self.shape.first()?;
        if !rows.is_multiple_of(3) || !self.bytes.len().is_multiple_of(3) {
            return None;
        }
        let mut shape = self.shape.clone();
        shape[0] = rows / 3;
        let third = self.bytes.len() / 3;
        Some([0, 1, 2].map(|part| Self {
            shape: shape.clone(),
            bytes: self.bytes[part * third..(part + 1) * third].to_vec(),
        }))
    }

    /// A matrix with as many columns of zeros after its own.
    pub(crate) fn with_zeros_beside(&self) -> Option<Self> {
        let [rows, columns] = self.shape[..] else {
            return None;
        };
        let width = 4 * columns;
        let row = |row: &[u8]| [row, &vec![0; width]].concat();
        Some(Self {
            shape: vec![rows, 2 * columns],
            bytes: self.bytes.chunks_exact(width).flat_map(row).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize) -> Values {
        let values = (0..rows * columns).map(|value| value as f32);
        Values {
            shape: vec![rows, columns],
            bytes: values.flat_map(f32::to_le_bytes).collect(),
        }
    }

    #[test]
    fn thirds_are_rows() {
        let whole = matrix(6, 2);
        let thirds = whole.thirds().unwrap();
        assert_eq!(thirds[0], matrix(2, 2));
        assert_eq!(thirds[1].bytes, whole.bytes[16..32]);
        assert_eq!(matrix(4, 3).thirds(), None);
    }

    #[test]
    fn zeros_stand_beside_each_row() {
        let wide = matrix(2, 2).with_zeros_beside().unwrap();
        let values = wide.bytes.chunks_exact(4);
        let values: Vec<f32> = values
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        assert_eq!(values, [0.0, 1.0, 0.0, 0.0, 2.0, 3.0, 0.0, 0.0]);
        assert_eq!(wide.shape, [2, 4]);
    }
}
