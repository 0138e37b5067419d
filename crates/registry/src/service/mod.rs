use std::sync::Arc;

use espalier_store::Leader;

use crate::{Blobs, PublishHook};

/// The registry's gRPC service.
#[derive(Clone)]
pub struct RegistryService {
    blobs: Blobs,
    leader: Leader,
    hook: Arc<dyn PublishHook>,
}

impl RegistryService {
    /// A registry with its blobs in a folder and its records in the leader's store.
    pub fn new(blobs: Blobs, leader: Leader, hook: Arc<dyn PublishHook>) -> Self {
        Self {
            blobs,
            leader,
            hook,
        }
    }
}
