//! Reads of blobs that were stored a moment ago. On a cluster any copy of a stream answers them, and a copy that is
//! behind by moments does not have the newest blobs yet.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::BlobError;

/// How long a blob that should be there is looked for. On three servers on one machine under load, copies were behind
/// by well below a second.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(200);

/// Repeats the read of a blob that was stored for up to three seconds while it is missing or incomplete.
pub async fn settled<T, F>(read: impl Fn() -> F) -> Result<T, BlobError>
where
    F: Future<Output = Result<T, BlobError>>,
{
    let until = Instant::now() + SETTLES_WITHIN;
    loop {
        match read().await {
            Err(BlobError::Missing { .. } | BlobError::Damaged { .. }) if Instant::now() < until => {
                sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::digest::Digest;

    fn missing() -> BlobError {
        BlobError::Missing {
            digest: Digest::of(b"blob"),
            place: "a copy".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_blob_that_a_copy_does_not_have_yet_is_read_again() {
        let reads = Cell::new(0);
        let third_time = || {
            reads.set(reads.get() + 1);
            std::future::ready(if reads.get() < 3 { Err(missing()) } else { Ok(7) })
        };
        assert_eq!(settled(third_time).await.unwrap(), 7);
        assert_eq!(reads.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_blob_that_is_gone_is_an_error_soon_and_another_error_at_once() {
        let begun = Instant::now();
        let gone = settled(|| std::future::ready(Err::<(), _>(missing()))).await;
        assert!(matches!(gone, Err(BlobError::Missing { .. })));
        assert!(begun.elapsed() >= SETTLES_WITHIN && begun.elapsed() < 2 * SETTLES_WITHIN);
        let begun = Instant::now();
        let url = String::new();
        let other = settled(|| std::future::ready(Err::<(), _>(BlobError::Url { url: url.clone() }))).await;
        assert!(matches!(other, Err(BlobError::Url { .. })));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
