//! Chunks that are being fetched: whoever asks for one that is under way waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tonic::Status;

use crate::chunks::Stored;
use crate::{ChunkId, Digest, RegistryError};

/// What came of a fetch.
pub(super) type Outcome = Result<Stored, Status>;

type Arrival = watch::Receiver<Option<Outcome>>;

/// The fetches under way. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Flights(Arc<Mutex<HashMap<Digest, Arrival>>>);

/// A fetch that its holder makes. However it is dropped, nobody waits for it any more.
#[derive(Debug)]
pub(super) struct Flight {
    flights: Flights,
    pub(super) id: ChunkId,
    arrived: watch::Sender<Option<Outcome>>,
}

impl Flights {
    /// Joins the fetches of these chunks: those that the caller is to make, and what all of them, in
    /// order, can be waited for with.
    pub(super) fn join(&self, ids: &[ChunkId]) -> (Vec<Flight>, Vec<Arrival>) {
        let mut under_way = self.under_way();
        let mut mine = Vec::new();
        let arrivals = ids.iter().map(|&id| {
            let join = || {
                let (arrived, arrival) = watch::channel(None);
                let flights = self.clone();
                mine.push(Flight {
                    flights,
                    id,
                    arrived,
                });
                arrival
            };
            under_way.entry(id.digest).or_insert_with(join).clone()
        });
        let arrivals = arrivals.collect();
        (mine, arrivals)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Digest, Arrival>> {
        // Its changes are one step each, whole whatever panicked elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Tells all who wait.
    pub(super) fn land(self, outcome: Outcome) {
        self.arrived.send_replace(Some(outcome));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.under_way().remove(&self.id.digest);
    }
}

/// Waits for a fetch.
pub(super) async fn arrived(mut arrival: Arrival) -> Result<Stored, RegistryError> {
    let outcome = match arrival.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone(),
        Err(_) => None,
    };
    let cut_off = || Err(Status::unavailable("the fetch was cut off; try again"));
    let landed = outcome.unwrap_or_else(cut_off);
    landed.map_err(|status| RegistryError::Upstream(Box::new(status)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunks::encode;

    #[tokio::test]
    async fn one_fetches_and_all_get_it() {
        let flights = Flights::default();
        let (x, y) = (ChunkId::of(b"x"), ChunkId::of(b"y"));
        let (mut mine, first) = flights.join(&[x]);
        let (others, second) = flights.join(&[y, x]);
        assert_eq!(others.iter().map(|f| f.id).collect::<Vec<_>>(), [y]);
        let flight = mine.pop().expect("is the first's");
        assert!(mine.is_empty());
        let stored = encode(b"x"[..].into());
        flight.land(Ok(stored.clone()));
        for arrival in first.into_iter().chain(second.into_iter().skip(1)) {
            assert_eq!(arrived(arrival).await.expect("landed"), stored);
        }
        // It has landed: who asks now fetches anew.
        let (again, _) = flights.join(&[x, y]);
        assert_eq!(again.len(), 1);
    }

    #[tokio::test]
    async fn a_fetch_that_is_cut_off_keeps_nobody_waiting() {
        let flights = Flights::default();
        let x = ChunkId::of(b"x");
        let (mine, arrivals) = flights.join(&[x]);
        drop(mine);
        for arrival in arrivals {
            let error = arrived(arrival).await.expect_err("cut off");
            assert!(error.to_string().contains("cut off"), "{error}");
        }
        assert_eq!(flights.join(&[x]).0.len(), 1);
    }
}
