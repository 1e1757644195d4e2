//! A proxy between a client and a Redis server that can be told to misbehave, one reply at a time.
//!
//! ```text
//!   client ══ requests, as they come ══▶ proxy ══▶ server
//!   client ◀═ replies, whole or not at all ═ proxy ◀══ server
//! ```

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::spawn;
use std::time::Duration;

/// A TCP proxy on a free loopback port. It goes with this value, and its connections with it.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether what comes from the server is passed on as it comes, and not reply by reply.
    raw: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Both ends of every connection, the client's first.
    links: Vec<(TcpStream, TcpStream)>,
    accepted: usize,
    replies: usize,
    delay: Duration,
    /// Cut in place of the reply that brings this down to zero.
    cut_in: Option<usize>,
    silent: bool,
    holding: bool,
    refusing: bool,
    over: bool,
}

impl Proxy {
    /// A proxy to the server on that loopback port.
    pub fn to(server: u16) -> Self {
        Self::start(server, false)
    }

    /// The same for connections on which more goes than replies: a replica's. No single reply can be lost on it.
    pub fn raw_to(server: u16) -> Self {
        Self::start(server, true)
    }

    fn start(server: u16, raw: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port can be bound");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared { raw, ..Shared::default() });
        let state = shared.clone();
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if state.state().over {
                    return;
                }
                state.accept(client, server);
            }
        });
        Self { port, shared }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// How many connections were made so far.
    pub fn accepted(&self) -> usize {
        self.shared.state().accepted
    }

    /// How many replies were passed on so far; pushes are none.
    pub fn replies(&self) -> usize {
        self.shared.state().replies
    }

    /// Holds every reply back for that long.
    pub fn delay(&self, delay: Duration) {
        self.shared.set(|state| state.delay = delay);
    }

    /// Cuts a connection where the `n`-th reply from now should have come; 1 is the next. The server has carried out
    /// the command by then.
    pub fn lose_reply(&self, n: usize) {
        self.shared.set(|state| state.cut_in = Some(n));
    }

    /// Waits until the reply that was to be lost is lost.
    pub fn wait_for_loss(&self) {
        let waiting = |state: &mut State| state.cut_in.is_some();
        let limit = Duration::from_secs(10);
        let (state, _) =
            self.shared.changed.wait_timeout_while(self.shared.state(), limit, waiting).expect("no poison");
        assert!(state.cut_in.is_none(), "no reply came within {limit:?}");
    }

    /// Keeps replies to itself, or lets them go; requests go through.
    pub fn silence(&self, silent: bool) {
        self.shared.set(|state| state.silent = silent);
    }

    /// Keeps requests to itself, or lets them go, in their order.
    pub fn hold_requests(&self, holding: bool) {
        self.shared.set(|state| state.holding = holding);
    }

    /// Closes new connections at once.
    pub fn refuse(&self, refusing: bool) {
        self.shared.set(|state| state.refusing = refusing);
    }

    /// Tells the clients that no more replies will come, and goes on reading their requests.
    pub fn half_close(&self) {
        self.shared.set(|state| state.links.iter().for_each(|(client, _)| _ = client.shutdown(Shutdown::Write)));
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.shared.set(|state| state.links.drain(..).for_each(|link| close(&link)));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.set(|state| state.over = true);
        self.cut();
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

    fn accept(self: &Arc<Self>, client: TcpStream, server: u16) {
        let mut state = self.state();
        state.accepted += 1;
        if state.refusing {
            return;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
        let clone = |stream: &TcpStream| stream.try_clone().expect("a socket can be cloned");
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        state.links.push((clone(&client), clone(&server)));
        let (from, to) = (clone(&client), clone(&server));
        let shared = self.clone();
        spawn(move || shared.pass_requests(&from, &to));
        let shared = self.clone();
        spawn(move || {
            let link = (client, server);
            shared.pass_replies(&link);
            close(&link);
        });
    }

    fn pass_requests(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from.read(&mut chunk) {
            let held = |state: &mut State| state.holding && !state.over;
            drop(self.changed.wait_while(self.state(), held).expect("no poison"));
            if to.write_all(&chunk[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }

    fn pass_replies(&self, (client, server): &(TcpStream, TcpStream)) {
        let (mut bytes, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
        while let Ok(n @ 1..) = { server }.read(&mut chunk) {
            if self.raw {
                if !self.let_through(true) || { client }.write_all(&chunk[..n]).is_err() {
                    return;
                }
                continue;
            }
            bytes.extend_from_slice(&chunk[..n]);
            let mut passed = 0;
            while let Some(length) = frame(&bytes[passed..]) {
                let reply = &bytes[passed..passed + length];
                if !self.let_through(reply[0] == b'>') || { client }.write_all(reply).is_err() {
                    return;
                }
                passed += length;
            }
            bytes.drain(..passed);
        }
    }

    /// Waits until the next reply may go; `false`: the connection is to be cut instead.
    fn let_through(&self, is_push: bool) -> bool {
        let delay = self.state().delay;
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let silent = |state: &mut State| state.silent && !state.over;
        let mut state = self.changed.wait_while(self.state(), silent).expect("no poison");
        if is_push {
            return true;
        }
        match &mut state.cut_in {
            Some(n @ 2..) => *n -= 1,
            Some(_) => {
                state.cut_in = None;
                self.changed.notify_all();
                return false;
            }
            None => {}
        }
        state.replies += 1;
        true
    }
}

fn close((client, server): &(TcpStream, TcpStream)) {
    let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
}

/// How long the first whole RESP value in `bytes` is.
pub(crate) fn frame(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let count = std::str::from_utf8(&bytes[1..line - 2]).ok().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    let mut length = line;
    match bytes[0] {
        b'$' | b'=' | b'!' if count >= 0 => length += count as usize + 2,
        kind @ (b'*' | b'>' | b'~' | b'%') => {
            for _ in 0..if kind == b'%' { 2 * count } else { count } {
                length += frame(bytes.get(length..)?)?;
            }
        }
        _ => {}
    }
    (length <= bytes.len()).then_some(length)
}
