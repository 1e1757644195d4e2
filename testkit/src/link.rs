//! A network between clients and one server that can be cut, slowed and made to lose, one direction at a time.
//!
//! ```text
//!   client ── requests ──▶ held, late or on time ──▶ server
//!   client ◀── lost, held, late or on time ── replies ── server
//! ```
//!
//! As on a real network, what is held back is delivered when the direction is open again, also when its sender has gone
//! meanwhile: so a server carries out requests that nobody waits for any more. Unlike a [`Proxy`](crate::Proxy) it knows
//! nothing of what it carries.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::spawn;
use std::time::{Duration, Instant};

/// A network on a free loopback port. It goes with this value, and its connections with it.
#[derive(Debug)]
pub struct Link {
    port: u16,
    shared: Arc<Shared>,
}

/// What a [`Link`] has done to what it carried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried {
    /// Pieces that were held back because their direction was cut.
    pub held: u64,
    /// Pieces that came later than they could.
    pub late: u64,
    /// Replies that were lost, each with its connection.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    cut: [bool; 2],
    /// Every other connection is cut: the even or the odd ones.
    split: Option<usize>,
    joined: usize,
    delay: Duration,
    to_lose: u32,
    carried: Carried,
    /// Both ends of every connection.
    ends: Vec<TcpStream>,
    over: bool,
}

/// Where a piece goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    There = 0,
    Back = 1,
}

impl Link {
    /// A network to the server on that loopback port.
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port can be bound");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared::default());
        let accepting = shared.clone();
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.state().over {
                    return;
                }
                accepting.join(&client, server);
            }
        });
        Self { port, shared }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether requests and whether replies are held back.
    pub fn cut(&self, requests: bool, replies: bool) {
        self.shared.set(|state| state.cut = [requests, replies]);
    }

    /// Holds everything back on every other connection, the even or the odd ones: some clients are cut off, and others not.
    pub fn split(&self, part: usize) {
        self.shared.set(|state| state.split = Some(part % 2));
    }

    /// How long everything takes, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.shared.set(|state| state.delay = delay);
    }

    /// Loses as many replies from now on, each with its connection. The server has carried out the command by then.
    pub fn lose(&self, replies: u32) {
        self.shared.set(|state| state.to_lose = replies);
    }

    /// What was done so far.
    pub fn carried(&self) -> Carried {
        self.shared.state().carried
    }

    /// Nothing is held, late or lost from now on.
    pub fn heal(&self) {
        self.shared.set(|state| {
            (state.cut, state.split, state.delay, state.to_lose) = ([false; 2], None, Duration::ZERO, 0);
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.set(|state| {
            state.over = true;
            state.ends.drain(..).for_each(|end| _ = end.shutdown(Shutdown::Both));
        });
        // The listener looks up once more, and ends.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn join(self: &Arc<Self>, client: &TcpStream, server: u16) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let clone = |stream: &TcpStream| stream.try_clone().expect("a socket can be cloned");
        let mut state = self.state();
        state.ends.extend([clone(client), clone(&server)]);
        state.joined += 1;
        let part = state.joined % 2;
        drop(state);
        self.carry((Way::There, part), clone(client), clone(&server));
        self.carry((Way::Back, part), server, clone(client));
    }

    /// One thread reads what comes, another one passes it on when it is time.
    fn carry(self: &Arc<Self>, way: (Way, usize), from: TcpStream, to: TcpStream) {
        let (send, pieces) = channel();
        let shared = self.clone();
        spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = (&from).read(&mut chunk) {
                let delay = shared.state().delay;
                if send.send((Instant::now() + delay, chunk[..n].to_vec())).is_err() {
                    break;
                }
            }
        });
        let shared = self.clone();
        spawn(move || {
            shared.pass_on(way, &pieces, &to);
            let _ = to.shutdown(if way.0 == Way::There { Shutdown::Write } else { Shutdown::Both });
        });
    }

    fn pass_on(&self, way: (Way, usize), pieces: &Receiver<(Instant, Vec<u8>)>, mut to: &TcpStream) {
        while let Ok((due, piece)) = pieces.recv() {
            if !self.let_through(way, due) || to.write_all(&piece).is_err() {
                return;
            }
        }
    }

    /// Waits until a piece may go; `false` where it is lost.
    fn let_through(&self, (way, part): (Way, usize), due: Instant) -> bool {
        let early = due.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            std::thread::sleep(early);
        }
        let mut state = self.state();
        state.carried.late += u64::from(!early.is_zero());
        let is_cut = |state: &State| state.cut[way as usize] || state.split == Some(part);
        state.carried.held += u64::from(is_cut(&state));
        let cut = |state: &mut State| is_cut(state) && !state.over;
        state = self.changed.wait_while(state, cut).unwrap_or_else(PoisonError::into_inner);
        if state.over {
            return false;
        }
        let lost = way == Way::Back && state.to_lose > 0;
        if lost {
            state.to_lose -= 1;
            state.carried.lost += 1;
        }
        !lost
    }
}
