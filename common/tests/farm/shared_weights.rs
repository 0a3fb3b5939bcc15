//! The lists of shared weights, on a real server.

use latentfarm_common::digest::Digest;
use latentfarm_common::nats::shared_weights::{self, SharedWeightsError};
use latentfarm_common::wire::weights::{SharedFile, SharedWeights};

use crate::support::{Farm, blob};

fn list(path: &str) -> SharedWeights {
    SharedWeights {
        files: vec![SharedFile {
            path: path.to_owned(),
            blob: blob("a file"),
        }],
    }
}

#[tokio::test]
async fn workers_find_the_weights_that_a_farm_shares_and_refuse_lists_that_lead_elsewhere() {
    let farm = Farm::start().await;
    let worker = farm.worker("w1").await;
    let identity = Digest::of(b"weights");
    let found = shared_weights::find(&worker, identity).await.unwrap();
    assert_eq!(found, None, "there is no bucket yet");
    for _ in 0..2 {
        shared_weights::ensure_bucket(&farm.coordinator).await.unwrap();
    }
    let found = shared_weights::find(&worker, identity).await.unwrap();
    assert_eq!(found, None);

    shared_weights::publish(&farm.coordinator, identity, &list("unet.pt"))
        .await
        .unwrap();
    let found = shared_weights::find(&worker, identity).await.unwrap();
    assert_eq!(found, Some(list("unet.pt")));
    let store = shared_weights::store(&farm.coordinator).unwrap();
    store.put_bytes(b"a file".to_vec()).await.unwrap();
    let store = shared_weights::store(&worker).unwrap();
    assert_eq!(store.get_bytes(&blob("a file")).await.unwrap(), b"a file");

    shared_weights::publish(&farm.coordinator, identity, &list("../unet.pt"))
        .await
        .unwrap();
    let refused = shared_weights::find(&worker, identity).await.unwrap_err();
    assert!(matches!(refused, SharedWeightsError::Unsound), "{refused:?}");
}
