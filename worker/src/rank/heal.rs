//! How the ranks of a new group come to the same state: they agree on the highest step that any of
//! them has done, and a holder of it brings all others to it, bit for bit. [ours]

use std::time::Duration;

use espalier_collective::Collective;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::{
    checkpoint::State,
    error::TrainError,
    prepare::Prepared,
    step::PEERS_DEADLINE,
    trainer::{Moments, Trainer},
};
use crate::ipc::Metrics;

/// Longest description of a state, in bytes: the ranking of the largest model is far shorter.
const MAX_HEADER: usize = 64 << 20;

/// Who brings whom to which step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Healing {
    /// Steps that all have done afterwards.
    pub step: u64,
    /// The first rank that has done them.
    pub healer: u32,
    /// The ranks that had not, in order.
    pub healed: Vec<u32>,
}

/// Decides from the steps that each rank has done; a newcomer has no state, not even that of step 0.
/// None if all are newcomers.
pub(super) fn decide(done: &[Option<u64>]) -> Option<Healing> {
    let step = done.iter().copied().max().flatten()?;
    let ranks = (0u32..).zip(done);
    let at_step = |wanted: bool| {
        ranks
            .clone()
            .filter(move |(_, done)| (**done == Some(step)) == wanted)
            .map(|(rank, _)| rank)
    };
    Some(Healing {
        step,
        healer: at_step(true).next()?,
        healed: at_step(false).collect(),
    })
}

/// A state without its tensors.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    state: State,
    /// What was measured of the last step.
    measured: Option<Metrics>,
    /// P, the number of elements of each tensor that has no size of its own.
    elements: i64,
    /// A moving average follows.
    average: bool,
    /// Sizes of the tensors of importance that follow.
    importance: Vec<i64>,
}

/// Brings all ranks of the group to the highest step that any has done. A rank's own state is only
/// replaced once all of the new one has arrived.
///
/// # Errors
/// A peer that is lost meanwhile, or nobody has a state.
pub(super) fn heal<'a>(
    prepared: &'a Prepared,
    trainer: &mut Option<Trainer<'a>>,
    world: &dyn Collective,
) -> Result<Healing, TrainError> {
    let device = prepared.device;
    let done = gather(trainer.as_ref().map(Trainer::step), world, device)?;
    let healing = decide(&done).ok_or_else(|| {
        TrainError::Machine("no rank of the group holds a state to go on from".to_owned())
    })?;
    if healing.healed.is_empty() {
        return Ok(healing);
    }
    let channel = Channel {
        world,
        root: healing.healer,
        device,
    };
    match trainer {
        Some(holder) if world.rank() == healing.healer => give(holder, &channel)?,
        _ => {
            let behind = healing.healed.contains(&world.rank());
            let (header, tensors) = receive(&channel)?;
            if behind {
                *trainer = Some(become_state(prepared, trainer.take(), &header, &tensors)?);
            }
        }
    }
    Ok(healing)
}

fn become_state<'a>(
    prepared: &'a Prepared,
    old: Option<Trainer<'a>>,
    header: &Header,
    tensors: &Moments,
) -> Result<Trainer<'a>, TrainError> {
    let wrong = || TrainError::Machine("the state that a peer sent is of another model".to_owned());
    let mut next = match old {
        Some(old) if old.is_shaped_as(&header.state) => old,
        _ => Trainer::shaped(prepared, &header.state).map_err(TrainError::Machine)?,
    };
    if !next.adopt(&header.state, tensors) {
        return Err(wrong());
    }
    next.measured.clone_from(&header.measured);
    Ok(next)
}

/// The steps that each rank has done.
fn gather(
    own: Option<u64>,
    world: &dyn Collective,
    device: Device,
) -> Result<Vec<Option<u64>>, TrainError> {
    // Exact in f64 up to 2^53 steps.
    let own = own.map_or(-1.0, |step| step as f64);
    let mine = Tensor::from_slice(&[own]).to_device(device);
    let ranks = i64::from(world.world_size());
    let mut all = Tensor::zeros([ranks, 1], (Kind::Double, device));
    world.all_gather(&mine, &mut all)?.wait(DEADLINE)?;
    Ok((0..ranks)
        .map(|rank| all.double_value(&[rank, 0]))
        .map(|step| (step >= 0.0).then_some(step as u64))
        .collect())
}

/// A rank that speaks to all others.
struct Channel<'w> {
    world: &'w dyn Collective,
    root: u32,
    device: Device,
}

/// Ranks that heal are never busy with anything else.
const DEADLINE: Duration = PEERS_DEADLINE;

impl Channel<'_> {
    fn pass(&self, tensor: &mut Tensor) -> Result<(), TrainError> {
        Ok(self.world.broadcast(tensor, self.root)?.wait(DEADLINE)?)
    }

    /// An f32 `[elements]` tensor of the root.
    fn next(&self, elements: i64) -> Result<Tensor, TrainError> {
        let mut tensor = Tensor::zeros([elements], (Kind::Float, self.device));
        self.pass(&mut tensor)?;
        Ok(tensor)
    }
}

fn give(holder: &Trainer<'_>, channel: &Channel<'_>) -> Result<(), TrainError> {
    let tensors = holder.moments();
    let header = Header {
        state: holder.state(),
        measured: holder.measured.clone(),
        elements: holder.values().size()[0],
        average: tensors.average.is_some(),
        importance: tensors
            .importance
            .iter()
            .map(|t| t.numel() as i64)
            .collect(),
    };
    let text = serde_json::to_vec(&header)
        .map_err(|error| TrainError::Machine(format!("cannot describe the state: {error}")))?;
    // A byte to a number: collectives carry floats alone.
    let bytes: Vec<f32> = text.iter().map(|&byte| f32::from(byte)).collect();
    let length = Tensor::from_slice(&[bytes.len() as f64]);
    channel.pass(&mut length.to_device(channel.device))?;
    channel.pass(&mut Tensor::from_slice(&bytes).to_device(channel.device))?;
    for tensor in tensors.iter() {
        channel.pass(&mut tensor.reshape([-1]).copy())?;
    }
    Ok(())
}

fn receive(channel: &Channel<'_>) -> Result<(Header, Moments), TrainError> {
    let mut length = Tensor::zeros([1], (Kind::Double, channel.device));
    channel.pass(&mut length)?;
    let length = length.double_value(&[0]) as usize;
    if length > MAX_HEADER {
        return Err(TrainError::Machine(format!(
            "a state described in {length} bytes is over the limit of {MAX_HEADER}"
        )));
    }
    let bytes: Vec<f32> = Vec::try_from(channel.next(length as i64)?.to_device(Device::Cpu))
        .map_err(|error: tch::TchError| TrainError::Machine(error.to_string()))?;
    let text: Vec<u8> = bytes.into_iter().map(|byte| byte as u8).collect();
    let header: Header = serde_json::from_slice(&text)
        .map_err(|error| TrainError::Machine(format!("a state that cannot be read: {error}")))?;
    let next = || channel.next(header.elements);
    let tensors = Moments {
        values: next()?,
        mean: next()?,
        square: next()?,
        average: header.average.then(next).transpose()?,
        importance: header
            .importance
            .iter()
            .map(|&elements| channel.next(elements))
            .collect::<Result<_, _>>()?,
    };
    Ok((header, tensors))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_holder_of_the_highest_step_heals_the_rest() {
        let healing = decide(&[None, Some(6), Some(7), Some(7)]).unwrap();
        assert_eq!((healing.step, healing.healer), (7, 2));
        assert_eq!(healing.healed, [0, 1]);
        assert_eq!(decide(&[Some(3), Some(3)]).unwrap().healed, [0u32; 0]);
        assert_eq!(decide(&[Some(0), None]).unwrap().healed, [1]);
        assert_eq!(decide(&[None, None]), None);
    }

    proptest! {
        #[test]
        fn nobody_is_healed_by_a_laggard_and_all_end_at_the_highest_step(
            done in proptest::collection::vec(proptest::option::of(0u64..4), 1..9)
        ) {
            let Some(healing) = decide(&done) else {
                prop_assert!(done.iter().all(Option::is_none));
                return Ok(());
            };
            prop_assert_eq!(done[healing.healer as usize], Some(healing.step));
            prop_assert!(done.iter().all(|step| *step <= Some(healing.step)));
            for (rank, step) in (0u32..).zip(&done) {
                prop_assert_eq!(healing.healed.contains(&rank), *step != Some(healing.step));
            }
        }
    }
}
