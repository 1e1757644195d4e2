//! Journals and participants on a Postgres that speaks TLS and lets nobody in without: whom they trust, and what they say
//! where they do not.

#![cfg(feature = "postgres")]

use std::sync::LazyLock;

use tenure::ErrorKind;
use tenure::transaction::Participant;
use tenure::transaction::journal::{Journal, Keep, PostgresJournal, Written, open_durable};
use tenure::transaction::participant::PostgresParticipant;
use testkit::{Certificates, Postgres, TlsPostgres};

static SERVER: LazyLock<TlsPostgres> = LazyLock::new(TlsPostgres::start);

/// The server by that name, with that mode and the authority of its own.
fn url(host: &str, mode: &str) -> String {
    SERVER.url(host, &format!("sslmode={mode}&sslrootcert={}", SERVER.ca().display()))
}

/// Why one cannot open a journal there. A password is not part of it.
async fn refusal(url: &str) -> tenure::Error {
    let error = PostgresJournal::connect(url).await.expect_err(url);
    let password = url.split(['@', ':']).nth(2).unwrap();
    assert!(password.len() > 8, "it is the password: {password}");
    let mut causes = vec![format!("{error} {error:?}")];
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(error) = cause {
        causes.push(format!("{error} {error:?}"));
        cause = error.source();
    }
    assert!(causes.iter().all(|text| !text.contains(password)), "{causes:?}");
    error
}

/// Whether the server's connections of ours are encrypted.
async fn is_encrypted() -> bool {
    let seen =
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'tenure'";
    SERVER.postgres().psql(seen) == "t"
}

#[tokio::test]
async fn a_journal_and_a_participant_work_over_tls() {
    for url in [
        SERVER.url("localhost", ""),
        SERVER.url("localhost", "sslmode=require"),
        url("localhost", "verify-ca"),
        url("localhost", "verify-full"),
        // By its address, for which the certificate is as well.
        url("127.0.0.1", "verify-full"),
    ] {
        let journal = PostgresJournal::connect(&url).await.unwrap();
        journal.migrate().await.unwrap();
        let id = format!("over {url}");
        assert_eq!(journal.write(&id, None, b"begun", Keep::UntilForgotten).await.unwrap(), Written::Done(1), "{url}");
        let participant = PostgresParticipant::connect("bank", &url).await.unwrap();
        participant.migrate().await.unwrap();
        assert!(participant.list(None).await.unwrap().is_empty(), "{url}");
        assert!(is_encrypted().await, "{url}");
    }
    assert!(open_durable(&url("localhost", "verify-full")).await.is_ok());
}

#[tokio::test]
async fn verify_full_refuses_a_wrong_name() {
    let error = refusal(&url("wrong.example", "verify-full")).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("not trusted") && text.contains("wrong.example"), "{text}");
    // The other modes do not look at it.
    PostgresJournal::connect(&url("wrong.example", "verify-ca")).await.unwrap();
}

#[tokio::test]
async fn a_wrong_authority_is_refused_wherever_one_is_named() {
    let other = Certificates::new();
    for mode in ["require", "verify-ca", "verify-full"] {
        let options = format!("sslmode={mode}&sslrootcert={}", other.ca().display());
        let error = refusal(&SERVER.url("localhost", &options)).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{mode}");
        let text = error.to_string();
        assert!(text.contains("not trusted") && text.contains("sslrootcert"), "{mode}: {text}");
    }
    // No machine has ours among its authorities.
    let error = refusal(&SERVER.url("localhost", "sslmode=verify-full")).await;
    assert!(error.to_string().contains("sslrootcert"), "{error}");
}

#[tokio::test]
async fn without_tls_nobody_is_let_in_and_is_told_why() {
    let error = refusal(&SERVER.url("localhost", "sslmode=disable")).await;
    assert_eq!(error.kind(), ErrorKind::Denied);
    let text = error.to_string();
    assert!(text.contains("not without TLS") && text.contains("sslmode"), "{text}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_it_is_required() {
    let server = Postgres::start_fast();
    let error = refusal(&format!("{}?sslmode=require", server.url())).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("has no TLS"), "{error}");
    // Where it is only preferred there is the other way.
    assert_eq!(
        PostgresJournal::connect(&server.url()).await.unwrap_err().kind(),
        ErrorKind::Unsupported,
        "fsync is off"
    );
}

#[tokio::test]
async fn a_wrong_password_is_refused_over_tls_as_without() {
    let wrong = url("localhost", "verify-full").replace("postgres://postgres:", "postgres://postgres:wrong-password");
    assert_eq!(refusal(&wrong).await.kind(), ErrorKind::Denied);
}
