//! What the locks protect: a little server that takes nothing from who has an older token than it has seen.
//!
//! ```text
//!   read NAME FENCE ID            ok VALUE       from now on nobody with an older token
//!   write NAME FENCE ID VALUE     ok VALUE       no LAST: somebody with a later token was here
//! ```
//!
//! A holder reads a number and writes it back one higher. Where tokens do what they are for, none of these is lost,
//! whatever happens to the holds.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::spawn;

/// What was let in, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) name: String,
    pub(crate) fence: u64,
    /// Which acquisition it was.
    pub(crate) id: u64,
    /// What was written; `None` where it was read.
    pub(crate) wrote: Option<u64>,
}

/// The server, on a loopback port for as long as the process runs.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The latest token and the number of each lock.
    latest: HashMap<String, (u64, u64)>,
    accesses: Vec<Access>,
    refused: u64,
}

impl Resource {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port can be bound");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let state = Arc::new(Mutex::new(State::default()));
        let serving = state.clone();
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let state = serving.clone();
                spawn(move || serve(&client, &state));
            }
        });
        Self { port, state }
    }

    /// All that was let in, and how often somebody was refused.
    pub(crate) fn accesses(&self) -> (Vec<Access>, u64) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.accesses.clone(), state.refused)
    }
}

fn serve(client: &TcpStream, state: &Mutex<State>) {
    let _ = client.set_nodelay(true);
    let mut answers = client;
    for line in BufReader::new(client).lines().map_while(Result::ok) {
        let answer = state.lock().unwrap_or_else(PoisonError::into_inner).answer(&line);
        if answers.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

impl State {
    fn answer(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |n: usize| words.get(n).and_then(|word| word.parse::<u64>().ok());
        let (Some(name), Some(fence), Some(id)) = (words.get(1), number(2), number(3)) else {
            return format!("what is {line:?}?\n");
        };
        let (latest, value) = self.latest.entry((*name).to_owned()).or_default();
        if fence < *latest {
            self.refused += 1;
            return format!("no {latest}\n");
        }
        *latest = fence;
        let wrote = number(4);
        *value = wrote.unwrap_or(*value);
        let answer = format!("ok {value}\n");
        self.accesses.push(Access { name: (*name).to_owned(), fence, id, wrote });
        answer
    }
}
