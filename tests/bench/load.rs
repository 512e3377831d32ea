//! A closed loop: each caller asks again as soon as it was answered.

use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;

use crate::report::Times;

/// One of many that ask at once, over a connection of its own.
pub trait Caller: Send + 'static {
    /// What it is answered.
    type Answer: Send;

    /// Asks once. This is what is timed.
    fn ask(&mut self) -> impl Future<Output = anyhow::Result<Self::Answer>> + Send;

    /// Looks at the answer, outside the time of the call.
    fn keep(&mut self, answer: Self::Answer) -> anyhow::Result<()>;
}

/// What came of it.
pub struct Load<C> {
    /// The callers, for their connections and what they kept.
    pub callers: Vec<C>,
    /// Answers per second.
    pub per_second: f64,
    /// How long each answer took.
    pub times: Times,
}

/// Lets them ask for `warm_up` and then for `length`, and counts what is answered in the latter. A call that fails ends it.
pub async fn drive<C: Caller>(
    callers: Vec<C>,
    warm_up: Duration,
    length: Duration,
) -> anyhow::Result<Load<C>> {
    let begin = Instant::now() + warm_up;
    let end = begin + length;
    let mut running = JoinSet::new();
    for caller in callers {
        running.spawn(ask_until(caller, begin, end));
    }
    let mut load = Load { callers: Vec::new(), per_second: 0.0, times: Times::default() };
    while let Some(done) = running.join_next().await {
        let (caller, times) = done.context("a caller broke off")??;
        load.callers.push(caller);
        load.times.merge(times);
    }
    load.per_second = load.times.len() as f64 / length.as_secs_f64();
    Ok(load)
}

async fn ask_until<C: Caller>(mut caller: C, begin: Instant, end: Instant) -> anyhow::Result<(C, Times)> {
    let mut times = Times::default();
    loop {
        let asked = Instant::now();
        if asked >= end {
            return Ok((caller, times));
        }
        let answer = caller.ask().await?;
        let answered = Instant::now();
        caller.keep(answer)?;
        if answered >= begin && answered <= end {
            times.add(answered - asked);
        }
    }
}
