//! A decision whose reply is lost, and whose record is gone when it is asked for: nobody is told a guess.

#![allow(missing_docs, reason = "a test")]

mod common;

use async_trait::async_trait;
use common::Willing;
use tenure::env::Env;
use tenure::transaction::coordinator::{Coordinator, Outcome};
use tenure::transaction::journal::{Entry, Journal, Keep, Memory, Presumed, Written};
use tenure::{Error, ErrorKind, Result, What};

/// Loses the reply to the decision. Meanwhile it is done everywhere, and its record removed.
#[derive(Debug)]
struct Losing(Memory);

#[async_trait]
impl Journal for Losing {
    async fn load(&self, id: &str) -> Result<Option<Entry>> {
        self.0.load(id).await
    }

    async fn write(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written> {
        let written = self.0.write(id, expected, value, keep).await?;
        match (expected, &written) {
            (Some(_), Written::Done(version)) => {
                assert!(self.0.forget(id, *version).await?, "it is there");
                Err(Error::new(ErrorKind::NoReply, "the reply was lost"))
            }
            _ => Ok(written),
        }
    }

    async fn forget(&self, id: &str, expected: u64) -> Result<bool> {
        self.0.forget(id, expected).await
    }

    async fn list(&self) -> Result<Vec<Entry>> {
        self.0.list().await
    }

    async fn unsettled(&self) -> Result<Vec<Entry>> {
        self.0.unsettled().await
    }

    fn location(&self) -> String {
        self.0.location()
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_in_doubt_whose_record_is_gone_is_unknown() {
    let env = Env::simulated(7);
    let journal = Presumed(Losing(Memory::with_env(env.clone())));
    let coordinator = Coordinator::new(journal).env(env).participant(Willing).unwrap();
    let locks = tenure::open("memory:").await.unwrap();
    let (guard, mut events) = (locks.mutex("l").build().unwrap().lock().await.unwrap(), locks.events());
    let outcome = coordinator.begin(&guard).work("willing", "work").commit().await.unwrap();
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    let told = events.recv().await.unwrap().what;
    assert!(matches!(&told, What::TransactionUnknown { id, .. } if *id == outcome.id()), "{told:?}");
}
