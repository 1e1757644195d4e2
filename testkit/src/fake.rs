//! Something that speaks Redis' protocol and says what a test wants to hear: an old version, an error that is hard to
//! have from a real server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::spawn;

/// A server on a free loopback port that answers each command by a function: the words of it to the raw reply.
#[derive(Debug)]
pub struct Fake {
    port: u16,
    over: Arc<AtomicBool>,
    clients: Arc<Mutex<Vec<TcpStream>>>,
}

impl Fake {
    /// A server that answers so.
    pub fn start(answer: impl Fn(&[String]) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port can be bound");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let (answer, over) = (Arc::new(answer), Arc::new(AtomicBool::new(false)));
        let is_over = over.clone();
        let clients = Arc::<Mutex<Vec<TcpStream>>>::default();
        let connected = clients.clone();
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let answer = answer.clone();
                let kept = client.try_clone().expect("a socket can be cloned");
                connected.lock().expect("no poison").push(kept);
                spawn(move || serve(&client, &*answer));
            }
        });
        Self { port, over, clients }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sends that to everyone who is connected.
    pub fn tell(&self, raw: &str) {
        let clients = self.clients.lock().expect("no poison");
        clients.iter().for_each(|client| _ = { client }.write_all(raw.as_bytes()));
    }

    /// The answer to `HELLO` of a Redis of that version.
    pub fn hello(version: &str) -> String {
        format!("%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n${}\r\n{version}\r\n", version.len())
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(mut client: &TcpStream, answer: &dyn Fn(&[String]) -> String) {
    let mut requests = BufReader::new(client);
    while let Some(words) = request(&mut requests) {
        if client.write_all(answer(&words).as_bytes()).is_err() {
            return;
        }
    }
}

fn request(from: &mut impl BufRead) -> Option<Vec<String>> {
    let number = |from: &mut dyn BufRead| {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        line.get(1..)?.trim_end().parse::<usize>().ok()
    };
    (0..number(from)?)
        .map(|_| {
            let mut word = vec![0; number(from)? + 2];
            Read::read_exact(from, &mut word).ok()?;
            word.truncate(word.len() - 2);
            Some(String::from_utf8_lossy(&word).into_owned())
        })
        .collect()
}
