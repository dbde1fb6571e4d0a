use super::*;

const MIB: u64 = 1 << 20;
const SHORT: Duration = Duration::from_millis(100);

fn used(budget: &MemoryBudget) -> u64 {
    budget.usage().used.iter().sum()
}

#[tokio::test(start_paused = true)]
async fn what_fits_is_drawn_at_once_and_given_back() {
    let budget = MemoryBudget::new(100 * MIB);
    let body = budget.draw(Part::Body, 50 * MIB, SHORT).await.unwrap();
    let work = budget.draw(Part::Work, 50 * MIB, SHORT).await.unwrap();
    assert_eq!(budget.usage().used, [50 * MIB, 50 * MIB, 0, 0]);
    assert_eq!(budget.try_draw(Part::Reply, 1).err(), Some(Refused::Full));
    drop(body);
    assert_eq!(used(&budget), 50 * MIB);
    drop(work);
    assert_eq!((used(&budget), budget.usage().refusals, budget.usage().waits), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_never_fits_is_refused_at_once() {
    let budget = MemoryBudget::new(100 * MIB);
    let before = tokio::time::Instant::now();
    assert_eq!(budget.draw(Part::Body, 51 * MIB, SHORT).await.err(), Some(Refused::Never(50 * MIB)));
    assert_eq!(budget.draw(Part::Work, 101 * MIB, SHORT).await.err(), Some(Refused::Never(100 * MIB)));
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn one_who_does_not_fit_waits_and_then_is_refused() {
    let budget = MemoryBudget::new(100 * MIB);
    let held = budget.draw(Part::Body, 40 * MIB, SHORT).await.unwrap();
    let before = tokio::time::Instant::now();
    assert_eq!(budget.draw(Part::Body, 20 * MIB, SHORT).await.err(), Some(Refused::Full));
    assert_eq!(before.elapsed(), SHORT);
    assert_eq!(budget.usage().waiting, 0);

    let waiting = tokio::spawn({
        let budget = budget.clone();
        async move { budget.draw(Part::Body, 20 * MIB, SHORT).await }
    });
    while budget.usage().waiting == 0 {
        tokio::task::yield_now().await;
    }
    drop(held);
    assert_eq!(waiting.await.unwrap().unwrap().bytes(), 20 * MIB);
    assert_eq!(used(&budget), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_who_came_is_served_first_and_one_who_leaves_loses_its_place() {
    let budget = MemoryBudget::new(100 * MIB);
    let held = budget.draw(Part::Body, 50 * MIB, SHORT).await.unwrap();
    let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for (number, bytes) in [30, 50, 10, 5].into_iter().enumerate() {
        let (budget, told) = (budget.clone(), told.clone());
        let place = number + 1;
        let watched = budget.clone();
        tasks.push(tokio::spawn(async move {
            let share = budget.draw(Part::Body, bytes * MIB, SHORT * 10).await;
            let _ = told.send(number);
            share
        }));
        while watched.usage().waiting < place {
            tokio::task::yield_now().await;
        }
    }
    // The request that would fill all the room leaves: those behind it no longer wait for it.
    tasks.remove(1).abort();
    while budget.usage().waiting == 4 {
        tokio::task::yield_now().await;
    }
    drop(held);
    let mut shares = Vec::new();
    for task in tasks {
        shares.push(task.await.unwrap().unwrap());
    }
    assert_eq!([order.recv().await, order.recv().await, order.recv().await], [Some(0), Some(2), Some(3)]);
    assert_eq!(used(&budget), 45 * MIB);
    drop(shares);
    assert_eq!((used(&budget), budget.usage().waiting), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn large_bodies_stand_in_nobodys_way() {
    let budget = MemoryBudget::new(80 * MIB);
    let _held = budget.draw(Part::Body, 40 * MIB, SHORT).await.unwrap();
    let waiting = tokio::spawn({
        let budget = budget.clone();
        async move { budget.draw(Part::Body, 40 * MIB, SHORT).await.map(drop) }
    });
    while budget.usage().waiting == 0 {
        tokio::task::yield_now().await;
    }
    // Bodies of usual size have room of their own, and so has work.
    let body = budget.draw(Part::Body, MIB, Duration::ZERO).await.unwrap();
    let work = budget.draw(Part::Work, 39 * MIB, Duration::ZERO).await.unwrap();
    drop((body, work));
    assert_eq!(waiting.await.unwrap(), Err(Refused::Full));
}

#[tokio::test(start_paused = true)]
async fn those_who_hold_bodies_and_wait_for_work_do_not_wait_for_ever() {
    let budget = MemoryBudget::new(100 * MIB);
    let request = |budget: Arc<MemoryBudget>| async move {
        let _body = budget.draw(Part::Body, 25 * MIB, SHORT).await?;
        let _work = budget.draw(Part::Work, 60 * MIB, SHORT).await?;
        tokio::time::sleep(SHORT / 4).await;
        Ok::<(), Refused>(())
    };
    let all: Vec<_> = (0..8).map(|_| tokio::spawn(request(budget.clone()))).collect();
    let mut served = 0;
    for one in all {
        served += usize::from(one.await.unwrap().is_ok());
    }
    assert!(served >= 1, "nobody was served");
    assert_eq!((used(&budget), budget.usage().waiting), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_grows_never_waits() {
    let budget = MemoryBudget::new(100 * MIB);
    let mut one = budget.try_draw(Part::Body, 30 * MIB).unwrap();
    assert_eq!(one.grow(10 * MIB), Ok(()));
    assert_eq!(one.grow(11 * MIB), Err(Refused::Full));
    assert_eq!((one.bytes(), used(&budget)), (40 * MIB, 40 * MIB));
    one.shrink_to(MIB);
    assert_eq!((one.bytes(), used(&budget)), (MIB, MIB));
}

#[tokio::test(start_paused = true)]
async fn a_share_lives_as_long_as_the_last_clone_of_its_bytes() {
    let budget = MemoryBudget::new(100 * MIB);
    let share = budget.try_draw(Part::Body, 2 * MIB).unwrap();
    let bytes = share.hold(Bytes::from(vec![b'x'; MIB as usize]));
    assert_eq!(used(&budget), MIB);
    let slice = bytes.slice(10..20);
    drop(bytes);
    assert_eq!((used(&budget), &slice[..]), (MIB, &[b'x'; 10][..]));
    drop(slice);
    assert_eq!(used(&budget), 0);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_limit_holds_for_those_who_come_after() {
    let budget = MemoryBudget::new(100 * MIB);
    let held = budget.try_draw(Part::Work, 80 * MIB).unwrap();
    budget.set_limit(50 * MIB);
    assert_eq!(budget.try_draw(Part::Work, 1).err(), Some(Refused::Full));
    drop(held);
    assert!(budget.try_draw(Part::Work, 50 * MIB).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_or_held_too_much_under_contention() {
    let budget = MemoryBudget::new(64 * MIB);
    let all: Vec<_> = (0_u64..200)
        .map(|number| {
            let budget = budget.clone();
            tokio::spawn(async move {
                let part = if number % 3 == 0 { Part::Work } else { Part::Body };
                let bytes = 1 + number * 7919 % (24 * MIB);
                // Some leave while they wait.
                let patience = Duration::from_micros(number % 7 * 300);
                if let Ok(share) = budget.draw(part, bytes, patience).await {
                    assert!(used(&budget) <= 64 * MIB);
                    tokio::task::yield_now().await;
                    drop(share);
                }
            })
        })
        .collect();
    for one in all {
        one.await.unwrap();
    }
    assert_eq!((used(&budget), budget.usage().waiting), (0, 0));
}
