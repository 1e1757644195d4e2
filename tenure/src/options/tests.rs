use bytes::Bytes;

use super::*;

fn refusal(change: impl FnOnce(&mut Options)) -> String {
    let mut options = Options::default();
    change(&mut options);
    options.validate().expect_err("it is refused").to_string()
}

#[test]
fn each_refusal_names_the_option_the_value_and_what_would_do() {
    assert_eq!(refusal(|o| o.ttl = Duration::ZERO), "ttl of 0s is out of range: give 10ms to 7d");
    assert_eq!(refusal(|o| o.ttl = 8 * DAY), "ttl of 8d is out of range: give 10ms to 7d");
    assert!(refusal(|o| o.patience = Duration::ZERO).starts_with("patience of 0s"));
    assert!(refusal(|o| o.op_timeout = Duration::ZERO).starts_with("op_timeout of 0s"));
    assert!(refusal(|o| o.fence_memory = 31 * DAY).starts_with("fence_memory of 31d is out of range: give 0s to 30d"));
    let message = refusal(|o| o.watchdog_interval = Some(o.ttl));
    assert!(message.starts_with("watchdog_interval of 30s cannot keep a ttl of 30s: give"), "{message}");
    assert!(refusal(|o| o.watchdog_interval = Some(Duration::ZERO)).contains("more than zero"));
    let message = refusal(|o| o.retry_interval = Some(Duration::ZERO));
    assert!(message.starts_with("retry with an interval of zero") && message.contains("at least 1ms"), "{message}");
    assert!(refusal(|o| o.max_hold = Some(Duration::ZERO)).starts_with("max_hold of zero"));
    assert!(refusal(|o| o.reentrant = Some(0)).starts_with("reentrant(0)"));
    assert!(refusal(|o| o.meta = Some(Ok(Bytes::from(vec![0; 1025])))).contains("1025 bytes: give at most 1024"));
    assert!(refusal(|o| o.purpose = Some("x".repeat(257))).contains("257 bytes: give at most 256"));
}
