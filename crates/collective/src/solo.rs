//! The group of one.

use tch::Tensor;

use crate::check;
use crate::collective::Collective;
use crate::error::{CollectiveError, Operation};
use crate::health::Health;
use crate::work::Work;

/// The engine of a group of one: every operation is over when it is called. It works on tensors of
/// any device.
#[derive(Debug, Default)]
pub struct Solo {
    health: Health,
}

impl Collective for Solo {
    fn rank(&self) -> u32 {
        0
    }

    fn world_size(&self) -> u32 {
        1
    }

    fn all_reduce_sum<'t>(&self, tensor: &'t mut Tensor) -> Result<Work<'t>, CollectiveError> {
        self.health.check(Operation::AllReduce, 0)?;
        check::tensor(tensor, None, Operation::AllReduce, 0)?;
        Ok(Work::done())
    }

    fn broadcast<'t>(
        &self,
        tensor: &'t mut Tensor,
        root: u32,
    ) -> Result<Work<'t>, CollectiveError> {
        self.health.check(Operation::Broadcast, 0)?;
        check::root(root, 1, 0)?;
        check::tensor(tensor, None, Operation::Broadcast, 0)?;
        Ok(Work::done())
    }

    fn all_gather<'t>(
        &self,
        input: &'t Tensor,
        output: &'t mut Tensor,
    ) -> Result<Work<'t>, CollectiveError> {
        self.health.check(Operation::AllGather, 0)?;
        check::gather(input, output, None, 1, 0)?;
        tch::no_grad(|| output.f_copy_(&input.unsqueeze(0))).map_err(|error| {
            CollectiveError::Engine {
                operation: Operation::AllGather,
                rank: 0,
                reason: error.to_string(),
            }
        })?;
        Ok(Work::done())
    }

    fn barrier(&self) -> Result<Work<'static>, CollectiveError> {
        self.health.check(Operation::Barrier, 0)?;
        Ok(Work::done())
    }

    fn abort(&self, reason: &str) {
        self.health.fail(reason);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tch::{Device, Kind};

    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn a_group_of_one_sums_to_itself() {
        let solo: Box<dyn Collective> = Box::new(Solo::default());
        let mut tensor = Tensor::from_slice(&[1.0f64, -2.0]);
        solo.all_reduce_sum(&mut tensor).unwrap().wait(NOW).unwrap();
        solo.broadcast(&mut tensor, 0).unwrap().wait(NOW).unwrap();
        assert_eq!(tensor, Tensor::from_slice(&[1.0f64, -2.0]));
        let mut rows = Tensor::zeros([1, 2], (Kind::Double, Device::Cpu));
        solo.all_gather(&tensor, &mut rows)
            .unwrap()
            .wait(NOW)
            .unwrap();
        assert_eq!(rows.get(0), tensor);
        solo.barrier().unwrap().wait(NOW).unwrap();
    }

    #[test]
    fn an_aborted_group_of_one_is_over() {
        let solo = Solo::default();
        solo.abort("revoked");
        let mut tensor = Tensor::from_slice(&[1.0f32]);
        let error = solo.all_reduce_sum(&mut tensor).err().unwrap();
        assert!(matches!(error, CollectiveError::Aborted { .. }));
        assert!(solo.barrier().is_err());
    }
}
