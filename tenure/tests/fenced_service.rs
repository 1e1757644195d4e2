//! The example of a service that checks tokens, over real HTTP.
//!
//! Bugs that were planted, one at a time, and found: the withdrawal goes around the gate; a request without a token passes
//! as one of token 1.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

#[path = "../examples/fenced_service.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod service;

use std::net::SocketAddr;
use std::sync::Arc;

use service::{Accounts, serve, story, withdraw};
use tokio::net::TcpListener;

async fn start() -> (Arc<Accounts>, SocketAddr) {
    let accounts = Arc::new(Accounts::new([("7".to_owned(), 100)]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, accounts.clone()));
    (accounts, service)
}

#[tokio::test]
async fn a_client_that_stood_still_past_its_hold_is_refused() {
    let (accounts, service) = start().await;
    let answers = story(service).await.unwrap().map(|status| status.as_u16());
    assert_eq!((answers, accounts.balance("7")), ([412, 200], Some(90)));
}

#[tokio::test]
async fn every_answer_is_the_one_that_is_documented() {
    let (accounts, service) = start().await;
    let requests = [
        ("7", Some("8"), 200, 90),
        ("7", Some("8"), 200, 80),
        ("7", Some("7"), 412, 80),
        ("7", None, 428, 80),
        ("7", Some("0"), 412, 80),
        ("7", Some("-9"), 400, 80),
        ("7", Some("99999999999999999999"), 400, 80),
        ("8", Some("9"), 404, 80),
        ("7", Some("9"), 200, 70),
    ];
    for (account, token, answer, left) in requests {
        let status = withdraw(service, account, 10, token).await.unwrap();
        assert_eq!((status.as_u16(), accounts.balance("7")), (answer, Some(left)), "{account} under {token:?}");
    }
}
