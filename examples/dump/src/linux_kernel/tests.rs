//! A small Linux, word by word: symbols, types and tasks in memory that a direct map of 1 GiB
//! shows. And what becomes of it when it is damaged.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use memory_image::{Allowance, Image, VmcoreInfo};

use super::btf::tests::Types;
use super::{NoTasks, Processes, processes};
use crate::root::{Arch, Located, Request, RootChoice, locate};
use crate::space::Space;

const DIRECT: u64 = 0xffff_8880_0000_0000;
const ROOT: u64 = 0x1000;
const BYTES: usize = 0x4_0000;
/// Where things stand.
const COUNT: u64 = 0x3000;
const BASE: u64 = 0x3008;
const INDEX: u64 = 0x3800;
const TABLE: u64 = 0x4000;
const NAMES: u64 = 0x5000;
const OFFSETS: u64 = 0x6000;
const TYPES: u64 = 0x7000;
const TASKS: u64 = 0x1_0000;
/// Members of the structures.
const FLAGS: u64 = 0x2c;
const LIST: u64 = 0x88;
const MM: u64 = 0x98;
const TGID: u64 = 0xa4;
const PARENT: u64 = 0xb0;
const COMM: u64 = 0x110;
const PGD: u64 = 0x48;

/// How the addresses of symbols are told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Offsets,
    AbsolutePercpu,
    Whole,
    /// Not at all: the kernel is searched.
    Untold,
}

struct Linux {
    memory: Vec<u8>,
    big: bool,
    form: Form,
    /// Where the names of symbols stand in the direct map.
    names: u64,
}

impl Linux {
    fn put(&mut self, at: u64, size: usize, value: u64) {
        let mut bytes = value.to_le_bytes()[..size].to_vec();
        if self.big {
            bytes.reverse();
        }
        self.memory[at as usize..][..size].copy_from_slice(&bytes);
    }

    fn bytes(&mut self, at: u64, bytes: &[u8]) {
        self.memory[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    /// The `n`th task.
    fn task(n: u64) -> u64 {
        TASKS + n * 0x1000
    }

    /// Zeros at two places.
    fn lose(&mut self, one: u64, two: u64) {
        self.put(one, 8, 0);
        self.put(two, 8, 0);
    }

    fn new(big: bool, form: Form) -> Self {
        let mut it = Self { memory: vec![0; BYTES], big: false, form, names: NAMES };
        // The direct map: one page of 1 GiB.
        it.put(ROOT + (DIRECT >> 39 & 511) * 8, 8, 0x2063);
        it.put(0x2000, 8, 0xe3);
        it.big = big;
        it.symbols();
        it.types();
        let tasks: [(u64, u64, &str, u64); 5] = [
            (0, 0, "swapper/0", 0x20_0000),
            (1, 0, "init", 0),
            (2, 0, "kthreadd", 0x20_0000),
            (77, 1, "a\"b\nc", 0),
            (90, 1, "zombie", 0),
        ];
        for (n, (pid, parent, name, flags)) in tasks.into_iter().enumerate() {
            let (n, task) = (n as u64, Self::task(n as u64));
            it.put(task + TGID, 4, pid);
            it.put(task + FLAGS, 4, flags);
            it.put(task + PARENT, 8, DIRECT + Self::task(parent));
            it.bytes(task + COMM, name.as_bytes());
            it.put(task + LIST, 8, DIRECT + Self::task((n + 1) % 5) + LIST);
            if flags == 0 && pid != 90 {
                it.put(task + MM, 8, DIRECT + task + 0x800);
                it.put(task + 0x800 + PGD, 8, DIRECT + 0x2_0000 + n * 0x1000);
            }
        }
        it
    }

    /// Each letter is a token.
    fn symbols(&mut self) {
        for letter in 0..=255_u8 {
            self.put(INDEX + 2 * u64::from(letter), 2, 2 * u64::from(letter));
            self.bytes(TABLE + 2 * u64::from(letter), &[letter, 0]);
        }
        let long = "x".repeat(200);
        let symbols = [
            ("percpu", 0x40),
            (long.as_str(), DIRECT),
            ("_stext", DIRECT + 0x3000),
            ("__start_BTF", DIRECT + TYPES),
            ("__stop_BTF", DIRECT + TYPES + self.type_bytes().len() as u64),
            ("init_task", DIRECT + Self::task(0)),
        ];
        let mut names = Vec::new();
        for (n, (name, address)) in symbols.into_iter().enumerate() {
            let length = name.len() + 1;
            if length < 128 {
                names.push(length as u8);
            } else {
                names.extend([length as u8 | 0x80, (length >> 7) as u8]);
            }
            names.push(b'D');
            names.extend(name.as_bytes());
            let (word, size) = match self.form {
                Form::Whole => (address, 8),
                Form::Offsets | Form::Untold => (address.wrapping_sub(DIRECT), 4),
                Form::AbsolutePercpu if n == 0 => (address, 4),
                Form::AbsolutePercpu => ((DIRECT - 1).wrapping_sub(address), 4),
            };
            self.put(OFFSETS + (n * size) as u64, size, word);
        }
        self.bytes(NAMES, &names);
        self.put(COUNT, 4, symbols.len() as u64);
        self.put(BASE, 8, DIRECT);
    }

    fn type_bytes(&self) -> Vec<u8> {
        let mut types = Types::new();
        let anonymous = types.structure("", &[("pgd", 0, PGD as u32)]);
        types.structure("mm_struct", &[("", anonymous, 0)]);
        let members = [
            ("flags", FLAGS),
            ("tasks", LIST),
            ("mm", MM),
            ("tgid", TGID),
            ("real_parent", PARENT),
            ("comm", COMM),
        ];
        let members = members.map(|(name, at)| (name, 0, at as u32));
        types.structure("task_struct", &members);
        types.bytes(self.big)
    }

    fn types(&mut self) {
        let bytes = self.type_bytes();
        self.bytes(TYPES, &bytes);
    }

    fn info(&self) -> VmcoreInfo {
        let mut text = format!("OSRELEASE=6.1.0\nSYMBOL(_stext)={:x}\n", DIRECT + 0x3000);
        let mut tell = |name: &str, at: u64| {
            text += &format!("SYMBOL(kallsyms_{name})={:x}\n", DIRECT + at);
        };
        for (name, at) in [
            ("names", self.names),
            ("num_syms", COUNT),
            ("token_table", TABLE),
            ("token_index", INDEX),
        ] {
            tell(name, at);
        }
        if self.form == Form::Whole {
            tell("addresses", OFFSETS);
        } else if self.form != Form::Untold {
            tell("offsets", OFFSETS);
            tell("relative_base", BASE);
        }
        VmcoreInfo::of_text(text.as_bytes())
    }

    fn ask(&self, allowance: Allowance) -> Result<Processes, NoTasks> {
        let image = Image::open(&self.memory[..], 0).unwrap();
        let (arch, root) = (Some(Arch::X86_64), Some(RootChoice::Address(ROOT)));
        let request = Request { arch, root, ..Request::default() };
        let located = locate(&image, &request, &|_, _| ()).unwrap();
        let located = Located { linux: Some(self.info()), ..located };
        let tables = image.tables(allowance);
        let space = Space::of(&image, &tables, &located).unwrap();
        processes(&image, &space, &located, &|_, _| ())
    }
}

#[test]
fn processes_are_those_of_the_list() {
    for (big, form) in [
        (false, Form::Offsets),
        (false, Form::AbsolutePercpu),
        (false, Form::Whole),
        (true, Form::AbsolutePercpu),
        (false, Form::Untold),
        (true, Form::Untold),
    ] {
        let found = Linux::new(big, form).ask(Allowance::default()).unwrap();
        assert_eq!(found.fault, None);
        let seen: Vec<_> = found
            .processes
            .iter()
            .map(|it| (it.pid.unwrap(), it.parent, it.name.as_deref().unwrap(), it.root, it.kernel))
            .collect();
        let want = [
            (1, Some(0), "init", Some(0x2_1000), false),
            (2, Some(0), "kthreadd", None, true),
            (77, Some(1), "a\"b\nc", Some(0x2_3000), false),
            (90, Some(1), "zombie", None, false),
        ];
        assert_eq!(seen, want);
    }
}

#[test]
fn what_is_missing_is_said() {
    type Damage = fn(&mut Linux);
    let rows: [(Damage, &str, Option<usize>); 11] = [
        (|it| it.put(Linux::task(2) + LIST, 8, DIRECT + 0x4000_0000), "not all there", Some(2)),
        (|it| it.put(Linux::task(2) + LIST, 8, DIRECT + Linux::task(1) + LIST), "circle", Some(2)),
        (
            |it| it.put(Linux::task(1) + LIST, 8, DIRECT + BYTES as u64 - 8),
            "not all there",
            Some(1),
        ),
        // Without symbols it is searched,
        (|it| it.put(COUNT, 4, 0), "", Some(4)),
        (|it| it.put(BASE, 8, 0), "", Some(4)),
        (|it| it.put(NAMES + 300, 1, 0), "", Some(4)),
        (|it| it.bytes(NAMES + 240, &[1, b'D', 1, b'D', 1, b'D']), "", Some(4)),
        // and without a name, without being its own parent, and without types nothing is found.
        (|it| it.lose(COUNT, Linux::task(0) + COMM), "no number of symbols", None),
        (|it| it.lose(BASE, Linux::task(0) + COMM), "not those that VMCOREINFO tells", None),
        (|it| it.lose(BASE, Linux::task(0) + PARENT), "not those that VMCOREINFO tells", None),
        (|it| it.put(TYPES, 2, 0), "BTF cannot be read", None),
    ];
    for (n, (damage, said, count)) in rows.into_iter().enumerate() {
        let mut linux = Linux::new(false, Form::Offsets);
        damage(&mut linux);
        let found = linux.ask(Allowance::default());
        let text = match &found {
            Ok(found) => found.fault.clone().unwrap_or_default(),
            Err(why) => why.to_string(),
        };
        assert!(text.contains(said), "{n}: {text}");
        assert_eq!(found.ok().map(|found| found.processes.len()), count, "{n}: {text}");
    }
    let little = Allowance { words: 1 << 20, bytes: 0x2000 + 300 };
    let found = Linux::new(false, Form::Offsets).ask(little).unwrap();
    assert!(found.fault.unwrap().contains("limit"));
}

/// Four million names of 32,767 tokens each, in 512 GiB that are one page again and again: the work
/// is bounded.
#[test]
fn names_without_end_are_refused() {
    let mut linux = Linux::new(false, Form::Offsets);
    linux.put(COUNT, 4, 1 << 22);
    linux.names = 1 << 39;
    linux.put(ROOT + ((DIRECT >> 39 & 511) + 1) * 8, 8, 0x3_0063);
    for table in [0x3_0000, 0x3_1000, 0x3_2000] {
        for entry in 0..512 {
            linux.put(table + entry * 8, 8, table + 0x1063);
        }
    }
    linux.bytes(0x3_3000, &[0xff; 0x1000]);
    linux.lose(Linux::task(0) + COMM, Linux::task(0) + PARENT);
    let why = linux.ask(Allowance::default()).unwrap_err();
    assert!(why.to_string().contains("its names have no end"), "{why}");
}

/// Any byte changed: something is said, and in bounded time.
#[test]
fn hostile_kernels_are_bounded() {
    let whole = Linux::new(false, Form::AbsolutePercpu);
    for part in [COUNT..COUNT + 16, INDEX..INDEX + 512, NAMES..NAMES + 300, OFFSETS..OFFSETS + 24] {
        for at in part.step_by(3) {
            for value in [0, 0x7f, 0x80, 0xff] {
                let memory = whole.memory.clone();
                let mut linux = Linux { memory, ..whole };
                linux.memory[at as usize] = value;
                let _ = linux.ask(Allowance { words: 1 << 24, bytes: 1 << 24 });
            }
        }
    }
}
