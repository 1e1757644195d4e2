//! Events that are sent while the thread of the sinks looks for some, tells them, and is ended. See `sync.rs`.
//!
//! A wake-up that is lost leaves all threads blocked, which loom reports. Bugs that were planted, one at a time, and
//! found: the thread looks for events and falls asleep under two locks; it ends before the last are told; it does not say that
//! it is telling what it took.

use std::sync::Arc;

use loom::future::block_on;
use loom::thread;

use super::{Post, Sink};
use crate::env::Env;
use crate::event::{Event, What};
use crate::key::Key;
use crate::line::model::World;
use crate::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// The post, how many events were told, and the thread that tells them.
fn post(env: Env) -> (Arc<Post>, Arc<AtomicU32>, thread::JoinHandle<()>) {
    let (post, told) = (Arc::new(Post::new()), Arc::new(AtomicU32::new(0)));
    let (theirs, count) = (post.clone(), told.clone());
    let sink: Arc<dyn Sink> = Arc::new(move |_: &Event| _ = count.fetch_add(1, SeqCst));
    (post, told, thread::spawn(move || theirs.run(&vec![sink], &env)))
}

fn send(post: &Post) {
    assert!(post.send(Event { name: Key::new("a").unwrap(), what: What::NodeUp }), "there is room");
}

#[test]
fn model_every_event_is_told_before_the_thread_ends() {
    World::model(|world| {
        let (post, told, telling) = post(world.keeper().core.env.clone());
        let other = post.clone();
        let sending = thread::spawn(move || send(&other));
        send(&post);
        sending.join().unwrap();
        post.close();
        telling.join().unwrap();
        assert_eq!(told.load(SeqCst), 2);
    });
}

#[test]
fn model_who_settles_waits_for_what_was_sent() {
    World::model(|world| {
        let env = world.keeper().core.env.clone();
        let (post, told, telling) = post(env.clone());
        send(&post);
        block_on(post.settle(&env));
        assert_eq!(told.load(SeqCst), 1);
        post.close();
        telling.join().unwrap();
    });
}
