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
/// The most bytes of a name, and of a token.
const MOST_NAME: usize = 1024;
/// The most tokens of all names: a generic kernel has 2 million.
const MOST_TOKENS: u64 = 1 << 24;
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

/// The letters of each token.
struct Tokens(Vec<Vec<u8>>);

impl Tokens {
    fn read(memory: &KernelMemory<'_>, table: u64, index: u64) -> Result<Self, NoSymbols> {
        let mut starts = [0; 256];
        for (start, n) in starts.iter_mut().zip(0..) {
            *start = memory.u16(index.wrapping_add(2 * n))?;
        }
        let token = |start: &u16| {
            let at = table.wrapping_add(u64::from(*start));
            let mut letters = memory.as_much(at, MOST_NAME as u64)?;
            let end = letters.iter().position(|letter| *letter == 0);
            letters.truncate(end.ok_or(NoSymbols::Malformed("a token has no end"))?);
            Ok(letters)
        };
        starts.iter().map(token).collect::<Result<_, _>>().map(Self)
    }

    fn token(&self, number: u8) -> &[u8] {
        &self.0[usize::from(number)]
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
    let mut left = MOST_TOKENS;
    for number in 0..u64::from(many) {
        let mut length = u64::from(names.byte()?);
        if length & 0x80 != 0 {
            length = length & 0x7f | u64::from(names.byte()?) << 7;
        }
        left = left.checked_sub(length).ok_or(NoSymbols::Malformed("its names have no end"))?;
        name.clear();
        for _ in 0..length {
            let token = tokens.token(names.byte()?);
            // A longer name is none that is looked for.
            name.extend(&token[..token.len().min(MOST_NAME - name.len())]);
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
