//! Sagas in simulated processes that fail and die at every point, under a paused clock and a seed.

use std::time::Duration;

use super::checker::check;
use super::life::{DeathAt, Ground, Life};
use super::world::{Entry, Fate, STEPS};

/// How long a simulated saga may take, on its own clock.
const LIMIT: Duration = Duration::from_secs(3600);

/// Processes come and go, `crowd` at a time, until the saga has ended. The first one dies there.
async fn carry_out(ground: &Ground, crowd: usize, mut death_at: DeathAt) {
    let crowd = (0..crowd).map(|_| {
        let (ground, mut death_at) = (ground.clone(), death_at.take());
        async move { while !Life::new(&ground, death_at.take()).live().await {} }
    });
    let all = futures_util::future::join_all(crowd);
    tokio::time::timeout(LIMIT, all).await.expect("it ends within an hour");
}

async fn verify(ground: &Ground, what: &str) -> tenure::transaction::SagaState {
    let (history, ended) = (ground.world.history(), ground.status().await);
    if let Err(wrong) = check(&history, &ended) {
        let lines: Vec<String> = history.iter().map(|entry| format!("{entry:?}")).collect();
        panic!("{what}: {wrong}\n{ended:?}\n{}", lines.join("\n"));
    }
    ended.state()
}

#[test]
fn whatever_fails_a_saga_is_carried_out_or_undone() {
    let given = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match given("TENURE_SAGA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..given("TENURE_SAGA_SEEDS").unwrap_or(2_000),
    };
    let (mut ended, mut deaths, mut takeovers) = ([0, 0], 0, 0);
    for seed in seeds.clone() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (state, history) = runtime.block_on(async {
            let ground = Ground::new(seed, 12);
            carry_out(&ground, 2, None).await;
            (verify(&ground, &format!("TENURE_SAGA_SEED={seed}")).await, ground.world.history())
        });
        ended[usize::from(state == tenure::transaction::SagaState::Completed)] += 1;
        deaths += history.iter().filter(|entry| matches!(entry, Entry::Died)).count();
        takeovers += history.iter().filter(|entry| matches!(entry, Entry::Granted { .. })).count();
    }
    println!("{} compensated, {} completed, {deaths} deaths, {takeovers} grants", ended[0], ended[1]);
    if seeds.end - seeds.start >= 100 {
        // It would show nothing if one of these never happened.
        assert!(ended.iter().all(|n| *n > 10) && deaths > 100 && takeovers > 200, "{ended:?} {deaths} {takeovers}");
    }
}

/// A death before and after each write, of one that succeeds and of one that fails at each step.
#[tokio::test(start_paused = true)]
async fn a_death_at_any_write_is_made_good_by_the_next_process() {
    let last = STEPS.len() - 1;
    let failing = [Fate::Refuse { worked: false }, Fate::Refuse { worked: true }];
    let plans = (0..=last).flat_map(|step| failing.map(|fate| Some((step, fate)))).chain([None]);
    for plan in plans {
        let mut writes = 0;
        for (at, before) in (0..).flat_map(|at| [(at, true), (at, false)]) {
            let ground = Ground::new(1, 0);
            if let Some((step, fate)) = plan {
                // Whoever makes that attempt again meets the same.
                ground.world.fix(step, false, &[fate; 5]);
            }
            carry_out(&ground, 1, Some((at, before))).await;
            verify(&ground, &format!("{plan:?}, death at {at}, before: {before}")).await;
            if !ground.world.history().iter().any(|entry| matches!(entry, Entry::Died)) {
                break;
            }
            writes += 1;
        }
        let undone = plan.map_or(0, |(step, _)| step + 1);
        let done = plan.map_or(STEPS.len(), |(step, _)| step);
        // The first intent; each action's end; a failure; each compensation's end: and twice, as before and after.
        assert_eq!(writes, 2 * (1 + done + usize::from(plan.is_some()) + undone), "{plan:?}");
    }
}

/// A death in the middle of each action and each compensation, and a lock lost there.
#[tokio::test(start_paused = true)]
async fn so_is_one_in_the_middle_of_any_step() {
    for worked in [false, true] {
        for fate in [Fate::Die { worked }, Fate::CutOff { worked }, Fate::Fail { worked }, Fate::Hang] {
            for (step, undo) in (0..STEPS.len()).flat_map(|step| [(step, false), (step, true)]) {
                let ground = Ground::new(1, 0);
                ground.world.fix(step, undo, &[fate]);
                if undo {
                    ground.world.fix(STEPS.len() - 1, false, &[Fate::Refuse { worked: true }]);
                }
                carry_out(&ground, 2, None).await;
                verify(&ground, &format!("{fate:?} at {step}, undo: {undo}")).await;
            }
        }
    }
}
