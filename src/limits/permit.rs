//! A permit: the guard of one request that has passed its meters.

use std::{fmt, sync::Arc, time::Instant};

use parking_lot::MutexGuard;

use super::{
    Kind, Meter, Quota, Refusal,
    meter::{Stage, State},
};
use crate::types::NanoUsd;

/// Guard of one request: holds its slots in every meter of its chain and gives them back on drop, also when the
/// request panics or its client leaves.
#[must_use = "dropping a permit gives its slots back"]
pub struct Permit {
    chain: Arc<[Arc<Meter>]>,
    /// What was left of the limit on requests when this request was counted.
    requests: Option<Quota>,
    charged: Option<Charge>,
    corrected: bool,
}

/// An estimate that the meters have counted.
#[derive(Clone, Copy, Debug)]
struct Charge {
    tokens: u64,
    cost: NanoUsd,
    /// When the estimate was counted, read under the locks: decides the window that counted it.
    at: Instant,
    /// What was left of the limit on LLM tokens then.
    left: Option<Quota>,
}

impl Permit {
    /// Takes one request and one slot from every meter of the chain, or from none of them. The chain may be empty; a
    /// meter that is in it twice counts once.
    ///
    /// # Errors
    ///
    /// Names the limit that refuses longest when one or more do.
    pub fn enter(chain: Arc<[Arc<Meter>]>) -> Result<Self, Refusal> {
        let needs = [(Kind::RequestsPerSecond, 1), (Kind::RequestsPerMinute, 1), (Kind::ConcurrentRequests, 1)];
        // The slots are taken while the meters are locked, also from meters without rules: a later rule counts them.
        let ((), requests) =
            take(&chain, Stage::Enter, &needs, || distinct(&chain).for_each(|meter| meter.take_slot()))?;
        Ok(Self { chain, requests, charged: None, corrected: false })
    }

    /// Charges the estimate of LLM tokens (prompt and completion) and money in all meters, or in none of them. To be
    /// called once, when the body is known. An amount of zero is never refused.
    ///
    /// # Errors
    ///
    /// Names the limit that refuses longest. The request stays counted as a request.
    pub fn charge(&mut self, tokens: u64, cost: NanoUsd) -> Result<(), Refusal> {
        debug_assert!(self.charged.is_none(), "a permit is charged once");
        let needs = [(Kind::TokensPerMinute, tokens), (Kind::UsdPerMinute, cost.0)];
        let (at, left) = take(&self.chain, Stage::Charge, &needs, Instant::now)?;
        self.charged = Some(Charge { tokens, cost, at, left });
        Ok(())
    }

    /// Replaces the estimate by the actual numbers, higher or lower; zero for a request that failed. To be called
    /// once, at the end: a second call does nothing, and if a permit is dropped without this call, the estimate stays counted.
    ///
    /// An excess over the estimate is counted now, even beyond the limit. A surplus of the estimate is taken back from the
    /// window that counted it, while that window still has weight; a window that began later keeps its count.
    pub fn correct(&mut self, tokens: u64, cost: NanoUsd) {
        if std::mem::replace(&mut self.corrected, true) {
            return;
        }
        let none = || Charge { tokens: 0, cost: NanoUsd::ZERO, at: Instant::now(), left: None };
        let charged = self.charged.unwrap_or_else(none);
        for meter in distinct(&self.chain).filter(|meter| meter.limits(Stage::Charge)) {
            let mut state = meter.lock();
            if let Some(window) = state.window(Kind::TokensPerMinute) {
                window.correct(charged.tokens, tokens, charged.at);
            }
            if let Some(window) = state.window(Kind::UsdPerMinute) {
                window.correct(charged.cost.0, cost.0, charged.at);
            }
        }
    }

    /// The tightest limits on requests and on LLM tokens over the chain, as they were when this request was counted; `None` if
    /// there is no such limit.
    pub fn quotas(&self) -> (Option<Quota>, Option<Quota>) {
        (self.requests, self.charged.map_or_else(|| self.tokens_quota(), |charged| charged.left))
    }

    /// The tightest limit on requests over the chain now, with this request counted; `None` if there is no such limit.
    pub fn requests_quota(&self) -> Option<Quota> {
        requests_quota(&self.chain)
    }

    /// The tightest limit on LLM tokens over the chain now, with this request's charge counted; `None` if there is no such limit.
    pub fn tokens_quota(&self) -> Option<Quota> {
        tokens_quota(&self.chain)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        distinct(&self.chain).for_each(|meter| meter.give_slot());
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("meters", &self.chain.len()).field("charged", &self.charged).finish()
    }
}

/// A meter of a chain with its lock.
struct LockedMeter<'a> {
    index: usize,
    meter: &'a Meter,
    state: MutexGuard<'a, State>,
}

/// Takes all `needs` from every meter that limits them, or nothing. `and` is called under the locks once everything is taken.
/// Returns its result and what is left of the tightest limit on requests or LLM tokens, so that each window is asked only once.
fn take<T>(
    chain: &[Arc<Meter>],
    step: Stage,
    needs: &[(Kind, u64)],
    and: impl FnOnce() -> T,
) -> Result<(T, Option<Quota>), Refusal> {
    let mut held = hold(chain, step);
    let mut refusal: Option<Refusal> = None;
    let mut left: Option<Quota> = None;
    for LockedMeter { index, meter, state } in &mut held {
        for &(kind, amount) in needs {
            let asked = meter.ask(state, kind, amount);
            if let Ok(Some(quota)) = asked
                && kind != Kind::UsdPerMinute
            {
                left = Some(left.map_or(quota, |one| one.tighter(quota)));
            }
            if let Err((limit, retry_after)) = asked {
                let this = Refusal { kind, limit, retry_after, meter: *index, requests: None, tokens: None };
                if refusal.as_ref().is_none_or(|worst| this.outlasts(worst)) {
                    refusal = Some(this);
                }
            }
        }
    }
    if let Some(refusal) = refusal {
        drop(held);
        return Err(Refusal { requests: requests_quota(chain), tokens: tokens_quota(chain), ..refusal });
    }
    for LockedMeter { state, .. } in &mut held {
        for &(kind, amount) in needs {
            if let Some(window) = state.window(kind) {
                window.add(amount);
            }
        }
    }
    Ok((and(), left))
}

/// Locks the meters of a chain that may refuse at `step`, each once, in the order of their addresses.
///
/// That order is the same for every chain, so no two chains can wait for each other. A chain has two or three meters, so
/// searching for the next address each time is faster than sorting.
fn hold(chain: &[Arc<Meter>], step: Stage) -> Vec<LockedMeter<'_>> {
    let mut held: Vec<LockedMeter<'_>> = Vec::new();
    let address = |meter: &Arc<Meter>| Arc::as_ptr(meter).addr();
    loop {
        let last = held.last().map_or(0, |last| std::ptr::from_ref(last.meter).addr());
        let next = chain
            .iter()
            .enumerate()
            .filter(|(_, meter)| address(meter) > last && meter.limits(step))
            .min_by_key(|(_, meter)| address(meter));
        let Some((index, meter)) = next else { break };
        if held.capacity() == 0 {
            held.reserve_exact(chain.len());
        }
        held.push(LockedMeter { index, meter, state: meter.lock() });
    }
    held
}

/// The meters of a chain, without repetitions.
fn distinct(chain: &[Arc<Meter>]) -> impl Iterator<Item = &Meter> {
    let is_first = |(index, meter): &(usize, &Arc<Meter>)| !chain[..*index].iter().any(|one| Arc::ptr_eq(one, meter));
    chain.iter().enumerate().filter(is_first).map(|(_, meter)| &**meter)
}

fn requests_quota(chain: &[Arc<Meter>]) -> Option<Quota> {
    tightest(chain, Stage::Enter, &[Kind::RequestsPerSecond, Kind::RequestsPerMinute])
}

fn tokens_quota(chain: &[Arc<Meter>]) -> Option<Quota> {
    tightest(chain, Stage::Charge, &[Kind::TokensPerMinute])
}

fn tightest(chain: &[Arc<Meter>], step: Stage, kinds: &[Kind]) -> Option<Quota> {
    let mut tightest: Option<Quota> = None;
    for meter in chain.iter().filter(|meter| meter.limits(step)) {
        let mut state = meter.lock();
        for kind in kinds {
            if let Some(window) = state.window(*kind) {
                let quota = window.level().quota();
                tightest = Some(tightest.map_or(quota, |one| one.tighter(quota)));
            }
        }
    }
    tightest
}
