//! Tests of the coordinator's lease, against a real server.

use crate::support::proxy::Proxy;
use crate::support::{Farm, LIMIT, eventually};
use async_nats::jetstream::kv::Store;
use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::nats::lease::{Contention, Lease, LeaseError, LeaseTtl, Lost};
use latentfarm_common::nats::topology::LEASE_BUCKET;
use latentfarm_common::nats::{connect, epochs};
use tokio::time::{Instant, timeout};

const SHORT: u64 = 2;

async fn try_acquire(farm: &Farm, holder: &str) -> Result<Lease, LeaseError> {
    Lease::acquire(
        &farm.coordinator,
        holder,
        LeaseTtl::from_secs(SHORT),
        Contention::Refuse,
    )
    .await
}

#[tokio::test]
async fn one_coordinator_at_a_time_holds_the_lease() {
    let farm = Farm::start().await;
    let lease = try_acquire(&farm, "first").await.unwrap();
    let started = Instant::now();
    // This is longer than the lease lasts without a renewal.
    eventually("renewals", async || {
        (started.elapsed().as_secs() > SHORT * 2).then_some(())
    })
    .await;
    assert!(lease.is_held());
    let refused = try_acquire(&farm, "second").await.unwrap_err();
    assert!(
        refused.to_string().contains("give the same command again in"),
        "{refused}"
    );
    let LeaseError::Held { holder, .. } = refused else {
        panic!("{refused:?}");
    };
    assert!(holder.starts_with("first"), "{holder}");
}

#[tokio::test]
async fn a_released_lease_is_free_at_once_and_the_epoch_grows() {
    let farm = Farm::start().await;
    let first = try_acquire(&farm, "first").await.unwrap();
    let epoch = first.epoch();
    first.release().await;
    let second = try_acquire(&farm, "second").await.unwrap();
    assert!(second.epoch() > epoch);
}

#[tokio::test]
async fn the_epochs_of_a_farm_that_takes_over_another_go_on_above_those() {
    let farm = Farm::start().await;
    let first = try_acquire(&farm, "first").await.unwrap();
    let epoch = first.epoch();
    first.release().await;
    assert!(epochs::last(&farm.coordinator).await.unwrap() >= epoch);
    epochs::raise_above(&farm.coordinator, 1000).await.unwrap();
    assert!(epochs::last(&farm.coordinator).await.unwrap() >= 1000);
    let second = try_acquire(&farm, "second").await.unwrap();
    let epoch = second.epoch();
    assert!(epoch > 1000);
    // It is above that already, so that the lease stays.
    epochs::raise_above(&farm.coordinator, epoch - 1).await.unwrap();
    try_acquire(&farm, "third").await.unwrap_err();
}

#[tokio::test]
async fn the_lease_of_a_dead_coordinator_expires_and_so_does_its_successors() {
    let farm = Farm::start().await;
    let mut epoch = 0;
    // The second holder writes over the marker of the first expiry, and its lease must expire too.
    for holder in ["first", "second", "third"] {
        let lease = eventually(holder, async || try_acquire(&farm, holder).await.ok()).await;
        assert!(lease.epoch() > epoch);
        epoch = lease.epoch();
        drop(lease);
    }
}

#[tokio::test]
async fn a_seized_lease_is_lost_to_its_holder() {
    let farm = Farm::start().await;
    let first = try_acquire(&farm, "first").await.unwrap();
    let time = LeaseTtl::from_secs(SHORT);
    let second = Lease::acquire(&farm.coordinator, "second", time, Contention::Seize)
        .await
        .unwrap();
    assert!(second.epoch() > first.epoch());
    timeout(LIMIT, first.lost()).await.unwrap();
    assert!(!first.is_held());
    assert!(second.is_held());
}

#[tokio::test]
async fn a_coordinator_without_a_server_does_not_act_on_its_lease_when_it_expires() {
    let farm = Farm::start().await;
    let proxy = Proxy::start(&farm.server.url()).await;
    let lease = cut_off(&farm, &proxy, 6).await;
    let renewed_last = Instant::now();
    farm.server.stop().await;
    eventually("the lease lapses", async || (!lease.is_held()).then_some(())).await;
    assert!(
        renewed_last.elapsed().as_secs() < 6,
        "the lease had expired before its holder noticed"
    );
}

/// Acquires a lease over a proxy and cuts the connection.
async fn cut_off(farm: &Farm, proxy: &Proxy, seconds: u64) -> Lease {
    let own = connect(&proxy.url, &farm.server.coordinator(), RetryLimit::Tries(1))
        .await
        .unwrap();
    let time = LeaseTtl::from_secs(seconds);
    let lease = Lease::acquire(&own, "cut off", time, Contention::Refuse)
        .await
        .unwrap();
    proxy.cut(true);
    lease
}

/// Waits until the server has removed an expired lease, as nobody's CAS could show: the marker is the last message.
async fn expired(farm: &Farm) {
    let bucket = bucket(farm).await;
    eventually("the lease expires", async || {
        bucket.get("coordinator").await.unwrap().is_none().then_some(())
    })
    .await;
}

/// Removes the marker of an expired lease, as the server does after a minute.
async fn forget_marker(farm: &Farm) {
    let stream = farm.coordinator.context.get_stream(format!("KV_{LEASE_BUCKET}"));
    stream.await.unwrap().purge().await.unwrap();
}

#[tokio::test]
async fn a_lease_that_only_its_holder_let_lapse_is_taken_up_again() {
    for has_marker in [true, false] {
        let farm = Farm::start().await;
        let proxy = Proxy::start(&farm.server.url()).await;
        let lease = cut_off(&farm, &proxy, SHORT).await;
        let epoch = lease.epoch();
        expired(&farm).await;
        if !has_marker {
            forget_marker(&farm).await;
        }
        assert!(!lease.is_held());
        proxy.cut(false);
        timeout(LIMIT, lease.held()).await.unwrap().unwrap();
        assert_eq!(
            lease.epoch(),
            epoch,
            "nobody else had it, so the tasks still count"
        );
        let refused = try_acquire(&farm, "second").await.unwrap_err();
        assert!(matches!(refused, LeaseError::Held { .. }), "{refused:?}");
    }
}

#[tokio::test]
async fn a_lease_that_another_coordinator_had_meanwhile_is_lost() {
    let farm = Farm::start().await;
    let proxy = Proxy::start(&farm.server.url()).await;
    // The other one has given it back, let it expire, so long ago that no marker is left, or still has it.
    for end in ["released", "expired", "forgotten", "held"] {
        let lease = cut_off(&farm, &proxy, SHORT).await;
        expired(&farm).await;
        let other = try_acquire(&farm, "other").await.unwrap();
        match end {
            "released" => other.release().await,
            "expired" | "forgotten" => {
                drop(other);
                expired(&farm).await;
                if end == "forgotten" {
                    forget_marker(&farm).await;
                }
            }
            _ => {
                proxy.cut(false);
                timeout(LIMIT, lease.lost()).await.expect(end);
                assert!(other.is_held());
                continue;
            }
        }
        proxy.cut(false);
        timeout(LIMIT, lease.lost()).await.expect(end);
        assert_eq!(lease.held().await, Err(Lost), "{end}");
    }
}

async fn bucket(farm: &Farm) -> Store {
    let found = farm.coordinator.context.get_key_value(LEASE_BUCKET).await;
    found.unwrap()
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_counts() {
    let farm = Farm::start().await;
    let lease = try_acquire(&farm, "first").await.unwrap();
    let bucket = bucket(&farm).await;
    // The same holder's write, of which the lease knows nothing.
    let holder = bucket.get("coordinator").await.unwrap().unwrap();
    let revision = bucket.put("coordinator", holder).await.unwrap();
    eventually("the next renewal", async || {
        let entry = bucket.entry("coordinator").await.unwrap();
        entry.filter(|entry| entry.revision > revision).map(|_| ())
    })
    .await;
    assert!(lease.is_held());
}

#[tokio::test]
async fn a_lease_that_was_removed_is_lost() {
    let farm = Farm::start().await;
    let lease = try_acquire(&farm, "first").await.unwrap();
    // Only another holder gives a lease back.
    bucket(&farm).await.purge("coordinator").await.unwrap();
    timeout(LIMIT, lease.lost()).await.unwrap();
}
