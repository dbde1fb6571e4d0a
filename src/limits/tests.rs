//! Tests of chains of meters, under threads and panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::types::NanoUsd;

const NONE: Rules = Rules {
    requests_per_second: None,
    requests_per_minute: None,
    tokens_per_minute: None,
    usd_per_minute: None,
    concurrent_requests: None,
};

fn chain<const N: usize>(rules: [Rules; N]) -> Arc<[Arc<Meter>]> {
    rules.map(|rules| Arc::new(Meter::new(rules))).into()
}

fn per_minute(limit: u64) -> Rules {
    Rules { requests_per_minute: Some(limit), ..NONE }
}

/// The count of the window of `kind` now.
fn count(meter: &Meter, kind: Kind) -> u64 {
    let quota = meter.lock().window(kind).unwrap().level().quota();
    quota.limit - quota.remaining
}

#[test]
fn ten_thousand_tenants_are_counted_each_for_itself() {
    const TENANTS: usize = 10_000;
    const THREADS: usize = 8;
    let minute = Duration::from_secs(60);
    // Tenant n may send n % 7 + 1 requests, and every thread tries one.
    let limit = |tenant: usize| tenant as u64 % 7 + 1;
    let tenants: Vec<Arc<[Arc<Meter>]>> = (0..TENANTS).map(|tenant| chain([per_minute(limit(tenant))])).collect();
    let shared = pingora_limits::rate::Rate::new(minute);
    let admitted: Vec<_> = (0..TENANTS).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (tenants, shared, admitted) = (&tenants, &shared, &admitted);
            scope.spawn(move || {
                for step in 0..TENANTS {
                    // Every thread visits the tenants in its own order.
                    let tenant = (step * [1, 3, 7, 9][thread % 4] + thread * 1_237) % TENANTS;
                    if Permit::enter(tenants[tenant].clone()).is_ok() {
                        admitted[tenant].fetch_add(1, Ordering::Relaxed);
                        shared.observe(&tenant, 1);
                    }
                }
            });
        }
    });
    let mut mixed = 0;
    for (tenant, admitted) in admitted.into_iter().map(AtomicU64::into_inner).enumerate() {
        assert_eq!(admitted, limit(tenant), "tenant {tenant}");
        assert_eq!(count(&tenants[tenant][0], Kind::RequestsPerMinute), admitted, "tenant {tenant}");
        let told = shared.rate_with(&tenant, |seen| seen.curr_samples as u64);
        assert!(told >= admitted);
        mixed += usize::from(told > admitted);
    }
    // Expected: all tenants but two or three.
    assert!(mixed > TENANTS * 9 / 10, "one sketch for all mixed up only {mixed}");
}

#[test]
fn many_threads_are_admitted_up_to_the_limit_and_not_once_more() {
    let limits = Rules {
        requests_per_second: None,
        requests_per_minute: Some(1_000),
        tokens_per_minute: Some(5_000),
        usd_per_minute: Some(NanoUsd(1_000_000)),
        concurrent_requests: Some(u64::MAX),
    };
    let parent = Arc::new(Meter::new(limits));
    let threads = 8;
    let barrier = Barrier::new(threads);
    let (mut entered, mut charged) = (0, 0);
    thread::scope(|scope| {
        let work = || {
            let token = Arc::new(Meter::new(Rules { tokens_per_minute: Some(u64::MAX), ..NONE }));
            let chain: Arc<[Arc<Meter>]> = Arc::new([token, parent.clone()]);
            barrier.wait();
            let mut permits: Vec<_> = (0..500).filter_map(|_| Permit::enter(chain.clone()).ok()).collect();
            let charged = permits.iter_mut().filter_map(|permit| permit.charge(7, NanoUsd(100)).ok()).count();
            (permits.len(), charged)
        };
        for thread in (0..threads).map(|_| scope.spawn(work)).collect::<Vec<_>>() {
            let (one, two) = thread.join().unwrap();
            entered += one;
            charged += two;
        }
    });
    assert_eq!((entered, charged), (1_000, 5_000 / 7));
    assert_eq!(count(&parent, Kind::TokensPerMinute), 5_000 / 7 * 7);
    assert_eq!(count(&parent, Kind::UsdPerMinute), 5_000 / 7 * 100);
}

#[test]
fn short_windows_admit_no_more_than_their_limit_each() {
    let length = Duration::from_millis(20);
    let meter = Meter::with_windows(Rules { requests_per_second: Some(10), ..NONE }, length, length);
    let chain: Arc<[Arc<Meter>]> = Arc::new([Arc::new(meter)]);
    let start = Instant::now();
    let mut admitted = 0;
    thread::scope(|scope| {
        let work = || {
            let mut admitted = 0;
            while start.elapsed() < Duration::from_millis(200) {
                admitted += u128::from(Permit::enter(chain.clone()).is_ok());
            }
            admitted
        };
        admitted = [scope.spawn(work), scope.spawn(work)].map(|thread| thread.join().unwrap()).into_iter().sum();
    });
    let windows = start.elapsed().as_millis() / 20 + 1;
    assert!((10..=10 * windows).contains(&admitted), "{admitted} in {windows} windows");
}

#[test]
fn a_slot_is_held_until_the_drop_and_counted_without_a_rule() {
    let chain = chain([NONE, Rules { concurrent_requests: Some(2), ..NONE }]);
    let (first, _second) = (Permit::enter(chain.clone()).unwrap(), Permit::enter(chain.clone()).unwrap());
    let refusal = Permit::enter(chain.clone()).unwrap_err();
    assert_eq!((refusal.kind, refusal.limit, refusal.meter), (Kind::ConcurrentRequests, 2, 1));
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(1)));
    assert_eq!((chain[0].in_flight(), chain[1].in_flight()), (2, 2));
    drop(first);
    assert_eq!((chain[0].in_flight(), chain[1].in_flight()), (1, 1));
    chain[0].set_rules(Rules { concurrent_requests: Some(1), ..NONE });
    assert_eq!(Permit::enter(chain.clone()).unwrap_err().meter, 0, "a new rule counts who is there already");
    chain[0].set_rules(Rules { concurrent_requests: Some(0), ..NONE });
    assert_eq!(Permit::enter(chain).unwrap_err().retry_after, None);
}

#[test]
fn every_slot_comes_back_from_ten_thousand_permits_some_of_which_panic() {
    let limits = Rules { concurrent_requests: Some(6), requests_per_minute: Some(u64::MAX), ..NONE };
    let chain = chain([limits, NONE, limits]);
    let (threads, each) = (4, 2_500_u64);
    // The panics of this test are wanted and need no report; panics of other tests still get one.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref() != Some(&"wanted") {
            report(info);
        }
    }));
    let mut refused = 0;
    thread::scope(|scope| {
        let work = |seed: u64| {
            let chain = &chain;
            move || {
                let (mut random, mut done, mut refused, mut kept) = (seed, 0, 0, Vec::new());
                while done < each {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let Ok(mut permit) = Permit::enter(chain.clone()) else {
                        refused += 1;
                        kept.clear();
                        continue;
                    };
                    done += 1;
                    assert!(chain[0].in_flight() <= 6 && chain[2].in_flight() <= 6);
                    match random >> 62 {
                        0 => drop(permit),
                        1 => kept.push(permit),
                        2 => drop(permit.charge(1, NanoUsd(1)).map(|()| permit.correct(2, NanoUsd(3)))),
                        _ => {
                            let panics = AssertUnwindSafe(move || {
                                let _permit = permit;
                                std::panic::panic_any("wanted");
                            });
                            assert!(catch_unwind(panics).is_err());
                        }
                    }
                }
                refused
            }
        };
        let threads: Vec<_> = (0..threads).map(|seed| scope.spawn(work(seed))).collect();
        refused = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    });
    drop(std::panic::take_hook());
    assert!(chain.iter().all(|meter| meter.in_flight() == 0), "{chain:?}");
    assert_eq!(count(&chain[0], Kind::RequestsPerMinute), threads * each);
    assert!(refused > 0, "the limit was reached");
}

#[test]
fn a_poisoned_meter_still_counts() {
    let chain = chain([per_minute(2)]);
    let poison = AssertUnwindSafe(|| {
        let _state = chain[0].lock();
        std::panic::resume_unwind(Box::new("under the lock"));
    });
    assert!(catch_unwind(poison).is_err());
    assert!(Permit::enter(chain.clone()).is_ok());
    assert_eq!(count(&chain[0], Kind::RequestsPerMinute), 1);
}

#[test]
fn refused_by_one_meter_is_counted_by_none() {
    let token = Rules {
        requests_per_second: Some(100),
        requests_per_minute: Some(100),
        tokens_per_minute: Some(10_000),
        usd_per_minute: Some(NanoUsd(10_000)),
        concurrent_requests: Some(100),
    };
    let parent = Rules { requests_per_minute: Some(2), usd_per_minute: Some(NanoUsd(50)), ..NONE };
    let chain = chain([token, NONE, parent]);
    let mut permit = Permit::enter(chain.clone()).unwrap();
    let other = Permit::enter(chain.clone()).unwrap();

    let refusal = Permit::enter(chain.clone()).unwrap_err();
    assert_eq!((refusal.kind, refusal.limit, refusal.meter), (Kind::RequestsPerMinute, 2, 2));
    assert_eq!(refusal.requests.map(|quota| (quota.limit, quota.remaining)), Some((2, 0)));
    assert_eq!(refusal.tokens.map(|quota| (quota.limit, quota.remaining)), Some((10_000, 10_000)));
    assert_eq!(count(&chain[0], Kind::RequestsPerMinute), 2);
    assert_eq!(count(&chain[2], Kind::RequestsPerMinute), 2);
    assert!(chain.iter().all(|meter| meter.in_flight() == 2));

    permit.charge(100, NanoUsd(30)).unwrap();
    drop(other);
    chain[2].set_rules(Rules { requests_per_minute: Some(3), ..parent });
    let mut refused = Permit::enter(chain.clone()).unwrap();
    let refusal = refused.charge(100, NanoUsd(21)).unwrap_err();
    assert_eq!((refusal.kind, refusal.limit, refusal.meter), (Kind::UsdPerMinute, 50, 2));
    assert_eq!(count(&chain[0], Kind::TokensPerMinute), 100);
    assert_eq!(count(&chain[0], Kind::UsdPerMinute), 30);
    assert_eq!(count(&chain[2], Kind::UsdPerMinute), 30);
    assert_eq!(count(&chain[0], Kind::RequestsPerMinute), 3, "the request was one all the same");
}

#[test]
fn chains_in_opposite_order_do_not_block_each_other() {
    let one = chain([per_minute(u64::MAX), per_minute(u64::MAX)]);
    let other: Arc<[Arc<Meter>]> = Arc::new([one[1].clone(), one[0].clone(), one[1].clone()]);
    thread::scope(|scope| {
        for chain in [&one, &other, &one, &other] {
            scope.spawn(|| (0..2_000).for_each(|_| drop(Permit::enter(chain.clone()).unwrap())));
        }
    });
    for meter in one.iter() {
        assert_eq!((count(meter, Kind::RequestsPerMinute), meter.in_flight()), (8_000, 0));
    }
}

#[test]
fn a_refused_request_is_admitted_when_it_was_told_to_retry() {
    let length = Duration::from_millis(50);
    let rules = Rules { requests_per_second: Some(3), tokens_per_minute: Some(100), ..NONE };
    let meter = Meter::with_windows(rules, length, length);
    let chain: Arc<[Arc<Meter>]> = Arc::new([Arc::new(meter)]);
    // Refused requests in between begin windows, but must not put off the promised time.
    let wait = |refusal: Refusal| {
        let wait = refusal.retry_after.unwrap();
        assert!((Duration::from_millis(1)..=2 * length).contains(&wait), "{refusal:?}");
        let until = Instant::now() + wait;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            chain[0].lock().window(refusal.kind).unwrap().level();
            sleep(left.min(Duration::from_millis(7)));
        }
    };
    let refusal = loop {
        match Permit::enter(chain.clone()) {
            Ok(_) => {}
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.kind, Kind::RequestsPerSecond);
    wait(refusal);
    let mut permit = Permit::enter(chain.clone()).unwrap();
    permit.charge(100, NanoUsd(5)).unwrap();
    // On a stalled machine the window may have passed before the second charge; then there is nothing to wait for.
    let mut next = chain[0].lock().window(Kind::TokensPerMinute).unwrap().level();
    if let Some(1..) = next.wait(60) {
        let refusal =
            Refusal { kind: Kind::TokensPerMinute, retry_after: next.wait(60).map(Duration::from_millis), ..refusal };
        wait(refusal);
        next = chain[0].lock().window(Kind::TokensPerMinute).unwrap().level();
    }
    assert!(next.fits(60));
}

#[test]
fn of_two_limits_the_longer_refusal_is_told() {
    let rules = Rules { requests_per_second: Some(1), requests_per_minute: Some(1), ..NONE };
    let chain = chain([rules, Rules { concurrent_requests: Some(1), ..NONE }]);
    let _permit = Permit::enter(chain.clone()).unwrap();
    let refusal = Permit::enter(chain).unwrap_err();
    assert_eq!((refusal.kind, refusal.meter), (Kind::RequestsPerMinute, 0));
    assert!(refusal.retry_after.unwrap() > Duration::from_secs(60), "the window has to become the previous one");
}

#[test]
fn no_retry_cures_a_request_that_is_larger_than_the_limit() {
    let chain = chain([Rules { tokens_per_minute: Some(1_000), usd_per_minute: Some(NanoUsd(9)), ..NONE }]);
    let mut permit = Permit::enter(chain.clone()).unwrap();
    let refusal = permit.charge(1_001, NanoUsd(1)).unwrap_err();
    assert_eq!((refusal.kind, refusal.limit, refusal.retry_after), (Kind::TokensPerMinute, 1_000, None));
    assert_eq!(permit.charge(1, NanoUsd(10)).unwrap_err().retry_after, None);
    permit.charge(1_000, NanoUsd(9)).unwrap();
    let mut free = Permit::enter(chain).unwrap();
    assert!(free.charge(0, NanoUsd(1)).unwrap_err().retry_after.is_some());
    free.charge(0, NanoUsd::ZERO).expect("nothing is not limited");
}

#[test]
fn corrections_go_both_ways_in_every_meter_once() {
    let rules = Rules { tokens_per_minute: Some(1_000), usd_per_minute: Some(NanoUsd(1_000)), ..NONE };
    let chain = chain([rules, NONE, Rules { tokens_per_minute: Some(2_000), ..NONE }]);
    let (mut less, mut more) = (Permit::enter(chain.clone()).unwrap(), Permit::enter(chain.clone()).unwrap());
    less.charge(600, NanoUsd(100)).unwrap();
    more.charge(300, NanoUsd(100)).unwrap();
    assert_eq!(more.tokens_quota().map(|quota| (quota.limit, quota.remaining)), Some((1_000, 100)));
    less.correct(50, NanoUsd(100));
    less.correct(0, NanoUsd(0));
    more.correct(1_200, NanoUsd(101));
    assert_eq!(count(&chain[2], Kind::TokensPerMinute), 1_250);
    assert_eq!(count(&chain[0], Kind::UsdPerMinute), 201);
    assert_eq!(more.tokens_quota().map(|quota| (quota.limit, quota.remaining)), Some((1_000, 0)));
    let mut uncharged = Permit::enter(chain.clone()).unwrap();
    uncharged.correct(7, NanoUsd(0));
    assert_eq!(count(&chain[2], Kind::TokensPerMinute), 1_257);
}

#[test]
fn the_quota_is_the_tightest_and_counts_the_request_itself() {
    let token = Rules { requests_per_second: Some(50), requests_per_minute: Some(60), ..NONE };
    let chain = chain([token, NONE, per_minute(2)]);
    let permit = Permit::enter(chain.clone()).unwrap();
    let quota = permit.requests_quota().unwrap();
    assert_eq!((quota.limit, quota.remaining), (2, 1));
    assert!(quota.reset > Duration::from_secs(60) && quota.reset <= Duration::from_secs(120));
    assert_eq!(permit.tokens_quota(), None);
    chain[2].set_rules(NONE);
    assert_eq!(permit.requests_quota().map(|quota| quota.limit), Some(50));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Compares with a model that only adds up: a chain of a token, a tenant and a parent that two tenants share.
    #[test]
    fn chains_count_what_all_their_meters_admitted(
        limits in prop::array::uniform3(prop::option::of(0..400_u64)),
        steps in prop::collection::vec((0..2_usize, 0..120_u64, 0..120_u64), 1..40),
    ) {
        let meters = limits.map(|limit| Arc::new(Meter::new(Rules { tokens_per_minute: limit, ..NONE })));
        let chains: [Arc<[Arc<Meter>]>; 2] =
            [0, 1].map(|tenant: usize| [meters[tenant].clone(), meters[2].clone()].into());
        let mut model = [0_u64; 3];
        for (tenant, estimate, truth) in steps {
            let mut permit = Permit::enter(chains[tenant].clone()).unwrap();
            let fits = [tenant, 2]
                .iter()
                .all(|&meter| estimate == 0 || limits[meter].is_none_or(|limit| model[meter] + estimate <= limit));
            prop_assert_eq!(permit.charge(estimate, NanoUsd::ZERO).is_ok(), fits);
            if fits {
                permit.correct(truth, NanoUsd::ZERO);
                model[tenant] += truth;
                model[2] += truth;
            }
            for meter in 0..3 {
                let remaining = limits[meter].map(|limit| limit.saturating_sub(model[meter]));
                let told = meters[meter].lock().window(Kind::TokensPerMinute).map(|one| one.level().quota().remaining);
                prop_assert_eq!(told, remaining);
            }
        }
    }
}
