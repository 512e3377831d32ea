//! Waiting for what the outside world does in its own time.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::bail;

/// Asks again every 50 ms until the answer is `Ok`, and returns it; the last error tells why it never came.
///
/// # Errors
/// When `within` is over.
pub async fn eventually<T, E, F>(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, E>>,
    E: Debug,
{
    let deadline = Instant::now() + within;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= deadline => {
                bail!("{what}: not within {within:?}; last: {error:?}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
