//! The outbox shared by the gangs that fill it and the session that empties it.

use tokio::sync::watch;

use super::key::GangKey;
use super::outbox::Outbox;
use super::report::{RankStatus, Report};

/// A handle to the outbox; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox(watch::Sender<Outbox>);

impl Mailbox {
    pub(crate) fn new(outbox: Outbox) -> Self {
        Self(watch::Sender::new(outbox))
    }

    /// Tells its holder whenever the outbox changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Outbox> {
        self.0.subscribe()
    }

    /// Changes the outbox.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Outbox)) {
        self.0.send_modify(change);
    }

    /// Lets a gang report.
    pub(crate) fn open(&self, gang: GangKey) -> Reporter {
        self.update(|outbox| outbox.open(gang.clone()));
        Reporter {
            mailbox: self.clone(),
            gang,
        }
    }

    /// Ends when everything was acknowledged.
    pub(crate) async fn drained(&self) {
        let mut changes = self.subscribe();
        // This mailbox holds the sender, so the wait ends by the condition alone.
        let _ = changes.wait_for(Outbox::is_empty).await;
    }

    /// Gangs with reports that are not acknowledged.
    pub(crate) fn unacknowledged(&self) -> std::collections::BTreeSet<GangKey> {
        self.0.borrow().unacknowledged()
    }
}

/// A gang's way to report. What it reports after the gang was revoked is lost, as it should be.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    mailbox: Mailbox,
    gang: GangKey,
}

impl Reporter {
    pub(crate) fn push(&self, report: Report) {
        self.mailbox.update(|outbox| {
            outbox.push(&self.gang, report);
        });
    }

    pub(crate) fn rank(&self, rank: u32, status: RankStatus) {
        self.push(Report::Rank { rank, status });
    }

    /// Rank 0 listens at `address`.
    pub(crate) fn announce(&self, address: String) {
        self.mailbox
            .update(|outbox| outbox.announce(&self.gang, address));
    }

    /// The ranks have met; the address is of no more use.
    pub(crate) fn settle(&self) {
        self.mailbox.update(|outbox| outbox.settle(&self.gang));
    }
}
