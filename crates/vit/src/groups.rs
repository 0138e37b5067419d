use tch::{Device, Kind, Tensor};

/// A partition of a micro-batch into groups that gate together.
///
/// Group ids are one tensor, so that means over groups and their spread back to the samples are
/// single operations whatever the partition.
#[derive(Debug)]
pub struct Groups {
    id_B: Tensor,
    size_G: Tensor,
}

impl Groups {
    /// Groups of the samples whose `ids` are equal; ids run from 0 without a gap.
    pub fn new(ids: &[i64], device: Device) -> Self {
        let mut sizes = vec![0_f32; ids.iter().max().map_or(0, |&last| last as usize + 1)];
        for &id in ids {
            sizes[id as usize] += 1.0;
        }
        Self {
            id_B: Tensor::from_slice(ids).to_device(device),
            size_G: Tensor::from_slice(&sizes).to_device(device),
        }
    }

    /// One group of `batch` samples.
    pub fn whole(batch: i64, device: Device) -> Self {
        Self {
            id_B: Tensor::zeros([batch], (Kind::Int64, device)),
            size_G: Tensor::full([1], batch as f64, (Kind::Float, device)),
        }
    }

    /// G: number of groups.
    pub fn count(&self) -> i64 {
        self.size_G.size()[0]
    }

    /// Samples of each group, [G].
    pub fn sizes_G(&self) -> &Tensor {
        &self.size_G
    }

    /// Mean of `value_B` over each group, [G].
    pub fn mean_G(&self, value_B: &Tensor) -> Tensor {
        self.size_G
            .zeros_like()
            .index_add(0, &self.id_B, value_B)
            .divide(&self.size_G)
    }

    /// Each sample's share in its group's value: [G, ..] -> [B, ..].
    pub fn spread_B(&self, value_G: &Tensor) -> Tensor {
        value_G.index_select(0, &self.id_B)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_spreads_follow_the_ids() {
        let groups = Groups::new(&[1, 0, 1, 2, 1], Device::Cpu);
        assert_eq!(groups.count(), 3);
        let mean_G = groups.mean_G(&Tensor::from_slice(&[3_f32, 10.0, 6.0, -1.0, 0.0]));
        assert_eq!(Vec::<f32>::try_from(&mean_G).unwrap(), [10.0, 3.0, -1.0]);
        let spread_B = groups.spread_B(&mean_G);
        assert_eq!(
            Vec::<f32>::try_from(&spread_B).unwrap(),
            [3.0, 10.0, 3.0, -1.0, 3.0]
        );
    }

    #[test]
    fn whole_is_one_group() {
        let whole = Groups::whole(4, Device::Cpu);
        let ones = Groups::new(&[0; 4], Device::Cpu);
        assert_eq!(whole.count(), 1);
        assert_eq!(whole.size_G, ones.size_G);
        assert_eq!(whole.id_B, ones.id_B);
    }
}
