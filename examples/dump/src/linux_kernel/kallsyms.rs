//! Linux's own table of symbols, as it stands in its memory (`kernel/kallsyms.c`). VMCOREINFO tells
//! where its parts are since Linux 6.0.
//!
//! Each name is a row of tokens behind its length: a byte, or two from 128 on. The first letter of
//! the first token is the symbol's kind. Addresses are 32-bit offsets: from the base on, or, where
//! those of per-CPU variables are absolute (`CONFIG_KALLSYMS_ABSOLUTE_PERCPU`), negative ones from
//! the base on and others as they are; or they are whole words.

use std::collections::BTreeMap;

use memory_image::VmcoreInfo;

use super::memory::{KernelMemory, Lost};

/// The most symbols: a generic kernel has 200,000.
const MOST_SYMBOLS: u64 = 1 << 22;
/// The most bytes of a name, and of the token table.
const MOST_NAME: usize = 1024;
const MOST_TOKENS: usize = 1 << 16;
/// Names are read at a time.
const CHUNK: u64 = 1 << 14;

/// Why there are no symbols.
#[derive(Debug)]
pub(crate) enum NoSymbols {
    /// VMCOREINFO does not say where they are.
    Untold,
    /// They are not in the image.
    Lost(Lost),
    /// They are no such table.
    Malformed(&'static str),
}

impl From<Lost> for NoSymbols {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

/// Bytes of names, one after the other.
struct Names<'m, 'i> {
    memory: &'m KernelMemory<'i>,
    next: u64,
    chunk: Vec<u8>,
    at: usize,
}

impl Names<'_, '_> {
    fn byte(&mut self) -> Result<u8, NoSymbols> {
        if self.at == self.chunk.len() {
            let bytes = CHUNK - self.next % CHUNK;
            // The last chunk may end before that.
            self.chunk = self.memory.as_much(self.next, bytes)?;
            self.next = self.next.wrapping_add(self.chunk.len() as u64);
            self.at = 0;
        }
        self.at += 1;
        Ok(self.chunk[self.at - 1])
    }
}

/// Where tokens begin, and their letters.
struct Tokens {
    index: Vec<u16>,
    table: Vec<u8>,
}

impl Tokens {
    fn read(memory: &KernelMemory<'_>, table: u64, index: u64) -> Result<Self, NoSymbols> {
        let index: Result<Vec<_>, _> = (0..256).map(|n| memory.u16(index + 2 * n)).collect();
        let index = index?;
        let last = usize::from(index[255]);
        // The last token ends with a zero like the others.
        let mut letters = vec![0; last];
        memory.read(table, &mut letters)?;
        let mut rest = memory.as_much(table.wrapping_add(last as u64), 256)?;
        let end = rest.iter().position(|letter| *letter == 0);
        rest.truncate(end.ok_or(NoSymbols::Malformed("a token has no end"))?);
        letters.extend(rest);
        letters.push(0);
        debug_assert!(letters.len() <= MOST_TOKENS + 257);
        Ok(Self { index, table: letters })
    }

    fn token(&self, number: u8) -> &[u8] {
        let start = usize::from(self.index[usize::from(number)]).min(self.table.len());
        let rest = &self.table[start..];
        &rest[..rest.iter().position(|letter| *letter == 0).unwrap_or(rest.len())]
    }
}

/// The addresses of the symbols in `wanted` that there are. `memory` learns its byte order.
pub(crate) fn symbols(
    memory: &mut KernelMemory<'_>,
    info: &VmcoreInfo,
    wanted: &[&str],
) -> Result<BTreeMap<String, u64>, NoSymbols> {
    let told = |name: &str| info.symbol(&format!("kallsyms_{name}"));
    let (Some(names), Some(count), Some(table), Some(index)) =
        (told("names"), told("num_syms"), told("token_table"), told("token_index"))
    else {
        return Err(NoSymbols::Untold);
    };
    let mut many = memory.u32(count)?;
    if u64::from(many) > MOST_SYMBOLS {
        memory.big = !memory.big;
        many = many.swap_bytes();
    }
    if many == 0 || u64::from(many) > MOST_SYMBOLS {
        return Err(NoSymbols::Malformed("it has no number of symbols"));
    }
    let tokens = Tokens::read(memory, table, index)?;
    let check = ["swapper_pg_dir", "init_uts_ns", "_stext"];
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    let mut names = Names { memory, next: names, chunk: Vec::new(), at: 0 };
    let mut name: Vec<u8> = Vec::new();
    for number in 0..u64::from(many) {
        let mut length = usize::from(names.byte()?);
        if length & 0x80 != 0 {
            length = length & 0x7f | usize::from(names.byte()?) << 7;
        }
        name.clear();
        for _ in 0..length {
            let token = tokens.token(names.byte()?);
            if name.len() + token.len() <= MOST_NAME {
                name.extend(token);
            }
        }
        // Without the letter of its kind.
        let text = name.get(1..).unwrap_or_default();
        let is = |wanted: &&&str| wanted.as_bytes() == text;
        if let Some(wanted) = wanted.iter().chain(&check).find(is) {
            found.entry((*wanted).to_owned()).or_insert(number);
        }
    }
    let addresses = Addresses::of(memory, info, &found)?;
    found.into_iter().map(|(name, number)| Ok((name, addresses.get(memory, number)?))).collect()
}

/// How the addresses of symbols are told.
enum Addresses {
    Whole(u64),
    /// Offsets from the base on.
    Offsets(u64, u64),
    /// Negative ones alone are from the base on.
    AbsolutePercpu(u64, u64),
}

impl Addresses {
    /// The form in which symbols that VMCOREINFO tells too have the addresses that it tells.
    fn of(
        memory: &KernelMemory<'_>,
        info: &VmcoreInfo,
        found: &BTreeMap<String, u64>,
    ) -> Result<Self, NoSymbols> {
        let told = |name: &str| info.symbol(&format!("kallsyms_{name}"));
        let forms = match (told("offsets"), told("relative_base"), told("addresses")) {
            (Some(offsets), Some(base), _) => {
                let base = memory.word(base)?;
                vec![Self::Offsets(offsets, base), Self::AbsolutePercpu(offsets, base)]
            }
            (_, _, Some(addresses)) => vec![Self::Whole(addresses)],
            _ => return Err(NoSymbols::Untold),
        };
        for form in forms {
            for (name, number) in found {
                if info
                    .symbol(name)
                    .is_some_and(|want| form.get(memory, *number).ok() == Some(want))
                {
                    return Ok(form);
                }
            }
        }
        Err(NoSymbols::Malformed("its addresses are not those that VMCOREINFO tells"))
    }

    fn get(&self, memory: &KernelMemory<'_>, number: u64) -> Result<u64, Lost> {
        Ok(match self {
            Self::Whole(at) => memory.word(at.wrapping_add(number * memory.pointer_bytes()))?,
            Self::Offsets(at, base) => {
                base.wrapping_add(memory.u32(at.wrapping_add(number * 4))?.into())
            }
            Self::AbsolutePercpu(at, base) => {
                match memory.u32(at.wrapping_add(number * 4))? as i32 {
                    offset @ 0.. => offset as u64,
                    offset => base.wrapping_sub(1).wrapping_sub(i64::from(offset) as u64),
                }
            }
        })
    }
}
