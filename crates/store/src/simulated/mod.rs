//! A store in memory that several processes of a simulation share, each over a wire of its own. It
//! keeps to the rules of etcd as [`crate::Store::connect_etcd`] lives by them: a leader's right ends
//! with its lease, a commit is made at most once however often it is sent, one that was given up may
//! still be made, and calls are tried again until a deadline.

mod client;
mod memory;

use async_trait::async_trait;

pub(crate) use client::Remote;
pub use memory::{Applied, Memory};

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the store.
    There,
    /// From the store.
    Back,
}

/// Between a process and the memory.
#[async_trait]
pub trait Wire: Send + Sync + 'static {
    /// Carries a message: returns when it has arrived, and never when it is lost.
    async fn carry(&self, way: Way);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::conformance::{Fresh, Time, run};
    use crate::{ManualClock, Store};

    /// Longer than any of the suite's leases.
    const LEADER_TTL: Duration = Duration::from_secs(3600);

    struct Direct;

    #[async_trait]
    impl Wire for Direct {
        async fn carry(&self, _: Way) {}
    }

    #[tokio::test]
    async fn memory_conforms() {
        run(|| async {
            let clock = Arc::new(ManualClock::default());
            let memory = Memory::new(clock.clone(), LEADER_TTL);
            Fresh {
                store: Store::simulated(memory, Arc::new(Direct)),
                time: Time::Manual(clock),
            }
        })
        .await;
    }
}
