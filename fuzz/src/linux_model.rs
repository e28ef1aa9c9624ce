//! What a Linux kernel says of its processes, read the obvious way: all of its memory is one slice,
//! every name and every type is unpacked. `None` where anything is missing or wrong.

use std::collections::HashMap;

/// More steps than this in types: the model does not say.
const MOST_STEPS: usize = 1 << 12;
/// As `MOST_SYMBOLS` and `MOST_BTF` of the code under test.
const MOST_SYMBOLS: u32 = 1 << 22;
const MOST_NAME: usize = 1024;
const MOST_NESTED: usize = 16;
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// A kernel's memory: `memory` from `base` on.
pub struct Kernel<'m> {
    pub memory: &'m [u8],
    pub base: u64,
    pub narrow: bool,
    pub text: &'m str,
}

/// A process as the list has it: number, parent's number, name, root, whether it is a kernel
/// thread.
pub type Task = (u32, Option<u32>, String, Option<u64>, bool);

/// What the list of tasks says, and whether it ends where it began.
pub struct List {
    pub tasks: Vec<Task>,
    pub ends: bool,
}

/// Its words in their order.
struct Words<'k, 'm> {
    kernel: &'k Kernel<'m>,
    big: bool,
}

impl Words<'_, '_> {
    fn bytes(&self, address: u64, count: usize) -> Option<&[u8]> {
        let at = usize::try_from(address.checked_sub(self.kernel.base)?).ok()?;
        self.kernel.memory.get(at..at.checked_add(count)?)
    }

    fn number(&self, address: u64, count: usize) -> Option<u64> {
        let bytes = self.bytes(address, count)?.iter();
        let push = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if self.big { bytes.fold(0, push) } else { bytes.rev().fold(0, push) })
    }

    fn half(&self, address: u64) -> Option<u32> {
        self.number(address, 4).map(|it| it as u32)
    }

    fn word(&self, address: u64) -> Option<u64> {
        self.number(address, if self.kernel.narrow { 4 } else { 8 })
    }
}

/// The last value of `key`, in lines `KEY=VALUE`.
pub fn value<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let lines = text.lines().rev().map(|line| line.trim_matches('\0'));
    lines
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| *name == key)
        .map(|it| it.1.trim())
}

impl Kernel<'_> {
    fn symbol(&self, name: &str) -> Option<u64> {
        u64::from_str_radix(value(self.text, &format!("SYMBOL({name})"))?, 16).ok()
    }

    /// The list of tasks; `Err` where the model does not say.
    pub fn tasks(&self) -> Result<Option<List>, TooMuch> {
        let Some((words, symbols)) = self.symbols() else { return Ok(None) };
        let [init, start, stop] =
            ["init_task", "__start_BTF", "__stop_BTF"].map(|name| symbols.get(name).copied());
        let types = || {
            let (start, stop) = (start?, stop?);
            let count = usize::try_from(stop.checked_sub(start)?).ok()?;
            Types::read(words.bytes(start, count)?)
        };
        let (Some(init), Some(types)) = (init, types()) else { return Ok(None) };
        let places = [
            ("task_struct", "tasks"),
            ("task_struct", "flags"),
            ("task_struct", "tgid"),
            ("task_struct", "comm"),
            ("task_struct", "mm"),
            ("task_struct", "real_parent"),
            ("mm_struct", "pgd"),
        ];
        let mut found = Vec::new();
        for (name, member) in places {
            match types.offset(name, member)? {
                Some(at) => found.push(at),
                None => return Ok(None),
            }
        }
        let places: [u64; 7] = found.try_into().map_err(|_| TooMuch)?;
        Ok(Some(list(&words, init, places)))
    }

    /// The address of each symbol that counts, of the first of its name.
    fn symbols(&self) -> Option<(Words<'_, '_>, HashMap<String, u64>)> {
        let told = |name: &str| self.symbol(&format!("kallsyms_{name}"));
        let (names, count) = (told("names")?, told("num_syms")?);
        let (table, index) = (told("token_table")?, told("token_index")?);
        let mut words = Words { kernel: self, big: false };
        let mut many = words.half(count)?;
        if many > MOST_SYMBOLS {
            words.big = true;
            many = words.half(count)?;
        }
        if many == 0 || many > MOST_SYMBOLS {
            return None;
        }
        let mut tokens = Vec::new();
        for n in 0..256 {
            let start = words.number(index.wrapping_add(2 * n), 2)?;
            let letters = (0..MOST_NAME as u64)
                .map_while(|n| words.bytes(table.wrapping_add(start).wrapping_add(n), 1))
                .map(|letter| letter[0]);
            let letters: Vec<u8> = letters.collect();
            let end = letters.iter().position(|letter| *letter == 0)?;
            tokens.push(letters[..end].to_vec());
        }
        let mut at = names;
        let mut byte = || {
            let byte = words.bytes(at, 1).map(|byte| byte[0]);
            at = at.wrapping_add(1);
            byte
        };
        let wanted =
            ["swapper_pg_dir", "init_uts_ns", "_stext", "init_task", "__start_BTF", "__stop_BTF"];
        let mut numbers: HashMap<String, u64> = HashMap::new();
        for number in 0..u64::from(many) {
            let mut length = usize::from(byte()?);
            if length >= 128 {
                length = length - 128 + 128 * usize::from(byte()?);
            }
            let mut name = Vec::new();
            for _ in 0..length {
                name.extend(&tokens[usize::from(byte()?)]);
                name.truncate(MOST_NAME);
            }
            let text = String::from_utf8_lossy(name.get(1..).unwrap_or_default()).into_owned();
            if wanted.contains(&text.as_str()) {
                numbers.entry(text).or_insert(number);
            }
        }
        let addresses = self.addresses(&words, &numbers)?;
        Some((words, addresses))
    }

    /// By the first form in which a symbol is where the kernel says that it is.
    fn addresses(
        &self,
        words: &Words<'_, '_>,
        numbers: &HashMap<String, u64>,
    ) -> Option<HashMap<String, u64>> {
        let told = |name: &str| self.symbol(&format!("kallsyms_{name}"));
        type Form<'f> = Box<dyn Fn(u64) -> Option<u64> + 'f>;
        let forms: Vec<Form<'_>> = match (told("offsets"), told("relative_base")) {
            (Some(offsets), Some(base)) => {
                let base = words.word(base)?;
                let offset = move |n: u64| words.half(offsets.wrapping_add(4 * n));
                let relative = move |n| Some(base.wrapping_add(offset(n)?.into()));
                let percpu = move |n| {
                    let offset = i64::from(offset(n)? as i32);
                    let from_base = base.wrapping_sub(1).wrapping_sub(offset as u64);
                    Some(if offset < 0 { from_base } else { offset as u64 })
                };
                vec![Box::new(relative), Box::new(percpu)]
            }
            _ => {
                let (at, size) = (told("addresses")?, if self.narrow { 4 } else { 8 });
                vec![Box::new(move |n: u64| words.word(at.wrapping_add(size * n)))]
            }
        };
        let fits = |form: &&Form<'_>| {
            let same =
                |name: &String, n: u64| self.symbol(name).is_some_and(|want| form(n) == Some(want));
            numbers.iter().any(|(name, n)| same(name, *n))
        };
        let form = forms.iter().find(fits)?;
        numbers.iter().map(|(name, n)| Some((name.clone(), form(*n)?))).collect()
    }
}

fn list(words: &Words<'_, '_>, init: u64, places: [u64; 7]) -> List {
    let [tasks, flags, tgid, comm, mm, parent, pgd] = places;
    let head = init.wrapping_add(tasks);
    let (mut all, mut seen, mut here) = (Vec::new(), vec![head], head);
    loop {
        match words.word(here) {
            Some(next) if next == head => return List { tasks: all, ends: true },
            Some(next) if !seen.contains(&next) => here = next,
            _ => return List { tasks: all, ends: false },
        }
        seen.push(here);
        let task = here.wrapping_sub(tasks);
        let at = |offset: u64| task.wrapping_add(offset);
        let one = || -> Option<Task> {
            let pid = words.half(at(tgid))?;
            let name = words.bytes(at(comm), 16)?;
            let name = &name[..name.iter().position(|letter| *letter == 0).unwrap_or(16)];
            let thread = words.half(at(flags))? & 0x20_0000 != 0;
            let memory = words.word(at(mm))?;
            let parent = words.word(at(parent)).and_then(|it| words.half(it.wrapping_add(tgid)));
            let root = words.word(memory.wrapping_add(pgd)).filter(|_| memory != 0);
            let root = root.and_then(|root| {
                let at = root.checked_sub(words.kernel.base)?;
                (at < mapped(words.kernel.narrow)).then_some(at)
            });
            Some((pid, parent, String::from_utf8_lossy(name).into_owned(), root, thread))
        };
        match one() {
            Some(one) => all.push(one),
            None => return List { tasks: all, ends: false },
        }
    }
}

/// How many bytes from the base on are mapped, though memory ends before: one page.
pub fn mapped(narrow: bool) -> u64 {
    if narrow { 2 << 20 } else { 1 << 30 }
}

/// The question costs too much for the model.
#[derive(Debug)]
pub struct TooMuch;

/// All types of BTF, in their order; each one's name, information, what it refers to, and members.
struct Types<'b> {
    all: Vec<Type>,
    strings: &'b [u8],
}

struct Type {
    name: u32,
    info: u32,
    refers: u32,
    members: Vec<[u32; 3]>,
}

impl Type {
    fn kind(&self) -> u32 {
        self.info >> 24 & 31
    }
}

impl<'b> Types<'b> {
    fn read(bytes: &'b [u8]) -> Option<Self> {
        let big = match bytes.get(..2)? {
            [0x9f, 0xeb] => false,
            [0xeb, 0x9f] => true,
            _ => return None,
        };
        let word = |at: usize| {
            let bytes = *bytes.get(at..)?.first_chunk()?;
            Some(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
        };
        let part = |field: usize| {
            let start = word(4)? as usize + word(field)? as usize;
            let end = start + word(field + 4)? as usize;
            (end <= bytes.len()).then_some(start..end)
        };
        let (types, strings) = (part(8)?, &bytes[part(16)?]);
        let mut all = vec![Type { name: 0, info: 0, refers: 0, members: Vec::new() }];
        let mut at = types.start;
        while at < types.end {
            let (name, info, refers) = (word(at)?, word(at + 4)?, word(at + 8)?);
            let count = (info & 0xffff) as usize;
            let rest = match info >> 24 & 31 {
                1 | 14 | 17 => 4,
                2 | 7..=12 | 16 | 18 => 0,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                _ => return None,
            };
            let composite = [STRUCT, UNION].contains(&(info >> 24 & 31));
            let member = |n: usize| {
                let at = at + 12 + 12 * n;
                Some([word(at)?, word(at + 4)?, word(at + 8)?])
            };
            let members = (0..if composite { count } else { 0 }).map_while(member).collect();
            all.push(Type { name, info, refers, members });
            at += 12 + rest;
        }
        Some(Self { all, strings })
    }

    fn is(&self, name: u32, text: &str) -> bool {
        let rest = self.strings.get(name as usize..).unwrap_or_default();
        rest.starts_with(text.as_bytes()) && rest.get(text.len()) == Some(&0)
    }

    fn type_of(&self, number: u32) -> Option<&Type> {
        self.all.get(number as usize).filter(|_| number != 0)
    }

    fn composite(&self, number: u32) -> Option<&Type> {
        let mut it = self.type_of(number)?;
        for _ in 0..MOST_NESTED {
            match it.kind() {
                STRUCT | UNION => return Some(it),
                8 | 9 | 10 | 11 | 18 => it = self.type_of(it.refers)?,
                _ => return None,
            }
        }
        None
    }

    /// Bits from the start of `of` to the member.
    fn member(
        &self,
        of: &Type,
        name: &str,
        depth: usize,
        steps: &mut usize,
    ) -> Result<Option<u64>, TooMuch> {
        for [member, kind, offset] in &of.members {
            *steps += 1;
            if *steps > MOST_STEPS {
                return Err(TooMuch);
            }
            let bits = u64::from(if of.info >> 31 != 0 { offset & 0xff_ffff } else { *offset });
            if self.is(*member, name) {
                return Ok(Some(bits));
            }
            let inner = self.composite(*kind).filter(|_| depth < MOST_NESTED);
            if let (true, Some(inner)) = (self.is(*member, ""), inner) {
                if let Some(more) = self.member(inner, name, depth + 1, steps)? {
                    return Ok(Some(bits + more));
                }
            }
        }
        Ok(None)
    }

    fn offset(&self, name: &str, member: &str) -> Result<Option<u64>, TooMuch> {
        let mut steps = 0;
        for it in &self.all[1..] {
            if it.kind() == STRUCT && self.is(it.name, name) {
                let bits = self.member(it, member, 0, &mut steps)?;
                if let Some(bits) = bits.filter(|bits| bits % 8 == 0) {
                    return Ok(Some(bits / 8));
                }
            }
        }
        Ok(None)
    }
}
