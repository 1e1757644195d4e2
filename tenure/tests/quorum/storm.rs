//! Everything at once, by chance: whatever fails, no more are in than may be, and tokens rise; when it is over, everything
//! works again and nothing is left.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::*;

/// One that takes and leaves locks, and does not mind errors.
async fn come_and_go(history: History, client: Client, seed: u64, over: Arc<std::sync::atomic::AtomicBool>) {
    let mut random = StdRng::seed_from_u64(seed);
    while !over.load(std::sync::atomic::Ordering::Relaxed) {
        let (lock, limit) = match random.random_range(0..4) {
            0 | 1 => (client.mutex("a"), 1),
            2 => (client.mutex("b"), 1),
            _ => (client.locks.semaphore("c", 2).ttl(secs(5)).build().unwrap(), 2),
        };
        let patience = ms(random.random_range(1..6_000));
        let guard = match random.random_range(0..3) {
            0 => history.try_lock(&lock, limit).await.ok().flatten(),
            1 => history.lock(&lock, limit, patience).await.ok(),
            // Cancelled, somewhere.
            _ => {
                tokio::time::timeout(patience, history.lock(&lock, limit, secs(60))).await.ok().and_then(|got| got.ok())
            }
        };
        sleep(ms(random.random_range(0..300))).await;
        if let Some(guard) = guard {
            sleep(ms(random.random_range(0..3_000) * random.random_range(0..2))).await;
            match random.random() {
                true => release(guard).await,
                false => drop(guard),
            }
        }
    }
}

/// What fails next, and for how long: no more than a minority forgets within the memory.
async fn trouble(nodes: &[Node], clients: &[Client], random: &mut StdRng, forgot: &mut Vec<(usize, Instant)>) {
    let i = random.random_range(0..nodes.len());
    let node = &nodes[i];
    let faults = [Fault::Refuse, Fault::Hang, Fault::LoseReply, Fault::Late(ms(random.random_range(300..4_000)))];
    let fault = faults[random.random_range(0..4)];
    let time = ms(random.random_range(50..5_000));
    match random.random_range(0..6) {
        0 => node.fault(fault),
        1 => clients[random.random_range(0..clients.len())].links[i].fault(fault),
        2 => clients[random.random_range(0..clients.len())].delay(ms(random.random_range(0..200))),
        3 => clients[random.random_range(0..clients.len())].env.skew(random.random_range(-4_000_000..4_000_000)),
        // Forwards: what goes back makes holds longer, and what goes on makes them shorter than promised.
        4 if node.snapshot().is_empty() => node.skew(random.random_range(-60_000_000..60_000_000)),
        _ => {
            forgot.retain(|(_, at)| at.elapsed() < LONGEST + secs(61));
            if forgot.iter().any(|(other, _)| *other == i) || forgot.len() < (nodes.len() - 1) / 2 {
                forgot.retain(|(other, _)| *other != i);
                forgot.push((i, Instant::now()));
                node.restart_empty();
            }
        }
    }
    sleep(time).await;
    node.fault(Fault::None);
    clients.iter().for_each(|client| client.links[i].fault(Fault::None));
}

#[test]
fn whatever_fails_no_more_are_in_than_may_be_and_tokens_rise() {
    seeds(25, |seed| async move {
        let mut random = StdRng::seed_from_u64(seed);
        let nodes = nodes([3, 5, 4][seed as usize % 3]);
        let clients: Vec<Client> = (0..5).map(|i| Client::of(&nodes, seed * 100 + i)).collect();
        let history = History::default();
        let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let tasks = clients.iter().enumerate().map(|(i, client)| {
            let (history, client) = (history.clone(), client.clone());
            tokio::spawn(come_and_go(history, client, seed * 100 + i as u64, over.clone()))
        });
        let tasks: Vec<_> = tasks.collect();
        let mut forgot = Vec::new();
        for _ in 0..60 {
            trouble(&nodes, &clients, &mut random, &mut forgot).await;
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
        clients.iter().for_each(|client| client.delay(ms(1)));
        // All is well again, at once or when whoever forgot has a vote again.
        sleep(LONGEST + secs(62)).await;
        for client in &clients {
            release(history.lock(&client.mutex("a"), 1, secs(5)).await.unwrap()).await;
        }
        sleep(secs(200)).await;
        assert!(nodes.iter().all(|node| node.keys().is_empty()), "{:?}", nodes[0].keys());
        assert!(history.grants() > 30, "{} grants", history.grants());
    });
}
