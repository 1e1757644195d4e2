//! What lies under our prefix: records without an expiry, values that are none, and no more looked at than asked for.

use testkit::Redis;

use super::support::pty::Pty;
use super::{doctor, doctor_with, tenure};

#[test]
fn records_without_an_expiry_and_values_of_others_are_found() {
    let server = Redis::start();
    for name in ["kept", "lasting"] {
        assert!(tenure(&server.url(), &["run", name, "--", "true"]).status().unwrap().success());
    }
    doctor(&server.url()).has("ok", "keys", "2 records");
    server.command(&["PERSIST", "tenure:{lasting}"]);
    server.command(&["SET", "tenure:{text}", "not ours"]);
    server.command(&["HSET", "tenure:{hash}", "h", "nor this"]);
    server.command(&["RPUSH", "tenure:{list}", "nor this"]);
    // In nobody's way.
    server.command(&["SET", "tenure:other", "x"]);
    server.command(&["SET", "other:{a}", "x"]);
    let said = doctor(&server.url());
    let found = said.has("error", "expiry", "1 record without an expiry: tenure:{lasting}");
    assert!(found["fix"][0].as_str().unwrap().contains("PEXPIRE"), "{found}");
    let found = said.has("warning", "foreign", "3 values");
    for key in ["text", "hash", "list"] {
        assert!(found["found"].as_str().unwrap().contains(&format!("tenure:{{{key}}}")), "{found}");
    }
    assert_eq!(said.code, 78);
    // The server checks for such records when it ends.
    server.command(&["PEXPIRE", "tenure:{lasting}", "1000"]);
}

#[test]
fn no_more_keys_are_looked_at_than_asked_for_and_a_terminal_shows_how_far_it_is() {
    let server = Redis::start();
    let fill = "for i = 1, 20000 do redis.call('SET', 'x' .. i, '') end redis.call('SET', 'tenure:{odd}', '')";
    server.command(&["EVAL", fill, "0"]);
    doctor(&server.url()).has("warning", "foreign", "tenure:{odd}");
    let said = doctor_with(&server.url(), &["--keys", "1000"]);
    let of_keys = said.findings.iter().find(|one| one["check"] == "keys" || one["check"] == "foreign").unwrap();
    assert!(of_keys["found"].as_str().unwrap().contains("among the first 1000 keys"), "{of_keys}");
    let (_, seen) = Pty::start(&tenure(&server.url(), &["doctor"])).wait();
    assert!(seen.contains("keys looked at"), "{seen:?}");
}
