//! Whether tensors fit an operation, before an engine sees them.

use tch::{Device, Kind, Tensor};

use crate::error::{CollectiveError, Operation};

/// Checks one tensor against the kinds that every engine reduces and the engine's device.
pub(crate) fn tensor(
    tensor: &Tensor,
    device: Option<Device>,
    operation: Operation,
    rank: u32,
) -> Result<(), CollectiveError> {
    let problem = if !tensor.defined() {
        "the tensor is undefined".to_owned()
    } else if !matches!(tensor.kind(), Kind::Float | Kind::Double | Kind::BFloat16) {
        format!(
            "the tensor is of {:?}, and only Float, Double and BFloat16 can be exchanged",
            tensor.kind()
        )
    } else if !tensor.is_contiguous() {
        format!(
            "the tensor of shape {:?} is not contiguous: pass a contiguous one",
            tensor.size()
        )
    } else if let Some(device) = device.filter(|device| tensor.device() != *device) {
        format!(
            "the tensor is on {:?}, and the engine works on {device:?}",
            tensor.device()
        )
    } else {
        return Ok(());
    };
    Err(CollectiveError::Tensor {
        operation,
        rank,
        problem,
    })
}

/// Checks the tensors of an all-gather: `output` is `[world_size, ..input's shape]`.
pub(crate) fn gather(
    input: &Tensor,
    output: &Tensor,
    device: Option<Device>,
    world_size: u32,
    rank: u32,
) -> Result<(), CollectiveError> {
    let operation = Operation::AllGather;
    tensor(input, device, operation, rank)?;
    tensor(output, device, operation, rank)?;
    let mut wanted = vec![i64::from(world_size)];
    wanted.extend(input.size());
    let problem = if output.size() != wanted {
        format!("the output is of shape {:?}, not {wanted:?}", output.size())
    } else if output.kind() != input.kind() {
        format!(
            "the output is of {:?}, the input of {:?}",
            output.kind(),
            input.kind()
        )
    } else {
        return Ok(());
    };
    Err(CollectiveError::Tensor {
        operation,
        rank,
        problem,
    })
}

/// Checks that a broadcast's root is a rank of the group.
pub(crate) fn root(root: u32, world_size: u32, rank: u32) -> Result<(), CollectiveError> {
    if root < world_size {
        return Ok(());
    }
    Err(CollectiveError::Tensor {
        operation: Operation::Broadcast,
        rank,
        problem: format!("the root is rank {root} of a group of {world_size}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(result: Result<(), CollectiveError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn kinds_strides_and_devices_are_checked() {
        let cpu = Some(Device::Cpu);
        let check = |t: &Tensor, d| tensor(t, d, Operation::AllReduce, 1);
        for kind in [Kind::Float, Kind::Double, Kind::BFloat16] {
            assert_eq!(
                check(&Tensor::zeros([2, 3], (kind, Device::Cpu)), cpu),
                Ok(())
            );
        }
        let whole = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        assert!(problem(check(&whole.transpose(0, 1), cpu)).contains("[3, 2] is not contiguous"));
        assert!(problem(check(&whole.to_kind(Kind::Int64), cpu)).contains("Int64"));
        assert!(problem(check(&whole, Some(Device::Cuda(0)))).contains("works on Cuda(0)"));
        assert!(problem(check(&Tensor::new(), cpu)).contains("undefined"));
    }

    #[test]
    fn a_gather_needs_a_row_for_each_rank() {
        let zeros = |shape: &[i64], kind| Tensor::zeros(shape, (kind, Device::Cpu));
        let input = zeros(&[3], Kind::Float);
        let check = |output: &Tensor| gather(&input, output, None, 2, 0);
        assert_eq!(check(&zeros(&[2, 3], Kind::Float)), Ok(()));
        assert!(problem(check(&zeros(&[6], Kind::Float))).contains("not [2, 3]"));
        assert!(problem(check(&zeros(&[2, 3], Kind::Double))).contains("the output is of Double"));
    }

    #[test]
    fn a_root_is_a_rank() {
        assert_eq!(root(1, 2, 0), Ok(()));
        assert!(problem(root(2, 2, 0)).contains("rank 2 of a group of 2"));
    }
}
