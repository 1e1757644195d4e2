//! The life of one simulated process: its client, its way to the journal, and its death.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tenure::env::Env;
use tenure::transaction::journal::{Entry as Kept, Journal, Keep, Memory, Written};
use tenure::transaction::{Saga, SagaState, SagaStatus};
use tenure::{Error, ErrorKind, Locks, Result};
use tokio::sync::Notify;

use super::world::{Entry, STEPS, World, attempt};
use crate::common::{Chaos, Fault, another, ms};

/// What outlives the processes.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) env: Env,
    pub(crate) world: World,
    pub(crate) store: tenure::store::Memory,
    pub(crate) journal: Memory,
}

impl Ground {
    pub(crate) fn new(seed: u64, faults: u32) -> Self {
        let env = Env::simulated(seed);
        let (store, journal) = (tenure::store::Memory::with_env(env.clone()), Memory::with_env(env.clone()));
        Self { world: World::new(seed, faults), store, journal, env }
    }

    pub(crate) async fn status(&self) -> SagaStatus {
        status(&self.journal).await
    }
}

async fn status(journal: &Memory) -> SagaStatus {
    let kept = journal.load("saga:order/42").await.unwrap().expect("the saga was begun");
    SagaStatus::parse(&kept.value).unwrap().expect("it is a saga's")
}

/// One process.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) world: World,
    pub(crate) store: Chaos,
    pub(crate) locks: Locks,
    journal: Post,
    death: Arc<Notify>,
}

/// At which write to the journal the process dies, and whether before or after it is carried out.
pub(crate) type DeathAt = Option<(usize, bool)>;

impl Life {
    pub(crate) fn new(ground: &Ground, death_at: DeathAt) -> Self {
        let mut store = Chaos::new(ground.env.clone());
        store.memory = ground.store.clone();
        let (death, world) = (Arc::new(Notify::new()), ground.world.clone());
        let journal = Post {
            to: ground.journal.clone(),
            world: world.clone(),
            death: death.clone(),
            death_at: Arc::new(std::sync::Mutex::new(death_at)),
        };
        Self { locks: another(&store, &ground.env), world, store, journal, death }
    }

    pub(crate) fn saga(&self) -> Saga<Life> {
        let mut saga = Saga::builder("order").backoff(|| [ms(100), ms(200), ms(400)].into_iter());
        saga = saga.undo_backoff(|| std::iter::repeat_n(ms(100), 20));
        for (at, step) in STEPS.iter().enumerate() {
            saga = saga.step(
                *step,
                move |call| attempt(call, at),
                move |call| async move { attempt(call, at).await.map(drop) },
            );
        }
        saga.build(self.clone(), Arc::new(self.journal.clone())).unwrap()
    }

    /// What is written at this moment.
    pub(crate) async fn written(&self) -> SagaStatus {
        status(&self.journal.to).await
    }

    /// Ends the process, at whichever await it is.
    pub(crate) async fn die(&self) -> ! {
        self.death.notify_one();
        std::future::pending().await
    }

    /// Lives until the saga has ended, or until it dies: then false.
    pub(crate) async fn live(self) -> bool {
        let death = self.death.clone();
        tokio::select! {
            biased;
            () = death.notified() => {
                // Nothing of what it still sends arrives, the release of its lock least of all.
                self.store.fault(Fault::Hang);
                self.world.note(Entry::Died);
                false
            }
            () = self.work() => true,
        }
    }

    async fn work(&self) {
        let saga = self.saga();
        loop {
            let lock = self.locks.mutex("order-42").ttl(ms(1_000)).patience(ms(300)).build().unwrap();
            let Ok(guard) = lock.lock().await else {
                tokio::time::sleep(ms(500)).await;
                self.store.fault(Fault::None);
                continue;
            };
            self.world.note(Entry::Granted { fence: guard.fence() });
            let ended = match saga.run("42", &"a lamp", &guard).await {
                Ok(status) if status.state() == SagaState::Stuck => saga.retry("42", &guard).await,
                ended => ended,
            };
            match ended {
                Ok(status) if status.is_settled() => return,
                Ok(_) => {}
                // Another one may be at it by now; and a partition ends.
                Err(error) => assert!(error.is_lost() || error.is_transient(), "{error}"),
            }
            drop(guard);
            tokio::time::sleep(ms(500)).await;
            self.store.fault(Fault::None);
        }
    }
}

/// The way to the journal, on which messages get lost and late, and processes die.
#[derive(Clone, Debug)]
struct Post {
    to: Memory,
    world: World,
    death: Arc<Notify>,
    death_at: Arc<std::sync::Mutex<DeathAt>>,
}

impl Post {
    async fn die(&self) -> ! {
        self.death.notify_one();
        std::future::pending().await
    }

    /// Whether the process dies at this write, and then whether before it.
    fn dies(&self) -> Option<bool> {
        let mut death_at = self.death_at.lock().unwrap();
        match &mut *death_at {
            Some((0, before)) => Some(*before),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        }
    }

    async fn deliver(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written> {
        let written = self.to.write(id, expected, value, keep).await?;
        if let Written::Done(_) = written {
            let fence = SagaStatus::parse(value)?.expect("only sagas write here").fence();
            self.world.note(Entry::Wrote { fence });
        }
        Ok(written)
    }
}

#[async_trait]
impl Journal for Post {
    async fn load(&self, id: &str) -> Result<Option<Kept>> {
        tokio::time::sleep(ms(1)).await;
        self.to.load(id).await
    }

    async fn write(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written> {
        tokio::time::sleep(ms(1)).await;
        match self.dies() {
            Some(true) => self.die().await,
            Some(false) => {
                self.deliver(id, expected, value, keep).await?;
                self.die().await
            }
            None => {}
        }
        match self.world.fault(30) {
            1 | 2 => Err(Error::new(ErrorKind::Unavailable, "the journal is away")),
            3 | 4 => {
                self.deliver(id, expected, value, keep).await?;
                Err(Error::new(ErrorKind::NoReply, "the reply got lost"))
            }
            5 => self.die().await,
            6 => {
                self.deliver(id, expected, value, keep).await?;
                self.die().await
            }
            late @ 7..=9 => {
                // It arrives when its writer may have tried again, lost its lock, or died.
                let (post, id, value) = (self.clone(), id.to_owned(), value.to_vec());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(700) * (late as u32 - 6)).await;
                    let _ = post.deliver(&id, expected, &value, keep).await;
                });
                match late {
                    7 => Err(Error::new(ErrorKind::NoReply, "it is late on its way")),
                    _ => std::future::pending().await,
                }
            }
            _ => self.deliver(id, expected, value, keep).await,
        }
    }

    async fn forget(&self, id: &str, expected: u64) -> Result<bool> {
        self.to.forget(id, expected).await
    }

    async fn list(&self) -> Result<Vec<Kept>> {
        panic!("what has ended is not read to find what has not")
    }

    async fn unsettled(&self) -> Result<Vec<tenure::transaction::journal::Entry>> {
        self.to.unsettled().await
    }

    fn location(&self) -> String {
        self.to.location()
    }
}
