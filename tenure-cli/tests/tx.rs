//! `tenure tx`: what a coordinator has left behind is shown, and settled as far as it can be from here.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use support::{Store, text};
use tenure::transaction::journal::{Journal, Keep, PostgresJournal, open_durable};
use tenure::transaction::participant::{Ack, Branch, RedisOp, RedisParticipant, RedisWork, Share, Vote};
use tenure::transaction::{Coordinator, Participant, TransactionId};
use tokio::sync::Notify;

/// A participant of a program's own, which the command knows nothing of; it never answers that call.
#[derive(Debug)]
struct Files {
    silent: &'static str,
    asked: Arc<Notify>,
}

impl Files {
    async fn hear(&self, call: &str) {
        if call == self.silent {
            self.asked.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Participant for Files {
    fn name(&self) -> &str {
        "files"
    }

    fn location(&self) -> String {
        "/srv/files".to_owned()
    }

    async fn prepare(&self, _: &Branch, _: &[u8]) -> tenure::Result<Vote> {
        self.hear("prepare").await;
        Ok(Vote::Prepared)
    }

    async fn commit(&self, _: &Branch) -> tenure::Result<Ack> {
        self.hear("commit").await;
        Ok(Ack::Done)
    }

    async fn rollback(&self, _: &Branch) -> tenure::Result<Ack> {
        Ok(Ack::Done)
    }

    async fn forget(&self, _: &Branch) -> tenure::Result<()> {
        Ok(())
    }

    async fn list(&self, _: Option<&str>) -> tenure::Result<Vec<Share>> {
        Ok(Vec::new())
    }
}

struct Scene {
    redis: testkit::Redis,
    store: Store,
    journal: String,
}

impl Scene {
    fn new() -> Self {
        let (redis, store) = (testkit::Redis::start_durable(), Store::sqlite());
        redis.command(&["SET", "stock", "10"]);
        let journal = format!("sqlite:{}", store.path("journal.db").display());
        Self { redis, store, journal }
    }

    async fn coordinator(&self, silent: &'static str, asked: Arc<Notify>) -> Coordinator {
        let stock = RedisParticipant::connect("stock", &self.redis.url()).await.unwrap();
        let coordinator = Coordinator::new(open_durable(&self.journal).await.unwrap());
        coordinator.participant(stock).unwrap().participant(Files { silent, asked }).unwrap()
    }

    /// A transaction whose coordinator dies when the files are silent.
    async fn leave(&self, silent: &'static str) -> TransactionId {
        let asked = Arc::new(Notify::new());
        let coordinator = self.coordinator(silent, asked.clone()).await;
        let locks = tenure::open("memory:").await.unwrap();
        let guard = locks.mutex("stock").build().unwrap().lock().await.unwrap();
        let take = || RedisOp::Take { key: "stock".into(), by: 3 };
        let work = RedisWork::new().reserve(take()).rollback(RedisOp::Add { key: "stock".into(), by: 3 });
        let tx = coordinator.begin(&guard).work("stock", work).work("files", "");
        let id = tx.id();
        tokio::select! {
            outcome = tx.commit() => panic!("{outcome:?}"),
            () = async {
                asked.notified().await;
                // Both are asked at the same time: so that there is something to give back.
                while self.stock() != "7" {
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
            } => {}
        }
        id
    }

    fn stock(&self) -> String {
        self.redis.command(&["GET", "stock"]).lines().nth(1).unwrap().to_owned()
    }

    fn tx(&self, args: &[&str]) -> std::process::Output {
        let mut command = self.store.tenure(&[&["tx"], args].concat());
        command.env("TENURE_JOURNAL", &self.journal).output().expect("tenure starts")
    }

    fn list(&self, args: &[&str]) -> Vec<Value> {
        let output = self.tx(&[&["ls", "--json"], args].concat());
        let listed: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        listed.as_array().unwrap().clone()
    }
}

#[tokio::test]
async fn what_is_undecided_is_shown_and_rolled_back() {
    let scene = Scene::new();
    let id = scene.leave("prepare").await.to_string();
    let listed = scene.list(&[]);
    assert_eq!((listed[0]["id"].as_str(), listed[0]["state"].as_str()), (Some(&*id), Some("preparing")), "{listed:?}");
    let shown = scene.tx(&["show", &id]);
    let shown = text(&shown.stdout);
    for word in ["preparing", "stock: redis://127.0.0.1:", "files: /srv/files", "two-phase"] {
        assert!(shown.contains(word), "{word} is not in {shown}");
    }
    // It may still be going on.
    let recovered = scene.tx(&["recover"]);
    assert!(text(&recovered.stderr).contains("nothing to settle"), "{recovered:?}");
    let recovered = scene.tx(&["recover", "--older", "0s"]);
    assert_eq!(recovered.status.code(), Some(69), "{recovered:?}");
    assert!(text(&recovered.stdout).contains("rolled-back"), "{recovered:?}");
    assert!(
        text(&recovered.stderr).contains("files"),
        "the files do not know it yet, and it is not said: {recovered:?}"
    );
    assert_eq!(scene.stock(), "10", "what was reserved is back");
    assert_eq!(scene.list(&[])[0]["state"], "aborted");
    // The program finishes it.
    let outcome = scene.coordinator("", Arc::default()).await.resolve(id.parse().unwrap()).await.unwrap();
    assert!(!outcome.is_committed(), "{outcome:?}");
    assert_eq!(scene.list(&[]), Vec::<Value>::new());
    assert_eq!(scene.list(&["--all"])[0]["state"], "done-aborted");
    let forgotten = scene.tx(&["forget", &id]);
    assert!(forgotten.status.success(), "{forgotten:?}");
    assert_eq!(scene.list(&["--all"]), Vec::<Value>::new());
}

#[tokio::test]
async fn what_is_decided_is_finished() {
    let scene = Scene::new();
    let id = scene.leave("commit").await.to_string();
    assert_eq!(scene.list(&[])[0]["state"], "committed");
    let refused = scene.tx(&["forget", &id]);
    assert_eq!(refused.status.code(), Some(64), "{refused:?}");
    let recovered = scene.tx(&["recover", &id, "--json"]);
    let lines: Value =
        serde_json::from_slice(&recovered.stdout).unwrap_or_else(|error| panic!("{error}: {recovered:?}"));
    assert_eq!((&lines[0]["state"], &lines[0]["parts"][0]["name"]), (&"committed".into(), &"files".into()), "{lines}");
    assert_eq!(scene.stock(), "7", "it is done");
    assert!(scene.redis.command(&["HGETALL", "tenure:share:stock:stock"]).contains("c0"), "and the stock knows");
}

#[tokio::test]
async fn what_an_operator_did_against_the_decision_is_told_until_it_is_forgotten() {
    let scene = Scene::new();
    let id = scene.leave("commit").await.to_string();
    // Somebody loses patience, and the stock.
    scene.redis.command(&["DEL", "tenure:share:stock:stock"]);
    let coordinator = scene.coordinator("", Arc::default()).await;
    let outcome = coordinator.resolve(id.parse().unwrap()).await.unwrap();
    let listed = scene.list(&[]);
    // It may have committed before the coordinator died; then nothing is amiss but that its share is gone.
    assert_eq!(listed[0]["heuristics"][0]["did"], "lose", "{outcome:?} {listed:?}");
    assert_eq!(listed[0]["state"], "done-committed");
    let shown = scene.tx(&["show", &id]);
    assert!(text(&shown.stdout).contains("stock lost what was staged, and commit was decided"), "{shown:?}");
    assert!(scene.tx(&["forget", &id]).status.success());
    assert_eq!(scene.list(&[]), Vec::<Value>::new());
}

#[tokio::test]
async fn two_participants_of_one_name_are_not_taken_for_each_other() {
    let one = Scene::new();
    let other = Scene { journal: one.journal.clone(), ..Scene::new() };
    let (first, second) = (one.leave("prepare").await.to_string(), other.leave("prepare").await.to_string());
    let stocks = || [one.stock(), other.stock()];
    let recovered = one.tx(&["recover", "--older", "0s"]);
    assert_eq!(recovered.status.code(), Some(69), "{recovered:?}");
    for place in [one.redis.url(), other.redis.url()] {
        assert!(text(&recovered.stderr).contains(&place), "{place} is not told: {recovered:?}");
    }
    assert_eq!(stocks(), ["7", "7"], "neither is asked");

    // By hand, and the wrong one.
    let wrong = format!("stock={}", other.redis.url());
    let refused = one.tx(&["recover", &first, "--participant", &wrong]);
    assert_eq!(refused.status.code(), Some(69), "{refused:?}");
    assert!(text(&refused.stderr).contains("the one here is at"), "{refused:?}");
    assert_eq!(stocks(), ["7", "7"], "the wrong one was told");

    one.tx(&["recover", &first]);
    assert_eq!(stocks(), ["10", "7"]);
    one.tx(&["recover", &second]);
    assert_eq!(stocks(), ["10", "10"]);
}

#[tokio::test]
async fn a_participant_that_has_moved_is_told_what_it_took_part_in_before() {
    let scene = Scene::new();
    let id = scene.leave("prepare").await.to_string();
    let from = format!("stock={}", scene.redis.url());
    let to = from.replace("127.0.0.1", "localhost");
    let refused = scene.tx(&["recover", &id, "--participant", &to]);
    assert!(text(&refused.stderr).contains("the one here is at"), "{refused:?}");
    let recovered = scene.tx(&["recover", &id, "--participant", &to, "--moved", &from]);
    assert!(!text(&recovered.stderr).contains("stock"), "{recovered:?}");
    assert_eq!(scene.stock(), "10", "{recovered:?}");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_named_and_the_others_are_settled() {
    let scene = Scene::new();
    scene.leave("prepare").await;
    let damaged = format!("{:032x}", 7);
    let journal = open_durable(&scene.journal).await.unwrap();
    journal.write(&damaged, None, b"{torn", Keep::UntilForgotten).await.unwrap();
    let recovered = scene.tx(&["recover", "--older", "0s"]);
    assert_eq!(recovered.status.code(), Some(69), "{recovered:?}");
    assert!(text(&recovered.stderr).contains(&format!("{damaged} cannot be read")), "{recovered:?}");
    assert_eq!(scene.stock(), "10", "the other is settled");
    // Also where it is all there is.
    for entry in journal.list().await.unwrap() {
        if entry.id != damaged {
            journal.forget(&entry.id, entry.version).await.unwrap();
        }
    }
    assert_eq!(scene.tx(&["recover"]).status.code(), Some(69));
}

#[test]
fn a_journal_has_to_be_named_and_the_tables_are_printed() {
    let store = Store::sqlite();
    let mut command = store.tenure(&["tx", "ls"]);
    let output = command.env_remove("TENURE_JOURNAL").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("TENURE_JOURNAL"), "{output:?}");
    let output = store.output(&["tx", "migration", "--dialect", "postgres"]);
    for table in ["tenure_fence", "tenure_journal", "tenure_share"] {
        assert!(text(&output.stdout).contains(&format!("CREATE TABLE IF NOT EXISTS {table} ")), "{table}");
    }
    let help = store.output(&["tx", "--help"]);
    assert!(text(&help.stdout).contains("tenure tx recover"), "{help:?}");
}

#[tokio::test]
async fn a_journal_on_postgres_is_reached_over_tls() {
    let (server, store) = (testkit::TlsPostgres::start(), Store::sqlite());
    let ca = server.ca();
    let trusted = |host: &str| server.url(host, &format!("sslmode=verify-full&sslrootcert={}", ca.display()));
    PostgresJournal::connect(&trusted("localhost")).await.unwrap().migrate().await.unwrap();
    let output = store.output(&["tx", "--journal", &trusted("localhost"), "ls"]);
    assert!(output.status.success() && text(&output.stderr).contains("nothing is undone"), "{output:?}");
    for url in [trusted("wrong.example"), server.url("localhost", "sslmode=disable")] {
        let output = store.output(&["tx", "--journal", &url, "ls"]);
        assert_eq!(output.status.code(), Some(69), "{output:?}");
        let (said, password) = (text(&output.stderr), url.split([':', '@']).nth(2).unwrap());
        assert!(said.contains("ssl") && !said.contains(password), "{said}");
    }
}
