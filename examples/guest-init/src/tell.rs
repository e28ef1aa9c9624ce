//! Saying where the pages are, and waiting.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};

use guest_init::{Line, Run};

use super::kernel;
use super::regions::Regions;

/// Every how many of the kernel’s symbols are told.
const EVERY: usize = 64;
/// Those that are told in any case, if the kernel knows them.
const ALWAYS: [&str; 6] = ["_text", "_stext", "_etext", "_sinittext", "_einittext", "linux_banner"];
/// How many runs stand in a line.
const RUNS: usize = 8;
/// What the kernel’s log is searched for.
const LOGGED: [&str; 12] = [
    "Linux version",
    "radix-mmu:",
    "hash-mmu:",
    "Using 1TB segments",
    "Kernel command line:",
    "Memory:",
    "smp: Brought up",
    "console [",
    "Page sizes from device-tree",
    "Run /init",
    "x86/PAT",
    "ppc64_pft_size",
];

/// The whole of it.
pub fn tell_and_wait() -> io::Result<()> {
    kernel::keep_heap(6 << 20)?;
    let mut regions = Regions::new()?;
    let mut lines = vec![Line::System {
        arch: std::env::consts::ARCH.into(),
        page: kernel::page_size() as u64,
    }];
    for range in &regions.tagged {
        lines.push(Line::Tagged { start: range.start as u64, end: range.end as u64 });
    }
    iomem(&mut lines)?;
    symbols(&mut lines)?;
    log(&mut lines)?;
    // From here on nothing becomes present that was not.
    kernel::lock_all()?;
    pages(&mut lines)?;
    lines.push(Line::End(lines.len() as u64));
    regions.also(lines.iter().filter_map(readable).collect());
    // Once, so that a hashed page table has what the page map has.
    if !regions.touch() {
        return Err(io::Error::other("a page does not hold what was written to it"));
    }
    let mut text = String::with_capacity(1 << 20);
    for line in &lines {
        text.push_str(&line.to_string());
        text.push('\n');
    }
    kernel::hush()?;
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    drop(output);

    while !kernel::has_input() {
        if !regions.touch() {
            return Err(io::Error::other("a page does not hold what was written to it"));
        }
    }
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    println!("{}", Line::Bye(answer.trim().into()));
    Ok(())
}

/// The range of a memory area that can be read without harm: not what the kernel puts beside the
/// vDSO, which may be no memory.
fn readable(line: &Line) -> Option<std::ops::Range<usize>> {
    match line {
        Line::Vma { start, end, permissions, name }
            if permissions.starts_with('r') && !name.starts_with("[vv") =>
        {
            Some(usize::try_from(*start).ok()?..usize::try_from(*end).ok()?)
        }
        _ => None,
    }
}

fn hex(text: &str) -> io::Result<u64> {
    u64::from_str_radix(text, 16).map_err(io::Error::other)
}

fn range(text: &str) -> io::Result<(u64, u64)> {
    let (start, end) =
        text.split_once('-').ok_or_else(|| io::Error::other(format!("no range: {text}")))?;
    Ok((hex(start)?, hex(end)?))
}

fn iomem(lines: &mut Vec<Line>) -> io::Result<()> {
    for line in fs::read_to_string("/proc/iomem")?.lines() {
        if let Some((span, name)) = line.trim().split_once(" : ") {
            let (start, end) = range(span)?;
            lines.push(Line::Iomem { start, end, name: name.into() });
        }
    }
    Ok(())
}

/// Some of the kernel’s own symbols, from its beginning to its end; and its banner, which says what
/// it is.
fn symbols(lines: &mut Vec<Line>) -> io::Result<()> {
    let mut symbols = BufReader::with_capacity(1 << 16, File::open("/proc/kallsyms")?);
    let mut line = String::new();
    for index in 0.. {
        line.clear();
        if symbols.read_line(&mut line)? == 0 {
            break;
        }
        let mut words = line.split_whitespace();
        let (Some(va), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        // A module's symbols have its name behind them; absolute ones are no addresses.
        let wanted = index % EVERY == 0 || ALWAYS.contains(&name);
        if wanted && words.next().is_none() && !kind.eq_ignore_ascii_case("a") {
            lines.push(Line::Symbol { va: hex(va)?, name: name.into() });
        }
    }
    Ok(())
}

fn log(lines: &mut Vec<Line>) -> io::Result<()> {
    for line in kernel::log()?.lines() {
        let text = line.split_once("] ").map_or(line, |(_, text)| text);
        if LOGGED.iter().any(|it| text.contains(it)) {
            lines.push(Line::Log(text.into()));
        }
    }
    Ok(())
}

/// The program’s own address space.
fn pages(lines: &mut Vec<Line>) -> io::Result<()> {
    let page = kernel::page_size() as u64;
    let mut pagemap = File::open("/proc/self/pagemap")?;
    let here = pages as fn(&mut Vec<Line>) -> io::Result<()> as usize as u64;
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        let mut words = line.split_whitespace();
        let (Some(span), Some(permissions)) = (words.next(), words.next()) else { continue };
        let (start, end) = range(span)?;
        // The kernel's own addresses (x86 vsyscall) are not in the page map.
        if start >> 63 != 0 {
            continue;
        }
        let name = words.nth(3).unwrap_or_default();
        lines.push(Line::Vma { start, end, permissions: permissions.into(), name: name.into() });
        if (start..end).contains(&here) {
            lines.push(Line::Text { start, end });
        }
        let mut words =
            vec![0_u8; usize::try_from((end - start) / page).map_err(io::Error::other)? * 8];
        pagemap.seek(SeekFrom::Start(start / page * 8))?;
        pagemap.read_exact(&mut words)?;
        let runs = Run::all(words.chunks_exact(8).map(frame));
        let mut va = start;
        for runs in runs.chunks(RUNS) {
            lines.push(Line::Pages { va, runs: runs.to_vec() });
            va += runs.iter().map(|run| run.pages()).sum::<u64>() * page;
        }
    }
    Ok(())
}

/// What an entry of the page map says (Linux `Documentation/admin-guide/mm/pagemap.rst`): bit 63
/// present, bits 54:0 the frame.
fn frame(entry: &[u8]) -> Option<u64> {
    let entry = u64::from_ne_bytes(entry.try_into().ok()?);
    (entry >> 63 != 0).then_some(entry & ((1 << 55) - 1))
}
