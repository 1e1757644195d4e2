//! A wall clock for one server that can be set and made to run fast or slow while the server runs.
//!
//! `clock.c` is compiled with `cc` when it is first needed, into a folder that goes with this value, and loaded into the
//! server by `LD_PRELOAD`. What the clock tells is in a file that the server has mapped. The monotonic clock is left alone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

/// The wall clock of the server that is started with it: see [`Redis::start_by_clock`](crate::Redis::start_by_clock).
#[derive(Debug)]
pub struct Clock {
    dir: TempDir,
    file: File,
    /// Which of the two settings counts, when it began, what it told then, and how fast it goes.
    setting: (u64, i64, i64, i64),
}

impl Clock {
    /// A clock that is right.
    ///
    /// # Panics
    ///
    /// Where there is no C compiler.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("tenure-clock-").tempdir().expect("a temporary folder can be made");
        let source = dir.path().join("clock.c");
        std::fs::write(&source, include_str!("clock.c")).expect("a temporary file can be written");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(dir.path().join("clock.so")).arg(source);
        let output = compiler.output().expect("there is a C compiler, cc");
        assert!(output.status.success(), "clock.c: {}", String::from_utf8_lossy(&output.stderr));
        let file = File::options().create_new(true).read(true).write(true).open(dir.path().join("clock"));
        let file = file.expect("a temporary file can be made");
        // It is mapped as a whole.
        file.set_len(8 + 2 * 24).expect("a temporary file can be written");
        let mut clock = Self { dir, file, setting: (0, 0, 0, 1_000_000) };
        clock.set(0, 1.0);
        clock
    }

    /// Sets the clock ahead of the right time by that many microseconds, or behind it, and has it go at that rate from
    /// there on.
    pub fn set(&mut self, ahead: i64, rate: f64) {
        let real = nanos();
        self.write(real, real + ahead * 1_000, rate);
    }

    /// Has it go at another rate, from what it tells now.
    pub fn rate(&mut self, rate: f64) {
        let real = nanos();
        self.write(real, self.told(real), rate);
    }

    /// By how many microseconds it is ahead of the right time now.
    pub fn ahead(&self) -> i64 {
        let real = nanos();
        (self.told(real) - real) / 1_000
    }

    /// What the server's environment has to have.
    pub(crate) fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [("LD_PRELOAD", self.dir.path().join("clock.so")), ("TESTKIT_CLOCK", self.dir.path().join("clock"))]
    }

    fn told(&self, real: i64) -> i64 {
        let (_, since, told, ppm) = self.setting;
        told + ((i128::from(real) - i128::from(since)) * i128::from(ppm) / 1_000_000) as i64
    }

    /// The setting that does not count is written, and then made to count: the server never sees half of one.
    fn write(&mut self, real: i64, told: i64, rate: f64) {
        let (next, ppm) = (1 - self.setting.0, (rate * 1e6) as i64);
        let bytes: Vec<u8> = [real, told, ppm].iter().flat_map(|number| number.to_ne_bytes()).collect();
        self.file.write_all_at(&bytes, 8 + 24 * next).expect("a temporary file can be written");
        self.file.write_all_at(&next.to_ne_bytes(), 0).expect("a temporary file can be written");
        self.setting = (next, real, told, ppm);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

fn nanos() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() as i64
}
