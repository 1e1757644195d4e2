//! An owner that enters again while its last guard goes. See `sync.rs`.
//!
//! Bugs that were planted, one at a time, and found: a guard counts itself off and takes its hold off under two locks; a hold is
//! shared, and counted, under two.

use std::time::Duration;

use loom::thread;

use super::Reentry;
use crate::guard::Guard;
use crate::line::model::World;
use crate::locks::Locks;
use crate::proto::Owner;

#[test]
fn model_a_shared_hold_is_released_once_and_by_its_last_guard() {
    World::model(|world| {
        let (client, now) = (world.client(), world.now());
        let locks = Locks { client: client.clone(), owner: Some(Owner::new("job")) };
        let spec = locks.mutex("a").build().unwrap().spec;
        let hold = client.keeper.hold(&spec, World::granted(now, now + Duration::from_secs(29)));
        client.core.reentries.offer(&spec, &hold);
        let guard = Guard::new(hold, client.clone(), None);
        let going = thread::spawn(move || drop(guard));
        let again = match client.core.reentries.enter(&spec, now) {
            Reentry::Shared(hold) => Some(Guard::new(hold, client.clone(), None)),
            Reentry::None => None,
            Reentry::Full => panic!("there is room for two"),
        };
        going.join().unwrap();
        assert_eq!(world.partings(), usize::from(again.is_none()));
        assert!(again.as_ref().is_none_or(|guard| !guard.hold.is_over()));
        drop(again);
        assert_eq!(world.partings(), 1);
        assert!(client.core.reentries.all().is_empty());
    });
}
