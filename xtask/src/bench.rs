//! `cargo xtask bench`: the benchmarks one after the other, and their figures as one table.
//!
//! A benchmark is a program in `tenure/benches`. It starts the servers it needs, and prints a line for each figure:
//!
//! ```text
//! latency of a free lock, 1 task: 1.08 (≤ 1.15) [26.1 µs against 24.2 µs]
//! ```
//!
//! A name, a ratio that was measured in one run, the limit it should keep (`≤` or `≥`), and the absolute figures, which
//! hold for one machine only. A missed limit is marked in the table; only a program that fails makes this fail.

use crate::run::{cargo, run, watch};
use crate::{Outcome, servers};

/// Runs all benchmarks, or those named.
pub(crate) fn main(names: &[&str]) -> Outcome {
    let all = benchmarks().map_err(|error| format!("tenure/benches cannot be read: {error}"))?;
    if let Some(other) = names.iter().find(|name| !all.iter().any(|known| known == *name)) {
        return Err(format!("there is no benchmark {other}; there are: {}", all.join(", ")));
    }
    servers::ensure(true)?;
    let chosen = all.iter().filter(|name| names.is_empty() || names.contains(&name.as_str()));
    let each: Vec<String> =
        chosen.map(|name| format!("bench --package tenure --all-features --bench {name}")).collect();
    for bench in &each {
        run(&mut cargo(&format!("{bench} --no-run")))?;
    }
    let (mut figures, mut failed) = (Vec::new(), Vec::new());
    for bench in &each {
        failed.extend(watch(&mut cargo(bench), |line| figures.extend(Figure::read(line))).err());
        if bench.ends_with(" monitoring") {
            match facade_unheard() {
                Ok(more) => figures.extend(more),
                Err(error) => failed.push(error),
            }
        }
    }
    let table: String = figures.iter().map(|figure| figure.row() + "\n").collect();
    let missed = figures.iter().filter(|figure| !figure.kept()).count();
    println!("\n{table}");
    if failed.is_empty() { Ok(format!("{} figures, {missed} missed", figures.len())) } else { Err(failed.join("\n")) }
}

/// How often the two take turns.
const TURNS: usize = 9;

/// What the feature `metrics` costs where nobody has installed a recorder: the same client compiled with it and without.
fn facade_unheard() -> Result<Vec<Figure>, String> {
    let mut ratios = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        let mut costs = [Vec::new(), Vec::new()];
        for (features, costs) in ["metrics", "redis"].iter().zip(&mut costs) {
            let bench = format!("bench --quiet --package tenure --features {features} --bench monitoring -- off");
            watch(&mut cargo(&bench), |line| costs.extend(numbers(line)))?;
        }
        let [with, without] = costs;
        for (ratios, (with, without)) in ratios.iter_mut().zip(with.iter().zip(without)) {
            ratios.push(with / without);
        }
    }
    let of = |what, mut ratios: Vec<f64>| {
        ratios.sort_by(f64::total_cmp);
        let name = format!("{what}, compiled with the facade and off");
        let absolutes = format!("{:.2} to {:.2} in {TURNS} turns", ratios[0], ratios[TURNS - 1]);
        Figure { name, ratio: ratios[TURNS / 2], at_most: true, limit: 1.05, absolutes }
    };
    let [time, cpu] = ratios;
    if time.len() < TURNS {
        return Err("the monitoring benchmark does not say what it takes when off".to_owned());
    }
    Ok(vec![of("time", time), of("client CPU", cpu)])
}

/// The numbers in the line in which the monitoring benchmark says what it takes when off.
fn numbers(line: &str) -> Vec<f64> {
    let words = line.strip_prefix("off: ").into_iter().flat_map(str::split_whitespace);
    words.filter_map(|word| word.parse().ok()).collect()
}

fn benchmarks() -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir("tenure/benches")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".rs").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

struct Figure {
    name: String,
    ratio: f64,
    at_most: bool,
    limit: f64,
    absolutes: String,
}

impl Figure {
    /// The figure in a line of a benchmark's output, if the line has one.
    fn read(line: &str) -> Option<Self> {
        let (name, rest) = line.split_once(": ")?;
        let (ratio, rest) = rest.split_once(" (")?;
        let (limit, absolutes) = rest.split_once(") [")?;
        let at_most = limit.starts_with('≤');
        let limit = limit.strip_prefix(['≤', '≥'])?.trim().parse().ok()?;
        let absolutes = absolutes.strip_suffix(']')?.to_owned();
        Some(Self { name: name.to_owned(), ratio: ratio.trim().parse().ok()?, at_most, limit, absolutes })
    }

    fn kept(&self) -> bool {
        if self.at_most { self.ratio <= self.limit } else { self.ratio >= self.limit }
    }

    fn row(&self) -> String {
        let Self { name, ratio, limit, absolutes, .. } = self;
        let (sign, mark) = (if self.at_most { '≤' } else { '≥' }, if self.kept() { "" } else { "MISSED" });
        format!("{name:48} {ratio:7.2}  {sign} {limit:<6} {mark:6}  {absolutes}")
    }
}

#[cfg(test)]
mod tests {
    use super::Figure;

    #[test]
    fn a_figure_is_read_from_its_line_and_held_against_its_limit() {
        let kept = |line: &str| Figure::read(line).map(|figure| figure.kept());
        assert_eq!(kept("latency, 1 task: 1.08 (≤ 1.15) [26.1 µs (p50) against 24.2 µs]"), Some(true));
        assert_eq!(kept("latency, 1 task: 1.16 (≤ 1.15) []"), Some(false));
        assert_eq!(kept("throughput: 1.79 (≥ 1.8) [1/s]"), Some(false));
        assert_eq!(kept("throughput: 4 (≥ 1.8) [1/s]"), Some(true));
        assert_eq!(kept("running: it takes a while (some seconds) [sic]"), None);
    }
}
