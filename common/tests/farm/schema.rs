//! Stores that another release has written, which are refused and left as they are.

use async_nats::jetstream::stream::Config;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::schema::OtherSchema;
use latentfarm_common::nats::topology::{self, Topology, check_store};
use latentfarm_common::wire::SCHEMA;

use crate::support::{Farm, chunk, record};

const MARK: &str = "latentfarm.schema";

/// Returns the configurations of all streams of a farm.
async fn streams(farm: &Farm) -> Vec<Config> {
    let mut found = Vec::new();
    for config in Topology::default().streams() {
        let stream = farm.coordinator.context.get_stream(&config.name).await.unwrap();
        found.push(stream.cached_info().config.clone());
    }
    found
}

/// Makes the streams of a farm those of another release, which has written this mark, or none.
async fn mark(farm: &Farm, mark: Option<&str>) {
    for mut config in streams(farm).await {
        config.metadata.remove(MARK);
        config
            .metadata
            .extend(mark.map(|mark| (MARK.to_owned(), mark.to_owned())));
        farm.coordinator.context.update_stream(&config).await.unwrap();
    }
}

#[tokio::test]
async fn records_of_another_release_are_refused_and_left_as_they_are() {
    let farm = Farm::start().await;
    let context = &farm.coordinator.context;
    // An empty store is taken over from any release.
    mark(&farm, Some("3")).await;
    assert_eq!(check_store(context).await, Ok(()));
    topology::ensure(context, &farm.topology).await.unwrap();
    for config in streams(&farm).await {
        assert_eq!(
            config.metadata.get(MARK),
            Some(&SCHEMA.to_string()),
            "{}",
            config.name
        );
    }

    let done = DoneLog::new(&farm.worker("w1").await);
    done.commit(&record(chunk(0), "w1")).await.unwrap();
    assert_eq!(check_store(context).await, Ok(()));
    topology::ensure(context, &farm.topology).await.unwrap();
    for (text, found) in [(Some("3"), Some(3)), (None, None), (Some("of tomorrow"), None)] {
        mark(&farm, text).await;
        let before = streams(&farm).await;
        let other = check_store(context).await.unwrap_err();
        assert_eq!(other, OtherSchema { found });
        assert!(
            other
                .to_string()
                .contains(&format!("writes wire schema {SCHEMA}")),
            "{other}"
        );
        let refused = topology::ensure(context, &farm.topology).await.unwrap_err();
        assert_eq!(refused.other_schema(), Some(&other));
        assert_eq!(streams(&farm).await, before);
    }
}
