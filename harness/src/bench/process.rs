//! What the kernel knows of a process: the CPU time of its threads, and its memory.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time, user and system, of the threads whose name begins with `name` (all with ""), to the nanosecond.
///
/// # Errors
/// If the process has ended, or the kernel keeps no such counts.
pub fn cpu_time(pid: u32, name: &str) -> Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        // A thread may end while the directory is read.
        let (Ok(comm), Ok(stat)) =
            (fs::read_to_string(task.join("comm")), fs::read_to_string(task.join("schedstat")))
        else {
            continue;
        };
        if comm.starts_with(name) {
            let first = stat.split_whitespace().next().context("an empty schedstat")?;
            nanos += first.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// Sizes of the linear memories of a process's WebAssembly instances, in bytes.
///
/// V8 puts each at the beginning of a reservation of several GiB that traps whatever is out of bounds: it is the writable
/// mapping right before one of those.
///
/// # Errors
/// If the process has ended.
pub fn wasm_memories(pid: u32) -> Result<Vec<u64>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    Ok(memories_in(&maps))
}

fn memories_in(maps: &str) -> Vec<u64> {
    const GUARD: u64 = 4 << 30;
    let mappings: Vec<(u64, u64, &str)> = maps
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (from, to) = words.next()?.split_once('-')?;
            let from = u64::from_str_radix(from, 16).ok()?;
            Some((from, u64::from_str_radix(to, 16).ok()?, words.next()?))
        })
        .collect();
    let pairs = mappings.windows(2).filter_map(|pair| match pair {
        [(from, to, "rw-p"), (guard, end, "---p")] if to == guard && end - guard >= GUARD => Some(to - from),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_memory_is_what_a_large_guard_follows() {
        let maps = "\
            10000000-10400000 rw-p 00000000 00:00 0\n\
            10400000-390000000 ---p 00000000 00:00 0\n\
            400000000-400100000 rw-p 00000000 00:00 0 [heap]\n\
            400200000-400300000 ---p 00000000 00:00 0\n";
        assert_eq!(memories_in(maps), [0x40_0000]);
    }

    #[test]
    fn time_is_counted_for_the_threads_asked_for() {
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_millis(50) {
            std::hint::black_box(started.elapsed());
        }
        let pid = std::process::id();
        assert!(cpu_time(pid, "").unwrap() > Duration::ZERO);
        assert_eq!(cpu_time(pid, "no such thread").unwrap(), Duration::ZERO);
    }
}
