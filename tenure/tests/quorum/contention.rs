//! Many want one lock: splits end, nobody starves, and votes are not wasted.

use std::sync::Mutex;

use crate::*;

/// Everybody takes the lock again and again for that long; how often each had it.
async fn compete(history: &History, clients: &[Client], hold: Duration, time: Duration) -> Vec<usize> {
    let had = Arc::new(Mutex::new(vec![0; clients.len()]));
    let end = Instant::now() + time;
    let compete = clients.iter().enumerate().map(|(i, client)| {
        let (history, had, lock) = (history.clone(), had.clone(), client.mutex("a"));
        tokio::spawn(async move {
            while Instant::now() < end {
                let guard = history.lock(&lock, 1, secs(60)).await.unwrap();
                had.lock().unwrap()[i] += 1;
                sleep(hold).await;
                release(guard).await;
            }
        })
    });
    for task in compete.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let had = had.lock().unwrap();
    had.clone()
}

fn rounds(clients: &[Client]) -> u64 {
    clients.iter().map(|client| client.quorum.rounds().0).sum()
}

/// Fails where two that have a half each wait for each other.
#[test]
fn an_even_split_ends() {
    seeds(40, |seed| async move {
        let n = if seed % 2 == 0 { 2 } else { 4 };
        let nodes = nodes(n);
        let clients = [Client::of(&nodes, seed * 2), Client::of(&nodes, seed * 2 + 1)];
        for (i, client) in clients.iter().enumerate() {
            // Each reaches its half first.
            client.links.iter().enumerate().for_each(|(j, link)| link.delay(ms(if j % 2 == i { 1 } else { 9 })));
        }
        let history = History::default();
        let start = Instant::now();
        let locks = clients.iter().map(|client| {
            let (history, lock) = (history.clone(), client.mutex("a"));
            tokio::spawn(async move { release(history.lock(&lock, 1, secs(10)).await.unwrap()).await })
        });
        for lock in locks.collect::<Vec<_>>() {
            lock.await.unwrap();
        }
        assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
    });
}

/// Two that take different nodes for the lock's home, each seeing another one fail, and never wait.
#[test]
fn who_does_not_wait_splits_too_and_one_of_them_gets_it_soon() {
    seeds(20, |seed| async move {
        let nodes = nodes(2 + seed as usize % 3);
        let clients = [Client::of(&nodes, seed * 2), Client::of(&nodes, seed * 2 + 1)];
        let history = History::default();
        for client in &clients {
            client.delay(ms(5));
        }
        let tries = Arc::new(Mutex::new(0));
        let tasks = clients.clone().map(|client| {
            let (history, tries) = (history.clone(), tries.clone());
            tokio::spawn(async move {
                loop {
                    *tries.lock().unwrap() += 1;
                    if let Some(guard) = history.try_lock(&client.mutex("a"), 1).await.unwrap() {
                        return release(guard).await;
                    }
                    sleep(ms(u64::from(rand::random::<u8>()) % 40)).await;
                }
            })
        });
        for task in tasks {
            task.await.unwrap();
        }
        assert!(*tries.lock().unwrap() < 60, "{tries:?} tries");
    });
}

/// Fails where claims that wait vote against each other all the time.
#[test]
fn rounds_for_each_acquisition_are_bounded() {
    for contenders in [1, 2, 8, 32] {
        seeds(3, |seed| async move {
            let nodes = nodes(5);
            let clients: Vec<Client> = (0..contenders).map(|i| Client::of(&nodes, seed * 100 + i)).collect();
            clients.iter().for_each(|client| client.delay(ms(2)));
            let history = History::default();
            let had = compete(&history, &clients, ms(5), secs(20)).await;
            let acquisitions: usize = had.iter().sum();
            let each = rounds(&clients) as f64 / acquisitions as f64;
            println!("{contenders} contenders, seed {seed}: {each:.2} rounds for each of {acquisitions} acquisitions");
            assert!(each < 4.0, "{each:.2} rounds for each of {acquisitions}");
        });
    }
}

/// Fails where chance decides alone: the shares of eight contenders.
#[test]
fn nobody_starves() {
    seeds(4, |seed| async move {
        let nodes = nodes(5);
        let clients: Vec<Client> = (0..8).map(|i| Client::of(&nodes, seed * 100 + i)).collect();
        for (i, client) in clients.iter().enumerate() {
            // Some are farther away.
            client.delay(ms(1 + i as u64));
        }
        let had = compete(&History::default(), &clients, ms(5), secs(20)).await;
        let (least, most) = (had.iter().min().unwrap(), had.iter().max().unwrap());
        println!("seed {seed}: {had:?}");
        assert!(*least > 20 && *most <= 3 * least, "{had:?}");
    });
}

/// Fails where a majority is enough for a semaphore.
#[test]
fn a_semaphore_never_has_more_in_than_its_permits() {
    seeds(20, |seed| async move {
        let (n, k) = [(5, 2), (3, 2), (7, 2), (5, 4), (4, 3)][seed as usize % 5];
        let nodes = nodes(n);
        let history = History::default();
        let clients: Vec<Client> = (0..6).map(|i| Client::of(&nodes, seed * 100 + i)).collect();
        let tasks = clients.iter().enumerate().map(|(i, client)| {
            let (history, client) = (history.clone(), client.clone());
            tokio::spawn(async move {
                // Each reaches others first.
                client.links.iter().enumerate().for_each(|(j, link)| link.delay(ms(1 + ((i * 3 + j * 5) % 7) as u64)));
                let lock = client.locks.semaphore("a", k).ttl(secs(5)).build().unwrap();
                for _ in 0..10 {
                    let guard = history.lock(&lock, k as usize, secs(120)).await.unwrap();
                    sleep(ms(30)).await;
                    release(guard).await;
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    });
}
