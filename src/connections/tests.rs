use std::thread;

use super::*;

const TIMEOUTS: Timeouts = Timeouts { header: Duration::from_secs(10), idle: Duration::from_secs(60) };

fn connections(all: usize, per_address: usize) -> Arc<Connections> {
    Connections::new(Limits { all, per_address })
}

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

/// As if as much time had passed since the connections were made.
fn sweep_after(connections: &Connections, timeouts: Timeouts) {
    thread::sleep(Duration::from_millis(3));
    connections.sweep(timeouts);
}

const AT_ONCE: Timeouts = Timeouts { header: Duration::from_millis(1), idle: Duration::from_millis(1) };

#[test]
fn where_there_is_no_room_the_oldest_that_serves_nothing_goes() {
    let connections = connections(3, 3);
    let busy = connections.admit(address(1)).unwrap();
    busy.connection.request_began();
    let older = connections.admit(address(2)).unwrap();
    thread::sleep(Duration::from_millis(3));
    connections.sweep(TIMEOUTS);
    let younger = connections.admit(address(3)).unwrap();
    let next = connections.admit(address(4)).unwrap();
    assert!(older.connection.is_closed(), "the oldest");
    for place in [&busy, &younger, &next] {
        assert!(!place.connection.is_closed());
    }
    assert_eq!(connections.counts().closed, [0, 0, 1, 0]);
    // The place of a closed one is free before its owner notices.
    drop(older);
    assert_eq!(connections.counts().waiting, 2);
    younger.connection.request_began();
    next.connection.request_began();
    assert_eq!(connections.admit(address(5)).unwrap_err(), Refused::Full);
    assert_eq!(connections.counts().refused, [1, 0]);
    drop(busy);
    assert!(connections.admit(address(5)).is_ok(), "a place was given back");
}

#[test]
fn who_has_been_served_stays_while_there_are_silent_ones() {
    let connections = connections(3, 3);
    let served = connections.admit(address(1)).unwrap();
    served.connection.request_began();
    served.connection.request_ended();
    thread::sleep(Duration::from_millis(3));
    connections.sweep(TIMEOUTS);
    let silent: Vec<_> = (2..8).map(|last| connections.admit(address(last)).unwrap()).collect();
    assert!(!served.connection.is_closed(), "younger ones have never been served");
    assert_eq!(silent.iter().filter(|place| place.connection.is_closed()).count(), 4);
    silent[4..].iter().for_each(|place| {
        place.connection.request_began();
        place.connection.request_ended();
    });
    let _next = connections.admit(address(9)).unwrap();
    assert!(served.connection.is_closed(), "all have been served, and it is the oldest");
}

#[test]
fn one_address_leaves_room_for_others() {
    let connections = connections(4, 2);
    let hostile: Vec<_> = (0..2).map(|_| connections.admit(address(1)).unwrap()).collect();
    hostile.iter().for_each(|place| place.connection.request_began());
    assert_eq!(connections.admit(address(1)).unwrap_err(), Refused::Address);
    let other = connections.admit(address(2)).unwrap();
    hostile[0].connection.request_ended();
    let third = connections.admit(address(1)).unwrap();
    assert!(hostile[0].connection.is_closed() && !other.connection.is_closed(), "it makes room among its own");
    drop((hostile, third, other));
    assert_eq!(connections.registry().by_address.len(), 0, "nothing is kept of addresses that are gone");
    assert_eq!((connections.live(), connections.registry().live), (0, 0));
}

#[test]
fn many_that_are_late_are_closed_in_turns() {
    let connections = connections(1_000, 1_000);
    let silent: Vec<_> = (0..SWEPT + 10).map(|_| connections.admit(address(1)).unwrap()).collect();
    let closed = || silent.iter().filter(|place| place.connection.is_closed()).count();
    sweep_after(&connections, AT_ONCE);
    assert_eq!(closed(), SWEPT);
    sweep_after(&connections, AT_ONCE);
    assert_eq!(closed(), SWEPT + 10);
}

#[test]
fn addresses_of_one_ipv6_network_are_one() {
    let connections = connections(8, 1);
    let one = connections.admit("2001:db8:1:2::1".parse().unwrap()).unwrap();
    one.connection.request_began();
    assert_eq!(connections.admit("2001:db8:1:2:ffff::9".parse().unwrap()).unwrap_err(), Refused::Address);
    assert!(connections.admit("2001:db8:1:3::1".parse().unwrap()).is_ok());
    let four = connections.admit("10.0.0.1".parse().unwrap()).unwrap();
    four.connection.request_began();
    assert_eq!(connections.admit("::ffff:10.0.0.1".parse().unwrap()).unwrap_err(), Refused::Address);
}

#[test]
fn each_phase_has_its_own_patience() {
    let idle_long = Timeouts { header: Duration::from_millis(1), idle: Duration::from_secs(60) };
    let connections = connections(9, 9);
    let [opening, header, idle, busy, ended] = [1, 2, 3, 4, 5].map(|last| connections.admit(address(last)).unwrap());
    for place in [&header, &idle, &busy, &ended] {
        place.connection.request_began();
        assert!(place.connection.bytes_came(), "a body");
    }
    for place in [&header, &idle, &ended] {
        place.connection.request_ended();
    }
    assert!(header.connection.bytes_came());
    sweep_after(&connections, idle_long);
    let closed = || [&opening, &header, &idle, &busy, &ended].map(|place| place.connection.is_closed());
    assert_eq!(closed(), [true, true, false, false, false]);
    assert!(!header.connection.bytes_came(), "what comes late is not read");
    header.connection.request_began();
    assert!(header.connection.is_closed(), "closed stays closed");
    sweep_after(&connections, AT_ONCE);
    assert_eq!(closed(), [true, true, true, false, true]);
    assert_eq!(connections.counts().closed, [2, 2, 0, 0]);
    assert_eq!((connections.counts().busy, connections.live()), (1, 1));
}

#[test]
fn frames_between_the_requests_of_http2_begin_no_request() {
    let idle_long = Timeouts { header: Duration::from_millis(1), idle: Duration::from_secs(60) };
    let connections = connections(9, 9);
    let place = connections.admit(address(1)).unwrap();
    place.connection.set_multiplexed();
    let (one, two) = (place.connection.request(), place.connection.request());
    drop(one);
    sweep_after(&connections, AT_ONCE);
    assert!(!place.connection.is_closed(), "one is still served");
    drop(two);
    assert!(place.connection.bytes_came());
    sweep_after(&connections, idle_long);
    assert!(!place.connection.is_closed(), "a ping");
    sweep_after(&connections, AT_ONCE);
    assert!(place.connection.is_closed());
}

#[test]
fn at_the_end_idle_ones_go_and_the_reader_is_woken() {
    let connections = connections(9, 9);
    let place = connections.admit(address(1)).unwrap();
    let task = recording_waker();
    place.connection.watch(&task.0);
    drop(place.connection.request());
    connections.drain(Duration::ZERO);
    sweep_after(&connections, TIMEOUTS);
    assert!(place.connection.is_closed() && task.1.load(Ordering::SeqCst), "closed and woken");
    assert_eq!(connections.counts().closed, [0, 0, 0, 1]);
}

fn recording_waker() -> (Waker, Arc<AtomicBool>) {
    struct Told(Arc<AtomicBool>);
    impl std::task::Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let told = Arc::new(AtomicBool::new(false));
    (Arc::new(Told(told.clone())).into(), told)
}
