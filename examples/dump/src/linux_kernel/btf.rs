//! BTF: the types of a kernel, as the kernel has them in its own memory
//! (`Documentation/bpf/btf.rst`). Only where members of structures stand is read.
//!
//! What a hostile image holds is bounded: by the bytes that are given, and by how many members a
//! question looks at.

use std::ops::Range;

/// The first two bytes.
const MAGIC: u16 = 0xeb9f;
/// The most members that a question looks at, in all structures: `task_struct` has less than 300.
const MOST_MEMBERS: usize = 1 << 14;
/// How many typedefs and qualifiers may stand around a structure, and anonymous structures in one
/// another.
const MOST_NESTED: usize = 16;

const STRUCT: u32 = 4;
const UNION: u32 = 5;
const MODIFIERS: [u32; 5] = [8, 9, 10, 11, 18];

/// The types of a kernel.
pub(crate) struct Btf {
    bytes: Vec<u8>,
    big: bool,
    strings: Range<usize>,
    /// Where each type stands; that of number 0, `void`, is never looked at.
    types: Vec<u32>,
}

/// The head of a type: `struct btf_type`.
#[derive(Clone, Copy)]
struct Head {
    at: usize,
    name: u32,
    info: u32,
    refers: u32,
}

impl Head {
    fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Bytes behind the head; `None` for a kind that is not known.
    fn rest(self) -> Option<usize> {
        Some(match self.kind() {
            1 | 14 | 17 => 4,
            2 | 7..=12 | 16 | 18 => 0,
            3 => 12,
            STRUCT | UNION | 15 | 19 => 12 * self.count(),
            6 | 13 => 8 * self.count(),
            _ => return None,
        })
    }
}

/// A member of a structure: its name, its type, and where it stands, in bits.
struct Member {
    name: u32,
    kind: u32,
    bits: u64,
}

impl Btf {
    /// Bytes of the header that say how long all of it is.
    pub(crate) const HEADER: usize = 24;

    /// How many bytes the types with this header have.
    pub(crate) fn length(header: &[u8; Self::HEADER]) -> u64 {
        let word = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            let big = header[0] == MAGIC.to_be_bytes()[0];
            u64::from(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
        };
        word(4) + (word(8) + word(12)).max(word(16) + word(20))
    }

    /// Whether its words are big-endian.
    pub(crate) fn is_big(&self) -> bool {
        self.big
    }

    /// Reads all that stands between `__start_BTF` and `__stop_BTF`.
    pub(crate) fn read(bytes: Vec<u8>) -> Option<Self> {
        let first = u16::from_le_bytes(*bytes.first_chunk()?);
        let big = first != MAGIC;
        if big && first.swap_bytes() != MAGIC {
            return None;
        }
        let mut it = Self { bytes, big, strings: 0..0, types: vec![0] };
        let header = it.word(4)? as usize;
        let part = |offset: usize, it: &Self| -> Option<Range<usize>> {
            let start = header.checked_add(it.word(offset)? as usize)?;
            let end = start.checked_add(it.word(offset + 4)? as usize)?;
            (end <= it.bytes.len()).then_some(start..end)
        };
        let types = part(8, &it)?;
        it.strings = part(16, &it)?;
        let mut at = types.start;
        while at < types.end {
            it.types.push(u32::try_from(at).ok()?);
            at = at.checked_add(12)?.checked_add(it.head_at(at)?.rest()?)?;
        }
        Some(it)
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn head_at(&self, at: usize) -> Option<Head> {
        let [name, info, refers] = [0, 4, 8].map(|field| self.word(at + field));
        Some(Head { at, name: name?, info: info?, refers: refers? })
    }

    fn head(&self, number: u32) -> Option<Head> {
        let at = self.types.get(number as usize).filter(|_| number != 0)?;
        self.head_at(*at as usize)
    }

    /// Whether `name`, an offset, is that of `text`.
    fn is(&self, name: u32, text: &str) -> bool {
        let at = self.strings.start.saturating_add(name as usize);
        let end = at.saturating_add(text.len());
        end < self.strings.end
            && self.bytes.get(at..end) == Some(text.as_bytes())
            && self.bytes.get(end) == Some(&0)
    }

    /// The structure or union behind typedefs and qualifiers.
    fn composite(&self, mut number: u32) -> Option<Head> {
        for _ in 0..MOST_NESTED {
            let head = self.head(number)?;
            match head.kind() {
                STRUCT | UNION => return Some(head),
                kind if MODIFIERS.contains(&kind) => number = head.refers,
                _ => return None,
            }
        }
        None
    }

    fn members(&self, of: Head) -> impl Iterator<Item = Member> {
        let bitfields = of.info >> 31 != 0;
        (0..of.count()).map_while(move |n| {
            let member = self.head_at(of.at + 12 + 12 * n)?;
            let bits = if bitfields { member.refers & 0xff_ffff } else { member.refers };
            Some(Member { name: member.name, kind: member.info, bits: bits.into() })
        })
    }

    /// The member `name` of `of` or of a structure without a name in it, as bits and type.
    fn member(&self, of: Head, name: &str, depth: usize, left: &mut usize) -> Option<(u64, u32)> {
        for member in self.members(of) {
            *left = left.checked_sub(1)?;
            if self.is(member.name, name) {
                return Some((member.bits, member.kind));
            }
            if self.is(member.name, "") && depth < MOST_NESTED {
                let inner = self.composite(member.kind);
                let found = inner.and_then(|inner| self.member(inner, name, depth + 1, left));
                if let Some((bits, kind)) = found {
                    return Some((member.bits + bits, kind));
                }
            }
        }
        None
    }

    /// Where a member of the structure `name` stands, in bytes; `path` has a name for each
    /// structure in another, with dots between.
    pub(crate) fn offset(&self, name: &str, path: &str) -> Option<u64> {
        let heads = (1..self.types.len()).filter_map(|number| self.head(number as u32));
        let mut left = MOST_MEMBERS;
        // A name may stand for several structures, of which some are private to a file.
        heads
            .filter(|head| head.kind() == STRUCT && self.is(head.name, name))
            .find_map(|head| self.offset_in(head, path, &mut left))
    }

    fn offset_in(&self, mut of: Head, path: &str, left: &mut usize) -> Option<u64> {
        let (mut sum, mut steps) = (0, path.split('.').peekable());
        while let Some(step) = steps.next() {
            let (bits, kind) = self.member(of, step, 0, left)?;
            sum += bits;
            if steps.peek().is_some() {
                of = self.composite(kind)?;
            }
        }
        (sum % 8 == 0).then_some(sum / 8)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
pub(crate) mod tests {
    use super::*;

    /// Types in BTF, one after the other.
    #[derive(Default)]
    pub(crate) struct Types {
        words: Vec<u32>,
        strings: Vec<u8>,
        count: u32,
    }

    impl Types {
        pub(crate) fn new() -> Self {
            Self { strings: vec![0], ..Self::default() }
        }

        fn name(&mut self, name: &str) -> u32 {
            if name.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend(name.as_bytes());
            self.strings.push(0);
            at
        }

        /// A structure of members: name, type, offset in bytes. Returns its number.
        pub(crate) fn structure(&mut self, name: &str, members: &[(&str, u32, u32)]) -> u32 {
            let name = self.name(name);
            self.words.extend([name, STRUCT << 24 | members.len() as u32, 0]);
            for (name, kind, bytes) in members {
                let name = self.name(name);
                self.words.extend([name, *kind, bytes * 8]);
            }
            self.count += 1;
            self.count
        }

        /// A type that refers to another, of a kind.
        pub(crate) fn refer(&mut self, kind: u32, to: u32) -> u32 {
            self.words.extend([0, kind << 24, to]);
            self.count += 1;
            self.count
        }

        pub(crate) fn bytes(&self, big: bool) -> Vec<u8> {
            let types = self.words.len() as u32 * 4;
            let header = [24, 0, types, types, self.strings.len() as u32];
            let word = |it: &u32| if big { it.to_be_bytes() } else { it.to_le_bytes() };
            let mut bytes = if big { vec![0xeb, 0x9f, 1, 0] } else { vec![0x9f, 0xeb, 1, 0] };
            bytes.extend(header.iter().chain(&self.words).flat_map(word));
            bytes.extend(&self.strings);
            bytes
        }
    }

    fn types() -> Types {
        let mut types = Types::new();
        let inner = types.structure("", &[("pgd", 0, 72), ("context", 0, 96)]);
        types.structure("mm_struct", &[("", inner, 8), ("tail", 0, 2000)]);
        let typed = types.refer(8, inner);
        types.structure("holder", &[("first", 0, 0), ("in", typed, 16)]);
        types.structure("task_struct", &[("other", 0, 4)]);
        types.structure("task_struct", &[("pid", 0, 1256)]);
        types
    }

    #[test]
    fn members_stand_where_they_are_said_to() {
        for big in [false, true] {
            let btf = Btf::read(types().bytes(big)).unwrap();
            for (name, path, want) in [
                ("mm_struct", "pgd", Some(80)),
                ("mm_struct", "tail", Some(2000)),
                ("holder", "in.context", Some(112)),
                ("holder", "first", Some(0)),
                ("task_struct", "pid", Some(1256)),
                ("task_struct", "pi", None),
                ("task_struct", "pid.no", None),
                ("none", "pid", None),
            ] {
                assert_eq!(btf.offset(name, path), want, "{name} {path}");
            }
        }
    }

    /// Cut anywhere, or with any byte changed, it is read or refused; structures that contain
    /// themselves end.
    #[test]
    fn hostile_types_are_bounded() {
        let whole = types().bytes(false);
        for length in 0..whole.len() {
            let cut = Btf::read(whole[..length].to_vec());
            assert!(cut.is_none() || length == whole.len(), "{length}");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Some(btf) = Btf::read(bytes) {
                    let _ = btf.offset("mm_struct", "pgd.context");
                }
            }
        }
        let mut types = Types::new();
        let members: Vec<_> = (0..1000).map(|_| ("", 1, 0)).collect();
        types.structure("circle", &members);
        types.refer(8, 2);
        let btf = Btf::read(types.bytes(false)).unwrap();
        assert_eq!(btf.offset("circle", "none"), None);
        assert!(btf.composite(2).is_none());
        // Many of one name, each around one with many members: 2^33 in all.
        let mut types = Types::new();
        let large: Vec<_> = (0..1 << 14).map(|_| ("x", 0, 0)).collect();
        let large = types.structure("", &large);
        for _ in 0..1 << 19 {
            types.structure("many", &[("", large, 0)]);
        }
        let btf = Btf::read(types.bytes(false)).unwrap();
        assert_eq!(btf.offset("many", "none"), None);
    }
}
