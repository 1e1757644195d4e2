//! Real processes, killed with -9 before and after every write to the journal and every action, and gone on with by
//! others: this test program, started again.
//!
//! Each point at which a process can be killed has a number, in the order in which it comes to them. The first
//! process is killed at point 0, in the next round at point 1, and so on until there is no such point any more.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::process::{Signal, getpid, kill_process};
use tenure::transaction::journal::{Entry as Kept, Journal, Keep, Written, open_journal};
use tenure::transaction::{Call, Failure, Saga, SagaState, SagaStatus};
use tenure::{Fence, Result};

use super::checker::check;
use super::world::{Entry, STEPS};

const TTL: Duration = Duration::from_millis(700);
/// How many rounds run at the same time: mostly they wait for the hold of a dead process to expire.
const AT_ONCE: usize = 8;

/// The points of one process.
#[derive(Clone, Debug)]
struct Points {
    passed: Arc<AtomicU32>,
    deadly: Option<u32>,
}

impl Points {
    fn pass(&self) {
        if Some(self.passed.fetch_add(1, SeqCst)) == self.deadly {
            kill_process(getpid(), Signal::KILL).expect("a process may kill itself");
        }
    }
}

/// What the steps act upon: a file, a line for each thing that happened. It refuses a fence that is older than the
/// newest.
#[derive(Clone, Debug)]
struct Ledger {
    path: PathBuf,
    points: Points,
    /// The step that is refused, after it did its work.
    refused: Option<usize>,
}

impl Ledger {
    fn append(&self, fence: Fence, line: &str) -> Result<(), Failure> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&self.path)?;
        file.lock()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let newest = text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).max().map(Fence::new);
        if newest.is_some_and(|newest| fence < newest) {
            return Err(Failure::fatal(format!("{fence} came after {newest:?}")));
        }
        file.write_all(format!("{fence} {line}\n").as_bytes())?;
        Ok(())
    }
}

async fn attempt(call: Call<Ledger>, step: usize) -> Result<(), Failure> {
    let (ledger, fence) = (call.context(), call.fence());
    let way = if call.is_undo() { "undo" } else { "do" };
    ledger.append(fence, &format!("begun {step} {way} {} {}", call.key(), call.action_key()))?;
    ledger.points.pass();
    ledger.append(fence, &format!("worked {step} {way}"))?;
    ledger.points.pass();
    if !call.is_undo() && ledger.refused == Some(step) {
        return Err(Failure::fatal("sold out"));
    }
    ledger.append(fence, &format!("told {step} {way}"))
}

/// What happened, in its order.
fn history(path: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let entry = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let (fence, step) = (Fence::new(words[0].parse().ok()?), words[2].parse().ok()?);
        let undo = words[3] == "undo";
        Some(match words[1] {
            "begun" => Entry::Begun { step, undo, key: words[4].to_owned(), action_key: words[5].to_owned(), fence },
            "worked" => Entry::Worked { step, undo },
            _ => Entry::Told { step, undo },
        })
    };
    text.lines().map(|line| entry(line).expect("a whole line")).collect()
}

/// The journal, with a point before and after each write.
#[derive(Debug)]
struct Pointed {
    to: Arc<dyn Journal>,
    points: Points,
}

#[async_trait]
impl Journal for Pointed {
    async fn load(&self, id: &str) -> Result<Option<Kept>> {
        self.to.load(id).await
    }

    async fn write(&self, id: &str, expected: Option<u64>, value: &[u8], keep: Keep) -> Result<Written> {
        self.points.pass();
        let written = self.to.write(id, expected, value, keep).await;
        self.points.pass();
        written
    }

    async fn forget(&self, id: &str, expected: u64) -> Result<bool> {
        self.to.forget(id, expected).await
    }

    async fn list(&self) -> Result<Vec<Kept>> {
        self.to.list().await
    }

    async fn unsettled(&self) -> Result<Vec<tenure::transaction::journal::Entry>> {
        self.to.unsettled().await
    }

    fn location(&self) -> String {
        self.to.location()
    }
}

fn given(name: &str) -> Option<String> {
    std::env::var(format!("TENURE_SAGA_{name}")).ok()
}

/// What a process does that was started by a test below; by itself nothing. It goes on until the saga has ended.
#[tokio::test]
#[ignore = "the other tests start it"]
async fn a_child() {
    let (Some(store), Some(journal), Some(id), Some(path)) =
        (given("STORE"), given("JOURNAL"), given("ID"), given("PATH"))
    else {
        return;
    };
    let number = |name| given(name).and_then(|value| value.parse().ok());
    let points = Points { passed: Arc::default(), deadly: number("KILL") };
    let refused = number("REFUSE").map(|step| step as usize);
    let ledger = Ledger { path: path.into(), points: points.clone(), refused };
    let mut saga = Saga::builder("order");
    for (step, name) in STEPS.iter().enumerate() {
        saga = saga.step(*name, move |call| attempt(call, step), move |call| attempt(call, step));
    }
    let journal = Pointed { to: open_journal(&journal).await.unwrap(), points };
    let saga = saga.build(ledger, Arc::new(journal)).unwrap();
    let lock = tenure::open(&store).await.unwrap().mutex(id.as_str()).ttl(TTL).build().unwrap();
    loop {
        let guard = lock.lock().await.unwrap();
        // What a dead process left behind; or nothing is written yet.
        let ended = saga.resume_all(&guard).await;
        let ended = match ended {
            Ok(_) => saga.run(&id, &"a lamp", &guard).await,
            Err(error) => Err(error),
        };
        match ended {
            Ok(status) if status.is_settled() => return,
            // The machine may have been too busy to renew in time.
            Err(error) if error.is_lost() => {}
            other => panic!("{other:?}"),
        }
    }
}

fn start(round: &Round, kill: Option<u32>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(["--exact", "crash::a_child", "--ignored", "--nocapture"]).stdout(Stdio::null());
    command.env("TENURE_SAGA_STORE", &round.store).env("TENURE_SAGA_JOURNAL", &round.journal);
    command.env("TENURE_SAGA_ID", &round.id).env("TENURE_SAGA_PATH", &round.path);
    if let Some(kill) = kill {
        command.env("TENURE_SAGA_KILL", kill.to_string());
    }
    if let Some(step) = round.refused {
        command.env("TENURE_SAGA_REFUSE", step.to_string());
    }
    command.spawn().expect("this program starts again")
}

async fn wait_for(mut child: Child) -> ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().expect("a child can be killed");
            panic!("a child does not come to its end");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Round {
    store: String,
    journal: String,
    id: String,
    path: PathBuf,
    refused: Option<usize>,
}

/// Kills the first process there, and has others go on. Whether there was such a point.
async fn play(round: Round, kill: u32) -> bool {
    let first = wait_for(start(&round, Some(kill))).await;
    let killed = first.signal() == Some(9);
    assert!(killed || first.success(), "{first:?}");
    if killed {
        // Every other time two at once.
        let others: Vec<Child> = (0..1 + kill % 2).map(|_| start(&round, None)).collect();
        for other in others {
            assert!(wait_for(other).await.success());
        }
    }
    let journal = open_journal(&round.journal).await.unwrap();
    let kept = journal.load(&format!("saga:order/{}", round.id)).await.unwrap().expect("it was begun");
    let status = SagaStatus::parse(&kept.value).unwrap().expect("it is a saga's");
    let history = history(&round.path);
    if let Err(wrong) = check(&history, &status) {
        panic!("killed at point {kill}: {wrong}\n{status:?}\n{history:#?}");
    }
    let wanted = if round.refused.is_some() { SagaState::Compensated } else { SagaState::Completed };
    assert_eq!(status.state(), wanted, "killed at point {kill}");
    killed
}

/// Which step is refused, and how many points there are: two at each write, the first intent and the end of each
/// attempt; and two in each attempt, before and after its work.
type Plan = (Option<usize>, u32);
const CARRIED_OUT: Plan = (None, 2 * 5 + 2 * 4);
const UNDONE: Plan = (Some(2), 2 * 7 + 2 * 6);

/// All points of each plan, each in a round of its own.
async fn every_point(store: &str, journal: &str, plans: &[Plan]) {
    let folder = tempfile::Builder::new().prefix("tenure-saga-").tempdir().unwrap();
    for &(refused, points) in plans {
        let round = |kill: u32| {
            let id = format!("order-{kill}-{}", refused.is_some());
            let path = folder.path().join(&id);
            let _ = File::create(&path).unwrap();
            play(Round { store: store.to_owned(), journal: journal.to_owned(), id, path, refused }, kill)
        };
        let rounds = futures_util::stream::iter((0..=points).map(round));
        let killed: Vec<bool> =
            futures_util::StreamExt::collect(futures_util::StreamExt::buffered(rounds, AT_ONCE)).await;
        let expected: Vec<bool> = (0..=points).map(|kill| kill < points).collect();
        assert_eq!(killed, expected, "these points are all there are");
    }
}

#[tokio::test]
async fn a_process_killed_at_any_point_is_gone_on_with_by_another_over_redis() {
    let server = testkit::Redis::start();
    every_point(&server.url(), &server.url(), &[CARRIED_OUT, UNDONE]).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn and_over_a_file() {
    let folder = tempfile::Builder::new().prefix("tenure-saga-").tempdir().unwrap();
    let url = |name: &str| format!("sqlite:{}", folder.path().join(name).display());
    every_point(&url("locks.db"), &url("journal.db"), &[UNDONE]).await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn and_over_postgres() {
    use tenure::transaction::journal::PostgresJournal;

    let (redis, postgres) = (testkit::Redis::start(), testkit::Postgres::start());
    PostgresJournal::connect(&postgres.url()).await.unwrap().migrate().await.unwrap();
    every_point(&redis.url(), &postgres.url(), &[CARRIED_OUT, UNDONE]).await;
}
