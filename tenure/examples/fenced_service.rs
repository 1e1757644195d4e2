//! A service that checks tokens: accounts over HTTP, where each withdrawal carries the token of the lock that it was decided
//! under, in the header `Fencing-Token`.
//!
//! ```text
//!   A  takes the lock, token 7, and stands still
//!   B  takes the lock, token 8     POST /accounts/7/withdraw/10   Fencing-Token: 8   200, 90 are left
//!   A  goes on                     POST /accounts/7/withdraw/10   Fencing-Token: 7   412, and nothing happens
//! ```
//!
//! | answer | |
//! | --- | --- |
//! | 200 | done; what is left |
//! | 412 Precondition Failed | the token is too old: whoever sent it has lost the lock, and has to take it again |
//! | 428 Precondition Required | there is no token |
//! | 400, 404 | the token is no number; there is no such account |
//!
//! Run it with `cargo run --example fenced_service`; `tests/fenced_service.rs` tries each answer. What a service keeps on a
//! disk would keep the newest tokens there too: see `FenceGate` for what to do at a restart.

#![allow(clippy::disallowed_methods, reason = "an example has its time and its tasks from the system")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, client, server};
use hyper_util::rt::TokioIo;
use tenure::transaction::FenceGate;
use tenure::{ErrorKind, Fence, Locks, store::Memory};
use tokio::net::{TcpListener, TcpStream};

/// The header that a token travels in, as a decimal number.
pub(crate) const FENCING_TOKEN: &str = "fencing-token";

/// The accounts, and the newest token that each was written under.
pub(crate) struct Accounts {
    gate: FenceGate,
    balances: Mutex<BTreeMap<String, i64>>,
}

impl Accounts {
    pub(crate) fn new(balances: impl IntoIterator<Item = (String, i64)>) -> Self {
        Self { gate: FenceGate::new(100_000), balances: Mutex::new(balances.into_iter().collect()) }
    }

    /// `POST /accounts/{account}/withdraw/{amount}`.
    fn answer(&self, request: &Request<Incoming>) -> (StatusCode, String) {
        let path: Vec<&str> = request.uri().path().split('/').collect();
        let (&Method::POST, ["", "accounts", account, "withdraw", amount]) = (request.method(), path.as_slice()) else {
            return (StatusCode::NOT_FOUND, "POST /accounts/{account}/withdraw/{amount}".into());
        };
        let Ok(amount) = amount.parse::<u32>() else {
            return (StatusCode::BAD_REQUEST, format!("{amount:?} is no amount"));
        };
        let Some(token) = request.headers().get(FENCING_TOKEN) else {
            return (StatusCode::PRECONDITION_REQUIRED, format!("{FENCING_TOKEN}: the token of your hold"));
        };
        let Some(fence) = token.to_str().ok().and_then(|token| token.parse().ok()).map(Fence::new) else {
            return (StatusCode::BAD_REQUEST, format!("{FENCING_TOKEN} is a decimal number"));
        };
        // The gate would remember accounts that are none.
        if !self.balances.lock().unwrap().contains_key(*account) {
            return (StatusCode::NOT_FOUND, format!("there is no account {account:?}"));
        }
        // The check and the write are one step: nobody with a newer token gets in between them.
        let left = self.gate.admit(account, fence, |_| {
            let mut balances = self.balances.lock().unwrap();
            let balance = balances.get_mut(*account).expect("accounts stay");
            *balance -= i64::from(amount);
            *balance
        });
        match left {
            Ok(left) => (StatusCode::OK, left.to_string()),
            Err(error) if error.kind() == ErrorKind::Lost => (StatusCode::PRECONDITION_FAILED, error.to_string()),
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
        }
    }

    pub(crate) fn balance(&self, account: &str) -> Option<i64> {
        self.balances.lock().unwrap().get(account).copied()
    }
}

/// Serves for as long as the runtime runs.
pub(crate) async fn serve(listener: TcpListener, accounts: Arc<Accounts>) {
    while let Ok((stream, _)) = listener.accept().await {
        let accounts = accounts.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let (status, text) = accounts.answer(&request);
                let mut response = Response::new(text);
                *response.status_mut() = status;
                async { Ok::<_, Infallible>(response) }
            });
            // A client that goes away is no matter of the service's.
            let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// One request of a client, under the token of its hold.
pub(crate) async fn withdraw(
    service: SocketAddr,
    account: &str,
    amount: u32,
    token: Option<&str>,
) -> Result<StatusCode, Box<dyn std::error::Error>> {
    let stream = TcpStream::connect(service).await?;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::post(format!("/accounts/{account}/withdraw/{amount}")).header("host", "accounts");
    if let Some(token) = token {
        request = request.header(FENCING_TOKEN, token);
    }
    Ok(sender.send_request(request.body(String::new())?).await?.status())
}

/// Two clients, of which the first one stands still for longer than it holds the lock.
pub(crate) async fn story(service: SocketAddr) -> Result<[StatusCode; 2], Box<dyn std::error::Error>> {
    // In earnest: `tenure::open("redis://…")` in each of the two processes.
    let store = Arc::new(Memory::new());
    let (a, b) = (Locks::builder(store.clone()).build()?, Locks::builder(store).build()?);

    // Nobody renews for a process that stands still.
    let lock = a.mutex("account-7").ttl(Duration::from_millis(100)).watchdog(false).build()?;
    let late = lock.lock().await?;

    let present = b.mutex("account-7").build()?.lock().await?;
    let second = withdraw(service, "7", 10, Some(&present.fence().to_string())).await?;
    println!("B with token {}: {second}", present.fence());

    // A looked at `is_held()` before it stood still, and sends what it had decided on.
    let first = withdraw(service, "7", 10, Some(&late.fence().to_string())).await?;
    println!("A with token {}: {first}", late.fence());
    Ok([first, second])
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let accounts = Arc::new(Accounts::new([("7".to_owned(), 100)]));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let service = listener.local_addr()?;
    tokio::spawn(serve(listener, accounts.clone()));
    story(service).await?;
    println!("{} are left", accounts.balance("7").expect("there is the account"));
    Ok(())
}
