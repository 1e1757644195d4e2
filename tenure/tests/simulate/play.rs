//! Plays one scenario from its seed to the end, and looks whether anything is left behind.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tenure::Locks;
use tenure::env::Env;
use tenure::store::{Breaker, Fallback, Store};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::history::{Counts, History, note};
use crate::network::World;
use crate::scenario::{Happening, Scenario, Weather};
use crate::spare::Spare;
use crate::task::Task;
use crate::wire::name_of_lock;

/// What came of a seed.
pub(crate) struct Played {
    pub(crate) scenario: Arc<Scenario>,
    pub(crate) lines: Vec<String>,
    pub(crate) failure: Option<String>,
    pub(crate) counts: Counts,
}

/// Plays the scenario of a seed; its lines are written where they are wanted.
pub(crate) fn play(seed: u64, recording: bool) -> Played {
    let runtime: Runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let scenario = Arc::new(Scenario::draw(seed));
    let (lines, failure, counts) = runtime.block_on(async {
        let history = Arc::new(History::new(scenario.clone(), recording));
        perform(&scenario, &history).await;
        history.close()
    });
    Played { scenario, lines, failure, counts }
}

async fn perform(scenario: &Arc<Scenario>, history: &Arc<History>) {
    let world = World::new(scenario, history);
    let mut spares = Vec::new();
    let processes = 0..scenario.processes.len();
    let clients: Arc<[Locks]> = processes.map(|process| client(scenario, &world, process, &mut spares)).collect();
    let mut tasks = Vec::new();
    for (process, spec) in scenario.processes.iter().enumerate() {
        for task in 0..spec.tasks.len() {
            let task = Task::new(&world, history, scenario, &clients, (process, task));
            tasks.push((process, tokio::spawn(task.run())));
        }
    }
    let aborts: Vec<_> = tasks.iter().map(|(process, task)| (*process, task.abort_handle())).collect();
    let dead: Arc<Mutex<Vec<usize>>> = Arc::default();
    let kill = {
        let dead = dead.clone();
        move |killed| {
            dead.lock().expect("no panic").push(killed);
            aborts.iter().filter(|(process, _)| *process == killed).for_each(|(_, task)| task.abort());
        }
    };
    let script = tokio::spawn(happen(world.clone(), history.clone(), scenario.clone(), spares.clone(), kill));

    all_ended(history, tasks.into_iter().map(|(_, task)| task), longest_play(scenario)).await;
    if history.has_failed() {
        return;
    }
    script.await.expect("it does not panic");
    let dead = dead.lock().expect("no panic").clone();
    let mut closed = Vec::new();
    for (process, locks) in clients.iter().cloned().enumerate().filter(|(process, _)| !dead.contains(process)) {
        closed.push(tokio::spawn(close(scenario.clone(), history.clone(), locks, process)));
    }
    all_ended(history, closed, longest_play(scenario)).await;
    drop(clients);
    spares.retain(|spare| !dead.contains(&spare.process));
    if !history.has_failed() {
        nothing_is_left(scenario, history, &world, &spares).await;
    }
}

fn client(scenario: &Scenario, world: &World, process: usize, spares: &mut Vec<Spare>) -> Locks {
    let env = Env::simulated(scenario.seed ^ ((process as u64 + 1) << 32));
    let mut store = world.wire(process);
    if let Some((failures, cool_down)) = scenario.processes[process].breaker {
        let silence = scenario.locks.iter().map(|lock| lock.op_timeout / 2).min().expect("a lock");
        let breaker = Breaker::builder(store).failures(failures).cool_down(cool_down).silence(silence);
        store = Arc::new(breaker.env(env.clone()).build().expect("the thresholds are valid"));
    }
    if scenario.processes[process].fallback {
        let spare = Spare::new(world, process, &env);
        store = Arc::new(Fallback::with_env(store, Arc::new(spare.clone()), env.clone()));
        spares.push(spare);
    }
    // What goes on by its ticket alone goes by these.
    let (op_timeout, memory) = (scenario.longest(|lock| lock.op_timeout), scenario.longest(|lock| lock.memory));
    Locks::builder(store).env(env).op_timeout(op_timeout).fence_memory(memory).build().expect("the options are valid")
}

/// By when everyone must have had its turn: the trouble is over, and then each waits for all the others each time.
fn longest_play(scenario: &Scenario) -> Duration {
    let rounds: u32 = scenario.processes.iter().map(|process| (process.rounds + 1) * process.tasks.len() as u32).sum();
    let mut turn = scenario.longest(|lock| 10 * lock.hold + 3 * lock.ttl + lock.patience + lock.op_timeout);
    if scenario.processes.iter().any(|process| process.several > 0) {
        // One is held while the others are waited for, and may have to be taken again.
        turn *= 2 * scenario.locks.len() as u32;
    }
    scenario.clear_at + scenario.aftermath() + (rounds + 2) * (turn + 10 * scenario.trip() + Duration::from_millis(50))
}

/// Everyone ends in good time, and nobody panics.
async fn all_ended(history: &History, tasks: impl IntoIterator<Item = JoinHandle<()>>, most: Duration) {
    let all = async {
        for task in tasks {
            match task.await {
                Err(error) if error.is_panic() => history.fail(format!("a panic: {error}")),
                _ => {}
            }
        }
    };
    let ended = timeout(most, all).await.is_ok();
    history.demand(ended, || format!("somebody waited in vain: after {most:?} not all had ended"));
}

/// Closes a client: all that was dropped is released by then.
async fn close(scenario: Arc<Scenario>, history: Arc<History>, locks: Locks, process: usize) {
    locks.close().await;
    note!(history, "p{process} is closed");
    let metrics = locks.metrics();
    history.count(|counts| counts.handed_on += metrics.handed_on);
    // A guard whose hold was lost is released all the same.
    let told = metrics.acquired <= metrics.released + metrics.handed_on + metrics.lost + history.told().leased[process]
        || scenario.weather >= Weather::Storm;
    history.demand(told, || format!("not every hold ended: {metrics:?}"));
}

async fn nothing_is_left(scenario: &Scenario, history: &History, world: &World, spares: &[Spare]) {
    // In good weather it is all gone at once; else what the dead left has to expire.
    if scenario.weather >= Weather::Storm {
        sleep(2 * scenario.aftermath()).await;
    }
    let memory = world.memory();
    for lock in 0..scenario.locks.len() {
        let key = tenure::Key::new(name_of_lock(lock)).expect("a name");
        let record = memory.read(&key).await.expect("memory does not fail").record;
        history.demand(record.is_empty(), || format!("lock {lock} is not free in the end: {record:?}"));
        for Spare { process, memory, .. } in spares {
            let record = memory.read(&key).await.expect("memory does not fail").record;
            history
                .demand(record.is_empty(), || format!("p{process} has lock {lock} of its own in the end: {record:?}"));
        }
    }
    let watching = format!("{memory:?}");
    history.demand(watching.contains("waiting: 0"), || format!("somebody still listens: {watching}"));
    let bury = 2 * scenario.longest(|lock| lock.ttl.max(lock.patience));
    sleep(bury + scenario.longest(|lock| lock.memory).mul_f64(1.02) + scenario.set_back() + Duration::from_secs(1))
        .await;
    let names = world.memory().scan().await.expect("memory does not fail");
    history.demand(names.is_empty(), || format!("the store remembers {names:?} for ever"));
}

/// What happens to all: the script of the scenario.
async fn happen(
    world: World,
    history: Arc<History>,
    scenario: Arc<Scenario>,
    spares: Vec<Spare>,
    kill: impl Fn(usize),
) {
    for (after, happening) in &scenario.events {
        sleep(*after).await;
        note!(history, "{happening:?}");
        match *happening {
            Happening::Cut { process, time, loud } => world.cut(process, time, loud),
            Happening::Pause { process, time } => world.pause(process, time),
            Happening::Suspend { time } => {
                history.suspend(time);
                tokio::time::advance(time).await;
            }
            Happening::Kill { process } => {
                world.kill(process);
                kill(process);
            }
            Happening::Down { time, empty } => {
                (0..scenario.processes.len()).for_each(|process| world.cut(process, time, true));
                sleep(time).await;
                if empty {
                    world.empty();
                }
            }
            Happening::Break { lock } => world.break_lock(lock).await,
            Happening::Jump { micros } => world.jump(micros),
        }
    }
    if !spares.is_empty() {
        // What was sent before is given up after 2 s, and tried again within a second.
        world.whole().await;
        sleep(Duration::from_millis(3_100) + 4 * scenario.trip()).await;
        let stray = spares.iter().find_map(Spare::stray);
        history.demand(stray.is_none(), || format!("what went elsewhere was not given back: {stray:?}"));
    }
}
