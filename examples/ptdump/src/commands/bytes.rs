//! `read` and `search`: the bytes behind addresses.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::Result;
use memory_image::Unreadable;
use serde::Serialize;
use table_dump::Range;

use super::{Answers, keep, stdout};
use crate::Usage;
use crate::address::human;
use crate::cli::{Bytes, Pattern};
use crate::commands::list::{clip, write};
use crate::json;
use crate::options::Options;
use crate::output::Text;
use crate::progress::Progress;
use crate::session::{Session, Verdict, with};

/// Bytes of a line.
const LINE: u64 = 16;
/// The most bytes that are shown, and not written to a file.
const MOST_SHOWN: u64 = 16 << 20;
/// The most places where something is missing that are said one by one.
const MOST_GAPS: u64 = 16;
/// Read at a time.
const CHUNK: u64 = 1 << 16;

/// Where bytes come from.
struct Memory<'m, 's> {
    session: &'m Session<'s>,
    physical: bool,
}

/// Bytes that are there, or why they are not.
type Part = Result<Vec<u8>, (u64, String)>;

impl Memory<'_, '_> {
    /// The bytes at `address`, at most so many, up to the end of their page or of what is missing.
    fn part(&self, address: u64, most: u64, verdict: &mut Verdict) -> Part {
        let (physical, room) = if self.physical {
            (address, 4096 - address % 4096)
        } else {
            let range = self.session.space.translate(address, None);
            verdict.take(&range);
            let size = range.size.filter(|size| size.is_power_of_two()).unwrap_or(4096);
            let room = (size - 1 - (address & (size - 1))).saturating_add(1);
            match range.pa {
                Some(physical) => (physical, room),
                None => return Err((room.min(most), range.fault.unwrap_or_default())),
            }
        };
        let bytes = room.min(most).min(CHUNK);
        let mut buffer = vec![0; bytes as usize];
        match self.session.image.read(physical, &mut buffer) {
            Ok(()) => Ok(buffer),
            // What stands before it is there.
            Err(Unreadable::Missing { address: missing, .. }) if missing > physical => {
                buffer.truncate((missing - physical) as usize);
                match self.session.image.read(physical, &mut buffer) {
                    Ok(()) => Ok(buffer),
                    Err(why) => Err((buffer.len() as u64, format!("unknown: {why}"))),
                }
            }
            Err(why) => {
                verdict.unknown = true;
                let rest = self.session.image.piece(physical).bytes.min(bytes);
                Err((rest, format!("unknown: {why}")))
            }
        }
    }
}

/// A piece of what was read.
#[derive(Serialize)]
struct Piece {
    address: String,
    bytes: Option<String>,
    fault: Option<String>,
    length: u64,
}

pub fn read(wanted: &Bytes, options: &Options, text: &Text) -> Result<u8> {
    if wanted.out.is_none() && wanted.length > MOST_SHOWN {
        let why = "so many bytes are written to a file only (--out FILE)";
        return Err(Usage(why.to_owned()).into());
    }
    let end = wanted.address.checked_add(wanted.length.saturating_sub(1));
    if end.is_none() {
        return Err(Usage("the bytes end beyond the last address".to_owned()).into());
    }
    with(&wanted.image, options, options.tables.root, text, |session| {
        let memory = Memory { session, physical: wanted.physical };
        let mut verdict = Verdict::default();
        if let Some(path) = &wanted.out {
            write(path, &[session], |out| {
                let mut gaps = Gaps::default();
                parts(&memory, wanted, &mut verdict, |at, part| match part {
                    Ok(bytes) => Ok(out.write_all(&bytes)?),
                    Err((bytes, why)) => {
                        gaps.take(session, at, bytes, &why);
                        Ok(io::copy(&mut io::Read::take(io::repeat(0), bytes), out).map(drop)?)
                    }
                })?;
                gaps.end(session);
                Ok(())
            })?;
            return Ok(session.end(verdict));
        }
        let mut pieces = Vec::new();
        let mut lines = Lines::new(stdout());
        parts(&memory, wanted, &mut verdict, |at, part| {
            if options.output.json {
                let (bytes, fault, length) = match part {
                    Ok(bytes) => (Some(hex(&bytes)), None, bytes.len() as u64),
                    Err((length, why)) => (None, Some(why), length),
                };
                pieces.push(Piece { address: format!("{at:#x}"), bytes, fault, length });
            } else {
                lines.take(at, &part)?;
            }
            Ok(())
        })?;
        if options.output.json {
            json::whole(stdout(), session, "pieces", &pieces)?;
        } else {
            lines.end()?;
            lines.out.flush()?;
        }
        Ok(session.end(verdict))
    })
}

/// What is missing in a file that is written: the first are said, the others counted.
#[derive(Default)]
struct Gaps {
    count: u64,
    bytes: u64,
    next: Option<u64>,
}

impl Gaps {
    fn take(&mut self, session: &Session<'_>, at: u64, bytes: u64, why: &str) {
        if self.next != Some(at) {
            self.count += 1;
            if self.count <= MOST_GAPS {
                session.text.warning(&format!("from {at:#x} on zeros are written: {why}"));
            }
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.next = at.checked_add(bytes);
    }

    fn end(&self, session: &Session<'_>) {
        if self.count > 0 {
            let (count, bytes) = (self.count, human(self.bytes));
            session.text.warning(&format!("{bytes} are missing, in {count} places"));
        }
    }
}

/// Calls `visit` for each part of what is wanted.
fn parts(
    memory: &Memory<'_, '_>,
    wanted: &Bytes,
    verdict: &mut Verdict,
    mut visit: impl FnMut(u64, Part) -> Result<()>,
) -> Result<()> {
    let mut done = 0;
    while done < wanted.length {
        let at = wanted.address + done;
        let part = memory.part(at, wanted.length - done, verdict);
        done += match &part {
            Ok(bytes) => bytes.len() as u64,
            Err((bytes, _)) => *bytes,
        };
        visit(at, part)?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Lines of sixteen bytes; what is not there is `??`.
struct Lines<W> {
    out: W,
    start: u64,
    line: Vec<Option<u8>>,
    last: Option<Vec<Option<u8>>>,
    skipped: bool,
}

impl<W: Write> Lines<W> {
    fn new(out: W) -> Self {
        Self { out, start: 0, line: Vec::new(), last: None, skipped: false }
    }

    fn take(&mut self, at: u64, part: &Part) -> io::Result<()> {
        match part {
            Ok(bytes) => bytes
                .iter()
                .enumerate()
                .try_for_each(|(n, byte)| self.push(at + n as u64, Some(*byte))),
            Err((bytes, why)) => {
                writeln!(self.out, "{at:#018x}  {why}")?;
                // The last byte that there can be has an end, too.
                let (line, from) = (u128::from(LINE), u128::from(at));
                let (next, to) = (from.next_multiple_of(line), from + u128::from(*bytes));
                // The whole lines of it say nothing.
                let whole = (to / line * line).max(next);
                (from..to.min(next)).try_for_each(|at| self.push(at as u64, None))?;
                if whole > next {
                    self.end()?;
                }
                (whole..to).try_for_each(|at| self.push(at as u64, None))
            }
        }
    }

    fn push(&mut self, at: u64, byte: Option<u8>) -> io::Result<()> {
        if self.line.is_empty() {
            self.start = at;
        }
        self.line.push(byte);
        if at % LINE == LINE - 1 { self.end() } else { Ok(()) }
    }

    fn end(&mut self) -> io::Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.line);
        if self.last.as_ref() == Some(&line) && line.len() == LINE as usize {
            if !std::mem::replace(&mut self.skipped, true) {
                writeln!(self.out, "*")?;
            }
            return Ok(());
        }
        self.skipped = false;
        let before = (self.start % LINE) as usize;
        let mut bytes = "   ".repeat(before);
        let mut letters = " ".repeat(before);
        for byte in &line {
            bytes += &byte.map_or(" ??".to_owned(), |byte| format!(" {byte:02x}"));
            letters.push(match byte {
                Some(byte @ 0x20..=0x7e) => char::from(*byte),
                Some(_) => '.',
                None => '?',
            });
        }
        let start = self.start / LINE * LINE;
        self.last = Some(line);
        writeln!(self.out, "{start:#018x} {bytes:48}  |{letters}|")
    }
}

/// Where a pattern was found.
#[derive(Serialize)]
struct Found {
    va: String,
    pa: String,
}

pub fn search(wanted: &Pattern, options: &Options, text: &Text) -> Result<u8> {
    let pattern = if wanted.hex {
        unhex(&wanted.pattern)
            .ok_or_else(|| Usage("bytes are two hexadecimal digits each".to_owned()))?
    } else {
        wanted.pattern.clone().into_bytes()
    };
    if pattern.is_empty() {
        return Err(Usage("the pattern is empty".to_owned()).into());
    }
    with(&wanted.image, options, options.tables.root, text, |session| {
        let mut answers = Answers::begin(session, "matches")?;
        let mut verdict = Verdict::default();
        let most = wanted.most as usize;
        let mut seeker = Seeker { session, pattern: &pattern, tail: Vec::new(), next: 0, found: 0 };
        let mut result = Ok(());
        {
            let progress = Progress::new("searching", options.output.quiet);
            let mut take = |range: Range| {
                verdict.unknown |= range.state == table_dump::State::Unknown;
                let range = match &wanted.range {
                    Some(span) => clip(range, *span.start(), *span.end()),
                    None => Some(range),
                };
                let Some(range) = range else { return ControlFlow::Continue(()) };
                let mut found = |va: u64, pa: u64| {
                    let text = format!("{va:#018x}  {pa:#018x}");
                    let found = Found { va: format!("{va:#x}"), pa: format!("{pa:#x}") };
                    keep(&mut result, answers.show(&found, || text))
                };
                seeker.range(&range, most, &mut verdict, &mut found)
            };
            session.space.list(&mut take, &|done, total| progress.at(done, total));
        }
        result?;
        if seeker.found == 0 {
            session.text.warning("it was not found");
            verdict.not_so = true;
        }
        if seeker.found >= most {
            session.text.warning(&format!("stopped after {} matches (--most)", wanted.most));
        }
        session.say_unknown(verdict);
        answers.end(session, verdict)
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<_> = text.chars().filter(|it| !it.is_whitespace()).collect();
    let digits = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some((high.to_digit(16)? << 4 | low.to_digit(16)?) as u8),
        _ => None,
    });
    digits.collect()
}

/// Looks for a pattern, from range to range: one that lies across two that meet is found too.
struct Seeker<'f, 's> {
    session: &'f Session<'s>,
    pattern: &'f [u8],
    /// The last bytes of what came before, which end at `next`, with their physical addresses.
    tail: Vec<(u8, u64)>,
    next: u64,
    found: usize,
}

impl Seeker<'_, '_> {
    fn range(
        &mut self,
        range: &Range,
        most: usize,
        verdict: &mut Verdict,
        found: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (Some(va), Some(pa), Some(bytes)) = (range.va, range.pa, range.bytes) else {
            return ControlFlow::Continue(());
        };
        let mut done = 0;
        while done < bytes {
            let (at, physical) = (va + done, pa.wrapping_add(done));
            // What the image does not hold is passed over as a whole.
            let piece = self.session.image.piece(physical);
            let here = piece.bytes.min(bytes - done).min(CHUNK);
            let mut buffer = vec![0; here as usize];
            if piece.held != memory_image::Held::Stored {
                done += piece.bytes.min(bytes - done);
                self.tail.clear();
                verdict.unknown = true;
                continue;
            }
            if self.session.image.read(physical, &mut buffer).is_err() {
                verdict.unknown = true;
                self.tail.clear();
            } else {
                self.chunk(at, physical, &buffer, most, found)?;
            }
            done += here;
        }
        ControlFlow::Continue(())
    }

    fn chunk(
        &mut self,
        at: u64,
        physical: u64,
        bytes: &[u8],
        most: usize,
        found: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if self.next != at {
            self.tail.clear();
        }
        let before = self.tail.len();
        let all: Vec<u8> =
            self.tail.iter().map(|(byte, _)| *byte).chain(bytes.iter().copied()).collect();
        for place in memchr::memmem::find_iter(&all, self.pattern) {
            let pa = match self.tail.get(place) {
                Some((_, pa)) => *pa,
                None => physical.wrapping_add((place - before) as u64),
            };
            let va = at.wrapping_sub(before as u64).wrapping_add(place as u64);
            self.found += 1;
            found(va, pa)?;
            if self.found >= most {
                return ControlFlow::Break(());
            }
        }
        let keep = (self.pattern.len() - 1).min(all.len());
        let from = all.len() - keep;
        let tail = (from..all.len()).map(|n| match self.tail.get(n) {
            Some(kept) => *kept,
            None => (all[n], physical.wrapping_add((n - before) as u64)),
        });
        self.tail = tail.collect();
        self.next = at.wrapping_add(bytes.len() as u64);
        ControlFlow::Continue(())
    }
}
