//! Starts the real servers that tests and benchmarks need: own folder, own port, own pid, ended by pid when dropped.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

pub mod bench;
mod cancel;
mod clock;
mod cluster;
mod fake;
mod link;
mod postgres;
mod proxy;
mod redis;
mod sentinel;
mod tls;

pub use cancel::cancelled_after;
pub use clock::Clock;
pub use cluster::Cluster;
pub use fake::Fake;
pub use link::{Carried, Link};
pub use postgres::{Postgres, postgres_bin, watch};
pub use proxy::Proxy;
pub use redis::{Redis, redis_server};
pub use sentinel::{Sentinel, SentinelGroup};
pub use tls::{Certificates, TlsPostgres, TlsRedis};

use std::net::TcpListener;

/// A loopback port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port can be bound");
    listener.local_addr().expect("a bound socket has an address").port()
}
