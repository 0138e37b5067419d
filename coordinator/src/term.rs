//! Leading, from winning the campaign to losing it.

use std::sync::Arc;
use std::time::Duration;

use espalier_registry::{Blobs, RegistryError, RegistryService};
use espalier_store::{Leader, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::blobs_place::{Place, PlaceError};
use crate::clock::Clock;
use crate::control::Control;
use crate::error::ends_term;
use crate::ledger::Ledger;
use crate::membership::Limits;
use crate::role::Leading;
use crate::server::{Options, ServeError, StoreOptions, registry};
use crate::sessions::Sessions;

/// Pause between a term that failed, or a campaign, and the next campaign.
const PAUSE: Duration = Duration::from_millis(200);

/// Campaigns and leads, again and again, until told to stop. The embedded store is led by whoever has
/// it open, so that there is one term and any trouble ends it.
pub(crate) async fn keep_campaigning(
    options: &Options,
    store: &Store,
    place: &Place,
    role: &watch::Sender<Option<Leading>>,
    stop: &CancellationToken,
    served: &CancellationToken,
) -> Result<(), ServeError> {
    // Before it leads, which it does on time.
    let blobs = place.blobs(options.registry_quota).await?;
    loop {
        let won = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            won = store.campaign(&options.advertise) => won,
        };
        let ended = match won {
            Ok(leader) => {
                info!(id = leader.id(), fence = %leader.fence(), "leading");
                let chunks = (place, blobs.clone());
                let ended = lead(options, leader.clone(), chunks, role, stop, served).await;
                // Or its lease ends by itself.
                if let Err(error) = leader.resign().await {
                    warn!(%error, "the next leader has to wait: resigning failed");
                }
                ended
            }
            Err(error) => Err(error.into()),
        };
        match ended {
            Ok(()) => return Ok(()),
            Err(error) if options.store != StoreOptions::Embedded && campaigns_on(&error) => {
                warn!(%error, "not leading; campaigning");
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

fn campaigns_on(error: &ServeError) -> bool {
    match error {
        ServeError::State(error) | ServeError::Place(PlaceError::State(error)) => error.ends_term(),
        ServeError::Place(PlaceError::Bucket(RegistryError::Bucket { transient, .. })) => {
            *transient
        }
        ServeError::Store(error) => ends_term(error),
        _ => false,
    }
}

/// Leads until `stop`, or until another does or the store fails. When it returns, nothing of the term
/// is under way any more.
async fn lead(
    options: &Options,
    leader: Leader,
    chunks: (&Place, Blobs),
    role: &watch::Sender<Option<Leading>>,
    stop: &CancellationToken,
    served: &CancellationToken,
) -> Result<(), ServeError> {
    let (control, leading, over) = begin(options, leader, chunks, stop).await?;
    let kept = leading.registry.clone();
    let cleaning = tokio::spawn(kept.clone().keep_clean(over.clone()));
    role.send_replace(Some(leading));
    let ended = control.run(over.clone()).await;
    if stop.is_cancelled() {
        // Calls that still come are told that the coordinator is stopping.
        served.cancelled().await;
    } else {
        role.send_replace(None);
    }
    over.cancel();
    registry::drain(&kept).await;
    if let Err(error) = cleaning.await {
        std::panic::resume_unwind(error.into_panic());
    }
    Ok(ended?)
}

async fn begin(
    options: &Options,
    leader: Leader,
    (place, blobs): (&Place, Blobs),
    stop: &CancellationToken,
) -> Result<(Control, Leading, CancellationToken), ServeError> {
    place.claim(&leader).await?;
    let clock = Clock::start();
    let limits = Limits {
        lease_ttl: options.lease_ttl,
        start: options.start_deadline,
        infrastructure_restarts: options.infrastructure_restarts,
        recoveries: options.recoveries,
        hold: options.hold,
        leave: options.leave,
    };
    let (control, handle) = Control::load(leader.clone(), clock, limits).await?;
    let over = stop.child_token();
    let hook = Arc::new(Ledger::new(leader.store().clone(), handle.clone()));
    let leading = Leading {
        control: handle.clone(),
        sessions: Sessions {
            leader: leader.clone(),
            control: handle,
            clock,
            stop: over.clone(),
        },
        registry: RegistryService::new(blobs, leader, hook),
    };
    Ok((control, leading, over))
}
